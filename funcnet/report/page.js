// Lights up, within one model, everything that speaks of the part that is pointed at or has the focus.
(() => {
  const spoken = document.getElementById("spoken");
  const inside = (path, part) => `.${path}.`.includes(`.${part}.`);
  const below = (path, part) => path === part || path.startsWith(part + ".");


  for (const study of document.querySelectorAll(".study")) {
    const marked = [...study.querySelectorAll("[data-path]")];
    const rows = marked.filter((one) => one.matches("tr")).map((one) => one.dataset.path);

    // A path within a repeated block stands for every row in which its keys follow each other.
    const related = (one, other) => {
      const a = one.dataset.path, b = other.dataset.path;
      const free = "relative" in one.dataset, bound = "relative" in other.dataset;
      if (free && bound) return inside(a, b) || inside(b, a);
      if (free || bound) {
        const [within, whole] = free ? [a, b] : [b, a];
        return rows.some((row) => inside(row, within) && below(row, whole));
      }
      return below(a, b) || below(b, a);
    };

    const clear = () => marked.forEach((one) => one.classList.remove("lit"));
    const light = (event) => {
      const source = event.target.closest("[data-path]");
      clear();
      if (!source || !study.contains(source)) return;
      const found = marked.filter((one) => related(source, one));
      found.forEach((one) => one.classList.add("lit"));
      if (event.type === "focusin") {
        const places = found.filter((one) => one.matches("a")).length;
        const rows = found.filter((one) => one.matches("tr")).length;
        spoken.textContent = `${source.dataset.path}: ${places} places in the programs, ${rows} rows in the tree`;
      }
    };
    study.addEventListener("mouseover", light);
    study.addEventListener("focusin", light);
    study.addEventListener("mouseleave", clear);
    study.addEventListener("focusout", clear);
    study.addEventListener("keydown", (event) => { if (event.key === "Escape") clear(); });
  }
})();
