"""A certificate from its inputs to its folder: label maps, certificate.json and a page."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbox import io
from perturbox.certificates.document import SCHEMA, numbers, summary
from perturbox.certificates.smoothed import Certified, Question, certify
from perturbox.io.files import new_folder, require_new_folder
from perturbox.job.estimate import Estimate, estimate_prediction
from perturbox.job.execute import versions
from perturbox.job.inputs import Job, Listener, load_inputs
from perturbox.judge.record import described, write_json
from perturbox.model.victim import Victim
from perturbox.plain import to_json
from perturbox.report.certificate import build_certificate
from perturbox.types import Effort, InputError, Volume

FILES = {"certified": "certified.nii.gz", "clean_seg": "clean_seg.nii.gz", "votes": "votes.nii.gz"}
JSON, PAGE = "certificate.json", "certificate.html"


@dataclass(frozen=True)
class Asked:
    """A question with all its inputs read and checked; job: which scan, model and region; where: bool "*s" or None."""

    job: Job
    question: Question
    victim: Victim
    image: Volume
    where: np.ndarray | None
    warnings: list[str]
    source_sha256: str

    @property
    def copies(self) -> int:
        """Predictions it takes, the one without noise among them."""
        return 1 + self.question.n0 + (self.question.n or 0)

    @property
    def held(self) -> int:
        """Bytes of the labels that are kept until each voxel's answer is chosen."""
        voxels = int(np.prod(self.image.shape)) if self.where is None else int(self.where.sum())
        return self.question.n0 * voxels * np.min_scalar_type(len(self.victim.labels)).itemsize


def prepare_certificate(
    job: Job, question: Question, image: Volume | None = None, victim: Victim | None = None
) -> Asked:
    """Read and check everything; of the job only scan, model, roi, device, force and trust count. image, victim: as in
    `prepare`. Raises InputError for any input that can't be used."""
    victim, image, warnings, digest = load_inputs(job, image, victim)
    where = io.read_mask(job.roi, image, warnings) if job.roi else None
    tests = int(np.prod(image.shape) if where is None else where.sum())
    return Asked(job, question.checked(tests), victim, image, where, warnings, digest)


def estimate_certificate(asked: Asked, timed: bool = True) -> Estimate:
    """Time and memory of a certificate; timed: False for the memory alone, which takes one batch."""
    one = estimate_prediction(asked.victim, asked.image, timed)
    return replace(
        one,
        seconds=asked.copies * one.seconds,
        bytes=one.bytes + asked.held,
        least=one.least + asked.held,
        grows=one.grows + asked.held,
    )


def make_certificate(
    job: Job,
    question: Question,
    out: Path,
    listener: Listener | None = None,
    image: Volume | None = None,
    victim: Victim | None = None,
    most: float = math.inf,
) -> dict[str, Any]:
    """Check everything, then certify and leave a new folder; returns certificate.json. Arguments as of
    `prepare_certificate`; most: voxels of all copies together that are allowed.

    Raises InputError for any input that can't be used, for more work than `most`, and for what would not fit in memory
    unless the job says `force`.
    """
    require_new_folder(out)
    asked = prepare_certificate(job, question, image, victim)
    voxels = int(np.prod(asked.image.shape))
    if asked.copies * voxels > most:
        raise InputError(
            f"{asked.copies:,} copies of {voxels:,} voxels are more than the {most:,.0f} voxels that are allowed "
            f"together; crop the scan, or take {max(0, int(most // voxels) - 1):,} copies or fewer (--n0 and --n)."
        )
    if not job.force:
        (listener or Listener()).say("Looking whether it fits in memory")
        estimate_certificate(asked, timed=False).require_room()
    return certify_scan(asked, out, listener)


def certify_scan(asked: Asked, out: Path, listener: Listener | None = None) -> dict[str, Any]:
    """Certify and leave a new folder; returns certificate.json. Nothing is left where it is refused or abandoned."""
    return certified_scan(asked, out, listener)[0]


def certified_scan(asked: Asked, out: Path, listener: Listener | None = None) -> tuple[dict[str, Any], Certified]:
    """As `certify_scan`, with what was found beside certificate.json."""
    require_new_folder(out)
    listener, effort, started = listener or Listener(), Effort(), time.perf_counter()
    victim, image = asked.victim, asked.image
    listener.say("Segmenting the scan without noise")
    clean = victim.predict(image, effort)
    found = certify(victim, image, asked.question, asked.where, effort, listener.count, listener.stop)
    listener.say("Writing the certificate")
    with new_folder(out) as draft:
        write_maps(draft, found, clean, victim, image)
        document = _document(asked, found, clean, effort, time.perf_counter() - started)
        document["files"] = described(draft, FILES)
        write_json(draft / JSON, document)
        (draft / PAGE).write_text(build_certificate(document, found, clean, image), encoding="utf-8")
    return document, found


def write_maps(folder: Path, found: Certified, clean: np.ndarray, victim: Victim, image: Volume) -> None:
    """The certified map, the segmentation without noise, and how many copies gave each voxel's answer."""
    io.write_labels(folder / FILES["certified"], found.map, image, found.names)
    io.write_labels(folder / FILES["clean_seg"], clean, image, dict(victim.labels))
    io.write_labels(folder / FILES["votes"], found.on_grid(found.votes), image)


def _document(asked: Asked, found: Certified, clean: np.ndarray, effort: Effort, seconds: float) -> dict[str, Any]:
    victim, image = asked.victim, asked.image
    document: Mapping[str, Any] = {
        "schema": SCHEMA,
        **numbers(found, image, clean),
        "victim": {**victim.describe(), "spec": asked.job.victim, "sha256": victim.sha256},
        "source": {
            "sha256": asked.source_sha256 or None,
            "format": image.format,
            "dtype": str(image.dtype),
            "shape": list(image.shape),
            "spacing_mm": list(image.spacing),
            "sizes": image.sizes,
            "unit": image.unit,
        },
        "effort": {"forwards": effort.forwards, "model_calls": effort.model_calls, "seconds": seconds},
        "device": str(victim.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    said = summary(document, found, clean, image)
    return to_json({**document, "summary": said, "warnings": [*asked.warnings, *effort.notes]})  # type: ignore[return-value]
