/* The slice viewer: what the reader sees beside the pictures, and what buttons, keys, wheel and address do. Everything it
   shows is inside this page; it asks nothing of any network. */
(() => {
const $ = id => document.getElementById(id), all = (q, of = document) => [...of.querySelectorAll(q)];
const meta = JSON.parse($("meta").textContent);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const MODES = ["compare", "difference", "heat", "before", "after", "planes"];
// Nearly all voxels change by as much as they may: how they push the model says more, or at least which way they change.
const start = { mode: "compare", plane: meta.opening.plane, at: null, only: meta.opening.structure, window: 0, labels: 0, opacity: 0.75, heat: meta.influence ? "influence" : "signed" };
const S = { ...start, last: 0, blinking: false, face: 0 };  // face: 0 before, 1 after, while blinking
const volumes = {};
const shelf = sliceShelf(meta, () => draw());
const wholeOf = axis => !meta.axes.some((a, i) => i !== axis && a.held);
const holds = (axis, at) => wholeOf(axis) && (meta.axes[axis].held?.includes(at) ?? true);
const { layout, cut, crossAt, changeKind, push, paint } = slicePainter(meta, S, volumes, (axis, at) => holds(axis, at) ? null : shelf.get(axis, at));
const planeOf = axis => meta.planes.find(p => p.axis === axis);
const lens = lensOf(S, () => draw(), windowByHand);
let timer = 0;
document.documentElement.classList.add("js");

/* ---- what the panes say ---- */
const NAMES = {
  before: "BEFORE – original scan, its segmentation",
  after: "AFTER – SYNTHETIC scan, its segmentation",
  difference: "DIFFERENCE – what changed, on the original scan",
  get heat() { return HEAT[S.heat]; },
};
const PLANES = "AFTER – SYNTHETIC, ";
const one = v => Math.abs(v) >= 10 ? v.toFixed(0) : v.toFixed(1);
const sized = v => `${meta.size_unit === "pixels" ? Math.round(v).toLocaleString("en-US") : one(v)} ${meta.size_unit}`;
const minus = v => String(v).replace("-", "−");
function kinds() {
  if (S.blinking) return [S.face ? "after" : "before"];
  return S.mode === "compare" ? ["before", "after"] : S.mode === "planes" ? ["after", "after", "after"] : [S.mode];
}
const inPlanes = () => S.mode === "planes" && !S.blinking;
/* How high the picture may be: all of it on the first screen; a strip while it floats over what is read below. */
function tallest() {
  const views = $("views");
  if (views.classList.contains("afloat")) return innerHeight * 0.36;
  return views.clientWidth < 640 ? Math.max(260, innerHeight * 0.74) : Math.max(240, innerHeight - meta.around);
}
function draw() {
  if (!volumes.before) return;
  const plane = planeOf(S.plane), k = S.at[S.plane], show = kinds(), views = $("views");
  const planes = meta.planes.map(p => p.axis), axes = show.map((_, i) => inPlanes() ? planes[i] : S.plane);
  const side = views.clientWidth >= 640 ? show.length : 1, room = (views.clientWidth - 6 * (side - 1)) / side, tall = tallest();
  const scale = Math.min(...axes.map(layout).map(g => Math.min(room / (g.w * g.mmx), tall / (g.h * g.mmy))));
  const place = axis => { const p = planeOf(axis); return p.total > 1 ? `${p.title} ${p.numbers[S.at[axis]]} / ${p.total}` : ""; };
  const differing = axis => { const p = planeOf(axis), at = S.at[axis]; return S.only ? p.ml_of[S.only - 1][at] : p.ml[at]; };
  const gaps = axis => holds(axis, S.at[axis]) || cut(axis, S.at[axis]).whole ? ""
    : `\n${shelf.lost ? "report_files isn’t beside this page: " : ""}slices left out show their neighbour`;
  const noteOf = axis => `${differing(axis) ? sized(differing(axis)) + " differ" : "nothing differs"} here`;
  const counter = place(S.plane), note = noteOf(S.plane);
  all(".pane").forEach((pane, i) => {
    const kind = show[i], canvas = pane.querySelector("canvas"), axis = axes[i];
    pane.hidden = !kind;
    if (!kind) return;
    const g = layout(axis), dpr = Math.min(devicePixelRatio || 1, 3);
    const wide = Math.floor(g.w * g.mmx * scale), high = Math.floor(g.h * g.mmy * scale), title = inPlanes() ? PLANES + planeOf(axis).name : NAMES[kind];
    canvas.style.width = wide + "px"; canvas.style.height = high + "px";
    canvas.width = Math.round(wide * dpr); canvas.height = Math.round(high * dpr);
    canvas.dataset.kind = kind; canvas.dataset.axis = axis;
    paint(canvas, kind, $("labels").value, axis, inPlanes() ? crossAt(axis) : null);
    pane.querySelector(".name").textContent = title;
    const said = i + 1 < show.length || inPlanes() ? place(axis) : `${place(axis)}\n${noteOf(axis)}`.trim();
    pane.querySelector(".info").textContent = said + gaps(axis);
    canvas.setAttribute("aria-label", `${title}. ${place(axis)}, ${noteOf(axis)}.`);
    ["left", "right", "top", "bottom"].forEach((where, m) => { pane.querySelector(".mark." + where).textContent = planeOf(axis).marks[m]; });
    const ruler = pane.querySelector(".ruler"), [mm, pixels] = scaleBar(scale * S.lens.zoom, wide / 2.5);
    ruler.hidden = meta.length_unit !== "mm";
    ruler.style.width = pixels + "px"; ruler.textContent = `${mm} mm`;
  });
  $("slice").max = (plane.stops ?? plane.numbers).length - 1; $("slice").value = plane.stops ? plane.stops.indexOf(k) : k;
  $("slice").setAttribute("aria-valuetext", `${counter}, ${note}`);
  all("[data-chart]").forEach(box => {
    box.hidden = box.dataset.chart !== plane.name;
    const svg = box.querySelector("svg");
    if (!svg || box.hidden) return;
    const cursor = svg.querySelector(".cursor"), x = chartX(svg, plane.numbers[k] - 1);
    cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
    all(".line", svg).forEach(line => {
      line.classList.toggle("dim", S.only > 0 && +line.dataset.structure !== S.only);
      line.classList.toggle("strong", +line.dataset.structure === S.only);
    });
  });
}
function legend() {
  const key = (shape, text) => `<span class="key"><span class="box ${shape}"></span>${text}</span>`, mode = S.blinking ? "" : S.mode;
  $("legend").innerHTML = mode === "difference" ? key("lost", "lost (filled)") + key("added", "added (hollow)") + key("other", "another structure (hatched)")
    : mode !== "heat" ? ""
    : S.heat === "influence" ? `<span class="key">held back <span class="scale signed"></span> pushed on</span>mean over 5 ${meta.length_unit} of gradient × change: red where the change pushed the model towards what the attack is after, blue where it held it back, clear where it did hardly anything`
    : S.heat === "signed" ? `<span class="key">darker −${one(meta.largest / 2)} <span class="scale signed"></span> +${one(meta.largest / 2)} ${meta.unit} brighter</span>mean over 5 ${meta.length_unit}: blue where the attack made the scan darker, red where brighter, clear where its changes cancel or are below ${meta.heat_from} ${meta.unit}`
    : `<span class="key">0 <span class="scale"></span> ${one(meta.largest)} ${meta.unit}</span>RMS over 5 ${meta.length_unit}: how much was changed, not how much it mattered; clear below ${meta.heat_from} ${meta.unit}`;
}
function update() {
  const press = (b, on) => b.setAttribute("aria-pressed", String(on));
  all("[data-mode]").forEach(b => press(b, b.dataset.mode === S.mode && !S.blinking));
  all("[data-plane]").forEach(b => press(b, +b.dataset.plane === S.plane));
  press($("blink"), S.blinking); press($("isolate"), S.only > 0);
  all("#key button").forEach(b => press(b, +b.dataset.structure === S.only));
  all("tr[data-structure]").forEach(row => {
    const on = +row.dataset.structure === S.only;
    row.classList.toggle("chosen", on);
    press(row.querySelector("button"), on);
  });
  document.documentElement.classList.toggle("planes", inPlanes());
  $("heat-tools").hidden = S.mode !== "heat" || S.blinking;
  legend(); draw(); remember();
}

/* ---- moving ---- */
function go(k, quiet = true) {
  const { stops, numbers } = planeOf(S.plane), at = Math.max(0, Math.min(numbers.length - 1, k));
  S.at[S.plane] = stops ? stops.reduce((best, s) => Math.abs(s - at) < Math.abs(best - at) ? s : best, stops[0]) : at;
  if (quiet) $("status").textContent = "";
  draw(); remember();
}
/* So many slices on, of those that can be shown. */
function step(by) {
  const { stops } = planeOf(S.plane), at = S.at[S.plane];
  go(stops ? stops[Math.max(0, Math.min(stops.length - 1, stops.indexOf(at) + by))] : at + by);
}
function centre() {  // let the other planes cut through what differs here
  const { clean, adversarial, voxel } = cut(S.plane, S.at[S.plane]), hits = [];
  clean.forEach((label, p) => { if (changeKind(label, adversarial[p])) hits.push(p); });
  if (hits.length) S.at = voxel(hits[hits.length >> 1]).map((place, axis) => axis === S.plane ? S.at[axis] : place);
}
function jump(k, words) {
  S.at[S.plane] = k;
  centre();
  $("status").textContent = words;
  update();
}
function worst() {
  const plane = planeOf(S.plane), k = plane.worst[S.only], what = S.only ? meta.structures[S.only - 1].title + ": " : "";
  jump(k, plane.total > 1 ? `${what}most changed ${plane.name} slice, ${plane.numbers[k]} of ${plane.total}.` : "");
}
function seek(step) {
  const plane = planeOf(S.plane), k = S.at[S.plane], list = plane.changed[S.only];
  const found = step > 0 ? list.find(c => c > k) : [...list].reverse().find(c => c < k);
  if (found === undefined) $("status").textContent = `No ${step > 0 ? "next" : "previous"} changed slice.`;
  else jump(found, `Changed ${plane.name} slice ${plane.numbers[found]}, ${list.indexOf(found) + 1} of ${list.length} changed.`);
}
function isolate(n) {
  S.only = n;
  if (n) { S.last = n; worst(); } else { $("status").textContent = "All structures shown."; update(); }
}
function turn(axis) { S.plane = axis; $("status").textContent = ""; update(); }
function mode(name) { blink(false); S.mode = name; update(); }

/* ---- blinking: two pictures in one pane, each with its own name; 2 Hz, below three flashes a second ---- */
function blink(on) {
  clearInterval(timer);
  if (on && S.blinking && still.matches) { S.face ^= 1; draw(); return; }  // reduced motion: each press flips by hand
  S.blinking = on; S.face = 0;
  if (on && !still.matches) timer = setInterval(() => { S.face ^= 1; draw(); }, 250);
}
function toggleBlink() {
  blink(still.matches || !S.blinking);
  update();
}

/* ---- charts ---- */
const span = svg => ["first", "last", "left", "right"].map(k => +svg.dataset[k]);
function chartX(svg, slice) {
  const [first, last, left, right] = span(svg);
  return left + (first === last ? 0 : (slice - first) / (last - first)) * (right - left);
}
function chartClick(svg, event) {
  const box = svg.getBoundingClientRect(), [first, last, left, right] = span(svg);
  const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
  const wanted = first + (x - left) / (right - left) * (last - first) + 1, numbers = planeOf(S.plane).numbers;
  let best = 0;
  (planeOf(S.plane).stops ?? numbers.map((_, k) => k)).forEach((k, i) => { if (!i || Math.abs(numbers[k] - wanted) < Math.abs(numbers[best] - wanted)) best = k; });
  jump(best, `${planeOf(S.plane).title} slice ${numbers[best]}.`);
}

/* ---- reading values ---- */
function valuesAt(axis, at, pixel) {
  const slice = cut(axis, at), listed = scans => scans.map(values => values[pixel]), name = n => n ? meta.structures[n - 1].title : "none";
  const before = listed(slice.before), after = listed(slice.after), clean = slice.clean[pixel], adversarial = slice.adversarial[pixel];
  const influence = slice.influence && push(slice.influence[pixel]);
  return { voxel: slice.voxel(pixel), influence, before, after, delta: after.map((v, c) => v - before[c]), clean, adversarial, labels: [name(clean), name(adversarial)] };
}
function read(place, axis = S.plane) {  // at the place itself, or what stands for it
  const g = layout(axis), u = g.cols.indexOf(place[g.c]), v = g.rows.indexOf(place[g.r]);
  return valuesAt(axis, place[axis], v * g.w + u);
}
function pixelAt(canvas, event) {
  const box = canvas.getBoundingClientRect(), g = layout(+canvas.dataset.axis);
  const [x, y] = lens.place((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  const u = Math.floor(x * g.w), v = Math.floor(y * g.h);
  return u < 0 || v < 0 || u >= g.w || v >= g.h ? null : v * g.w + u;
}
function windowByHand(width, centre) {
  const select = $("window"), n = meta.window_presets ??= meta.windows.length, name = `By hand ${one(width)}/${minus(one(centre))}`;
  meta.windows[n] = { width, centre };
  if (!select.options[n]) select.add(new Option(name));
  select.options[n].textContent = name;
  select.selectedIndex = S.window = n;
  draw();
}
function readout(canvas, event) {
  const pixel = pixelAt(canvas, event), axis = +canvas.dataset.axis;
  if (pixel === null) return;
  const r = valuesAt(axis, S.at[axis], pixel), digits = meta.whole ? 0 : 3, show = v => minus(v.toFixed(digits)), unit = meta.unit;
  const listed = values => values.map(show).join(" / "), signed = v => (v > 0 ? "+" : "") + show(v);
  const file = r.voxel.map((k, axis) => ["ijk"[meta.axes[axis].file], meta.axes[axis].kept[k]]).sort().map(p => p.join(" ")).join(", ");
  $("readout").textContent = `Before ${listed(r.before)} ${unit} · after ${listed(r.after)} ${unit} · change ${r.delta.map(signed).join(" / ")} ${unit}` +
    (r.influence ? ` · influence ${signed(100 * r.influence)} % of the largest` : "") + ` · label ${r.labels[0]}${r.labels[1] === r.labels[0] ? "" : " → " + r.labels[1]} · voxel ${file}`;
  const box = canvas.getBoundingClientRect();
  all(".pane").forEach(pane => {
    const cross = pane.querySelector(".cross");
    cross.hidden = pane.contains(canvas) || inPlanes();
    cross.style.left = event.clientX - box.left + "px"; cross.style.top = event.clientY - box.top + "px";
  });
}

/* ---- the address remembers the view, for sharing a finding ---- */
function address() {
  const plane = planeOf(S.plane), parts = [`mode=${S.mode}`, `plane=${plane.name}`, `slice=${plane.numbers[S.at[S.plane]]}`];
  if (S.only) parts.push(`structure=${encodeURIComponent(meta.structures[S.only - 1].name)}`);
  return "#" + parts.join("&");
}
let saving = 0;
function remember() {  // not at every wheel step: browsers limit how often an address may change
  clearTimeout(saving);
  saving = setTimeout(() => { if (location.hash !== address()) history.replaceState(null, "", address()); }, 120);
}
function opening() {  // what the headline is about, where it shows best
  const structure = meta.structures[meta.opening.structure - 1];
  return `plane=${planeOf(meta.opening.plane).name}` + (structure ? `&structure=${encodeURIComponent(structure.name)}` : "");
}
function recall() {
  const hash = location.hash.slice(1), asked = new URLSearchParams(hash.includes("plane=") ? hash : `${opening()}&${hash}`);
  const plane = meta.planes.find(p => p.name === asked.get("plane")) || meta.planes[0];
  S.mode = MODES.includes(asked.get("mode")) ? asked.get("mode") : "compare";
  S.only = 1 + meta.structures.findIndex(s => s.name === asked.get("structure"));
  if (S.only) S.last = S.only;
  S.plane = plane.axis;
  S.at = meta.axes.map(a => a.held ? a.held[a.held.length >> 1] : a.kept.length >> 1);
  S.at[plane.axis] = plane.worst[S.only];
  centre();
  const k = plane.numbers.indexOf(+asked.get("slice"));
  if (k >= 0) { S.at[plane.axis] = k; centre(); }
}

/* ---- buttons, keys, wheel ---- */
function connect() {
  all("[data-mode]").forEach(b => { b.onclick = () => mode(b.dataset.mode); });
  all("#key button").forEach(b => { b.onclick = () => isolate(S.only === +b.dataset.structure ? 0 : +b.dataset.structure); });
  all("[data-zoom]").forEach(b => { b.onclick = () => zoomBy(+b.dataset.zoom); });
  $("level").onclick = () => useTool(lens.tool() === "level" ? "pan" : "level");
  $("heat").value = S.heat;
  addEventListener("scroll", floating, { passive: true }); addEventListener("resize", () => { floating(); draw(); });
  if ($("filter")) {
    $("filter").oninput = filterRows;
    $("structures").classList.add("folded");
    $("unfold").onclick = () => { $("unfold").setAttribute("aria-pressed", String($("structures").classList.toggle("whole"))); };
  }
  all("[data-plane]").forEach(b => { b.onclick = () => turn(+b.dataset.plane); });
  $("blink").onclick = toggleBlink;
  $("isolate").onclick = () => isolate(S.only ? 0 : S.last || meta.first);
  $("previous").onclick = () => seek(-1); $("next").onclick = () => seek(1); $("worst").onclick = worst;
  $("slice").oninput = e => go(planeOf(S.plane).stops?.[+e.target.value] ?? +e.target.value);
  $("window").onchange = e => { S.window = e.target.selectedIndex; draw(); };
  $("labels").onchange = draw;
  $("opacity").oninput = e => { S.opacity = e.target.value / 100; draw(); };
  $("heat").onchange = e => { S.heat = e.target.value; update(); };
  all("tr[data-structure]").forEach(row => {
    row.onclick = () => isolate(S.only === +row.dataset.structure ? 0 : +row.dataset.structure);
  });
  all("[data-chart] svg").forEach(svg => { svg.onclick = event => chartClick(svg, event); });
  lens.wheel($("views"), step);
  all(".pane canvas").forEach(canvas => {
    canvas.onpointermove = event => readout(canvas, event);
    canvas.onpointerleave = () => { all(".cross").forEach(c => { c.hidden = true; }); };
    lens.drag(canvas, () => meta.windows[S.window]);
    canvas.onclick = event => {
      const pixel = canvas.dragged ? null : pixelAt(canvas, event), axis = +canvas.dataset.axis;
      if (pixel === null) return;
      S.at = cut(axis, S.at[axis]).voxel(pixel).map((place, a) => a === axis ? S.at[a] : place);
      readout(canvas, event); if (inPlanes()) update();
    };
  });
  addEventListener("beforeprint", () => all("details.warn").forEach(d => { d.open = true; }));  // paper can't unfold
  addEventListener("keydown", key);
  addEventListener("keyup", event => { if (event.key.toLowerCase() === "x" && S.held) { S.held = false; blink(false); update(); } });
  addEventListener("hashchange", () => { if (location.hash !== address()) { blink(false); recall(); update(); } });
  new ResizeObserver(draw).observe($("views"));
  $("review").querySelector("form").onsubmit = review;
}
function zoomBy(factor) { if (factor) lens.zoom(factor); else lens.reset(); }
function useTool(name) { lens.use(name); $("level").setAttribute("aria-pressed", String(name === "level")); }
/* While charts and structures are read the picture floats above them: what a click there changes must be in sight. */
function floating() {
  const stage = $("stage"), views = $("views"), last = $("structures").getBoundingClientRect();
  const first = ($("charts").hidden ? $("structures") : $("charts")).getBoundingClientRect();
  const on = stage.getBoundingClientRect().bottom < innerHeight * 0.2 && first.top < innerHeight * 0.6 && last.bottom > innerHeight * 0.5;
  if (on === views.classList.contains("afloat")) return;
  stage.style.height = on ? stage.clientHeight + "px" : "";
  views.classList.toggle("afloat", on);
  draw();
}
/* Of many structures: rows whose name holds what was typed; the folded ones as well. */
function filterRows() {
  const wanted = $("filter").value.trim().toLowerCase();
  document.querySelector("#structures").classList.toggle("filtered", wanted !== "");
  all("tr[data-structure]").forEach(row => row.classList.toggle("match", row.textContent.toLowerCase().includes(wanted)));
}
function cycle(select) {
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change"));
}
function key(event) {
  const at = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(at.tagName)) return;
  if (at.tagName === "INPUT" && at.type !== "checkbox" && event.key.startsWith("Arrow")) return;  // sliders move by themselves
  const planes = meta.planes.map(p => p.axis), by = d => () => step(d);
  const actions = {
    n: () => seek(1), p: () => seek(-1), m: worst, i: () => $("isolate").click(), g: () => cycle($("labels")), w: () => cycle($("window")), h: () => { if (S.mode === "heat") cycle($("heat")); },
    t: () => mode(S.mode === "heat" ? "compare" : "heat"), a: () => turn(planes[(planes.indexOf(S.plane) + 1) % planes.length]),
    "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), "0": () => zoomBy(0), l: () => $("level").click(),
    escape: () => { blink(false); update(); }, r: reset,
    x: () => {
      if (event.repeat) return;
      if (event.shiftKey) { clearInterval(timer); S.held = S.blinking = true; S.face = 1; update(); } else toggleBlink();
    },
    arrowright: by(1), arrowup: by(1), f: by(1), arrowleft: by(-1), arrowdown: by(-1), b: by(-1),
  };
  MODES.forEach((name, i) => { actions[i + 1] = () => { if (document.querySelector(`[data-mode=${name}]`)) mode(name); }; });
  const act = actions[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
}
function reset() {
  blink(false);
  Object.assign(S, start, { at: S.at });
  $("window").selectedIndex = $("labels").selectedIndex = 0;
  $("opacity").value = 75; $("heat").value = S.heat;
  useTool("pan"); lens.reset(); worst();
}
function review(event) {
  event.preventDefault();
  const answers = new FormData(event.target), or = name => answers.get(name) || null;
  const text = { schema: "perturbox-review/1", result_sha256: meta.sha256, mattered: or("mattered"), visible: or("visible"), note: or("note"), view: address().slice(1) };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(text, null, 1)], { type: "application/json" }));
  link.download = "review.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const ready = (async () => {
  const parts = all("[id^=data-]").map(part => part.textContent);
  Object.assign(volumes, await unpackAll(parts, meta.coded, meta.shape[2]));
  recall();
  $("decoding").remove();
  connect(); update();
})();
ready.catch(error => { $("decoding").textContent = `The scan could not be unpacked (${error.message}). The figures below are complete.`; });
window.perturbox = { ready, state: S, meta, read, cut, address, go, jump, isolate };  // for scripts and tests
})();
