"""A MONAI bundle: a folder or zip with configs/metadata.json, configs/inference.json (or .yaml) and models/model.pt.

The configuration is data (`config`); what it describes must be of a closed list of transforms, inferers and networks.
Anything else is refused by key and text, or, for the network alone, built by MONAI's ConfigParser with --trust.
"""

import os
import re
import stat
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturbox.load.architecture import network_from
from perturbox.load.checkpoint import PLAIN, file_sha256, fill, read_checkpoint, read_json, state_of
from perturbox.load.config import Config
from perturbox.load.spec import Spec
from perturbox.load.transforms import NOTHING, Decided, decision_of, steps_of, window_of
from perturbox.model.pipeline import Decision, Pipeline
from perturbox.model.victim import Victim
from perturbox.model.wrappers import Picked
from perturbox.types import InputError

CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
GPU = re.compile(r"torch\.device\((['\"])cuda(:\d+)?\1\)")
LARGEST = 2**33  # bytes an archive may hold unpacked


def load(spec: Spec, device: torch.device, trust: bool = False) -> Victim:
    """The victim of a bundle. Raises InputError for what isn't covered, and for what would run code without trust."""
    if spec.path.suffix == ".zip":
        with tempfile.TemporaryDirectory(prefix="perturbox-bundle-") as place:
            return _from_folder(unpacked(spec.path, Path(place)), device, trust)
    return _from_folder(spec.path, device, trust)


def _from_folder(folder: Path, device: torch.device, trust: bool) -> Victim:
    if not folder.is_dir():
        raise InputError(f"There is no bundle at '{folder}'; name its folder or zip.")
    require_no_links(folder)
    metadata = read_json(folder / "configs" / "metadata.json")
    path = next((p for name in CONFIGS if (p := folder / "configs" / name).is_file()), None)
    if path is None:
        raise InputError(
            f"'{folder}' has no configs/inference.json or .yaml; only bundles made for inference are covered."
        )
    config = Config(path, trust)
    config.skipped = frozenset(NOTHING)
    for key in ("preprocessing", "inferer", "postprocessing"):
        if not config.has(key):
            raise InputError(f"'{path}' has no '{key}'; interactive and training bundles aren't covered.")
    steps, dims = steps_of(config.get("preprocessing"), trust), _dims(config)
    window, slices = window_of(config.get("inferer"), steps, dims)
    channels, names = _channels(metadata)
    decided = decision_of(config.get("postprocessing"), len(names), trust)
    labels, regions = _labels(names, decided)
    weights = folder / "models" / "model.pt"
    network, executed = _network(folder, config, trust)
    fill(network, state_of(read_checkpoint(weights), weights), weights)
    network.requires_grad_(False)
    if decided.painted is not None:
        network = Picked(network, [channel for channel, _ in decided.painted])
    entries = list(decided.entries)
    if regions is not None:
        entries.append({"do": "paint", "values": [region[0] for region in regions]})
    described = metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
    modality = str(described.get("modality") or "").upper()  # some MR bundles copied the format of a CT
    ct = modality == "CT" or (not modality and described.get("format") == "hounsfield")
    return Victim(
        name=re.sub(r"[^\w.-]+", "-", str(metadata.get("name") or folder.name)).lower(),
        title=str(metadata.get("name") or folder.name),
        network=network,
        labels=labels,
        regions=regions,
        window=window,
        pipeline=Pipeline(tuple(steps)),
        decision=Decision(tuple(entries)),
        unit="HU" if ct else "intensity",
        dims=2 if slices else dims,
        channels=channels,
        channel_names=_channel_names(described, channels),
        licence=str(metadata.get("copyright") or "not stated"),
        intended_use=str(metadata.get("intended_use") or metadata.get("description") or "not stated"),
        training_data=str(metadata.get("data_source") or "not stated"),
        source_sha256=file_sha256(weights),
        executed=executed,
        device=device,
    )


def _dims(config: Config) -> int:
    told = config.data.get("network_def")
    dims = told.get("spatial_dims", 3) if isinstance(told, Mapping) else 3
    return dims if isinstance(dims, int) else 3


def _network(folder: Path, config: Config, trust: bool) -> tuple[nn.Module, tuple[str, ...]]:
    """(the network, what was executed for it)."""
    if not config.has("network_def"):
        raise InputError(f"'{config.path}' has no 'network_def'; name the network there.")
    try:
        return network_from(config.get("network_def"), f"'{config.path}'"), ()
    except InputError:
        if not trust:
            raise
    return _executed(folder, config)


def _executed(folder: Path, config: Config) -> tuple[nn.Module, tuple[str, ...]]:
    """The network as MONAI's ConfigParser makes it, with all that its entries and `imports` execute."""
    from monai.bundle.config_parser import ConfigParser

    parser = ConfigParser(_on_this_machine(config.data))
    if config.has("bundle_root"):
        parser["bundle_root"] = str(folder)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        with torch.serialization.safe_globals(PLAIN):  # some read their architecture from a file of arrays
            network = parser.get_parsed_content("network_def")
    except Exception as error:  # code of the bundle's own
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"The network of '{config.path}' could not be built ({type(error).__name__}: {reason}); "
            "use the MONAI version that its metadata names."
        ) from None
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:  # the next bundle's scripts have the same names
            if name.partition(".")[0] == "scripts":
                del sys.modules[name]
    ran = [text for text in config.data.get("imports", ()) if isinstance(text, str)]
    return network.eval(), (*ran, f"network_def: {config.data['network_def']}")


def _on_this_machine(value: Any) -> Any:
    """A configuration whose expressions are tied to a GPU, on a machine without one."""
    if torch.cuda.is_available():
        return value
    if isinstance(value, Mapping):
        return {key: _on_this_machine(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_on_this_machine(part) for part in value]
    return GPU.sub("torch.device('cpu')", value) if isinstance(value, str) else value


def _channels(metadata: Mapping[str, Any]) -> tuple[int, dict[int, str]]:
    """(channels the network reads, {channel it returns: name})."""
    formats = metadata.get("network_data_format") or {}
    channels = int(formats.get("inputs", {}).get("image", {}).get("num_channels", 1))
    told = (formats.get("outputs") or {}).get("pred") or {}
    named = told.get("channel_def") or told.get("label_def") or {}
    count = max([int(told.get("num_channels", 2)), *(int(channel) + 1 for channel in named)])
    return channels, {c: str(named.get(str(c), f"structure_{c}")) for c in range(count)}


def _labels(names: Mapping[int, str], decided: Decided) -> tuple[dict[str, int], tuple[tuple[int, ...], ...] | None]:
    """({structure: value}, the regions of channels that answer yes or no, in the order in which they paint)."""
    if not decided.sigmoid:
        return {name if channel else "background": channel for channel, name in names.items()}, None
    painted = decided.painted or [(channel, channel + 1) for channel in names]
    inner = [[value for _, value in painted[place + 1 :]] if decided.nested else [] for place in range(len(painted))]
    regions = tuple((value, *rest) for (_, value), rest in zip(painted, inner, strict=True))
    return {"background": 0} | {names[channel]: value for channel, value in sorted(painted)}, regions


def _channel_names(described: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """What the channels are, where the metadata name each."""
    told = described.get("channel_def") or {}
    names = [str(told[str(number)]) for number in range(count) if str(number) in told]
    return tuple(names) if len(names) == count > 1 else ()


def require_no_links(folder: Path) -> None:
    """Raises InputError for a link that leads out of a model's folder."""
    root = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            if path.is_symlink() and root not in path.resolve().parents:
                raise InputError(f"'{path}' is a link that leads out of the bundle; copy the file itself there.")


def unpacked(archive: Path, place: Path) -> Path:
    """Unpack a zip into a folder of its own; raises InputError for names that leave it, links, and bombs."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            if sum(entry.file_size for entry in entries) > LARGEST:
                raise InputError(f"'{archive}' is too large unpacked; unpack it yourself and name the folder.")
            for entry in entries:
                parts = Path(entry.filename.replace("\\", "/")).parts
                if entry.filename.startswith(("/", "\\")) or ".." in parts or ":" in entry.filename:
                    raise InputError(f"'{archive}' holds '{entry.filename}', which leaves its folder; don't use it.")
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise InputError(f"'{archive}' holds the link '{entry.filename}'; pack the file itself.")
            opened.extractall(place)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"'{archive}' is no readable zip ({error}); copy it again.") from None
    inside = [path.parent for path in place.glob("**/configs")]
    if not inside:
        raise InputError(f"'{archive}' holds no configs/ folder; it is no MONAI bundle.")
    return min(inside, key=lambda path: len(path.parts))
