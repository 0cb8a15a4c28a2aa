"""Scores of label maps in plain loops, and files of them, for `results_made`. Needs numpy alone."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 4}
NAMES = list(LABELS)[1:]


def dice(a: np.ndarray, b: np.ndarray) -> float | None:
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else None


def edge(mask: np.ndarray, spacing) -> np.ndarray:
    """Points of a mask's voxels that have a face neighbour outside it."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[tuple(slice(1, -1) for _ in range(mask.ndim))]
    return np.argwhere(mask & ~inside) * np.asarray(spacing)


def distances(a: np.ndarray, b: np.ndarray, spacing) -> tuple[np.ndarray, np.ndarray]:
    one, other = edge(a, spacing), edge(b, spacing)
    squares = np.square(one[:, None] - other[None]).sum(2)
    return np.sqrt(squares.min(1)), np.sqrt(squares.min(0))


def scores(found: np.ndarray, reference: np.ndarray, spacing, voxel: float) -> dict:
    rows = {}
    for name in NAMES:
        a, b = found == LABELS[name], reference == LABELS[name]
        agreement, both = dice(a, b), a.any() and b.any()
        far = distances(a, b, spacing) if both else None
        within = None if far is None else sum(int((d <= 2).sum()) for d in far) / sum(len(d) for d in far)
        rows[name] = {
            "dice": agreement,
            "iou": None if agreement is None else agreement / (2 - agreement),
            "hd95_mm": None if far is None else float(max(np.percentile(d, 95) for d in far)),
            "nsd": within if both else None if agreement is None else 0.0,
            "volume_ml": int(a.sum()) * voxel,
        }
    return rows


def failed_slices(before: np.ndarray, after: np.ndarray, voxel: float) -> int:
    """Most slices along one axis with Dice < 0.8, of a tenth of the largest area, of which over 0.5 ml differs."""
    if before.ndim < 3 or not before.any():
        return 0
    counts = []
    for axis in range(3):
        pairs = [(np.take(before, i, axis), np.take(after, i, axis)) for i in range(before.shape[axis])]
        largest = max(int(a.sum()) for a, _ in pairs)
        counts.append(0)
        for a, b in pairs:
            large = max(int(a.sum()), int(b.sum())) >= 0.1 * largest
            if large and int((a ^ b).sum()) * voxel > 0.5 and (dice(a, b) or 0) < 0.8:
                counts[-1] += 1
    return max(counts)


def slice_rows(before: np.ndarray, after: np.ndarray) -> list[dict]:
    rows = []
    for name in NAMES if before.ndim == 3 else ():
        for axis in range(3):
            for index in range(before.shape[axis]):
                a, b = (np.take(m == LABELS[name], index, axis) for m in (before, after))
                if a.any() or b.any():
                    lost, gained = int((a & ~b).sum()), int((b & ~a).sum())
                    row = {"structure": name, "axis": axis, "index": index, "dice": dice(a, b)}
                    rows.append({**row, "lost": lost, "gained": gained})
    return rows


# ---------------------------------------------------------------- files


def nifti(path: Path, data: np.ndarray, spacing: tuple[float, ...]) -> None:
    """NIfTI-1 of uint8 or int16, axes towards right, anterior and superior."""
    code, bits = {"uint8": (2, 8), "int16": (4, 16)}[data.dtype.name]
    steps = (*spacing, 1.0, 1.0)[:3]
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, data.ndim, *(*data.shape, 1, 1, 1, 1, 1, 1)[:7])
    struct.pack_into("<hh", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, 1.0, *steps, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<f", header, 108, 352.0)
    struct.pack_into("<ff", header, 112, 1.0, 0.0)
    struct.pack_into("<B", header, 123, 2)
    struct.pack_into("<hh", header, 252, 0, 1)
    for axis in range(3):
        struct.pack_into("<4f", header, 280 + 16 * axis, *(steps[axis] if a == axis else 0.0 for a in range(3)), 0.0)
    header[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(header) + data.astype(data.dtype.newbyteorder("<")).tobytes("F"), 1, mtime=0))


def nifti_values(path: Path) -> np.ndarray:
    """A uint8 file of `nifti`, read without the package or any other."""
    raw = gzip.decompress(path.read_bytes())
    dims = struct.unpack_from("<8h", raw, 40)
    return np.frombuffer(raw, np.uint8, offset=352).reshape(dims[1 : 1 + dims[0]], order="F")


def png(path: Path, data: np.ndarray) -> None:
    """An 8-bit grey PNG of pixels "i j"."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(row) for row in data.T.astype(np.uint8).tolist())
    head = struct.pack(">IIBBBBB", *data.shape, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
