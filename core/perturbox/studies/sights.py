"""What detectors see of a scan in a study: looked at in a worker, kept in a file, read again where they are fitted."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from perturbox import detectors
from perturbox.detectors.fitting import asked_of
from perturbox.detectors.seen import Asked, Sample, look_at
from perturbox.model.victim import Victim
from perturbox.types import Volume

FILE = "samples.safetensors"
Samples = dict[str, dict[str, Sample]]  # by the kind of scan and the detector
_asked: dict[tuple[str, str], Asked] = {}  # by model and detector: which layers there are shows a look only


def see(victim: Victim, scans: Mapping[str, Volume], names: Sequence[str]) -> Samples:
    """What each detector looks at of each scan; detectors that look at the same share it."""
    found: Samples = {}
    for kind, scan in scans.items():
        looks: dict[Asked, Sample] = {}
        found[kind] = {}
        for name in names:
            asked = _what(victim, name, scan)
            if asked not in looks:
                looks[asked] = look_at(victim, scan, asked)
            found[kind][name] = looks[asked]
    return found


def _what(victim: Victim, name: str, scan: Volume) -> Asked:
    key = (victim.sha256, name)
    if key not in _asked:
        _asked[key] = asked_of(victim, detectors.get(name), (), lambda: scan)
    return _asked[key]


def write(folder: Path, samples: Samples) -> None:
    """Keep samples in a folder: safetensors, numbers and words only."""
    tensors: dict[str, Tensor] = {}
    told: dict[str, dict[str, dict[str, object]]] = {}
    for kind, by_detector in samples.items():
        places: dict[int, str] = {}
        told[kind] = {}
        for name, sample in by_detector.items():
            place = places.setdefault(id(sample), f"{kind}|{len(places)}")
            tensors |= {f"{place}|features|{layer}": made for layer, made in sample.features.items()}
            tensors |= {f"{place}|voxels|{layer}": made for layer, made in sample.voxels.items()}
            single = {"present": sample.present, "outputs": sample.outputs, "moved": sample.moved}
            tensors |= {f"{place}|{part}": value for part, value in single.items() if value is not None}
            told[kind][name] = {"place": place, "layers": list(sample.features)}
    plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    save_file(plain, folder / FILE, metadata={"samples": json.dumps(told)})


def read(folder: Path) -> Samples:
    """What `write` wrote."""
    with safe_open(folder / FILE, framework="pt") as file:
        told = json.loads(file.metadata()["samples"])
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118  # not a mapping

    def sample(place: str, layers: Sequence[str]) -> Sample:
        features, voxels = (
            {layer: tensors[f"{place}|{part}|{layer}"] for layer in layers} for part in ("features", "voxels")
        )
        outputs, moved = (tensors.get(f"{place}|{part}") for part in ("outputs", "moved"))
        return Sample(features, voxels, tensors[f"{place}|present"], outputs, moved)

    return {
        kind: {name: sample(one["place"], one["layers"]) for name, one in by_detector.items()}
        for kind, by_detector in told.items()
    }
