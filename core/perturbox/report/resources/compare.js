/* Slices of several results on one scan: one slider, plane, window and lens for all of them. */
(() => {
const $ = id => document.getElementById(id), all = q => [...document.querySelectorAll(q)];
const meta = JSON.parse($("meta").textContent), MODES = ["before", "after", "difference", "heat"];
const S = { mode: "after", plane: meta.opening.plane, at: null, only: meta.opening.structure, window: 0, opacity: 0.75, heat: meta.heat };
const volumes = meta.results.map(() => ({}));
const painters = meta.results.map((result, i) => slicePainter({ ...meta, ...result }, S, volumes[i], () => null));
const planeOf = axis => meta.planes.find(p => p.axis === axis);
const lens = lensOf(S, () => draw(), windowByHand);
document.documentElement.classList.add("js");
const NAMES = {
  before: "BEFORE – original", after: "AFTER – SYNTHETIC", difference: "DIFFERENCE on the original", heat: HEAT[meta.heat],
};
const one = v => Math.abs(v) >= 10 ? v.toFixed(0) : v.toFixed(1);
const sized = v => `${meta.size_unit === "pixels" ? Math.round(v).toLocaleString("en-US") : one(v)} ${meta.size_unit}`;

function windowByHand(width, centre) {
  const select = $("window"), n = meta.presets ??= meta.windows.length, name = `By hand ${one(width)}/${one(centre)}`;
  meta.windows[n] = { width, centre };
  if (!select.options[n]) select.add(new Option(name));
  select.options[n].textContent = name;
  select.selectedIndex = S.window = n;
  draw();
}
function draw() {
  if (!volumes[0].before) return;
  const views = $("views"), n = meta.results.length, plane = planeOf(S.plane), k = S.at[S.plane];
  const columns = views.clientWidth < 640 ? 1 : n <= 3 ? n : Math.ceil(n / 2), lines = Math.ceil(n / columns);
  const g = painters[0].layout(S.plane), room = (views.clientWidth - 6 * (columns - 1)) / columns;
  const tall = columns === 1 ? innerHeight * 0.74 : Math.max(200, (innerHeight - meta.around) / lines);
  const scale = Math.min(room / (g.w * g.mmx), tall / (g.h * g.mmy)), dpr = Math.min(devicePixelRatio || 1, 3);
  const place = plane.total > 1 ? `${plane.title} ${plane.numbers[k]} / ${plane.total}` : "";
  all(".pane").forEach((pane, i) => {
    const canvas = pane.querySelector("canvas"), result = meta.results[i], told = result.planes[S.plane];
    const wide = Math.floor(g.w * g.mmx * scale), high = Math.floor(g.h * g.mmy * scale);
    canvas.style.width = wide + "px"; canvas.style.height = high + "px";
    canvas.width = Math.round(wide * dpr); canvas.height = Math.round(high * dpr);
    painters[i].paint(canvas, S.mode, $("labels").value);
    const ml = S.only ? told.ml_of[S.only - 1][k] : told.ml[k], note = `${ml ? sized(ml) + " differ" : "nothing differs"} here`;
    pane.querySelector(".name").textContent = `${result.letter} · ${NAMES[S.mode]}`;
    pane.querySelector(".info").textContent = `${place}\n${note}`.trim();
    canvas.setAttribute("aria-label", `${result.letter}: ${NAMES[S.mode]}. ${place}, ${note}.`);
    ["left", "right", "top", "bottom"].forEach((where, m) => { pane.querySelector(".mark." + where).textContent = plane.marks[m]; });
  });
  $("slice").max = plane.numbers.length - 1; $("slice").value = k;
  $("slice").setAttribute("aria-valuetext", place);
}
function update() {
  const press = (b, on) => b.setAttribute("aria-pressed", String(on));
  all("[data-mode]").forEach(b => press(b, b.dataset.mode === S.mode));
  all("[data-plane]").forEach(b => press(b, +b.dataset.plane === S.plane));
  all("#key button").forEach(b => press(b, +b.dataset.structure === S.only));
  all("tr[data-structure]").forEach(row => {
    const on = +row.dataset.structure === S.only;
    row.classList.toggle("chosen", on);
    press(row.querySelector("button"), on);
  });
  $("legend").textContent = S.mode === "difference" ? "Filled blue: lost; hollow orange: added; hatched: became another structure." :
    S.mode !== "heat" ? "" : S.heat === "signed" ? `Mean over 5 ${meta.length_unit}: blue where the attack made the scan darker, red where brighter, full colour from ${one(meta.largest / 2)} ${meta.unit}, in all alike.` :
    `Mean over 5 ${meta.length_unit} of gradient × change: red where the change pushed the model towards what the attack is after, blue where it held it back; each result in proportion to its own largest.`;
  draw();
}
function go(k, words = "") {
  S.at[S.plane] = Math.max(0, Math.min(planeOf(S.plane).numbers.length - 1, k));
  $("status").textContent = words;
  draw();
}
function worst() {
  const plane = planeOf(S.plane), k = plane.worst[S.only], what = S.only ? meta.structures[S.only - 1].title + ": " : "";
  go(k, plane.total > 1 ? `${what}${plane.name} slice ${plane.numbers[k]} of ${plane.total}, where the results differ most.` : "");
}
function seek(step) {
  const list = planeOf(S.plane).changed[S.only], k = S.at[S.plane];
  const found = step > 0 ? list.find(c => c > k) : [...list].reverse().find(c => c < k);
  if (found === undefined) $("status").textContent = `No ${step > 0 ? "next" : "previous"} slice changed in any result.`;
  else go(found);
}
function isolate(n) { S.only = n; if (n) worst(); update(); }
function turn(axis) { S.plane = axis; $("status").textContent = ""; update(); }
function mode(name) { S.mode = name; update(); }
function zoomBy(factor) { if (factor) lens.zoom(factor); else lens.reset(); }
function cycle(select) { select.selectedIndex = (select.selectedIndex + 1) % select.options.length; select.dispatchEvent(new Event("change")); }

function connect() {
  all("[data-mode]").forEach(b => { b.onclick = () => mode(b.dataset.mode); });
  all("[data-plane]").forEach(b => { b.onclick = () => turn(+b.dataset.plane); });
  all("[data-zoom]").forEach(b => { b.onclick = () => zoomBy(+b.dataset.zoom); });
  const choose = n => isolate(S.only === n ? 0 : n);
  all("#key button, tr[data-structure]").forEach(e => { e.onclick = () => choose(+e.dataset.structure); });
  $("previous").onclick = () => seek(-1); $("next").onclick = () => seek(1); $("worst").onclick = worst;
  $("slice").oninput = e => go(+e.target.value);
  $("window").onchange = e => { S.window = e.target.selectedIndex; draw(); };
  $("labels").onchange = draw;
  lens.wheel($("views"), steps => go(S.at[S.plane] + steps));
  all(".pane canvas").forEach(canvas => lens.drag(canvas, () => meta.windows[S.window]));
  addEventListener("keydown", key);
  addEventListener("resize", draw);
  new ResizeObserver(draw).observe($("views"));
}
function key(event) {
  const at = event.target, planes = meta.planes.map(p => p.axis), step = d => () => go(S.at[S.plane] + d);
  if (event.ctrlKey || event.metaKey || event.altKey || at.tagName === "SELECT") return;
  if (at.tagName === "INPUT" && event.key.startsWith("Arrow")) return;  // sliders move by themselves
  const actions = {
    n: () => seek(1), p: () => seek(-1), m: worst, g: () => cycle($("labels")), w: () => cycle($("window")),
    a: () => turn(planes[(planes.indexOf(S.plane) + 1) % planes.length]), escape: () => isolate(0),
    "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), "0": () => zoomBy(0),
    arrowright: step(1), arrowup: step(1), arrowleft: step(-1), arrowdown: step(-1),
  };
  MODES.forEach((name, i) => { actions[i + 1] = () => mode(name); });
  const act = actions[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
}

const ready = (async () => {
  for (const [i, { parts, coded }] of meta.results.entries()) {
    Object.assign(volumes[i], await unpackAll(parts.map(name => $("data-" + name).textContent), coded, meta.shape[2]));
    const same = meta.results.findIndex(other => other.parts[0] === parts[0]);  // the same original is kept once
    volumes[i].before = volumes[same].before;
  }
  S.at = meta.shape.map(n => n >> 1);
  meta.planes.forEach(p => { S.at[p.axis] = p.worst[S.only]; });
  $("decoding").remove();
  connect(); update();
})();
ready.catch(error => { $("decoding").textContent = `The scan could not be unpacked (${error.message}). The figures below are complete.`; });
window.perturbox = { ready, state: S, meta, volumes, go, isolate };  // for scripts and tests
})();
