"""Pictures of views and widgets: numpy RGB "h w 3", PNG files, counts of a colour's pixels."""

from pathlib import Path

import numpy as np
import slicer
from PySide6 import QtGui, QtWidgets

from .views import RenderView, to_image


def from_image(image: QtGui.QImage) -> np.ndarray:
    image = image.convertToFormat(QtGui.QImage.Format.Format_RGB888)
    height, width, stride = image.height(), image.width(), image.bytesPerLine()
    rows = np.frombuffer(image.constBits(), np.uint8)[: height * stride].reshape(height, stride)
    return rows[:, : 3 * width].reshape(height, width, 3).copy()


def render_all(widget: QtWidgets.QWidget) -> None:
    """Render every view inside a widget that is shown."""
    for view in widget.findChildren(QtWidgets.QWidget):
        if isinstance(view, RenderView) and view.isVisible():
            view.array()


def grab(shown: QtWidgets.QWidget) -> np.ndarray:
    """What a view or a widget shows now; views inside it are rendered first."""
    if isinstance(shown, RenderView):
        return shown.array()
    for _ in range(3):  # a layout inside a layout is laid out a pass later
        QtWidgets.QApplication.processEvents()
    shown.grab()  # what is hidden until now gets its place, and a view whose size changes loses its picture
    render_all(shown)
    return from_image(shown.grab().toImage())


def save(picture: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not to_image(picture).save(str(path)):
        raise OSError(f"{path} could not be written")
    return path


def desktop(width: int = 1500, height: int = 940) -> np.ndarray:
    """The main window: the selected module's panel left, the layout's views right."""
    window = slicer.util.mainWindow()
    window.resize(width, height)
    QtWidgets.QApplication.processEvents()
    return grab(window)


def count(picture: np.ndarray, colour: tuple[float, float, float], tolerance: int = 8) -> int:
    """How many pixels have a colour (0 to 1 as in MRML), each channel within `tolerance` of 255."""
    wanted = np.rint(255 * np.asarray(colour))
    return int((np.abs(picture.astype(int) - wanted) <= tolerance).all(axis=-1).sum())
