"""What is done for an order of each kind: one call of the core, which leaves the order's result folder."""

from pathlib import Path
from typing import Any

from perturbox.job.certify import make_certificate
from perturbox.job.detecting import detect_result, detect_scan, read_detectors
from perturbox.job.execute import run_job, segment
from perturbox.job.inputs import Listener
from perturbox.job.margins import find_margin
from perturbox.jobs.records import MOST_COPIED, Order
from perturbox.judge.record import write_json
from perturbox.model.victim import Victim
from perturbox.types import InputError


def do(order: Order, out: Path, listener: Listener, victim: Victim) -> dict[str, Any]:
    """Carry an order out and leave its result in the new folder `out`; returns what its JSON file says.

    Raises InputError for what can't be done.
    """
    job = order.job
    if order.kind == "segment":
        found = segment(job, out / "segmentation.nii.gz", listener, victim=victim)
        write_json(out / "result.json", found)
        return found
    if order.kind == "attack":
        detectors = read_detectors(order.detectors, victim)
        result = run_job(job, out, listener, victim=victim)
        if detectors:
            detect_result(out, result, detectors, victim, listener)
        return result
    if order.kind == "detect":
        return detect_scan(job, order.detectors, out, listener, victim)
    if order.kind == "margin":
        return find_margin(job, out, order.max_eps, listener, victim=victim)
    if order.question is None:
        raise InputError("The order for a certificate doesn't say what is to be certified; submit it again.")
    return make_certificate(job, order.question, out, listener, victim=victim, most=MOST_COPIED)
