// Lights up, within one model, all links and rows of the part that is pointed at or has the focus.
(() => {
  const announcement = document.getElementById("spoken");
  const containsPath = (path, inner) => `.${path}.`.includes(`.${inner}.`);
  const startsWithPath = (path, prefix) => path === prefix || path.startsWith(prefix + ".");

  for (const study of document.querySelectorAll(".study")) {
    const elements = [...study.querySelectorAll("[data-path]")];
    const rowPaths = elements.filter((element) => element.matches("tr")).map((row) => row.dataset.path);

    // A relative path, which starts at some block, stands for every row whose path contains its keys in sequence.
    const areRelated = (left, right) => {
      const leftPath = left.dataset.path, rightPath = right.dataset.path;
      const leftIsRelative = "relative" in left.dataset, rightIsRelative = "relative" in right.dataset;
      if (leftIsRelative && rightIsRelative) return containsPath(leftPath, rightPath) || containsPath(rightPath, leftPath);
      if (leftIsRelative || rightIsRelative) {
        const [relativePath, fullPath] = leftIsRelative ? [leftPath, rightPath] : [rightPath, leftPath];
        return rowPaths.some((row) => containsPath(row, relativePath) && startsWithPath(row, fullPath));
      }
      return startsWithPath(leftPath, rightPath) || startsWithPath(rightPath, leftPath);
    };

    const clear = () => elements.forEach((element) => element.classList.remove("lit"));
    const light = (event) => {
      const source = event.target.closest("[data-path]");
      clear();
      if (!source || !study.contains(source)) return;
      const related = elements.filter((element) => areRelated(source, element));
      related.forEach((element) => element.classList.add("lit"));
      if (event.type === "focusin") {
        const links = related.filter((element) => element.matches("a")).length;
        const rows = related.filter((element) => element.matches("tr")).length;
        announcement.textContent = `${source.dataset.path}: ${links} places in the programs, ${rows} rows in the tree`;
      }
    };
    study.addEventListener("mouseover", light);
    study.addEventListener("focusin", light);
    study.addEventListener("mouseleave", clear);
    study.addEventListener("focusout", clear);
    study.addEventListener("keydown", (event) => { if (event.key === "Escape") clear(); });
  }
})();
