/* Slices as pictures. Volumes are "z y x": z from feet to head, y from front to back, x from the patient's right to left;
   both scans are "c z y x", of colour pictures red, green, blue.
   meta: the page's facts; view: what is looked at {plane, at, only, window, opacity, heat, lens}, its places among all that
   slices may stand at; volumes: {before, after, clean, adversarial, influence} of what the page holds, there once they are unpacked;
   beside(axis, at): one slice alike, where it is at hand otherwise, else null. The caller may change the last three any time.
   lens: {zoom, x, y}, how much larger and from where, x and y in fractions of the whole slice. */
/* What the three kinds of heat show, as their title says it. */
const HEAT = {
  influence: "HEAT – where the change pushed the model, on the SYNTHETIC scan",
  signed: "HEAT – where the SYNTHETIC scan is brighter or darker",
  size: "HEAT – by how much the SYNTHETIC scan was altered",
};
function slicePainter(meta, view, volumes, beside) {
  const LOST = [86, 180, 233], ADDED = [230, 159, 0], OTHER = [204, 121, 167];

  /* ---- geometry: each plane as a regular pixel grid over its voxels ---- */
  const grids = meta.axes.map(({ kept, mm }) => {
    const place = kept.map(k => Math.abs(k - kept[0])), gaps = place.slice(1).map((p, i) => p - place[i]);
    const unit = gaps.length ? Math.min(...gaps) : 1, n = Math.round(place[place.length - 1] / unit) + 1;
    return { voxel: nearest(Array.from({ length: n }, (_, p) => p * unit), place), mm: mm * unit };
  });
  /* For each place its closest of those in `among`, both ascending: its index there. */
  function nearest(places, among) {
    let i = 0;
    return Int32Array.from(places, p => {
      while (i + 1 < among.length && Math.abs(among[i + 1] - p) <= Math.abs(among[i] - p)) i++;
      return i;
    });
  }
  const all = meta.axes.map(a => Int32Array.from(a.kept, (_, i) => i));
  const held = meta.axes.map((a, i) => a.held ? nearest(all[i], a.held) : all[i]);  // of each place, its index in the volumes
  const placeOf = (axis, index) => meta.axes[axis].held ? meta.axes[axis].held[index] : index;
  const layouts = {};
  function layout(axis) {
    const [r, c] = [0, 1, 2].filter(a => a !== axis), rows = axis ? grids[r].voxel.slice().reverse() : grids[r].voxel;
    return layouts[axis] ??= { r, c, rows, cols: grids[c].voxel, w: grids[c].voxel.length, h: rows.length, mmx: grids[c].mm, mmy: grids[r].mm };
  }
  /* One slice's pixels: values of both scans by channel, both labels, and which voxels they are: [z, y, x] of pixel p. */
  const cuts = new Map();
  function cut(axis, at) {
    const own = beside(axis, at), key = `${axis} ${at} ${!own}`;
    if (cuts.has(key)) return cuts.get(key);
    const g = layout(axis), shape = own ? meta.axes.map((a, i) => i === axis ? 1 : a.kept.length) : meta.shape;
    const stride = [shape[1] * shape[2], shape[2], 1], index = own ? all : held, n = g.w * g.h, base = new Int32Array(n);
    const off = own ? 0 : held[axis][at] * stride[axis], labels = own ?? volumes, { scale, offset } = meta.coded;
    for (let v = 0, p = 0; v < g.h; v++) {
      const row = off + index[g.r][g.rows[v]] * stride[g.r];
      for (let u = 0; u < g.w; u++, p++) base[p] = row + index[g.c][g.cols[u]] * stride[g.c];
    }
    const Kind = scale === null ? labels.before.constructor : Float32Array, each = shape[0] * shape[1] * shape[2];
    const values = codes => Array.from({ length: meta.channels }, (_, k) => {
      const out = new Kind(n);
      for (let p = 0; p < n; p++) out[p] = scale === null ? codes[base[p] + k * each] : codes[base[p] + k * each] * scale + offset;
      return out;
    });
    const pick = (map, Kind = Uint8Array) => { const out = new Kind(n); for (let p = 0; p < n; p++) out[p] = map[base[p]]; return out; };
    const real = (a, place) => own ? place : placeOf(a, held[a][place]);
    const voxel = p => {
      const place = [0, 0, 0];
      place[axis] = real(axis, at);
      place[g.r] = real(g.r, g.rows[Math.floor(p / g.w)]); place[g.c] = real(g.c, g.cols[p % g.w]);
      return place;
    };
    const found = { whole: !!own, before: values(labels.before), after: values(labels.after), clean: pick(labels.clean), adversarial: pick(labels.adversarial), influence: labels.influence && pick(labels.influence, Int8Array), voxel };
    cuts.set(key, found);
    if (cuts.size > 6) cuts.delete(cuts.keys().next().value);
    return found;
  }
  const mean = list => list.reduce((a, b) => a + b) / list.length;

  /* ---- painting ---- */
  const shown = label => view.only === 0 || label === view.only;
  const hue = n => meta.structures[n - 1].rgb;
  function mix(data, o, colour, share) {
    for (let c = 0; c < 3; c++) data[o + c] += (colour[c] - data[o + c]) * share;
  }
  function changeKind(a, b) {  // 0 nothing, 1 lost, 2 added, 3 became another structure
    if (a === b || !(shown(a) || shown(b))) return 0;
    if (view.only) return a === view.only ? 1 : b === view.only ? 2 : 0;
    return !a ? 2 : !b ? 1 : 3;
  }
  /* A mean over 5 mm in the plane, of what `of` says of each voxel: the raw change is speckle that hides the anatomy. */
  function smooth(g, slice, of) {
    let map = Float32Array.from(slice.clean, (_, p) => of(p));
    const blur = (from, n, m, radius, at) => {
      const to = new Float32Array(from.length);
      for (let b = 0; b < m; b++) {
        let sum = 0, k = 0;
        for (let a = -radius; a < n; a++) {
          if (a + radius < n) { sum += from[at(a + radius, b)]; k++; }
          if (a > radius) { sum -= from[at(a - radius - 1, b)]; k--; }
          if (a >= 0) to[at(a, b)] = sum / k;
        }
      }
      return to;
    };
    map = blur(map, g.w, g.h, Math.round(2.5 / g.mmx), (a, b) => b * g.w + a);
    return blur(map, g.h, g.w, Math.round(2.5 / g.mmy), (a, b) => a * g.w + b);
  }
  const inferno = meta.inferno;
  const push = code => Math.sign(code) * (code / 127) ** 2;  // how far a voxel's change pushes the model, of the most that one does
  function heat(data, g, slice) {
    const changes = p => slice.after.map((values, c) => values[p] - slice.before[c][p]), pushed = view.heat === "influence";
    const map = pushed ? smooth(g, slice, p => push(slice.influence[p]))
      : view.heat === "signed" ? smooth(g, slice, p => mean(changes(p))) : smooth(g, slice, p => mean(changes(p).map(v => v * v))).map(Math.sqrt);
    const top = pushed ? meta.influence.top : meta.largest, low = pushed ? top / 20 : meta.heat_from;
    for (let p = 0; p < map.length; p++) {
      const value = map[p], t = Math.min(1, Math.abs(value) / top);
      if (Math.abs(value) < low) continue;
      if (view.heat !== "size") { mix(data, 4 * p, value > 0 ? [255, 90, 74] : [63, 140, 255], view.opacity * Math.min(1, 2 * t)); continue; }
      const f = t * (inferno.length - 1), i = Math.min(inferno.length - 2, Math.floor(f)), a = inferno[i], b = inferno[i + 1];
      mix(data, 4 * p, a.map((v, c) => v + (f - i) * (b[c] - v)), view.opacity * Math.min(1, 5 * t));
    }
  }
  /* Outlines run along pixel edges, so that they never hide the voxel they enclose; keep(label, p, q, place) picks edges. */
  function outline(pen, g, labels, colour, width, keep = null) {
    const sx = pen.canvas.width / g.w, sy = pen.canvas.height / g.h, paths = {};
    const edge = (p, q, u, v, du, dv) => {  // between pixels p and q, -1 outside the picture
      const a = p < 0 ? 0 : labels[p], b = q < 0 ? 0 : labels[q];
      if (a === b) return;
      for (const n of [a, b]) {
        if (!n || !shown(n) || keep && !keep(n, p, q, u + v)) continue;
        const path = paths[n] ??= new Path2D();
        path.moveTo(u * sx, v * sy); path.lineTo((u + du) * sx, (v + dv) * sy);
      }
    };
    for (let v = 0; v <= g.h; v++) for (let u = 0; u <= g.w; u++) {
      const p = v * g.w + u, here = u < g.w && v < g.h ? p : -1;
      if (v < g.h) edge(here, u ? p - 1 : -1, u, v, 0, 1);
      if (u < g.w) edge(here, v ? p - g.w : -1, u, v, 1, 0);
    }
    pen.lineWidth = width; pen.lineCap = "square";
    for (const n in paths) { pen.strokeStyle = colour(+n); pen.stroke(paths[n]); }
  }
  const sheet = document.createElement("canvas");
  function paint(canvas, kind, style, axis = view.plane, cross = null) {  // style: of the labels; cross: where two lines meet
    const { zoom, x: left, y: top } = view.lens, slice = cut(axis, view.at[axis]), { clean: before, adversarial: after } = slice;
    const g = layout(axis), w = meta.windows[view.window], low = w.centre - w.width / 2, gain = 255 / w.width;
    const image = new ImageData(g.w, g.h), data = image.data, n = before.length, altered = kind === "after" || kind === "heat", scan = altered ? slice.after : slice.before;
    for (let p = 0, o = 0; p < n; p++, o += 4) {
      for (let c = 0; c < 3; c++) data[o + c] = (scan[c % scan.length][p] - low) * gain;
      data[o + 3] = 255;
      if (kind === "difference") {
        const d = changeKind(before[p], after[p]), x = p % g.w, y = (p - x) / g.w;
        if (d === 1) mix(data, o, LOST, 0.6);
        if (d === 2) mix(data, o, ADDED, 0.12);
        if (d === 3) mix(data, o, OTHER, (x + y) % 4 < 2 ? 0.75 : 0.25);
      } else if (kind !== "heat" && style.startsWith("fill")) {
        const label = kind === "after" ? after[p] : before[p];  // of one structure also what it became and what became it
        if (label && (shown(before[p]) || shown(after[p]))) mix(data, o, hue(label), 0.28);
      }
    }
    if (kind === "heat") heat(data, g, slice);
    sheet.width = g.w; sheet.height = g.h;
    sheet.getContext("2d").putImageData(image, 0, 0);
    const pen = canvas.getContext("2d"), sharp = canvas.width / parseFloat(canvas.style.width), dot = sharp / zoom;
    pen.setTransform(zoom, 0, 0, zoom, -left * canvas.width * zoom, -top * canvas.height * zoom);
    pen.imageSmoothingQuality = "high";
    pen.imageSmoothingEnabled = zoom < 4;
    pen.drawImage(sheet, 0, 0, canvas.width, canvas.height);
    const rgb = n => `rgb(${hue(n)})`;
    if (kind === "difference") {
      outline(pen, g, before, () => "rgba(255,255,255,.6)", 1.2 * dot);
      const added = after.map((b, p) => changeKind(before[p], b) === 2 ? b : 0);
      outline(pen, g, added, () => `rgb(${ADDED})`, 2.5 * dot);
    } else if (style !== "off") {
      outline(pen, g, altered ? after : before, rgb, (kind === "heat" ? 1.5 : 2) * dot);
      if (altered && style.includes("before")) {  // the old outline, dashed white, where it is none any more
        const holds = (n, p) => p >= 0 && after[p] === n;
        const moved = (n, p, q, place) => place % 4 < 2 && holds(n, p) === holds(n, q);
        outline(pen, g, before, () => "#fff", 1.5 * dot, moved);
      }
    }
    pen.setTransform(1, 0, 0, 1, 0, 0);
    if (cross) {
      const x = ((cross[0] + 0.5) / g.w - left) * zoom * canvas.width, y = ((cross[1] + 0.5) / g.h - top) * zoom * canvas.height;
      pen.strokeStyle = "rgba(255,255,255,.75)"; pen.lineWidth = sharp;
      pen.beginPath(); pen.moveTo(x, 0); pen.lineTo(x, canvas.height); pen.moveTo(0, y); pen.lineTo(canvas.width, y); pen.stroke();
    }
    if (altered) {  // part of the picture, so that it stays on copies of it
      pen.font = `700 ${13 * sharp}px system-ui, sans-serif`; pen.lineWidth = 3 * sharp; pen.strokeStyle = "#000"; pen.fillStyle = "#fff";
      pen.strokeText("SYNTHETIC", 10 * sharp, canvas.height - 10 * sharp); pen.fillText("SYNTHETIC", 10 * sharp, canvas.height - 10 * sharp);
    }
  }

  /* Column and row of the marked point in a slice of this plane. */
  function crossAt(axis) {
    const g = layout(axis), close = (list, place) => list.reduce((best, k, i) => Math.abs(k - place) < Math.abs(list[best] - place) ? i : best, 0);
    return [close(g.cols, view.at[g.c]), close(g.rows, view.at[g.r])];
  }

  return { layout, cut, crossAt, changeKind, push, paint };
}
