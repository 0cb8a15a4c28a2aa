"""Between MONAI Label's tasks and the one queue: a stock request becomes an `Order`, a result what its clients read.

In the server process orders go straight to the queue. The processes that MONAI Label starts for batch inference and
scoring reach the same queue through the job API, so that nothing computes beside it.
"""

import io
import json
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import httpx

from lib import forms, labels, private
from lib import tasks as background
from lib.dicomweb import DicomServer
from lib.options import SERVER_URL, TOKEN
from lib.victims import Served
from lib.words import for_clients
from perturbox.attacks import recipes
from perturbox.attacks.goals import Goal
from perturbox.io import suffix
from perturbox.job.execute import Job
from perturbox.jobs import Order, Problem, Queue, Record, Refused
from perturbox.jobs.records import OVER
from perturbox.judge.record import read_record
from perturbox.judge.units import check_unit
from perturbox.types import ADVERSARIAL_NOTICE, InputError

# Set by the app when it starts.
queue: Queue | None = None
victims: dict[str, Served] = {}
device = "cpu"

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 24 * 3600  # of a batch whose turn doesn't come

# What MONAI Label and its clients put into a request beside a task's own settings.
FOREIGN = [
    "_id",
    "_image_id",
    "bundle_path",
    "cache_transforms",
    "client_id",
    "description",
    "force",
    "gpus",
    "id",
    "image",
    "image_id",
    "images",
    "label",
    "label_map",
    "label_info",
    "label_tag",
    "labels",
    "local_rank",
    "logging",
    "max_batch_size",
    "max_workers",
    "method",
    "model",
    "multi_gpu",
    "result_compress",
    "result_dtype",
    "result_extension",
    "result_write_to_file",
    "save_label",
    "session",
    "strategy",
    "timeout",
]
# What of result.json a stock client gets.
FOR_CLIENTS = (
    "summary", "reference", "outlined", "budget", "limits", "metrics", "verdicts", "flow", "success", "seed",
)  # fmt: skip
ADVERSARIAL_ID = re.compile(r"__[a-z0-9-]+__[0-9a-f]{8}$")


class Unfinished(Exception):
    """A job that left no result; the message says why and what to do."""

    def __init__(self, record: Record):
        problem = record.problem or Problem("cancelled", "The job was cancelled.", "Submit it again.")
        problem = replace(problem, detail=for_clients(problem.detail))
        super().__init__(f"{problem.detail} {problem.what_to_do}")
        self.record, self.problem = record, problem


# ---------------------------------------------------------------- a stock request


def tasks() -> dict[str, tuple[Served, recipes.Recipe | None]]:
    """Every task by name: the victim's own is segmenting, `VICTIM-ATTACK` is attacking it."""
    found: dict[str, tuple[Served, recipes.Recipe | None]] = {}
    for victim in victims.values():
        found[victim.name] = (victim, None)
        for recipe in recipes.offered():
            if not recipe.remote:
                continue
            found[f"{victim.name}-{recipe.name}"] = (victim, recipe)
    return found


def order_for(
    task: str,
    request: Mapping[str, Any],
    image: str,
    name: str,
    client: str = "stock infer",
    datastore: Any = None,
) -> Order:
    """What a stock client asks for: `image` is the local file or folder, `name` what the client calls it, `datastore`
    holds it and its labels (None for a scan that was sent along).

    Settings come as numbers, as strings, as a form's whole list (its first entry is meant), or empty (the default is
    meant). Raises InputError for a value that can't be used, and for a misspelt setting.
    """
    victim, recipe = tasks()[task]
    fields = forms.fields(victim, recipe, device)
    own = {key: value for key, value in request.items() if key not in FOREIGN}
    for key in own.keys() - fields.keys():
        near = get_close_matches(key, fields, 1)
        if near:
            raise InputError(f"{task} has no setting '{key}'; did you mean '{near[0]}'?")
    given = {key: forms.chosen(value, fields[key]) for key, value in own.items() if key in fields}
    given = {key: value for key, value in given.items() if value not in ("", None, [])}
    place = str(given.pop("device", device))
    force = forms.switch("force", request.get("force", False))
    if recipe is None:
        job = Job(image=image, victim=victim.spec, device=place, force=force)
        return Order("segment", job, name=name, client=client)
    default = Job(image=image)
    target = given.pop("target", forms.ALL)
    if isinstance(target, list) and not all(isinstance(name, str) for name in target):
        raise InputError(f"'target' must be names of structures, not '{str(target)[:60]}'.")
    label, label_map = None, None
    if request.get("label_map") and given.get("reference") != forms.FINAL:
        raise InputError("label_map says how to read a label; set 'reference' to 'final' too, or leave it out.")
    if forms.choice("reference", given.pop("reference", forms.PREDICTION), fields["reference"]) == forms.FINAL:
        if datastore is None:
            raise InputError("A scan that is sent along has no final label; take the prediction as the reference.")
        label, by_names = labels.final(datastore, name, victim.labels)
        label_map = str(request.get("label_map") or "") or by_names
    job = Job(
        image=image,
        victim=victim.spec,
        attack=recipe.name,
        eps=None if (eps := given.pop("eps", None)) is None else forms.number("eps", eps),
        eps_unit=str(given.pop("eps_unit", default.eps_unit)),
        norm=str(given.pop("norm", recipe.norms[0])),
        steps=forms.whole("steps", given.pop("steps", recipe.steps)),
        goal=str(given.pop("goal", default.goal)),
        label=None if label is None else str(label),
        label_map=label_map,
        target=() if target == forms.ALL else tuple(target if isinstance(target, list) else str(target).split(",")),
        seed=forms.whole("seed", given.pop("seed", default.seed)),
        settings=given,
        device=place,
        force=force,
    )
    # Refuses here what would be refused in the queue.
    check_unit(job.eps_unit, job.eps, job.norm)
    recipe.build(job.eps, job.norm, job.steps, job.settings)
    Goal.parse(job.goal, job.target, victim.described["labels"])
    return Order("attack", job, name=name, client=client)


# ---------------------------------------------------------------- the queue, near or far


class Backend(Protocol):
    def run(self, order: Order, poll: float = POLL_SECONDS) -> tuple[Record, Path]:
        """Carry an order out and wait; (its record, its result folder). Raises Unfinished where there is no result."""
        ...

    def forget(self, folder: Path) -> None:
        """Called when the result folder was read."""
        ...


def current() -> Backend:
    """How this process reaches the queue."""
    return Near(queue) if queue is not None else Far(os.environ[SERVER_URL], private.get(TOKEN))


class Near:
    """The queue of this process."""

    def __init__(self, queue: Queue):
        self.queue = queue

    def run(self, order: Order, poll: float = POLL_SECONDS) -> tuple[Record, Path]:
        record = self.queue.wait(self.queue.submit(order).id)
        if record.state == "failed":  # it may have left files, but no whole result
            raise Unfinished(record)
        try:
            return record, self.queue.result(record.id)
        except Refused:
            raise Unfinished(record) from None

    def forget(self, folder: Path) -> None:
        """The queue keeps its results itself."""


class Far:
    """The server's queue, through its job API. Waits its turn where the queue is full."""

    def __init__(self, url: str, token: str | None):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if (task := background.here()) is not None:
            headers[background.HEADER] = task
        # The server may show a certificate of its own making; it is this machine's.
        self.client = httpx.Client(base_url=url, headers=headers, timeout=60, verify=False, trust_env=False)

    def run(self, order: Order, poll: float = POLL_SECONDS) -> tuple[Record, Path]:
        id = self._submit(request_of(order), poll)["id"]
        while (shown := self._told(self.client.get(f"/perturbox/jobs/{id}")))["state"] not in OVER:
            time.sleep(poll)
        problem = shown["error"]
        record = Record(id, order, time.time(), shown["state"], problem=Problem(**problem) if problem else None)
        if record.state != "done":
            raise Unfinished(record)
        answer = self.client.get(f"/perturbox/jobs/{id}/result.zip")
        self._refuse(answer)
        folder = Path(tempfile.mkdtemp(prefix="perturbox-"))
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            archive.extractall(folder)
        (top,) = folder.iterdir()
        return record, top if top.is_dir() else folder

    def forget(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def _submit(self, request: Mapping[str, Any], poll: float) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self.client.post("/perturbox/jobs", json=request)
            if answer.status_code != 429 or time.monotonic() > end:
                return self._told(answer)
            time.sleep(4 * poll)

    def _told(self, answer: httpx.Response) -> dict[str, Any]:
        self._refuse(answer)
        return answer.json()

    def _refuse(self, answer: httpx.Response) -> None:
        if answer.is_error:
            told = answer.json()
            raise Refused(answer.status_code, Problem(told["error"], told["detail"], told["what_to_do"]))


def limit(job: Job) -> float | None:
    """The job's largest change; None if only a budget of the attack's own limits it."""
    return recipes.get(job.attack).limit(job.eps)


def request_of(order: Order) -> dict[str, Any]:
    """The job API's request for an order on an image of the datastore."""
    job = order.job
    name = next(victim.name for victim in victims.values() if victim.spec == job.victim)
    request = {"kind": order.kind, "image": order.name, "victim": name, "device": job.device, "force": job.force}
    if order.kind == "attack":
        request |= {key: getattr(job, key) for key in ("attack", "eps_unit", "norm", "steps", "goal", "seed")}
        request["eps"] = limit(job)
        request |= {"target": list(job.target), "settings": dict(job.settings)}
    if job.label is not None:
        request |= {"label": labels.FINAL, "label_map": job.label_map}
    return request


# ---------------------------------------------------------------- a result


def answer(order: Order, record: Record, folder: Path, datastore) -> tuple[str, dict[str, Any]]:
    """What a stock client gets of a result: (a label map in a file of its own, JSON). The caller deletes that file.

    An attack's perturbed scan goes into the datastore as a new image that says what it is and of which.
    """
    segmented = order.kind == "segment"
    result = json.loads((folder / "result.json").read_text("utf-8")) if segmented else read_record(folder)
    names = result["victim"]["labels"]
    warnings = [for_clients(warning) for warning in result["warnings"]]
    told = {"label_names": {name: value for name, value in names.items() if value}, "job": record.id}
    if segmented:
        return _copy(folder / "segmentation.nii.gz"), {
            **told,
            "victim": result["victim"]["name"],
            "volumes_ml": result["volumes_ml"],
            "sizes": result["sizes"],
            "warnings": warnings,
        }
    if result["source"].get("channels"):
        image, note = None, ["A scan of several channels isn't kept as an image; get its files from the job's."]
    else:
        file = folder / result["files"]["adversarial"]["path"]
        image, note = _keep_perturbed(order, record, file, datastore)
    return _copy(folder / result["files"]["adversarial_seg"]["path"]), {
        **told,
        "adversarial": True,
        "notice": ADVERSARIAL_NOTICE,
        "source": order.name,
        "image": image,
        **{key: result[key] for key in FOR_CLIENTS},
        "victim": result["victim"]["name"],
        "attack": result["attack"]["name"],
        "seconds": result["effort"]["seconds"],
        "warnings": warnings + note,
    }


def is_adversarial(datastore, image_id: str) -> bool:
    """Whether an image is the outcome of an attack: its entry says so, or its name where the entry was lost."""
    return bool(datastore.get_image_info(image_id).get("adversarial") or ADVERSARIAL_ID.search(image_id))


def perturbed_id(order: Order, record: Record) -> str:
    """The id under which a job's perturbed scan is kept: SOURCE__ATTACK__JOB."""
    return f"{order.name}__{order.job.attack}__{record.id[:8]}"


def _keep_perturbed(order: Order, record: Record, file: Path, datastore) -> tuple[str | None, list[str]]:
    if isinstance(datastore, DicomServer):
        return None, ["A DICOM store isn't given perturbed scans; get this one from the job's files."]
    id = perturbed_id(order, record)
    if datastore.get_image_uri(id):
        return id, []  # the job was asked for again
    if not os.access(datastore._datastore.image_path(), os.W_OK):
        return None, ["The studies folder can't be written to; get the perturbed scan from the job's files."]
    with tempfile.TemporaryDirectory(prefix="perturbox-") as scratch:
        copy = Path(scratch) / f"adversarial{suffix(file)}"  # the store takes the suffix from the first dot on
        shutil.copyfile(file, copy)
        info = {
            "adversarial": True,
            "notice": ADVERSARIAL_NOTICE,
            "source": order.name,
            "job": record.id,
            "attack": order.job.attack,
            "eps": limit(order.job),
            "eps_unit": order.job.eps_unit,
        }
        return datastore.add_image(id, str(copy), info), []


def _copy(file: Path) -> str:
    """A fresh copy, for MONAI Label deletes the file it is given."""
    handle, path = tempfile.mkstemp(prefix="perturbox-", suffix=suffix(file))
    with os.fdopen(handle, "wb") as copy, file.open("rb") as source:
        shutil.copyfileobj(source, copy)
    return path
