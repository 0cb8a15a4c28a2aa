"""Pre-rendered slices for paper and for browsers without scripts: before, after and difference of the worst three."""

from dataclasses import dataclass

import numpy as np

from perturbox.report import colours
from perturbox.report.display import Copy
from perturbox.report.encode import png

# 5 x 7 letters, one byte a row, so that SYNTHETIC stays on the picture wherever it is copied to.
_LETTERS = {
    "S": (15, 16, 16, 14, 1, 1, 30), "Y": (17, 17, 10, 4, 4, 4, 4), "N": (17, 25, 21, 19, 17, 17, 17),
    "T": (31, 4, 4, 4, 4, 4, 4), "H": (17, 17, 17, 31, 17, 17, 17), "E": (31, 16, 16, 30, 16, 16, 31),
    "I": (14, 4, 4, 4, 4, 4, 14), "C": (14, 17, 16, 16, 16, 17, 14),
}  # fmt: skip


@dataclass(frozen=True)
class Triptych:
    """One slice three times, as PNG files; width and height in millimetres give the shape to show them in."""

    before: bytes
    after: bytes
    difference: bytes
    width_mm: float
    height_mm: float


def worst_positions(differ_ml: np.ndarray, count: int = 3) -> list[int]:
    """Positions of the largest differences, at least a twelfth of the range apart so that they show different
    places."""
    apart = max(1, len(differ_ml) // 12)
    left, found = differ_ml.astype(float).copy(), []
    while len(found) < count and left.size and left.max() > 0:
        k = int(left.argmax())
        found.append(k)
        left[max(0, k - apart) : k + apart + 1] = 0
    return found


def triptych(copy: Copy, plane: int, position: int, window: tuple[float, float], only: int = 0) -> Triptych:
    """Render slice `position` of plane 0 (axial), 1 (coronal) or 2 (sagittal); window (width, centre) in the scan's
    unit; only: the number of the one structure to show, with what it became and what became it, 0 for all."""
    up = plane != 0  # head at the top: rows of coronal and sagittal slices run against z

    def cut(volume: np.ndarray) -> np.ndarray:
        flat = np.take(volume, position, plane)
        return np.repeat(np.repeat(flat[::-1] if up else flat, 2, 0), 2, 1)

    def channels_last(volume: np.ndarray) -> np.ndarray:
        return copy.values(cut(np.moveaxis(volume, 0, -1)))

    plain = shade(channels_last(copy.before), window)
    clean, adversarial = cut(copy.clean), cut(copy.adversarial)
    told = (clean == only) | (adversarial == only) | (only == 0)
    before = filled(plain.copy(), np.where(told, clean, 0), only)
    after = filled(shade(channels_last(copy.after), window), np.where(told, adversarial, 0), only)
    if only:
        clean, adversarial = (np.where(labels == only, only, 0).astype(np.uint8) for labels in (clean, adversarial))
    moved = np.zeros(clean.shape, bool)
    for n in np.unique(clean[clean != adversarial]):
        if n:
            moved |= _edge(clean == n) & ~_edge(adversarial == n)
    after[moved & _dashes(moved.shape)] = 255
    _stamp(after)
    rows, columns = (a for a in range(3) if a != plane)
    size = [float(np.ptp(copy.axes[a].kept) + 1) * copy.axes[a].spacing for a in (rows, columns)]
    return Triptych(png(before), png(after), png(_difference(plain, clean, adversarial)), size[1], size[0])


def shade(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Values "row column channel" as a uint8 picture "row column 3": grey of one channel, colour of three."""
    width, centre = window
    shade = np.clip((values - centre + width / 2) / width * 255, 0, 255).astype(np.uint8)
    return np.repeat(shade, 3 // shade.shape[2], axis=2)


def filled(picture: np.ndarray, labels: np.ndarray, only: int = 0) -> np.ndarray:
    """Filled; only: outlined too, 0 for all."""
    for n in np.unique(labels):
        if n:
            colour = np.array(colours.rgb(colours.structure(int(n))))
            mask = labels == n
            picture[mask] = (picture[mask] * 0.75 + colour * 0.25).astype(np.uint8)
            if only in (0, n):
                picture[_edge(mask)] = colour
    return picture


def _difference(picture: np.ndarray, clean: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
    """Lost filled, added outlined, relabelled hatched."""
    differs = clean != adversarial
    lost, added, other = differs & (adversarial == 0), differs & (clean == 0), differs & (clean > 0) & (adversarial > 0)
    for mask, name, share in (
        (lost, colours.LOST, 0.6),
        (added, colours.ADDED, 0.15),
        (other, colours.RELABELLED, 0.3),
    ):
        picture[mask] = (picture[mask] * (1 - share) + np.array(colours.rgb(name)) * share).astype(np.uint8)
    picture[other & _dashes(other.shape)] = colours.rgb(colours.RELABELLED)
    picture[_edge(added)] = colours.rgb(colours.ADDED)
    return picture


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that touch its outside."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return mask & ~inner


def _dashes(shape: tuple[int, ...]) -> np.ndarray:
    return np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 6 < 3


def _stamp(picture: np.ndarray, word: str = "SYNTHETIC") -> None:
    """Write the word in the lower left corner, twice as large where there is room."""
    bits = np.concatenate(
        [np.array([[row >> (5 - x) & 1 for x in range(6)] for row in _LETTERS[letter]], bool) for letter in word],
        axis=1,
    )
    scale = max(1, picture.shape[1] // 200)
    bits = np.repeat(np.repeat(bits, scale, 0), scale, 1)
    height, width = min(bits.shape[0], picture.shape[0] - 4), min(bits.shape[1], picture.shape[1] - 4)
    if height > 0 and width > 0:
        corner = picture[-height - 4 : -4, 4 : 4 + width]
        corner[:] = np.where(bits[:height, :width, None], 255, corner // 3)
