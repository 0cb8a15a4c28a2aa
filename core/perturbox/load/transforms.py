"""MONAI's transforms and inferers, as a bundle's configuration describes them, in the pipeline's own words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perturbox.model.pipeline import Step
from perturbox.model.pipeline import intensity as i
from perturbox.model.pipeline import space as s
from perturbox.model.windows import Window
from perturbox.types import InputError

# They read, stack and cast: a scan is that already.
NOTHING = {"LoadImage", "EnsureChannelFirst", "AddChannel", "AsChannelFirst", "EnsureType", "CastToType", "ToTensor",
           "ToDevice", "SaveImage", "Identity", "DeleteItems", "SelectItems"}  # fmt: skip
# Own code of bundles of MONAI's zoo whose effect is known: several scans become channels, and of channels that say yes
# the lowest but the background wins. With trust, for another's script may have the same name.
JOINS, MERGES = "scripts.my_transforms.ConcatImages", "scripts.my_transforms.MergeClassesd"
PROMPTED = re.compile("Click|Guidance|DeepEdit|Prompt|Point")
ADVICE = "write the model as FILE.ts or FILE.safetensors with a sidecar instead (docs/victims.md)"


@dataclass(frozen=True)
class Decided:
    """entries: of a decision; painted: (channel, label value) of channels that each answer yes or no, in the order in
    which they paint over one another, None where the bundle doesn't say; nested: whether each covers those after it."""

    entries: list[dict[str, Any]]
    sigmoid: bool
    painted: list[tuple[int, int]] | None = None
    nested: bool = False


def steps_of(preprocessing: Any, trust: bool = False) -> list[Step]:
    """The steps of a Compose. Raises InputError for a transform that isn't known."""
    told = preprocessing.get("transforms", ()) if isinstance(preprocessing, Mapping) else ()
    joined = [entry for entry in told if trust and isinstance(entry, Mapping) and entry.get("_target_") == JOINS]
    keys = {"image", *(key for entry in joined for key in entry.get("keys_merge", ()))}
    listed = [entry for entry in _listed(preprocessing, "preprocessing", keys) if entry not in joined]
    return [step for entry in listed for step in _step(entry)]


def decision_of(postprocessing: Any, channels: int, trust: bool = False) -> Decided:
    """What follows a network of so many channels."""
    entries: list[dict[str, Any]] = []
    painted: list[tuple[int, int]] | None = None
    nested = onehot = False
    for told in _listed(postprocessing, "postprocessing", {"pred"}):
        if trust and told["_target_"] == MERGES:
            painted = [(channel, channel) for channel in range(channels - 1, 0, -1)]
            continue
        name = _name(told)
        if name == "Activations":
            entries += [{"do": do} for do in ("softmax", "sigmoid") if _on(_single(told.get(do)))]
        elif name == "Invert":
            nearest = _on(_single(told.get("nearest_interp", True)))
            entries.append({"do": "inverse", "mode": "nearest" if nearest else "linear"})
        elif name == "AsDiscrete":
            if _on(_single(told.get("argmax"))):
                entries.append({"do": "argmax"})
                onehot = told.get("to_onehot") is not None
            if _single(told.get("threshold")) is not None:
                entries.append({"do": "threshold", "above": float(_single(told["threshold"]))})
        elif name == "KeepLargestConnectedComponent":
            labels = told.get("applied_labels")
            if labels is None:
                raise InputError(f"KeepLargestConnectedComponent without applied_labels isn't covered; {ADVICE}.")
            entries.append({"do": "keep-largest", "labels": labels if isinstance(labels, list) else [labels]})
        elif name == "Lambda" and "first_of" in (func := told.get("func") or {}):
            painted, nested = [(channel, value) for channel, value in reversed(func["first_of"])], True
        elif name == "Lambda" and onehot and (told.get("func") or {}).get("from_channel") == 1:
            pass  # one channel for each structure instead of their labels
        elif name not in NOTHING:
            raise InputError(f"The transform {told['_target_']} in postprocessing isn't covered; {ADVICE}.")
    sigmoid = any(entry["do"] == "threshold" for entry in entries)
    if not sigmoid and not any(entry["do"] == "argmax" for entry in entries):
        raise InputError(f"The bundle's postprocessing neither takes the highest score nor a threshold; {ADVICE}.")
    return Decided(entries, sigmoid, painted if sigmoid else None, nested)


def window_of(inferer: Any, steps: list[Step], dims: int) -> tuple[Window, bool]:
    """(the window, whether it goes slice by slice). A slice axis other than the last is moved there."""
    told = inferer if isinstance(inferer, Mapping) else {}
    name = str(told.get("_target_", "")).rpartition(".")[2]
    if name == "SimpleInferer":
        size = next((step.size for step in reversed(steps) if isinstance(step, s.Resize)), None)
        if size is None:
            raise InputError(f"A SimpleInferer takes scans of any size whole, which isn't covered; {ADVICE}.")
        return Window(tuple(size), overlap=0.0, blend="constant", batch=1), False
    if name not in ("SlidingWindowInferer", "SliceInferer", "SlidingWindowInfererAdapt"):
        raise InputError(f"The inferer {told.get('_target_', inferer)!r} isn't covered; {ADVICE}.")
    size = told.get("roi_size")
    whole = [size] * dims if isinstance(size, int) else size
    if not isinstance(whole, Sequence) or any(not isinstance(n, int) or n < 1 for n in whole):
        raise InputError(
            f"The window {size!r} of the bundle's inferer isn't covered; give roi_size one number per axis."
        )
    if not isinstance(told.get("overlap", 0.25), int | float):
        raise InputError(
            "The bundle's windows overlap otherwise along each axis, which isn't covered; use one fraction."
        )
    slices = name == "SliceInferer"
    if slices and (axis := int(told.get("spatial_dim", 0))) != 2:
        steps.append(s.Permute((1, 2, 0) if axis == 0 else (0, 2, 1)))
    window = Window(
        tuple(whole),
        overlap=float(told.get("overlap", 0.25)),
        blend=told.get("mode", "constant"),
        sigma_scale=float(told.get("sigma_scale", 0.125)),
        batch=int(told.get("sw_batch_size", 1)),
        padding=told.get("padding_mode", "constant"),
        padding_value=float(told.get("cval", 0.0)),
    )
    return window, slices


def _step(told: Mapping[str, Any]) -> list[Step]:
    name, given = _name(told), {key: value for key, value in told.items() if not key.startswith("_") and key != "keys"}
    if name in NOTHING:
        return []
    if name == "Orientation":
        return [s.Orient(str(given["axcodes"]))]
    if name == "Spacing":
        _none_of(name, given, "diagonal", "scale_extent", "recompute_affine", "min_pixdim", "max_pixdim")
        mode = _single(given.get("mode", "bilinear"))
        if (
            str(mode).lower() not in ("bilinear", "gridsamplemode.bilinear")
            or given.get("padding_mode", "border") != "border"
        ):
            raise InputError(f"Spacing by the mode {mode!r} isn't covered; {ADVICE}.")
        pixdim = given["pixdim"]
        return [s.Spacing(tuple(float(mm) for mm in pixdim) if isinstance(pixdim, list) else (float(pixdim),) * 3)]
    if name == "ScaleIntensityRange":
        low, high = given.get("b_min"), given.get("b_max")
        if low is None or high is None:
            raise InputError(f"ScaleIntensityRange without b_min and b_max isn't covered; {ADVICE}.")
        to = (float(low), float(high))
        return [i.Range(float(given["a_min"]), float(given["a_max"]), to, _on(given.get("clip", False)))]
    if name == "ScaleIntensity":
        if given.get("factor") is not None:
            raise InputError(f"ScaleIntensity by a factor isn't covered; {ADVICE}.")
        to = (float(given.get("minv", 0.0)), float(given.get("maxv", 1.0)))
        return [i.MinMax(to, _on(given.get("channel_wise", False)))]
    if name == "NormalizeIntensity":
        known, by_channel = ("subtrahend", "divisor"), _on(given.get("channel_wise", False))
        fixed = [given.get(key) for key in known]
        if all(value is not None for value in fixed) and not _on(given.get("nonzero", False)):
            return [i.Affine(*(tuple(v) if isinstance(v, list) else float(v) for v in fixed))]  # type: ignore[arg-type]
        _none_of(name, given, *known)
        return [i.ZScore(_on(given.get("nonzero", False)), by_channel)]
    if name == "ScaleIntensityRangePercentiles":
        _none_of(name, given, "relative")
        to = (float(given["b_min"]), float(given["b_max"]))
        clip, by_channel = _on(given.get("clip", False)), _on(given.get("channel_wise", False))
        return [i.Percentiles(float(given["lower"]), float(given["upper"]), to, clip, by_channel)]
    if name == "CropForeground":
        _none_of(name, given, "channel_indices", "k_divisible")
        above, margin = given.get("select_fn") or {"above": 0.0}, given.get("margin", 0)
        if (
            not isinstance(above, Mapping)
            or "above" not in above
            or not isinstance(margin, int)
            or (margin and not _on(given.get("allow_smaller")))
        ):
            raise InputError(f"This CropForeground isn't covered; {ADVICE}.")
        return [s.Crop(float(above["above"]), margin)]
    if name == "Resize":
        mode = str(_single(given.get("mode", "area"))).lower()
        words = {"area": "area", "bilinear": "linear", "trilinear": "linear", "linear": "linear", "nearest": "nearest"}
        if mode not in words or given.get("size_mode", "all") != "all" or _on(given.get("anti_aliasing", False)):
            raise InputError(f"Resize by the mode {mode!r} isn't covered; {ADVICE}.")
        return [s.Resize(tuple(int(n) for n in given["spatial_size"]), words[mode])]  # type: ignore[arg-type]
    raise InputError(f"The transform {told['_target_']} in preprocessing isn't covered; {ADVICE}.")


def _listed(compose: Any, key: str, wanted: set[str]) -> list[Mapping[str, Any]]:
    """The transforms of a Compose that concern the image or its prediction, switched off ones left out."""
    found = compose.get("transforms") if isinstance(compose, Mapping) and _name(compose) == "Compose" else compose
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) and "_target_" in entry for entry in found):
        raise InputError(f"The bundle's {key} is no Compose of transforms; {ADVICE}.")
    kept = []
    for entry in found:
        keys = entry.get("keys", "pred" if "pred" in wanted else "image")
        concerned = {keys} if isinstance(keys, str) else set(keys)
        if not _on(entry.get("_disabled_", False)) and (concerned & wanted or "keys_merge" in entry):
            kept.append(entry)
    return kept


def _name(told: Mapping[str, Any]) -> str:
    """A transform's name without its package and the d of dictionaries."""
    package, _, name = str(told.get("_target_", "")).rpartition(".")
    if told["_target_"] in (JOINS, MERGES):
        raise InputError(f"The transform {told['_target_']} is the bundle's own code; add --trust if you trust it.")
    if PROMPTED.search(name):
        raise InputError(
            f"The transform {told['_target_']} waits for clicks or prompts, so the bundle can't be attacked as it is; "
            "choose one that segments by itself."
        )
    if package and not package.startswith("monai."):
        raise InputError(f"The transform {told['_target_']} is code of its own; {ADVICE}.")
    return name[:-1] if name.endswith("d") else name.removesuffix("Dict")


def _none_of(name: str, given: Mapping[str, Any], *keys: str) -> None:
    used = [key for key in keys if given.get(key) not in (None, False)]
    if used:
        raise InputError(f"{name} with {used[0]} isn't covered; {ADVICE}.")


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _on(value: Any) -> bool:
    """A switch; some bundles write "True"."""
    return value.strip().lower() == "true" if isinstance(value, str) else bool(value)
