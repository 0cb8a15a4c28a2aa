"""Train task "adversarial_finetuning": a served victim becomes a sturdier one, beside the old, never over it."""

import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask
from safetensors.torch import save_file

from lib import backend, forms, tasks, victims
from lib.labels import FINAL, label_map, outlined
from lib.options import Options
from lib.trainers.finetune import Settings, finetune
from perturbox import io
from perturbox.job.execute import Job, run_job
from perturbox.job.inputs import read_expert
from perturbox.load import check_device, load_victim
from perturbox.model.victim import Victim
from perturbox.types import InputError

NAME = "adversarial_finetuning"
JUDGED_CASES = 2  # held out; judging each, before and after, is a whole attack
JUDGE = "ensemble"  # other attacks than the one that it is trained against
GAIN, LOSS = 0.1, 0.02  # of attacked Dice at least, of clean Dice at most: what makes a model sturdier
JUDGED_STEPS = 10
SERVED = "POST /reload, or start the server again, and it is served as a victim of its own."

LOADER = """\
{title!r}

import dataclasses
from pathlib import Path

from safetensors.torch import load_file

from perturbox.load import load_victim


def victim(device):
    base = load_victim({spec!r}, str(device))
    base.network.load_state_dict(load_file(Path(__file__).with_suffix(".safetensors")))
    return dataclasses.replace(base, name={name!r}, title={title!r})
"""


@dataclasses.dataclass(frozen=True)
class LabelledCase:
    """An image with a final label; its files."""

    name: str
    image: Path
    label: Path
    info: dict[str, Any]
    """What was noted when the label was saved."""


class AdversarialFinetuning(TrainTask):
    """Trains on every image with a final label but the last two, which judge; with fewer it says on what it is judged.

    The new model is called "robust" only where two cases it never saw say so, attacked in ways it wasn't trained for.
    """

    def __init__(self, options: Options):
        super().__init__(
            "Adversarial fine-tuning on the images with a final label (read by the names it was saved with, else as "
            "the model's own label values): a small run that writes a new victim and tells clean and attacked Dice "
            "before and after"
        )
        self.options = options

    def config(self) -> dict[str, Any]:
        default = Settings()
        return {
            "victim": list(backend.victims),
            "max_epochs": f"{default.epochs}",
            "crops": f"{default.crops}",
            "eps": f"{default.eps:g}",
            "steps": f"{default.steps}",
            "learning_rate": f"{default.learning_rate:g}",
            "seed": f"{default.seed}",
            "device": list(dict.fromkeys([self.options.device, "cpu"])),
        }

    def stats(self) -> dict[str, Any]:
        """What the latest training reached, in the words that MONAI Label's clients look for."""
        reports = sorted(victims.folder(self.options.home).glob("*.json"), key=lambda path: path.stat().st_mtime)
        return json.loads(reports[-1].read_text(encoding="utf-8")) if reports else {}

    def __call__(self, request, datastore) -> dict[str, Any]:
        form = self.config()
        asked = {key: forms.chosen(request.get(key, value), value) for key, value in form.items()}
        asked = {key: form[key] if value in ("", None) else value for key, value in asked.items()}
        served = backend.victims.get(str(_first(asked["victim"])))
        if served is None:
            raise InputError(f"This server has no victim '{asked['victim']}'; it serves {', '.join(backend.victims)}.")
        settings = Settings(
            epochs=_at_least(1, "max_epochs", asked["max_epochs"]),
            crops=_at_least(1, "crops", asked["crops"]),
            eps=forms.number("eps", asked["eps"]),
            steps=_at_least(1, "steps", asked["steps"]),
            learning_rate=forms.number("learning_rate", asked["learning_rate"]),
            seed=_at_least(0, "seed", asked["seed"]),
        )
        device = str(_first(asked["device"]))
        check_device(device)
        return self.train(served, settings, device, labelled(datastore))

    def train(
        self, served: victims.Served, settings: Settings, device: str, cases: list[LabelledCase]
    ) -> dict[str, Any]:
        """Judge, train, save, judge again; returns the report, which is kept beside the weights."""
        if not cases:
            raise InputError("No image has a final label; label one in your viewer and submit it, then train.")
        started = time.time()
        held_out = min(JUDGED_CASES, len(cases) - 1)
        training, judging = (cases[:-held_out], cases[-held_out:]) if held_out else (cases, cases)
        victim = load_victim(served.spec, device)
        scans = [read(case, victim) for case in training]
        before = judge(victim, judging, settings)
        tasks.progress.info("Before: %s", in_words(before))
        network = finetune(victim, scans, settings, lambda epoch, loss: self._tell(epoch, settings, loss))
        title = f"{served.title}, fine-tuned against PGD at {settings.eps:g} {served.described['unit']}"
        after = judge(dataclasses.replace(victim, title=title, network=network), judging, settings)
        gain = difference(after, before, "attacked_dice")
        name = self._free_name(served.name, "robust" if is_sturdier(before, after, held_out) else "finetuned")
        report = {
            "victim": name,
            "from": served.name,
            **dataclasses.asdict(settings),
            "trained_on": len(training),
            "judged_on": JUDGED_ON[held_out],
            "judged_cases": len(judging),
            "judged_by": JUDGE,
            "gain": gain,
            "before": before,
            "after": after,
            "epoch": settings.epochs,
            "total_epochs": settings.epochs,
            "total_time": round(time.time() - started, 1),
            "best_metric": after["attacked_dice"],
            "what_to_do": SERVED,
        }
        self._save(name, title, served.spec, network, report)
        tasks.progress.info("After: %s; %s is kept. %s", in_words(after), name, SERVED)
        return report

    def _tell(self, epoch: int, settings: Settings, loss: float) -> None:
        tasks.progress.info("Epoch %d of %d, loss under attack %.4f", epoch, settings.epochs, loss)

    def _free_name(self, base: str, what: str) -> str:
        place = victims.folder(self.options.home)
        names = (f"{base}-{what}" if number == 1 else f"{base}-{what}-{number}" for number in range(1, 10_000))
        return next(name for name in names if name not in backend.victims and not (place / f"{name}.py").exists())

    def _save(self, name: str, title: str, spec: str, network, report: dict[str, Any]) -> None:
        place = victims.folder(self.options.home)
        place.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        save_file(state, place / f"{name}.safetensors")
        (place / f"{name}.json").write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")
        # Last, for the loader is what makes it a victim.
        (place / f"{name}.py").write_text(LOADER.format(title=title, name=name, spec=spec), encoding="utf-8")


def labelled(datastore) -> list[LabelledCase]:
    """Images with a final label, by name; the outcome of an attack is never trained on as if it were a patient."""
    return [
        LabelledCase(name, Path(datastore.get_image_uri(name)), Path(label), datastore.get_label_info(name, FINAL))
        for name in sorted(datastore.get_labeled_images())
        # A DICOM server may count labels that aren't here to be read.
        if not backend.is_adversarial(datastore, name) and (label := datastore.get_label_uri(name, FINAL))
    ]


def read(case: LabelledCase, victim: Victim):
    """(scan, labels in the victim's values). Raises InputError in one sentence."""
    try:
        image = io.read_scan(case.image, unit=victim.unit, channels=victim.channels)
    except InputError as error:
        raise InputError(str(error).replace(str(case.image), f"'{case.name}'")) from None
    try:
        labels = read_expert(str(case.label), label_map(case.info, victim.structures), image, victim)
    except InputError as error:
        said = str(error).replace(str(case.label), "it")  # no path of the server's
        raise InputError(f"The final label of '{case.name}' can't be used: {said}") from None
    if not labels.any():
        raise InputError(f"The final label of '{case.name}' is empty; outline a structure, or remove the label.")
    return image, labels


def judge(victim: Victim, cases: list[LabelledCase], settings: Settings) -> dict[str, float | None]:
    """Mean Dice against the final labels, without and with the worst of several attacks on the whole scan."""
    scores: dict[str, list[float]] = {"clean": [], "adversarial": []}
    for case in cases:
        job = Job(
            image=str(case.image),
            label=str(case.label),
            label_map=outlined(case.label, label_map(case.info, victim.structures)),
            attack=JUDGE,
            eps=settings.eps,
            steps=JUDGED_STEPS,
            seed=settings.seed + 1,  # not the draws it was trained with
            device=str(victim.device),
        )
        with tempfile.TemporaryDirectory(prefix="perturbox-") as scratch:
            metrics = run_job(job, Path(scratch) / "result", victim=victim)["metrics"]
        for which, found in scores.items():
            found += [row["dice"] for row in metrics[which].values() if row["dice"] is not None]
    means = {which: math.fsum(found) / len(found) if found else None for which, found in scores.items()}
    return {"clean_dice": means["clean"], "attacked_dice": means["adversarial"]}


JUDGED_ON = {0: "the case it was trained on", 1: "a case not trained on", 2: "2 cases not trained on"}


def difference(after: Mapping[str, float | None], before: Mapping[str, float | None], which: str) -> float | None:
    """By how much a score has risen; None where either isn't defined."""
    one, other = after[which], before[which]
    return None if one is None or other is None else one - other


def is_sturdier(before: Mapping[str, float | None], after: Mapping[str, float | None], held_out: int) -> bool:
    """Whether enough cases that it never saw show a gain under attack that counts, and no loss without."""
    gain, change = difference(after, before, "attacked_dice"), difference(after, before, "clean_dice")
    return held_out >= JUDGED_CASES and gain is not None and gain >= GAIN and change is not None and change >= -LOSS


def in_words(scores: Mapping[str, float | None]) -> str:
    """ "clean Dice 0.912, attacked Dice 0.204"."""
    told = {name.replace("_dice", " Dice"): value for name, value in scores.items()}
    return ", ".join(f"{name} {'undefined' if value is None else f'{value:.3f}'}" for name, value in told.items())


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _at_least(least: int, name: str, value: Any) -> int:
    found = forms.whole(name, value)
    if found < least:
        raise InputError(f"'{name}' must be at least {least}, not {found}.")
    return found


def trainers(options: Options) -> dict[str, TrainTask]:
    return {NAME: AdversarialFinetuning(options)}
