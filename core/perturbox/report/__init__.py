"""`report.html`: one self-contained page about one result folder, for a reader with a browser and no network.

    write_report(folder)      a pure function of the folder's files: the same files give the same page
    rebuild(folder)           that page; `same_page` compares it with a stored one
    check(folder)             what of a stored report isn't what the folder's other files give

`load` reads the folder, `findings` judges slices and structures, `display` chooses what travels in the page, `edition`
puts the rest beside it, `words` and `charts` say it, `page` puts it into the template, `frame` around it head, scripts
and style. The folder of a search for the margin has a page of its own, `margin`; `write_comparison` puts several
results on one scan beside each other, `comparison`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perturbox.io.files import atomic, new_folder
from perturbox.judge.record import is_margin, write_json
from perturbox.report import edition
from perturbox.report.comparison import compare_folders
from perturbox.report.encode import same_page
from perturbox.report.load import load
from perturbox.report.margin import build_margin, read_search
from perturbox.report.page import build
from perturbox.report.story import tell

__all__ = ["FULL", "check", "rebuild", "same_page", "write_comparison", "write_report"]

FULL = edition.FOLDER


def write_report(folder: Path, full: bool = False) -> Path:
    """Write report.html into a result's, or a margin search's, folder and return its path.

    Self-contained, at most 15 MB, without file names, paths, dates or UIDs. full: if a result's page had to leave
    slices out, put all that changed beside it, into report_files/; a folder that has one gets it again. Raises
    InputError when the folder isn't a complete result. An earlier report is replaced only once the new one is whole.
    """
    folder = Path(folder)
    if is_margin(folder):
        page = build_margin(read_search(folder))
    else:
        story = tell(load(folder), full or edition.there(folder))
        page = build(story)
        edition.write(story, folder)
    path = folder / "report.html"
    with atomic(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def rebuild(folder: Path) -> str:
    """The page of a result's, or a margin search's, folder as one text; raises InputError as `write_report`."""
    folder = Path(folder)
    if is_margin(folder):
        return build_margin(read_search(folder))
    return build(tell(load(folder), edition.there(folder)))


def check(folder: Path) -> list[str]:
    """Files of a stored report, report.html and those of report_files/, that aren't what the folder gives."""
    folder = Path(folder)
    if is_margin(folder):
        return [] if same_page(folder / "report.html", rebuild(folder)) else ["report.html"]
    story = tell(load(folder), edition.there(folder))
    wrong = [] if same_page(folder / "report.html", build(story)) else ["report.html"]
    return wrong + (edition.unlike(story, folder) if edition.there(folder) else [])


def write_comparison(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write comparison.json and report.html of two to six results on one scan into a new folder; returns the former.

    Raises InputError where one isn't a result, or is of another scan or grid than the first.
    """
    document, page = compare_folders([Path(folder) for folder in folders])
    with new_folder(Path(out)) as draft:
        write_json(draft / "comparison.json", document)
        (draft / "report.html").write_text(page, encoding="utf-8")
    return document
