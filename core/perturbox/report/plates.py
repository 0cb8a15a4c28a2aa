"""Pictures with their captions: one slice before, after and the difference, in a window of the scan's unit."""

from collections.abc import Sequence
from html import escape

import numpy as np

from perturbox.report.charts import MANY
from perturbox.report.encode import text
from perturbox.report.pictures import triptych, worst_positions
from perturbox.report.story import Plane, Story
from perturbox.report.tables import legend
from perturbox.report.words import number, size

HU_WINDOWS = (("Soft tissue", 400, 40), ("Liver", 150, 60), ("Lung", 1500, -600), ("Bone", 2000, 300))


def windows(story: Story) -> Sequence[tuple[str, float, float]]:
    """Window presets (name, width, centre) in the scan's unit."""
    if story.result.record["source"]["unit"] == "HU":
        return HU_WINDOWS
    values = story.copy.values(story.copy.before)
    # A photograph is shown first as every other program shows it.
    presets = [("As stored", 255.0, 127.5)] if story.result.record["source"]["dtype"] == "uint8" else []
    for name, cut in (("Middle 98 %", 1), ("Full range", 0)):
        low, high = np.percentile(values, [cut, 100 - cut])
        presets.append((name, float(high - low) or 1.0, float(high + low) / 2))
    return presets


def window_options(story: Story) -> str:
    return "".join(f"<option>{escape(name)} {number(w)}/{number(c)}</option>" for name, w, c in windows(story))


def first_picture(story: Story) -> str:
    """What the headline is about, as a picture: first on paper and for browsers without scripts."""
    plane = story.opening
    kept = story.pictured.axes[plane.axis].kept
    subject = (story.subject.number, story.subject.title) if story.subject else None
    return picture(story, plane, plane.worst(subject[0] if subject else 0, kept), subject)


def appendix(story: Story) -> str:
    """The most changed slices as pictures, for paper and for browsers without scripts."""
    plane = story.opening
    kept = story.pictured.axes[plane.axis].kept
    positions = worst_positions(plane.slices.differ[kept] * story.voxel) or [len(kept) // 2]
    parts = "".join(picture(story, plane, position) for position in positions)
    return f"{parts}{legend(story.present) if len(story.present) <= MANY else ''}"


def picture(story: Story, plane: Plane, position: int, only: tuple[int, str] | None = None) -> str:
    """One slice before, after and the difference; `only`: number and title of the one structure to show."""
    axis = story.pictured.axes[plane.axis]
    name, width, centre = windows(story)[0]
    three = triptych(story.pictured, plane.axis, position, (float(width), float(centre)), only[0] if only else 0)
    flat = story.result.flat
    label = "Image" if flat else f"{plane.name.capitalize()} slice {axis.kept[position] + 1} of {axis.length}"
    shape = f'width="{round(three.width_mm * 2)}" height="{round(three.height_mm * 2)}"'
    figures = "".join(
        f'<figure><img {shape} alt="{label}, {caption}" src="data:image/png;base64,{text(data)}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for data, caption in (
            (three.before, "BEFORE – original scan"),
            (three.after, "AFTER – SYNTHETIC scan; dashed white: before"),
            (three.difference, "DIFFERENCE – filled: lost; hollow: added; hatched: another structure"),
        )
    )
    at = axis.kept[position]
    counted = plane.moved(only[0] if only else 0)[at]
    amount = f"{size(float(counted) * story.voxel, story.units.size)} {story.units.size} differ"
    what = f"{escape(only[1])}, {label.lower()}" if only else label
    side = " The patient’s right is on the left." if axis.ends[0] and plane.axis < 2 else ""
    caption = f"{what}: {amount}. Window {name} {number(width)}/{number(centre)}.{side}"
    return f'<div class="triptych"><p>{caption}</p>{figures}</div>'
