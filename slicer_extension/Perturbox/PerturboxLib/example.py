"""The finished example that comes with the module: a phantom CT and an attack on it, opened without any server."""

import json
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import nrrd, scene, tasks
from .trouble import Trouble

FOLDER = Path(__file__).resolve().parents[1] / "Resources" / "Example"
IMAGES = ("perturbed", "perturbation", "influence", "clean", "adversarial", "difference")


def load():
    """Bring the example into the scene and return its result node. Raises Trouble where its files are missing or
    damaged."""
    try:
        source = nrrd.decode((FOLDER / "source.nrrd").read_bytes())
        images = {name: nrrd.decode((FOLDER / f"{name}.nrrd").read_bytes()) for name in IMAGES}
        record = json.loads((FOLDER / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Trouble(
            "no example", _("The example's files are missing."), _("Reinstall the extension."), str(error)
        ) from None
    report = FOLDER / "report.html"
    text = report.read_text(encoding="utf-8") if report.is_file() else ""
    bundle = tasks.Bundle("attack", "example", record, images, text)
    volume = slicer.util.addVolumeFromArray(source.array, np.asarray(source.ijkToRas), _("Phantom CT (example)"))
    volume.CreateDefaultDisplayNodes()
    try:
        return scene.addResultNow(bundle, volume)
    except Trouble:
        slicer.mrmlScene.RemoveNode(volume)
        raise
