"use strict";
/* What travels inside the page and beside it: base64 text of gzip streams; `encode.py` packs them. */
async function unpack(packed) {
  const text = atob(packed), bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  if (typeof DecompressionStream === "undefined") return inflate(bytes);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
/* Both scans, both label maps and, if there is one, the influence; coded: how numbers are stored {scale, bytes}; row: voxels per row. */
async function unpackAll(parts, coded, row) {
  const [first, second, clean, adversarial, pushes] = await Promise.all(parts.map(unpack)), influence = pushes && new Int8Array(pushes.buffer);
  if (coded.scale === null) {
    const before = woven(first, coded.bytes), bits = woven(second, coded.bytes);
    for (let i = 0; i < bits.length; i++) bits[i] ^= before[i];
    const Kind = coded.bytes === 8 ? Float64Array : Float32Array;
    return { before: new Kind(before.buffer), after: new Kind(bits.buffer), clean, adversarial, influence };
  }
  const before = restore(first, row), after = restore(second, 0);
  for (let i = 0; i < after.length; i++) after[i] += before[i];
  return { before, after, clean, adversarial, influence };
}
/* Numbers from two byte planes of zig-zagged differences to the left neighbour, with rows of 0 to nothing. */
function restore(bytes, row) {
  const n = bytes.length / 2, out = new Int16Array(n);
  for (let i = 0; i < n; i++) {
    const code = bytes[i] | bytes[n + i] << 8, error = code >>> 1 ^ -(code & 1);
    out[i] = row && i % row ? out[i - 1] + error : error;
  }
  return out;
}
/* The bytes of numbers whose bytes lie in planes. */
function woven(planes, width) {
  const n = planes.length / width, out = new Uint8Array(planes.length);
  for (let b = 0; b < width; b++) for (let i = 0; i < n; i++) out[i * width + b] = planes[b * n + i];
  return out;
}
/* Gzip without optional header fields (RFC 1951, 1952), for browsers that lack DecompressionStream. */
function inflate(src) {
  const out = new Uint8Array(new DataView(src.buffer, src.byteOffset).getUint32(src.length - 4, true));
  let at = 10, held = 0, count = 0, n = 0, last = 0;
  const bits = k => {
    while (count < k) { held |= src[at++] << count; count += 8; }
    const value = held & (1 << k) - 1;
    held >>>= k; count -= k;
    return value;
  };
  const table = lengths => {  // canonical Huffman code: how many codes of each length, symbols in code order
    const counts = new Uint16Array(16), first = new Uint16Array(16), symbols = new Uint16Array(lengths.length);
    for (const k of lengths) if (k) counts[k]++;
    for (let k = 1; k < 15; k++) first[k + 1] = first[k] + counts[k];
    lengths.forEach((k, symbol) => { if (k) symbols[first[k]++] = symbol; });
    return { counts, symbols };
  };
  const symbol = ({ counts, symbols }) => {
    let code = 0, low = 0, index = 0;
    for (let k = 1; k < 16; k++) {
      code |= bits(1);
      if (code - low < counts[k]) return symbols[index + code - low];
      index += counts[k]; low = low + counts[k] << 1; code <<= 1;
    }
    throw new Error("damaged data");
  };
  const more = (from, extra) => extra.map(e => { const v = [from, e]; from += 1 << e; return v; });
  const lengthsOf = more(3, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5]).concat([[258, 0]]);
  const distances = more(1, [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13]);
  const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
  while (!last) {
    last = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      held = count = 0;
      const length = src[at] | src[at + 1] << 8;
      out.set(src.subarray(at + 4, at + 4 + length), n);
      at += 4 + length; n += length;
      continue;
    }
    let literals, places;
    if (kind === 1) {
      literals = table(Array.from({ length: 288 }, (_, i) => i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8));
      places = table(Array(30).fill(5));
    } else {
      const nl = bits(5) + 257, nd = bits(5) + 1, nc = bits(4) + 4, codes = Array(19).fill(0), lengths = [];
      for (let i = 0; i < nc; i++) codes[ORDER[i]] = bits(3);
      const coded = table(codes);
      while (lengths.length < nl + nd) {
        const s = symbol(coded);
        if (s < 16) { lengths.push(s); continue; }
        const value = s === 16 ? lengths[lengths.length - 1] : 0;
        for (let r = s === 16 ? 3 + bits(2) : s === 17 ? 3 + bits(3) : 11 + bits(7); r; r--) lengths.push(value);
      }
      literals = table(lengths.slice(0, nl));
      places = table(lengths.slice(nl));
    }
    for (let s; (s = symbol(literals)) !== 256;) {
      if (s < 256) { out[n++] = s; continue; }
      const [base, extra] = lengthsOf[s - 257], length = base + bits(extra);
      const [from, wide] = distances[symbol(places)], back = from + bits(wide);
      for (let i = 0; i < length; i++, n++) out[n] = out[n - back];
    }
  }
  return out;
}
