"""The icons are what their script draws, and can be seen on light and on dark panels."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PySide6 import QtGui
from PySide6.QtCore import Qt

ROOT = Path(__file__).resolve().parents[2]
ICONS = ROOT / "slicer_extension" / "Perturbox" / "Resources" / "Icons"
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_slicer_icon.py"))
SIZES = {"Perturbox": 128, "Compare": 64, "Difference": 64, "Heat": 64, "FourUp": 64, "Blink": 64}


def pixels(path: Path, size: int | None = None) -> np.ndarray:
    """RGBA "row column 4" of a PNG file, as Qt reads and scales it."""
    image = QtGui.QImage(str(path)).convertToFormat(QtGui.QImage.Format.Format_RGBA8888)
    if size:
        kept, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
        image = image.scaled(size, size, kept, smooth).convertToFormat(QtGui.QImage.Format.Format_RGBA8888)
    return np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.width(), 4).copy()


def contrast(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """WCAG's contrast ratio of colours "… 3", 0 to 255."""

    def luminance(colour):
        share = np.asarray(colour, float) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = np.maximum(luminance(a), luminance(b)), np.minimum(luminance(a), luminance(b))
    return (high + 0.05) / (low + 0.05)


def test_the_script_draws_all_of_them(tmp_path):
    SCRIPT["main"](tmp_path)
    assert {path.stem for path in ICONS.iterdir()} == {path.stem for path in tmp_path.iterdir()} == set(SIZES)
    for name, size in SIZES.items():
        drawn = pixels(tmp_path / f"{name}.png")
        assert drawn.shape == (size, size, 4)
        np.testing.assert_array_equal(drawn, pixels(ICONS / f"{name}.png"))


def test_a_pixel_is_the_mean_of_what_covers_it():
    """A square of 64 over a canvas of 128, at one pixel: a quarter of it, in its own colour."""
    canvas = SCRIPT["Canvas"]().lay(SCRIPT["box"](0, 0, 64, 64), (200, 100, 50))
    assert canvas.pixels(1).tolist() == [[[200, 100, 50, 64]]]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("panel", [(255, 255, 255), (240, 240, 240), (43, 43, 43)])
def test_its_frame_stands_out_from_the_panel(name, panel):
    """3:1, WCAG's least for graphics, for some part of the icon all around."""
    icon = pixels(ICONS / f"{name}.png")
    seen = (icon[..., 3] == 255) & (contrast(icon[..., :3], np.array(panel)) >= 3)
    assert min(seen.any(0)[8:-8].mean(), seen.any(1)[8:-8].mean()) > 0.9


def test_the_modules_icon_keeps_its_parts_at_16_pixels():
    """Organ, outline and voxels are still three colours."""
    small = pixels(ICONS / "Perturbox.png", 16)[..., :3].astype(int)
    for colour, least in (("SKY", 20), ("ORANGE", 12), ("NAVY", 40)):
        near = (abs(small - SCRIPT[colour]) <= 40).all(-1)
        assert near.sum() >= least, colour
