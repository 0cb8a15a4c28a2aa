"use strict";
/* A margin's page: the chosen structure stands out in chart, table and pictures. It works without this. */
(() => {
const all = q => [...document.querySelectorAll(q)];
let only = 0;
document.documentElement.classList.add("js");
function choose(n) {
  only = n;
  all("tr[data-structure]").forEach(row => {
    const on = +row.dataset.structure === only;
    row.classList.toggle("chosen", on);
    row.querySelector("button").setAttribute("aria-pressed", String(on));
  });
  all(".margin [data-structure]").forEach(mark => {
    mark.classList.toggle("dim", only > 0 && +mark.dataset.structure !== only);
    mark.classList.toggle("strong", +mark.dataset.structure === only);
  });
  all("article[data-structure]").forEach(part => part.classList.toggle("chosen", +part.dataset.structure === only));
}
all("tr[data-structure]").forEach(row => { row.onclick = event => { if (!event.target.closest("a")) choose(only === +row.dataset.structure ? 0 : +row.dataset.structure); }; });
addEventListener("keydown", event => { if (event.key === "Escape") choose(0); });
addEventListener("beforeprint", () => all("details.warn").forEach(d => { d.open = true; }));  // paper can't unfold
window.perturbox = { ready: Promise.resolve(), choose };  // for scripts and tests
})();
