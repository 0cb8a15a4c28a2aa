/* Slices that the page's volumes lack. Some travel in the page, the others stand beside it as scripts of one slice each, which
   a page opened from a file may load, while it may read nothing; arrived() when one has come or can't. */
function sliceShelf(meta, arrived) {
  const MOST = 24, shelf = new Map(), asked = new Set();
  const shelfOf = { lost: false, get };
  const keyOf = (axis, at) => `${axis}-${at}`, fileOf = (axis, at) => meta.planes.find(p => p.axis === axis)?.files[at];
  async function keep(axis, at, parts) {
    shelf.set(keyOf(axis, at), await unpackAll(parts, meta.coded, meta.axes[axis === 2 ? 1 : 2].kept.length));
    if (shelf.size > MOST) shelf.delete(shelf.keys().next().value);
    asked.delete(keyOf(axis, at));
    arrived();
  }
  function load(file, key) {
    const script = document.createElement("script");
    script.src = file;
    script.onload = () => script.remove();
    script.onerror = () => { script.remove(); asked.delete(key); shelfOf.lost = true; arrived(); };
    document.head.append(script);
  }
  /* The slice if it is at hand; null if not, and then it is asked for where there is one. */
  function get(axis, at) {
    const key = keyOf(axis, at), here = document.getElementById(`slice-${key}`), file = fileOf(axis, at);
    if (shelf.has(key)) return shelf.get(key);
    if (asked.has(key)) return null;
    if (here) { asked.add(key); keep(axis, at, here.textContent.split(" ")); }
    else if (file && !shelfOf.lost) { asked.add(key); load(file, key); }
    return null;
  }
  if (meta.planes.some(p => Object.keys(p.files).length)) window.perturboxSlice = keep;
  return shelfOf;
}
