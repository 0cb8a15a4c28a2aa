"""`report.html`: one self-contained page about one result folder, for a reader with a browser and no network.

    write_report(folder)      a pure function of the folder's files: the same files give the same page
    check(folder)             what of that page, as it is stored, isn't what the folder's other files give

`load` reads the folder, `findings` judges slices and structures, `display` chooses what travels in the page, `edition`
puts the rest beside it, `words` and `charts` say it, `page` puts it into the template beside the scripts and the style.
"""

import os
from pathlib import Path

from perturbox.report import edition
from perturbox.report.encode import same_page
from perturbox.report.load import load
from perturbox.report.page import build
from perturbox.report.story import tell

__all__ = ["FULL", "check", "write_report"]

FULL = edition.FOLDER


def write_report(folder: Path, full: bool = False) -> Path:
    """Write report.html into a result folder and return its path.

    Self-contained, at most 15 MB, without file names, paths, dates or UIDs. full: if it had to leave slices out, put
    all that changed beside it, into report_files/; a folder that has one gets it anew. Raises InputError when the
    folder isn't a complete result. An earlier report is replaced only once the new one is whole.
    """
    folder = Path(folder)
    story = tell(load(folder), full or edition.there(folder))
    page = build(story)
    edition.write(story, folder)
    path, partial = folder / "report.html", folder / "report.html.part"
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def check(folder: Path) -> list[str]:
    """Files of a stored report, report.html and those of report_files/, that aren't what the folder gives."""
    folder = Path(folder)
    story = tell(load(folder), edition.there(folder))
    wrong = [] if same_page(folder / "report.html", build(story)) else ["report.html"]
    return wrong + (edition.unlike(story, folder) if edition.there(folder) else [])
