"""Studies seen from outside, while another process writes them or after: how far each is, what it found, its rows.

Nothing here trusts a folder: no link is followed, nothing but plain files of a sane size is read, and what isn't a
study's is told in a sentence without a path.
"""

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, product
from pathlib import Path, PurePath
from typing import Any

from perturbox.judge.record import strict_json
from perturbox.studies.ledger import entries
from perturbox.studies.plan import Plan
from perturbox.studies.tables import Row, columns_of, gated_models, result_rows
from perturbox.types import InputError

PLAN, LEDGER, RECORD, REPORT = "plan.json", "ledger.jsonl", "study.json", "report.html"
MARKS = (PLAN, LEDGER, RECORD)  # a folder with one of them is a study's
LARGEST = 2**28  # bytes of a file; the ledger of fifteen models that judge two hundred scans takes a fifth
MOST_PIECES = 2_000_000
LONGEST_NAME, LONGEST_TEXT, MOST_TEXTS = 200, 1000, 1000
FOREIGN = "The study's {} holds what no study writes; it is damaged, or of another version of perturbox."
PATH = re.compile(r"(?<!\w)(?:[A-Za-z]:)?[/\\](?:[^\s'\"/\\]+[/\\])+")  # what precedes the last part of a path
_IN_FOLDER = os.open in os.supports_dir_fd


@dataclass(frozen=True)
class Look:
    """How far a study is. name: of its folder; done, all: pieces, all None where no plan says; failed: of those that
    are done; changed: when a piece was last written down, in seconds since 1970; problem: why it can't be read."""

    name: str
    state: str
    study: str | None = None
    kind: str | None = None
    question: str = ""
    done: int = 0
    all: int | None = None
    failed: int = 0
    changed: float | None = None
    models: Sequence[str] = ()
    cases: int | None = None
    verdict: Sequence[str] = ()
    problem: str | None = None
    report: bool = False


@dataclass(frozen=True)
class Shelf:
    """A folder of studies, as the operator named it; `root` without links."""

    root: Path
    _looks: dict[str, tuple[Any, Look]] = field(default_factory=dict, compare=False)

    def names(self) -> list[str]:
        """The studies in it, in order. Raises InputError if the folder can't be read."""
        try:
            found = [entry.name for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            raise InputError("The folder of studies can't be read; whoever owns it must allow it.") from None
        return sorted(name for name in found if _sound(name) and any(self._told(name, mark) for mark in MARKS))

    def look(self, name: str) -> Look:
        """How far the study of that name is; never raises for what its folder holds."""
        told = tuple(self._told(name, mark) for mark in (*MARKS, REPORT))
        known = self._looks.get(name)
        if known is None or known[0] != told:
            try:
                look = self._look(name)
            except InputError as error:
                look = Look(name, "unreadable", problem=_text(str(error)))
            known = self._looks[name] = (told, look)
        return known[1]

    def rows(self, name: str) -> list[Row]:
        """The rows of results.parquet, as far as the study is. Raises InputError for a study that can't be read."""
        return _rows(self, name, tuple(self._told(name, mark) for mark in MARKS))

    def report(self, name: str) -> bytes | None:
        """The study's page, None while there is none."""
        return self._content(name, REPORT)

    def _look(self, name: str) -> Look:
        plan, done = self._plan(name), self._ledger(name)
        told = self._told(name, LEDGER)
        look = Look(
            name,
            "unfinished",
            done=len(done),
            failed=sum(entry.get("status") == "failed" for entry in done.values()),
            changed=_moment(told),
            report=self._told(name, REPORT) is not None,
        )
        said = self._record(name)
        if plan is not None:
            _require_sane(plan)
            keys = _foreign(PLAN, lambda: set(plan.pieces()))
            here = [done[key] for key in keys if key in done]
            whole = said is not None and len(here) == len(keys) and said["of"] == _identity(plan)
            about = {"study": plan.study.name, "kind": plan.study.kind, "question": _text(plan.study.question)}
            counts = {"done": len(here), "all": len(keys), "cases": len(plan.cases)}
            counts["failed"] = sum(entry.get("status") == "failed" for entry in here)
            about |= {"models": _texts(plan.models), **counts}
        elif said is not None:  # of a version that wrote no plan
            whole, about = True, {key: said[key] for key in ("study", "kind", "models", "cases")}
        else:
            return look
        verdict = said["verdict"] if said is not None and whole else ()
        return Look(**{**vars(look), **about, "state": "done" if whole else "unfinished", "verdict": verdict})

    def _plan(self, name: str) -> Plan | None:
        document = self._document(name, PLAN)
        return None if document is None else _foreign(PLAN, lambda: Plan.read(document))

    def _ledger(self, name: str) -> dict[str, dict[str, Any]]:
        found = entries(self._content(name, LEDGER) or b"", "The study's ledger.jsonl")
        if not all(isinstance(key, str) for key in found):
            raise InputError(FOREIGN.format(LEDGER))
        return found

    def _record(self, name: str) -> dict[str, Any] | None:
        """What study.json says, checked; of: which plan it is the end of."""
        record = self._document(name, RECORD)

        def read() -> dict[str, Any]:
            verdict, models = _texts(record["verdict"]), _texts(record["models"])
            about = {"study": _text(record["name"]), "kind": _text(record["kind"]), "cases": len(record["cases"])}
            of = (record["study"], dict(record["models"]), dict(record["cases"]))
            return {**about, "models": models, "verdict": verdict, "of": of}

        return None if record is None else _foreign(RECORD, read)

    def _document(self, name: str, file: str) -> Any:
        raw = self._content(name, file)
        if raw is None:
            return None
        try:
            return strict_json(raw.decode("utf-8"))
        except (ValueError, RecursionError):
            raise InputError(FOREIGN.format(file)) from None

    def _told(self, name: str, file: str) -> tuple[int, int, int] | None:
        """(size, time of change, number) of a plain file, None where there is none."""
        try:
            told = os.lstat(self.root / name / file)
        except (OSError, ValueError):
            return None
        return (told.st_size, told.st_mtime_ns, told.st_ino) if stat.S_ISREG(told.st_mode) else None

    def _content(self, name: str, file: str) -> bytes | None:
        """What a plain file of a study holds, None where there is none; no link is followed, of the folder neither."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        if self._told(name, file) is None:
            return None
        try:
            if _IN_FOLDER:
                place = os.open(self.root / name, flags | os.O_DIRECTORY)
                try:
                    opened = os.open(file, flags, dir_fd=place)
                finally:
                    os.close(place)
            else:
                opened = os.open(self.root / name / file, flags)
        except OSError:
            raise InputError(f"The study's {file} can't be read; whoever owns it must allow it.") from None
        with open(opened, "rb") as stream:
            told = os.fstat(opened)
            if not stat.S_ISREG(told.st_mode) or told.st_size > LARGEST:
                raise InputError(f"The study's {file} is larger than any study's, or no plain file.")
            return stream.read(LARGEST)


@lru_cache(maxsize=2)
def _rows(shelf: Shelf, name: str, told: Any) -> list[Row]:
    """The rows of a study whose files are as `told`."""
    plan, done = shelf._plan(name), shelf._ledger(name)
    if plan is None:
        return []
    _require_sane(plan)

    def read() -> list[Row]:
        clean = [plan.clean_key(model, case) for model, case in product(plan.models, plan.cases)]
        gated = gated_models(plan, done) if all(key in done for key in clean) else set()
        folders = _folders(plan)
        columns = columns_of(plan.study.kind)
        return [{name: _cell(row[name], folders) for name in columns} for row in result_rows(plan, done, gated)]

    return _foreign(LEDGER, read)


def _moment(told: tuple[int, int, int] | None) -> float | None:
    """When a file was changed; None where its date isn't one of this era."""
    seconds = told[1] / 1e9 if told else -1.0
    return seconds if 0 <= seconds < 2**33 else None


def _foreign(file: str, read: Callable[[], Any]) -> Any:
    """What `read` makes of a file's content. Raises InputError if that isn't what a study writes."""
    try:
        return read()
    except Exception:  # anything may stand there, and so anything may go wrong
        raise InputError(FOREIGN.format(file)) from None


def _identity(plan: Plan) -> tuple[Any, Any, Any]:
    """What study.json repeats of its plan."""
    models = {name: model.sha256 for name, model in plan.models.items()}
    return plan.document()["study"], models, {name: scan.sha256 for name, scan in plan.cases.items()}


def _require_sane(plan: Plan) -> None:
    """Raises InputError for a plan that nobody could carry out, which would keep a reader busy for hours."""
    judges = len(plan.models) if plan.study.kind in ("transfer", "defences") else 1
    pieces = len(plan.models) * len(plan.cases) + len(plan.crafts) * (1 + judges) + plan.most_looks
    if pieces > MOST_PIECES:
        raise InputError(f"The study has more than {MOST_PIECES} pieces, too many to be shown.")


def _sound(name: str) -> bool:
    """Whether a folder's name can be told and asked for."""
    fine = name.isprintable() and not name.startswith(".") and len(name) <= LONGEST_NAME
    return fine and not set(name) & set("/\\%?#")


def _folders(plan: Plan) -> set[str]:
    """Where the study's files lie on this machine, in words that a reason may hold."""
    files = [file for scan in plan.cases.values() for file in (scan.image, scan.label) if file]
    files += [model.spec for model in plan.models.values()]
    return {f"{PurePath(file).parent}{os.sep}" for file in files if PurePath(file).is_absolute()}


def _text(value: Any, folders: Iterable[str] = ()) -> str:
    """A sentence without a path of this machine, of sound characters and a sane length. Raises TypeError for others."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    for folder in folders:
        value = value.replace(folder, "")
    value = PATH.sub("", value[: 4 * LONGEST_TEXT])
    return value[:LONGEST_TEXT].encode("utf-8", "replace").decode("utf-8")


def _texts(values: Iterable[Any]) -> list[str]:
    return [_text(value) for value in islice(values, MOST_TEXTS)]


def _cell(value: Any, folders: set[str]) -> Any:
    """A cell as plain JSON; raises TypeError for what is no cell."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _text(value, folders)
