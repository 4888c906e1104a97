(() => {
  "use strict";
  document.documentElement.classList.add("js");
  for (const article of document.querySelectorAll(".case")) {
    const slider = article.querySelector("input"), label = article.querySelector("output");
    if (!slider) continue;
    const rows = [...article.querySelectorAll(".row")];
    const show = () => {
      rows.forEach((row, k) => { row.hidden = k + 1 !== Number(slider.value); });
      label.textContent = `${slider.value} of ${rows.length}`;
      slider.setAttribute("aria-valuetext", rows[slider.value - 1].querySelector(".at").textContent);
    };
    slider.addEventListener("input", show);
    show();
  }
  const text = new Intl.Collator(undefined, { numeric: true });
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const told = table.closest("section").querySelector("[role=status]");
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const compare = (a, b) => {
        const x = a.cells[column], y = b.cells[column];
        if (x.dataset.value === undefined) return sign * text.compare(x.textContent, y.textContent);
        if (x.dataset.value === "" || y.dataset.value === "") return (x.dataset.value === "") - (y.dataset.value === "");
        return sign * (Number(x.dataset.value) - Number(y.dataset.value));
      };
      body.append(...[...body.rows].sort(compare));
      if (told) told.textContent = `sorted by ${head.textContent.trim()}, ${sign > 0 ? "ascending" : "descending"}`;
    }));
  }
})();
