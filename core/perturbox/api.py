"""The Python face: one call per question, on scans and models that are in memory or in files.

`import perturbox as px` gives these names. An attack from here is the same job as one of the command line: it writes
its result folder, into a temporary place that goes with the `Result`, and everything is measured on the saved file.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from perturbox import io
from perturbox.defaults import UNITS
from perturbox.io.files import require_new_folder
from perturbox.io.objects import from_object
from perturbox.job.estimate import require_room_to_predict
from perturbox.job.execute import Job, Listener, run_job
from perturbox.job.folder import read_scans
from perturbox.job.folder import verify as verify_folder
from perturbox.job.margins import find_margin
from perturbox.judge.metrics import BROKEN
from perturbox.judge.record import read_record, required_file
from perturbox.load import load_victim
from perturbox.model.defended import Defended
from perturbox.model.victim import Victim
from perturbox.report import write_comparison, write_report
from perturbox.report.notebook import Page
from perturbox.types import InputError, Volume

__all__ = ["Comparison", "Margin", "Result", "attack", "compare", "load_victim", "margin", "read", "segment", "verify"]

# A path, an array or (array, affine), a nibabel or SimpleITK image, a MONAI MetaTensor, or a Volume; a list of them for
# channels.
Image = Any


def read(image: Image, unit: str = "HU") -> Volume:
    """A scan as `Volume`, from a file, a DICOM folder or an object in memory (see `io.objects.from_object`).

    unit: what its values mean, "HU" for CT, "intensity" otherwise. Raises InputError if it can't be used.
    """
    if isinstance(image, str | Path):
        return io.read_scan(image, unit=unit)
    return _combined(image, unit) if isinstance(image, list) else from_object(image, unit)


def segment(
    image: Image, victim: Victim | str = "ct-organs", *, device: str = "cpu", force: bool = False
) -> np.ndarray:
    """The model's label map "*s" of a scan, on the scan's own grid, by its ordinary inference.

    victim: as of `attack`. Raises InputError if scan and model don't fit, or, without `force`, if memory is short.
    """
    model = _model(victim, device)
    scan = _scan(image, model)[0]
    if not force:
        require_room_to_predict(model, scan)
    return model.predict(scan)


def attack(
    image: Image,
    victim: Victim | str = "ct-organs",
    attack: str | None = None,
    *,
    eps: float | None = None,
    eps_unit: str = UNITS[0],
    norm: str = "linf",
    steps: int | None = None,
    target: Sequence[str] | str = (),
    goal: str = "change",
    label: Image | None = None,
    label_map: str | None = None,
    roi: Image | None = None,
    surrogate: Sequence[str] | str = (),
    seed: int = 0,
    device: str = "cpu",
    force: bool = False,
    allow_cut_gradient: bool = False,
    on_step: Any = None,
    **settings: Any,
) -> "Result":
    """Attack a model on one scan and measure what the saved file does to it.

    image, label, roi: paths or objects in memory; label holds the victim's values, roi what may change (above 0).
    attack: a name of `perturbox list attacks`, the default attack if there is none. eps: the largest change; eps_unit:
    what it is in, "native" for the scan's own unit (HU on CT), "sigma" for its noise, "percent" for its 1-99 % range.
    settings: the attack's own, in native units, such as loss="ce". on_step: called with every step. force: go on though
    the values don't look like HU, or though it would not fit in memory. All else is as on the command line. Raises
    InputError for input that can't be used, and for what would not fit in memory, with the part that would.
    """
    model = _model(victim, device)
    named, defense = _named(victim, model)
    place = _Scratch()
    scratch = place.path
    scan, source = _scan(image, model)
    given = {"label": label, "roi": roi}
    files = {name: _label_file(scratch / f"{name}.nii.gz", what, scan) for name, what in given.items()}
    known = {"attack": attack, "eps": eps, "steps": steps}
    job = Job(
        image=source,
        victim=named,
        defense=defense,
        eps_unit=eps_unit,
        norm=norm,
        goal=goal,
        target=_names(target),
        label_map=label_map,
        settings=settings,
        seed=seed,
        device=str(model.device),
        force=force,
        allow_cut_gradient=allow_cut_gradient,
        surrogate=_names(surrogate),
        **files,
        **{name: value for name, value in known.items() if value is not None},
    )
    listener = Listener(step=on_step) if on_step else Listener()
    run_job(job, scratch / "result", listener, image=None if source else scan, victim=model)
    return Result(scratch / "result", place)


def margin(
    image: Image,
    victim: Victim | str = "ct-organs",
    attack: str | None = None,
    *,
    max_eps: float | None = None,
    eps_unit: str = UNITS[0],
    steps: int | None = None,
    target: Sequence[str] | str = (),
    surrogate: Sequence[str] | str = (),
    seed: int = 0,
    device: str = "cpu",
    force: bool = False,
    allow_cut_gradient: bool = False,
    **settings: Any,
) -> "Margin":
    """The smallest change found that breaks each structure: `margin(...)["liver"]` in the scan's unit, None if nothing
    up to max_eps broke it.

    max_eps: the largest limit to try, in eps_unit; 32 in the scan's own unit if there is none. What is returned is in
    the scan's own unit; `record["asked"]` says what 1 of the unit asked for is there. Of a model behind defences
    (`px.defend`) it is that of attacks that know of them, and `record["undefended"]` has that of the model alone. Other
    arguments are those of `attack`. Raises InputError for input that can't be used.
    """
    model = _model(victim, device)
    named, defense = _named(victim, model)
    place = _Scratch()
    scan, source = _scan(image, model)
    known = {"attack": attack, "steps": steps}
    job = Job(
        image=source,
        victim=named,
        defense=defense,
        eps_unit=eps_unit,
        target=_names(target),
        settings=settings,
        seed=seed,
        device=str(model.device),
        force=force,
        allow_cut_gradient=allow_cut_gradient,
        surrogate=_names(surrogate),
        **{name: value for name, value in known.items() if value is not None},
    )
    folder = place.path / "margin"
    record = find_margin(job, folder, max_eps, victim=model, image=None if source else scan)
    return Margin(folder, record, place)


def verify(folder: str | Path, victim: Victim | None = None) -> list[str]:
    """Recompute every number of the folder of a result, margin or certificate; a sentence for each that doesn't hold.

    victim: the model, for results of models that were made in Python. Raises InputError if it can't be verified.
    """
    return verify_folder(Path(folder), victim=victim)


def compare(*results: "Result | str | Path") -> "Comparison":
    """Two to six results on one scan beside each other; paths are those of result folders.

    Raises InputError where one isn't a result, or is of another scan or grid than the first.
    """
    place = _Scratch()
    folders = [result.folder if isinstance(result, Result) else Path(result) for result in results]
    record = write_comparison(folders, place.path / "comparison")
    return Comparison(place.path / "comparison", record, place)


class _Scratch:
    """A temporary folder that goes with the last object that refers to it."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="perturbox-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class _Kept:
    """A folder of results, temporary until it is saved."""

    def __init__(self, folder: str | Path, place: "_Scratch | None" = None):
        self.folder, self._place = Path(folder), place

    def save(self, folder: str | Path) -> Path:
        """Copy the result to a new folder; returns its path. Raises InputError if the folder is there already."""
        target = Path(folder)
        require_new_folder(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.folder, target, dirs_exist_ok=True)
        return target

    def show(self, height: int = 900) -> "Page":
        """Its page, inline in a notebook."""
        path = self.folder / "report.html"
        if not path.is_file():
            write_report(self.folder)
        return Page(path.read_text(encoding="utf-8"), height)


class Result(_Kept):
    """What an attack did, read from its result folder. `Result("folder")` opens one that was saved.

    Arrays have the scan's axes "*s"; scans and changes of colour images and other multi-channel scans "c *s".
    """

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of result.json; docs/results.md explains every entry."""
        return read_record(self.folder)

    @property
    def metrics(self) -> dict[str, Any]:
        """{"clean", "adversarial", "against_clean"}: per structure dice, iou, hd95_mm, nsd, volume_ml."""
        return self.record["metrics"]

    @property
    def dice(self) -> dict[str, float | None]:
        """Dice of each structure after the attack, with the expert's label or else the model's clean prediction."""
        return {name: row["dice"] for name, row in self.metrics["adversarial"].items()}

    @property
    def verdicts(self) -> dict[str, str]:
        """One word per structure, of `metrics.VERDICTS`."""
        return self.record["verdicts"]

    @property
    def flow(self) -> list[dict[str, Any]] | None:
        """What each structure's voxels are called now: [{from, to, ml}]; None in results that don't hold it."""
        return self.record["flow"]

    @cached_property
    def _scans(self) -> tuple[Volume, Volume]:
        return read_scans(self.folder, self.record)

    @property
    def adversarial(self) -> np.ndarray:
        """The perturbed scan as its file holds it, in the scan's unit."""
        return _plain(self._scans[1].data)

    @property
    def delta(self) -> np.ndarray:
        """The change, in the scan's unit, exactly as the file holds it."""
        clean, adversarial = self._scans
        return _plain(adversarial.data.astype(np.float64) - clean.data)

    @cached_property
    def segmentation(self) -> np.ndarray:
        """The model's label map of the perturbed scan."""
        return self._labels("adversarial_seg")

    @cached_property
    def clean_segmentation(self) -> np.ndarray:
        """The model's label map of the clean scan."""
        return self._labels("clean_seg")

    def _labels(self, name: str) -> np.ndarray:
        return io.read_labels(required_file(self.folder, self.record, name), self._scans[0])

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row per structure; raises InputError if pandas isn't installed."""
        try:
            import pandas
        except ImportError:
            raise InputError("to_frame needs pandas; install it with `pip install pandas`.") from None
        record, rows = self.record, []
        for name, after in self.metrics["adversarial"].items():
            controls = {
                f"{kind}_dice": part["dice"].get(name) for kind, part in record["control"].items() if part is not None
            }
            before = self.metrics["clean"][name]
            clean = {"dice_clean": before["dice"], "volume_ml_clean": before["volume_ml"]}
            rows.append({"structure": name, "verdict": self.verdicts[name], **after, **clean, **controls})
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        record = self.record
        known = [dice for dice in self.dice.values() if dice is not None]
        mean = f"mean Dice {np.mean(known):.3f}" if known else "no Dice"
        broken = [name for name, word in self.verdicts.items() if word in BROKEN]
        return (
            f"<Result of {record['attack']['name']} on {record['victim']['name']}: {mean}, "
            f"broke {', '.join(broken) or 'nothing'}>"
        )


class Margin(_Kept, Mapping[str, float | None]):
    """The smallest change found that breaks each structure, in the scan's unit; None if nothing broke it."""

    def __init__(self, folder: str | Path, record: dict[str, Any], place: "_Scratch | None" = None):
        super().__init__(folder, place)
        self.record = record

    @property
    def structures(self) -> dict[str, dict[str, Any]]:
        """The rows of margin.json: breaks_at, above, limit, witness, in_sigma."""
        return self.record["structures"]

    def result(self, structure: str) -> Result | None:
        """The result whose file breaks a structure, None if nothing did."""
        witness = self.structures[structure]["witness"]
        return None if witness is None else Result(self.folder / witness, self._place)

    def __getitem__(self, structure: str) -> float | None:
        return self.structures[structure]["breaks_at"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.structures)

    def __len__(self) -> int:
        return len(self.structures)

    def __repr__(self) -> str:
        found = (f"{name} {'–' if at is None else f'≤ {at:g}'}" for name, at in self.items())
        return f"<Margin in {self.record['unit']}: {', '.join(found)}>"


class Comparison(_Kept):
    """What differs between results on one scan. `record` is the content of comparison.json."""

    def __init__(self, folder: str | Path, record: dict[str, Any], place: "_Scratch | None" = None):
        super().__init__(folder, place)
        self.record = record

    def __repr__(self) -> str:
        return f"<Comparison: {' '.join(self.record['said'])}>"


def _model(victim: Victim | str, device: str) -> Victim:
    if isinstance(victim, Victim):
        return victim
    if isinstance(victim, str):
        return load_victim(victim, device)
    raise InputError(f"A victim is a px.Victim or a name, not a {type(victim).__name__}; wrap a network in px.Victim.")


def _named(victim: Victim | str, model: Victim) -> tuple[str, tuple[str, ...]]:
    """How a result names a model, and the defences it stands behind."""
    if isinstance(victim, str):
        return victim, ()
    return model.plain.name, model.specs if isinstance(model, Defended) else ()


def _scan(image: Image, model: Victim) -> tuple[Volume, str]:
    """(the scan, its path or "")."""
    if isinstance(image, str | Path):
        return io.read_scan(image, unit=model.unit, channels=model.channels), str(image)
    if isinstance(image, list) and all(isinstance(one, str | Path) for one in image):
        return _scan(",".join(map(str, image)), model)
    return read(image, model.unit), ""


def _combined(images: list[Image], unit: str) -> Volume:
    """One scan of several images of one channel each."""
    if not images:
        raise InputError("An empty list is no scan; give its channels, a path or image for each.")
    return io.stack([f"Channel {number}" for number in range(len(images))], [read(image, unit) for image in images])


def _label_file(path: Path, what: Image | None, scan: Volume) -> str | None:
    """The path of a label map or mask, written beside the result if it was in memory."""
    if what is None or isinstance(what, str | Path):
        return what and str(what)
    labels = np.asarray(what) if isinstance(what, np.ndarray) else from_object(what, "label").data[0]
    if labels.shape != scan.shape:
        raise InputError(f"The {path.name[:-7]} has shape {labels.shape}, the scan {scan.shape}; give it on its grid.")
    io.write_labels(path, labels.astype(np.int64), scan)
    return str(path)


def _names(given: Sequence[str] | str) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _plain(values: np.ndarray) -> np.ndarray:
    return values[0] if len(values) == 1 else values
