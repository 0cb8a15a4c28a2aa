"""Draw the pictures of the pages that README and docs show, from results that lie somewhere else.

    PYTHONPATH=tests/core .venv/bin/python scripts/make_page_pictures.py FOLDER [NAME...]

FOLDER holds `demo` (of `perturbox demo`), `ct` (an attack on a CT), `margin` and `compare` on the same CT; NAME picks
pictures. Needs Chromium, as the tests of the pages do.
"""

import argparse
import base64
import tempfile
import time
from pathlib import Path

from report_reader import Reader

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
# Of which result, width and height, the view in the address, and the part that is scrolled to.
PICTURES = {
    "report": ("ct", 1440, 900, "", ""),
    "report-demo": ("demo", 1280, 720, "", ""),
    "report-difference": ("ct", 1280, 720, "#mode=difference", ""),
    "report-planes": ("ct", 1280, 720, "#mode=planes", ""),
    "report-flow": ("ct", 1280, 720, "", "#flow"),
    "report-structures": ("ct", 1280, 720, "", "#structures"),
    "margin": ("margin", 1440, 900, "", ""),
    "compare": ("compare", 1440, 900, "", ""),
}


def draw(reader: Reader, page: Path, width: int, height: int, view: str, part: str) -> bytes:
    """The page's picture as PNG, as a reader's window of that size shows it."""
    reader.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    reader.media(prefers_color_scheme="light")
    reader.open(page, view)
    if part:
        reader.run("document.querySelector(arguments[0]).scrollIntoView()", part)
    time.sleep(0.5)  # until what floats is drawn again
    return base64.b64decode(reader.cdp("Page.captureScreenshot", format="png")["data"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(PICTURES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        reader = Reader(profile)
        for name in options.names:
            result, *how = PICTURES[name]
            picture = draw(reader, options.folder.resolve() / result / "report.html", *how)
            (IMAGES / f"{name}.png").write_bytes(picture)
            print(f"{name}.png: {len(picture) / 1000:.0f} kB")
        reader.driver.quit()


if __name__ == "__main__":
    main()
