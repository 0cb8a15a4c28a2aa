"""`px.certify`: a certificate from Python, on scans and models that are in memory or in files."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from perturbox.api import Image, _Kept, _label_file, _model, _named, _scan, _Scratch
from perturbox.certificates.document import percent
from perturbox.certificates.smoothed import Question
from perturbox.defaults import ALPHA, CHOOSERS, CORRECTIONS, TAU
from perturbox.io import read_stored
from perturbox.job.certify import FILES, JSON, PAGE, make_certificate
from perturbox.job.inputs import Job, Listener
from perturbox.judge.record import read_json
from perturbox.model.victim import Victim
from perturbox.report.notebook import Page

__all__ = ["Certificate", "certify"]


def certify(
    image: Image,
    victim: Victim | str = "ct-organs",
    *,
    sigma: float,
    tau: float = TAU,
    alpha: float = ALPHA,
    n0: int = CHOOSERS,
    n: int | None = None,
    correction: str = CORRECTIONS[0],
    roi: Image | None = None,
    adaptive: bool = False,
    groups: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    device: str = "cpu",
    force: bool = False,
    on_count: Any = None,
) -> "Certificate":
    """Certify which voxels no change with an L2 norm up to sigma * Phi^-1(tau) can alter, of the smoothed model.

    image, roi: paths or objects in memory; roi: the only voxels to test (above 0). sigma: of the noise, in the scan's
    unit (HU on CT). tau: the share of noisy copies that must agree; alpha: the chance that any certified voxel is wrong
    in that. n0, n: copies that choose the answers, and that vote. groups: {name: structures} for adaptive, which
    answers with a group where single structures are too close. on_count: called with (what, done, total). Raises
    InputError for input that can't be used, where n votes could certify nothing, and for what would not fit in memory
    (force tries all the same).

    Fischer et al. 2021, arXiv 2107.00228; adaptive: Anani et al. 2024, arXiv 2402.08400. docs/certify.md has the rest.
    """
    model = _model(victim, device)
    place = _Scratch()
    scan, source = _scan(image, model)
    mask = _label_file(place.path / "roi.nii.gz", roi, scan)
    named = _named(victim, model)[0]
    job = Job(source, victim=named, roi=mask, seed=seed, device=str(model.device), force=force)
    question = Question(sigma, tau, alpha, n0, n, correction, adaptive, groups, seed)
    listener = Listener(count=on_count) if on_count else None
    make_certificate(job, question, place.path / "certificate", listener, None if source else scan, model)
    return Certificate(place.path / "certificate", place)


class Certificate(_Kept, Mapping[str, float | None]):
    """What was certified, read from its folder: `certificate["liver"]` is the share of the liver that the model finds
    which is certified as liver, None where it finds none."""

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of certificate.json; docs/certify.md explains every entry."""
        return read_json(self.folder / JSON)

    @property
    def structures(self) -> dict[str, dict[str, Any]]:
        """Of each structure its sizes, and what became of its voxels."""
        return self.record["structures"]

    @property
    def values(self) -> dict[str, int]:
        """What the values of `labels` mean: the model's own, "abstained", groups, "not tested"."""
        return self.record["values"]

    @cached_property
    def labels(self) -> np.ndarray:
        """The certified map "*s"."""
        return read_stored(self.folder / FILES["certified"]).values[0]

    @cached_property
    def votes(self) -> np.ndarray:
        """How many of the `record["n"]` copies give each voxel's answer, "*s"."""
        return read_stored(self.folder / FILES["votes"]).values[0]

    def show(self, height: int = 900) -> Page:
        """Its page, inline in a notebook."""
        return Page((self.folder / PAGE).read_text(encoding="utf-8"), height)

    def __getitem__(self, structure: str) -> float | None:
        return self.structures[structure]["same"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.structures)

    def __len__(self) -> int:
        return len(self.structures)

    def __repr__(self) -> str:
        shares = (f"{name} {percent(share)}" for name, share in self.items())
        return f"<Certificate of the smoothed {self.record['victim']['name']}: {', '.join(shares)}>"
