"""What a certificate's folder gives again, beside what certificate.json says."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perturbox import io
from perturbox.certificates.document import SCHEMA, summary
from perturbox.certificates.document import numbers as numbers_of
from perturbox.certificates.sampling import UNDECIDED
from perturbox.certificates.smoothed import Certified, Question
from perturbox.certificates.statistics import LEAST, p_values
from perturbox.certificates.tree import ANY_STRUCTURE, Tree, tree_of
from perturbox.io.files import atomic, sha256
from perturbox.job.certify import FILES, JSON, PAGE
from perturbox.job.compare import differences, leaves, only_recorded, with_recorded
from perturbox.job.recompute import IGNORED, Findings
from perturbox.judge.record import file_of, inside, read_json, required_file
from perturbox.plain import to_json
from perturbox.report.certificate import build_certificate
from perturbox.types import InputError, Volume

# How it came about, and what only the scan and the model could give again.
RECORDED = (
    "victim", "effort", "device", "threads", "versions", "warnings", "seed", "n0", "unit", "source.sha256",
    "source.format", "source.dtype", "source.unit", "source.sizes", "stopped_early",
)  # fmt: skip
ONLY = (
    "such as the model, the effort and how each vote fell: `perturbox certify` on the same scan repeats them; the page "
    "isn't read, `perturbox report` with --scan writes it again"
)
AGAIN = "certify the scan again."


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """A certificate as its folder holds it. found: of voxels that abstain it isn't known what they were tested for;
    clean: the model's labels "*s" of the scan without noise; grid: the scan's, without its values."""

    document: dict[str, Any]
    found: Certified
    clean: np.ndarray
    grid: Volume


def is_certificate(folder: Path) -> bool:
    """Whether a folder holds a certificate."""
    return inside(folder, JSON).is_file()


def read_certificate(folder: Path) -> dict[str, Any]:
    """certificate.json of a folder; raises InputError if it isn't one of ours."""
    path = inside(folder, JSON)
    document = read_json(path, AGAIN)
    if not isinstance(document, dict) or "schema" not in document:
        raise InputError(f"'{path}' is damaged; {AGAIN}")
    if document["schema"] != SCHEMA:
        raise InputError(f"'{path}' doesn't follow {SCHEMA}; it was made by another version.")
    return document


def examine_certificate(folder: Path) -> Findings:
    """What of a certificate's folder contradicts the rest of it, and counts of what was recomputed and is recorded.

    The three maps and the question determine every share, size and sentence, and which count of votes certifies. The
    votes themselves are only recorded, for the folder holds no scan. Raises InputError where nothing can be recomputed.
    """
    document, found = read_certificate(folder), Findings(only=ONLY)
    try:
        _compare_files(folder, document, found)
        kept = read_kept(folder, document)
        told = _told(kept, found)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{folder}/{JSON}' is damaged; {AGAIN}") from None
    lines = differences(document, to_json(told), "")
    found.problems += [line.replace("result.json says", f"{JSON} says") for line in lines]
    kinds = [_recorded(place) for place in leaves(document)]
    found.recomputed, found.recorded = len(kinds) - sum(kinds), sum(kinds)
    return found


def read_kept(folder: Path, document: dict[str, Any]) -> Kept:
    """A certificate from the maps of its folder. Raises InputError where one is missing or doesn't fit the others, and
    KeyError, TypeError or ValueError for a document that is none."""
    maps = {name: _read(required_file(folder, document, name), document) for name in FILES}
    grid = maps["certified"]
    for name, other in maps.items():
        if other.shape != grid.shape or not grid.same_grid(other):
            raise InputError(f"'{folder}': {FILES[name]} lies on other voxels; copy the whole folder.")
    labels, clean, votes = (maps[name].data[0].astype(np.int64) for name in FILES)
    tree = _tree(document)
    question = Question(
        *(document[name] for name in ("sigma", "tau", "alpha", "n0", "n", "correction")),
        adaptive=document["adaptive"] is not None,
        seed=document["seed"],
    )
    in_roi = document["radius"]["roi_values"] is not None
    where = labels != document["values"]["not tested"] if in_roi else None
    cells = votes.ravel() if where is None else votes[where]
    values = labels.ravel() if where is None else labels[where]
    answers = np.full(len(values), UNDECIDED, np.int16)
    for number, node in enumerate(tree.nodes):
        answers[values == document["values"][node.name]] = number
    question = question.checked(tests := document["tests"])
    assert question.n is not None
    counts = np.bincount(cells, minlength=question.n + 1)
    if not counts[0] >= len(cells) - tests >= 0 or len(counts) > question.n + 1:
        raise InputError(f"'{folder}': {FILES['votes']} doesn't hold the votes of {tests:,} voxels; {AGAIN}")
    counts[0] -= len(cells) - tests  # voxels without a clear answer were never voted on
    least = LEAST[question.correction](p_values(question.n, question.tau), counts, question.alpha)
    channels = document["radius"]["values"] // labels.size
    grid = dataclasses.replace(grid, data=np.zeros((channels, *labels.shape), np.float32), unit=document["unit"])
    shape, stopped = labels.shape, document["stopped_early"]
    found = Certified(question, tree, answers, cells, least, tests, where, shape, stopped)
    return Kept(document, found, clean, grid)


def write_page(folder: Path, scan: str) -> Path:
    """Write certificate.html again and return its path; scan: the file that was certified, because the page shows it.
    Raises InputError for another scan, and where the folder isn't a whole certificate or contradicts itself."""
    document = read_certificate(folder)
    if problems := examine_certificate(folder).problems:
        raise InputError(f"'{folder}' contradicts itself ({problems[0]}); `perturbox verify` names all; {AGAIN}")
    try:
        kept = read_kept(folder, document)
        image = io.read_scan(scan, unit=document["unit"], channels=len(kept.grid.data))
        then = document["source"]["sha256"]
        if not image.same_grid(kept.grid) or then not in (None, io.digest(io.sources(scan))):
            raise InputError(f"'{scan}' isn't the scan of this certificate; give the file that was certified.")
        page = build_certificate(document, kept.found, kept.clean, image)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{folder}/{JSON}' is damaged; {AGAIN}") from None
    with atomic(Path(folder) / PAGE) as part:
        part.write_text(page, encoding="utf-8")
    return Path(folder) / PAGE


def _read(path: Path, document: Mapping[str, Any]) -> Volume:
    volume, source = io.read_volume(path, unit="label", allow_constant=True), document["source"]
    if volume.shape != (shape := tuple(source["shape"])):
        if volume.shape != (*shape, 1):
            raise InputError(f"{path} has another size than {JSON} says; copy the whole folder.")
        volume = volume.with_data(volume.data[..., 0])
    return dataclasses.replace(volume, geometry="none" if source["sizes"] == "pixels" else "patient")


def _tree(document: Mapping[str, Any]) -> Tree:
    labels, adaptive = document["victim"]["labels"], document["adaptive"]
    groups = {} if adaptive is None else dict(adaptive["groups"])
    groups.pop(ANY_STRUCTURE, None)
    return tree_of(labels, adaptive is not None, groups or None)


def _compare_files(folder: Path, document: Mapping[str, Any], found: Findings) -> None:
    for name in FILES:
        path, entry = file_of(folder, document, name), document["files"][name]
        if path is not None and sha256(path) != entry["sha256"]:
            found.problems.append(f"{path.name}: isn't the file that was saved")
        found.files += 1
    listed = {JSON, PAGE, *FILES.values(), *IGNORED}
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in listed)
    found.notes += [f"{name} isn't part of this certificate and wasn't looked at." for name in strangers]
    if not inside(folder, PAGE).is_file():
        found.notes.append(f"There is no {PAGE}; `perturbox report` with --scan writes it.")


def _told(kept: Kept, found: Findings) -> dict[str, Any]:
    """certificate.json as the maps and the question give it."""
    document, certified = kept.document, kept.found
    votes, answered = certified.votes, certified.chosen != UNDECIDED
    if wrong := int((answered != (votes >= certified.least)).sum()):
        found.problems.append(f"{FILES['certified']}: voxels with another answer than their votes give: {wrong:,}")
    told: dict[str, Any] = numbers_of(certified, kept.grid, kept.clean)
    for name, row in told["structures"].items():
        tested = document["structures"][name]["chosen_size"]
        if tested < row["certified_size"] - 1e-6:
            found.problems.append(f"structures.{name}: {tested:g} were tested and {row['certified_size']:g} certified")
        row["chosen_size"] = tested
    if told["adaptive"] is not None:
        told["adaptive"]["undecided"] = 1 - certified.tests / len(votes)
    told["source"] = {"shape": kept.grid.shape, "spacing_mm": kept.grid.spacing}
    told["files"] = {name: {"path": file, "sha256": document["files"][name]["sha256"]} for name, file in FILES.items()}
    told |= {"schema": SCHEMA, "summary": summary(document, certified, kept.clean, kept.grid)}
    return with_recorded(told, document, RECORDED)


def _recorded(place: tuple[str, ...]) -> bool:
    return only_recorded(place, RECORDED) or (place[0] == "structures" and place[-1] == "chosen_size")
