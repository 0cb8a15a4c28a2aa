/* Zooming, panning and the window by hand. view.lens as `slicePainter` reads it; draw() shows a change, level(width, centre)
   sets another window. A drag moves the picture, or with the tool "level", or with the right button, the window. */
function lensOf(view, draw, level) {
  const lens = view.lens = { zoom: 1, x: 0, y: 0 };
  let tool = "pan", from = null;
  const clamp = (v, most) => Math.max(0, Math.min(most, v));
  function settle() { lens.x = clamp(lens.x, 1 - 1 / lens.zoom); lens.y = clamp(lens.y, 1 - 1 / lens.zoom); draw(); }
  /* Zoom by a factor about a point of the pane, in fractions of it. */
  function zoom(factor, u = 0.5, v = 0.5) {
    const before = lens.zoom;
    lens.zoom = Math.max(1, Math.min(16, before * factor));
    lens.x += u / before - u / lens.zoom; lens.y += v / before - v / lens.zoom;
    settle();
  }
  function reset() { Object.assign(lens, { zoom: 1, x: 0, y: 0 }); draw(); }
  /* What a place of the pane shows, as a fraction of the whole slice. */
  const place = (u, v) => [lens.x + u / lens.zoom, lens.y + v / lens.zoom];
  function drag(canvas, now) {  // returns whether it was one: a click stays a click
    canvas.addEventListener("pointerdown", event => {
      const { width, centre } = now();
      from = { at: [event.clientX, event.clientY], x: lens.x, y: lens.y, width, centre, level: tool === "level" || event.button === 2, moved: false };
      try { canvas.setPointerCapture(event.pointerId); } catch { /* an event that a script made has no pointer */ }
    });
    canvas.addEventListener("pointermove", event => {
      if (!from) return;
      const dx = event.clientX - from.at[0], dy = event.clientY - from.at[1];
      if (!from.moved && Math.hypot(dx, dy) < 4) return;
      from.moved = true;
      if (from.level) level(Math.max(from.width * 2 ** (dx / 200), 1e-6), from.centre + dy / 300 * from.width);
      else { lens.x = from.x - dx / canvas.clientWidth / lens.zoom; lens.y = from.y - dy / canvas.clientHeight / lens.zoom; settle(); }
    });
    canvas.addEventListener("pointerup", () => { canvas.dragged = !!from && from.moved; from = null; });
    canvas.addEventListener("pointercancel", () => { from = null; });
    canvas.addEventListener("contextmenu", event => event.preventDefault());
    canvas.addEventListener("dblclick", event => {
      const box = canvas.getBoundingClientRect();
      zoom(2, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
  }
  /* The wheel turns slices, `step` by so many; with Shift it zooms; with Ctrl it is the browser's own. */
  function wheel(views, step) {
    let turned = 0;
    views.addEventListener("wheel", event => {
      if (event.ctrlKey) return;
      event.preventDefault();
      if (event.shiftKey) {
        const box = event.target.getBoundingClientRect();
        zoom((event.deltaY || event.deltaX) < 0 ? 1.25 : 0.8, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
        return;
      }
      turned += event.deltaMode ? event.deltaY * 40 : event.deltaY;
      const steps = Math.trunc(turned / 40);
      if (steps) { turned -= steps * 40; step(Math.max(-3, Math.min(3, steps))); }
    }, { passive: false });
  }
  return { zoom, reset, place, drag, wheel, use: name => { tool = name; }, tool: () => tool };
}
/* A scale bar that fits into `room` pixels at so many pixels per millimetre: [mm, pixels], round and as long as can be. */
function scaleBar(perMm, room) {
  const most = room / perMm, power = 10 ** Math.floor(Math.log10(most));
  const mm = [5, 2, 1].map(m => m * power).find(m => m <= most) ?? power;
  return [mm, mm * perMm];
}
