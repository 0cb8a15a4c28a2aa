"""Draws the extension's icon and those of its views: `.venv/bin/python scripts/make_slicer_icon.py`.

Every picture is a few shapes on a canvas of 128 × 128, drawn eightfold and averaged, so that the same script gives the
same files anywhere. Hue means what it means in the module: blue and orange are lost and added.
"""

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

ICONS = Path(__file__).resolve().parents[1] / "slicer_extension" / "Perturbox" / "Resources" / "Icons"
SIZE, FINE = 128, 8
NAVY, SKY, ORANGE, WHITE = (22, 33, 46), (86, 180, 233), (230, 159, 0), (244, 247, 250)
FRAME, DARK, PURPLE, RED, YELLOW = (124, 135, 147), (28, 36, 46), (106, 23, 110), (221, 81, 58), (252, 220, 110)

Mask = np.ndarray
GRID = (np.arange(SIZE * FINE) + 0.5) / FINE
X, Y = GRID[None, :], GRID[:, None]


class Canvas:
    """A transparent picture that shapes are laid on, first to last; `mask` is bool "row column" on the fine grid."""

    def __init__(self) -> None:
        self.colour = np.zeros((SIZE * FINE, SIZE * FINE, 3))
        self.covered = np.zeros((SIZE * FINE, SIZE * FINE), bool)

    def lay(self, mask: Mask, colour: tuple[int, int, int]) -> "Canvas":
        self.colour[mask] = colour
        self.covered |= mask
        return self

    def pixels(self, size: int = SIZE) -> np.ndarray:
        """uint8 RGBA "row column 4": each pixel the mean of what it covers, its alpha how much that is."""
        step = SIZE * FINE // size
        blocks = (size, step, size, step)
        alpha = self.covered.reshape(blocks).mean((1, 3))
        summed = (self.colour * self.covered[..., None]).reshape(*blocks, 3).mean((1, 3))
        rgb = summed / np.maximum(alpha, 1e-9)[..., None]
        return np.rint(np.concatenate([rgb, 255 * alpha[..., None]], axis=-1)).astype(np.uint8)


def disc(x: float, y: float, radius: float) -> Mask:
    return (X - x) ** 2 + (Y - y) ** 2 <= radius**2


def ring(x: float, y: float, radius: float, width: float) -> Mask:
    return disc(x, y, radius + width / 2) & ~disc(x, y, radius - width / 2)


def box(left: float, top: float, right: float, bottom: float, rounded: float = 0) -> Mask:
    """A rectangle whose corners are rounded with that radius."""
    x, y = GRID[None, :], GRID[:, None]
    across = np.maximum(np.maximum(left + rounded - x, x - right + rounded), 0)
    down = np.maximum(np.maximum(top + rounded - y, y - bottom + rounded), 0)
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return inside & (across**2 + down**2 <= max(rounded, 1e-6) ** 2)


def pane(canvas: Canvas, left: float, top: float, right: float, bottom: float) -> Mask:
    """A dark view with a frame that shows on light and on dark backgrounds; returns its inside."""
    inside = box(left + 7, top + 7, right - 7, bottom - 7, 5)
    canvas.lay(box(left, top, right, bottom, 12), FRAME).lay(inside, DARK)
    return inside


# ---------------------------------------------------------------- the pictures


def perturbox() -> Canvas:
    """An organ's mask that comes apart into voxels at one corner, and the outline it had before.

    Voxels are an eighth of the picture, so that they stay whole pixels at 16 × 16.
    """
    canvas = Canvas().lay(box(0, 0, 128, 128, 26), FRAME).lay(box(4, 4, 124, 124, 22), NAVY)
    organ = disc(56, 72, 42)
    gone = np.floor(X / 16) >= np.floor(Y / 16)  # the corner that the perturbation takes, voxel by voxel
    canvas.lay(organ & ~gone, SKY).lay(ring(56, 72, 39, 6) & gone, WHITE)
    for column, row in ((4, 3), (5, 4), (5, 2), (6, 3), (6, 1)):
        canvas.lay(box(16 * column, 16 * row, 16 * column + 16, 16 * row + 16, 3), ORANGE)
    return canvas


def compare() -> Canvas:
    """Two views side by side: the outline as it was, and the outline with a bulge."""
    canvas = Canvas()
    left, right = pane(canvas, 1, 14, 62, 114), pane(canvas, 66, 14, 127, 114)
    canvas.lay(ring(31.5, 68, 15, 8) & left, SKY)
    organ, inner = disc(92, 72, 19) | disc(102, 58, 17), disc(92, 72, 11) | disc(102, 58, 9)
    return canvas.lay(organ & ~inner & right, ORANGE)


def difference() -> Canvas:
    """Lost on one side, added on the other, nothing where both agree."""
    canvas = Canvas()
    inside = pane(canvas, 10, 10, 118, 118)
    before, after = disc(54, 64, 31), disc(76, 64, 31)
    canvas.lay(before & ~after & inside, SKY).lay(after & ~before & inside, ORANGE)
    return canvas.lay(before & after & inside, FRAME)


def heat() -> Canvas:
    """A hot spot: where the scan was altered."""
    canvas = Canvas()
    inside = pane(canvas, 10, 10, 118, 118)
    for radius, colour in ((42, PURPLE), (31, RED), (20, ORANGE), (9, YELLOW)):
        canvas.lay((disc(60, 68, radius) | disc(76, 52, 0.7 * radius)) & inside, colour)
    return canvas


def four_up() -> Canvas:
    """Four views."""
    canvas = Canvas()
    for left in (10, 66):
        for top in (10, 66):
            pane(canvas, left, top, left + 52, top + 52)
    return (
        canvas.lay(disc(36, 36, 11), SKY)
        .lay(disc(92, 36, 11), SKY)
        .lay(disc(36, 92, 11), SKY)
        .lay(box(81, 81, 103, 103, 3), ORANGE)
    )


def blink() -> Canvas:
    """One view lies before another and half uncovers it."""
    canvas = Canvas()
    back = pane(canvas, 4, 4, 88, 88)
    canvas.lay(ring(46, 46, 22, 8) & back, SKY)
    front = pane(canvas, 40, 40, 124, 124)
    return canvas.lay(ring(82, 82, 22, 8) & front, ORANGE)


PICTURES: dict[str, tuple[Callable[[], Canvas], int]] = {
    "Perturbox": (perturbox, 128),
    "Compare": (compare, 64),
    "Difference": (difference, 64),
    "Heat": (heat, 64),
    "FourUp": (four_up, 64),
    "Blink": (blink, 64),
}


# ---------------------------------------------------------------- the files


def png(rgba: np.ndarray) -> bytes:
    """PNG file of a uint8 picture "row column 4"."""
    height, width, _ = rgba.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rgba.reshape(height, -1)], axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def main(folder: Path = ICONS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (draw, size) in PICTURES.items():
        (folder / f"{name}.png").write_bytes(png(draw().pixels(size)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
