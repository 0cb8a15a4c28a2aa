"""The full-size edition: `report_files/` beside report.html, for scans of which the page had to leave slices out.

Each slice that changed, of every plane, is a small script of its own which hands its voxels to the page when it is
looked at: a page from a file may read nothing else, but a script may stand beside it. The page is the same, built by
the same code; it says which slices are there.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from perturbox.judge.record import inside
from perturbox.report.encode import same_page, text
from perturbox.report.story import Plane, Story

FOLDER = "report_files"


def file_names(story: Story, plane: Plane) -> Iterator[tuple[int, str]]:
    """(position in `story.whole`, file name) of every slice of a plane in which any voxel's label changed."""
    kept = story.whole.axes[plane.axis].kept
    for position in np.flatnonzero(plane.slices.differ[kept]).tolist():
        yield position, f"{plane.name}_{kept[position] + 1:04d}.js"


def files(story: Story) -> Iterator[tuple[str, str]]:
    """(name, text) of every file of the edition."""
    for plane in story.planes:
        for position, name in file_names(story, plane):
            parts = ",".join(f'"{text(part)}"' for part in story.whole.cut(plane.axis, position).values())
            yield name, f"perturboxSlice({plane.axis},{position},[{parts}])\n"


def write(story: Story, folder: Path) -> None:
    """Write `report_files/` into a result folder, or remove it from one whose page holds every slice; an earlier one is
    replaced once the new one is whole."""
    place, partial = inside(folder, FOLDER), folder / f"{FOLDER}.part"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if story.edition:
            partial.mkdir()
            for name, content in files(story):
                (partial / name).write_text(content, encoding="ascii")
        shutil.rmtree(place, ignore_errors=True)
        if story.edition:
            os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def there(folder: Path) -> bool:
    """Whether a result folder has one."""
    return inside(folder, FOLDER).is_dir()


def unlike(story: Story, folder: Path) -> list[str]:
    """Files of the edition that are missing, none of its own, or show something else than the folder's other files."""
    place, known, wrong = inside(folder, FOLDER), set[str](), list[str]()
    for name, content in files(story) if story.edition else ():
        path = inside(place, name)
        known.add(name)
        if not path.is_file() or not same_page(path, content):
            wrong.append(f"{FOLDER}/{name}")
    return wrong + sorted(f"{FOLDER}/{path.name}" for path in place.iterdir() if path.name not in known)
