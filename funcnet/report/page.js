// Lights up, within one model, everything that speaks of the part that is pointed at or has the focus.
(() => {
  const spoken = document.getElementById("spoken");
  const inside = (path, part) => `.${path}.`.includes(`.${part}.`);
  const below = (path, part) => path === part || path.startsWith(part + ".");

  // A path within a repeated block fits every place where its keys occur in a row.
  const related = (one, other) => {
    const a = one.dataset.path, b = other.dataset.path;
    if ("relative" in one.dataset || "relative" in other.dataset) return inside(a, b) || inside(b, a);
    return below(a, b) || below(b, a);
  };

  for (const study of document.querySelectorAll(".study")) {
    const marked = [...study.querySelectorAll("[data-path]")];
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
