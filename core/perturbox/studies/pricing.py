"""What a study will take on this machine, before it runs."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from perturbox.certificates.statistics import votes_for
from perturbox.io.files import suffix
from perturbox.job.estimate import estimate_attack, estimate_prediction
from perturbox.job.inputs import Job, load_inputs, prepare
from perturbox.studies.plan import Plan
from perturbox.types import Volume

LOOKS, CLEAN_LOOKS = 3, 4  # predictions of one judge (the file and two controls), and of a clean look
PAGE_BYTES = 2**20  # of a certificate's page, about


@dataclass(frozen=True)
class Price:
    """What a study will take on this machine. looks: at ordinary changes, of which only the model's part is priced;
    copies: noisy ones of certificates; cpu_hours: of all pieces; hours: with the workers; bytes: on disk; memory: of
    one worker at most."""

    crafts: int
    judgements: int
    looks: int
    cpu_hours: float
    hours: float
    bytes: int
    memory: int
    certificates: int = 0
    copies: int = 0


def price(plan: Plan, workers: int, device: str = "cpu") -> Price:
    """What a study will take, from one timed window batch of each model on the first case; what is done already isn't
    taken off. Raises InputError where the first case can't be attacked."""
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.study.threads)
    seconds, memory, copies = 0.0, 0, 0
    looks: dict[str, float] = {}
    first = next(iter(plan.cases.values()))
    try:
        for name, model in plan.models.items():
            job = Job(
                first.image, victim=model.spec, defense=model.defense, device=device, force=True, trust=plan.trust
            )
            victim, image, _, _ = load_inputs(job)
            expected = estimate_prediction(victim, image)
            looks[name], memory = expected.seconds, max(memory, expected.bytes)
            seconds += CLEAN_LOOKS * looks[name] * len(plan.cases)
            crafts = [craft for craft in plan.crafts if craft.model == name]
            for index in range(len(plan.study.attacks)):
                same = [craft for craft in crafts if craft.attack == index]
                expected = estimate_attack(prepare(plan.job(same[0], device), image, victim), oblivious=False)
                seconds += len(same) * (expected.seconds - expected.afterwards)
                memory = max(memory, expected.bytes)
            certificates = sum(asked.model == name for asked in plan.certificates)
            if certificates:
                each = _copies(plan, image)
                copies += certificates * each
                seconds += certificates * ((1 + each) * looks[name] + each * _noise_seconds(image))
    finally:
        torch.set_num_threads(threads)
    judgements = [model for craft in plan.crafts for model in plan.judges(craft)]
    seconds += LOOKS * sum(looks[model] for model in judgements) + sum(looks[look.model] for look in plan.looks)
    size = sum(Path(scan.image).stat().st_size for scan in plan.cases.values()) / len(plan.cases)
    packed = 1 if suffix(first.image).endswith("gz") else 0.6
    return Price(
        crafts=len(plan.crafts),
        judgements=len(judgements),
        looks=len(plan.looks),
        cpu_hours=seconds * plan.study.threads / 3600,
        hours=seconds / 3600 / max(1, workers),
        bytes=int(len(plan.crafts) * size * packed) + len(plan.certificates) * PAGE_BYTES,
        memory=memory,
        certificates=len(plan.certificates),
        copies=copies,
    )


def _copies(plan: Plan, image: Volume) -> int:
    """Noisy copies that one certificate takes."""
    how = plan.study.certify
    assert how is not None
    return how.n0 + votes_for(math.prod(image.shape), how.tau, how.alpha, how.n)


def _noise_seconds(image: Volume) -> float:
    """Of drawing the noise of one copy."""
    started = time.thread_time()
    np.random.default_rng(0).standard_normal(image.data.shape, dtype=np.float32)
    return time.thread_time() - started
