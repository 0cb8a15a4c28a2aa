"""What a study will take on this machine, before it runs."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from perturbox import detectors, io
from perturbox.attacks import recipes
from perturbox.certificates.statistics import votes_for
from perturbox.io.files import suffix
from perturbox.job.estimate import estimate_attack, estimate_prediction
from perturbox.job.inputs import Job, load_inputs, prepare
from perturbox.studies.design import FEATURES
from perturbox.studies.plan import PASSES, Craft, Plan
from perturbox.types import Volume

HIDING = 2.0  # times the attack it is made of, what one takes that hides among clean features
LOOKS, CLEAN_LOOKS = 3, 4  # predictions of one judge (the file and two controls), and of a clean look
PACKED = 0.6  # of what is stored, after lossless packing
PAGE_BYTES = 2**20  # of a certificate's page, about
START, PAGE = 6.0, 3.0  # seconds until a process has imported what it needs, and for tables and page


@dataclass(frozen=True)
class Price:
    """What a study will take on this machine. looks: at ordinary changes, of which only the model's part is priced;
    copies: noisy ones of certificates; cpu_hours: of all pieces, the start of every worker, the page and its worst
    cases; hours: with the workers; bytes: on disk; memory: of one worker at most."""

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
    taken off, and attacks with ever larger limits count as if all were tried. Raises InputError where the first case
    can't be attacked."""
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.study.threads)
    seconds, memory, copies, worst = 0.0, 0, 0, 0.0
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
                job, times = _priced(plan, same[0], device)
                expected = estimate_attack(prepare(job, image, victim), oblivious=False)
                seconds += times * len(same) * (expected.seconds - expected.afterwards)
                worst = max(worst, times * expected.seconds)
                memory = max(memory, expected.bytes)
            if plan.study.detectors:
                seconds += _looked_at(plan, name) * looks[name]
            certificates = sum(asked.model == name for asked in plan.certificates)
            if certificates:
                each = _copies(plan, image)
                copies += certificates * each
                seconds += certificates * ((1 + each) * looks[name] + each * _noise_seconds(image))
    finally:
        torch.set_num_threads(threads)
    judgements = [model for craft in plan.crafts for model in plan.judges(craft)]
    seconds += LOOKS * sum(looks[model] for model in judgements) + sum(looks[look.model] for look in plan.looks)
    size = _saved_bytes(plan, first.image)
    worst_cases = worst * min(plan.study.keep_worst, len(plan.crafts))  # made once more, one by one
    return Price(
        crafts=len(plan.crafts),
        judgements=len(judgements),
        looks=len(plan.looks),
        cpu_hours=((seconds + worst_cases) * plan.study.threads + START * workers + PAGE) / 3600,
        hours=(START + seconds / max(1, workers) + worst_cases + PAGE) / 3600,
        bytes=int(len(plan.crafts) * size) + len(plan.certificates) * PAGE_BYTES,
        memory=memory,
        certificates=len(plan.certificates),
        copies=copies,
    )


def _saved_bytes(plan: Plan, first: str) -> float:
    """Of one perturbed scan, about: of what is read packed tighter than it is written, as photographs are, from what
    its values take in memory as they are stored."""
    ending = suffix(first)
    if ending in (".jpg", ".jpeg"):
        image = io.read_scan(first, unit=plan.models[plan.first].unit)
        return PACKED * image.data.size * image.dtype.itemsize
    size = sum(Path(scan.image).stat().st_size for scan in plan.cases.values()) / len(plan.cases)
    return size if ending.endswith("gz") or ending == ".png" else PACKED * size


def _priced(plan: Plan, craft: Craft, device: str) -> tuple[Job, float]:
    """A craft's job as it can be timed before it runs, and how many times that it takes: one that needs what isn't
    fitted yet is timed as the attack it is made of."""
    job, attack = plan.job(craft, device), plan.study.attacks[craft.attack]
    if plan.study.fitted_for(attack) is None:
        return job, 1.0
    base = recipes.get(attack.name).build(1.0, job.norm, job.steps, job.settings, local=True).parameters["base"]
    return replace(job, attack=base, settings={}), HIDING


def _looked_at(plan: Plan, model: str) -> int:
    """Predictions that detectors take of a model, and its features on clean scans."""
    methods = (detectors.get(name) for name in plan.study.detectors)
    one = sum({method.sees: method.queries for method in methods}.values())
    passes = sum(PASSES if what == FEATURES else 1 for what in plan.fitted)
    ladders = sum(ladder.model == model for ladder in plan.ladders)
    changed = sum(look.model == model for look in plan.looks)
    return one * (len(plan.cases) + 3 * ladders + changed) + len(plan.features_on) * passes


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
