"""`px.study`: a study from Python, and one that was carried out; what it needs is imported when it is asked for."""

from functools import cached_property
from pathlib import Path
from typing import Any

from perturbox.judge.record import read_json
from perturbox.report.notebook import Page
from perturbox.types import InputError


def study(file: str | Path, out: str | Path, *, workers: int = 1, device: str = "cpu", trust: bool = False) -> "Study":
    """Carry out the study of a YAML file (docs/studies.md) in the folder `out`, or go on with it there.

    Raises InputError for a study that can't be carried out, or if the extra "study" isn't installed.
    """
    try:
        from perturbox.studies.run import run_study
    except ImportError as error:
        raise InputError(
            f"A study needs the extra 'study' ({error.name} is missing); run `pip install 'perturbox[study]'`."
        ) from None
    run_study(Path(file), Path(out), workers=workers, device=device, trust=trust)
    return Study(out)


class Study:
    """A study that was carried out, read from its folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of study.json: the file, the models' and cases' hashes, the numbers of the page."""
        return read_json(self.folder / "study.json")

    @property
    def verdict(self) -> list[str]:
        """What it found, in sentences, most important first."""
        return self.record["verdict"]

    def to_frame(self, table: str = "results") -> Any:
        """One of its tables ("results", "models", "cases", "checks", "effort"; of a study of detectors also "scores"
        and "detectors") as a pandas DataFrame."""
        import pandas

        return pandas.read_parquet(self.folder / f"{table}.parquet")

    def show(self, height: int = 900) -> Page:
        """The report, inline in a notebook."""
        return Page((self.folder / "report.html").read_text(encoding="utf-8"), height)

    def __repr__(self) -> str:
        return f"<Study {self.record['name']}: {self.verdict[0]}>"
