"""nnU-Net v2: the folder nnUNetv2_train leaves, read without nnU-Net (Isensee et al. 2021,
doi 10.1038/s41592-020-01008-z).

plans.json, dataset.json and the checkpoints are data. The network's class is one of a list of
dynamic_network_architectures, the only package that is needed. Cascades, nnU-Net v1 and custom trainers' networks are
refused.
"""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturbox.load.checkpoint import fill, read_checkpoint, read_json, state_of
from perturbox.load.spec import Spec
from perturbox.model.pipeline import Pipeline, Step
from perturbox.model.pipeline.nnunet import Normalise, Resample
from perturbox.model.pipeline.space import CropNonzero, Orient, Permute
from perturbox.model.victim import Victim
from perturbox.model.windows import Window
from perturbox.model.wrappers import Folds, Mirrored
from perturbox.types import InputError

PACKAGE = "dynamic_network_architectures.architectures.unet"
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
LAYERS = ("Conv2d", "Conv3d", "InstanceNorm2d", "InstanceNorm3d", "BatchNorm2d", "BatchNorm3d", "Dropout2d",
          "Dropout3d", "LeakyReLU", "ReLU", "ELU", "GELU")  # fmt: skip
REORIENTING = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")


def load(spec: Spec, device: torch.device, trust: bool = False) -> Victim:
    """The victim of a trained model's folder (the one with plans.json). Raises InputError for what isn't covered."""
    folder = spec.path
    if (folder / "plans.pkl").is_file() and not (folder / "plans.json").is_file():
        raise InputError(f"'{folder}' is of nnU-Net v1, whose plans are pickles; train or convert it with nnU-Net v2.")
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    found = {fold: read_checkpoint(path) for fold, path in checkpoints(folder, spec.options.get("folds")).items()}
    first = next(iter(found.values()))
    name = (first.get("init_args") or {}).get("configuration") if isinstance(first, Mapping) else None
    configuration = configured(plans, name, folder)
    labels, regions = labels_of(dataset, folder)
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    heads = len(regions) if regions else len(labels)
    steps = steps_of(plans, configuration, len(channels))
    members: list[nn.Module] = []
    for fold, state in found.items():
        network = build(configuration, len(channels), heads)
        fill(network, state_of(state, folder / fold), folder / fold)
        axes = state.get("inference_allowed_mirroring_axes")
        members.append(Mirrored(network, axes) if axes else network)
    size = tuple(int(n) for n in configuration["patch_size"])
    return Victim(
        name=re.sub(r"[^\w.-]+", "-", str(plans.get("dataset_name") or folder.name)).lower(),
        title=f"{plans.get('dataset_name', folder.name)} (nnU-Net {name}, fold {', '.join(f[5:] for f in found)})",
        network=(members[0] if len(members) == 1 else Folds(members)).requires_grad_(False),
        labels=labels,
        regions=regions,
        window=Window(size, overlap=0.5, blend="nnunet", batch=1, placing="even", sums="float16"),
        pipeline=Pipeline(tuple(steps)),
        unit="HU" if _all_ct(configuration) else "intensity",
        dims=len(size),
        channels=len(channels),
        channel_names=tuple(str(channels[number]) for number in sorted(channels, key=int)),
        training_data=str(dataset.get("description") or "not stated"),
        licence=str(dataset.get("licence") or dataset.get("license") or "not stated"),
        device=device,
    )


def checkpoints(folder: Path, wanted: str | None) -> dict[str, Path]:
    """{fold's folder: checkpoint}, of all folds or those wanted."""
    there = sorted(path.name for path in folder.glob("fold_*") if path.is_dir())
    names = there if wanted is None else [f"fold_{fold.strip()}" for fold in wanted.split(",")]
    missing = [name for name in names if name not in there]
    if missing or not names:
        have = f"it has {', '.join(there)}" if there else "it has no fold"
        what = missing[0] if missing else "fold_…"
        raise InputError(f"'{folder}' has no {what}; {have}: give nnunet:DIR:folds=0,1 with those that were trained.")
    found = {}
    for name in names:
        files = [folder / name / file for file in ("checkpoint_final.pth", "checkpoint_best.pth")]
        path = next((path for path in files if path.is_file()), None)
        if path is None and wanted is not None:
            raise InputError(
                f"'{folder / name}' has no checkpoint_final.pth; finish its training, or choose other folds."
            )
        if path is not None:
            found[name] = path
    if not found:
        raise InputError(f"'{folder}' has no fold with a checkpoint_final.pth; copy the trained model's whole folder.")
    return found


def configured(plans: Mapping[str, Any], name: Any, folder: Path) -> dict[str, Any]:
    """A configuration with what it inherits."""
    known = plans.get("configurations") or {}
    if name not in known:
        raise InputError(
            f"The plans in '{folder}' have no configuration '{name}', which the checkpoint is of; copy both."
        )
    own = dict(known[name])
    while "inherits_from" in own:
        parent = own.pop("inherits_from")
        if parent not in known:
            raise InputError(f"The plans in '{folder}' inherit from '{parent}', which they lack; copy them again.")
        own = {**known[parent], **own}
    if own.get("previous_stage"):
        raise InputError(
            f"'{name}' is the second stage of a cascade, which needs the first one's segmentation; use 3d_fullres."
        )
    return own


def labels_of(dataset: Mapping[str, Any], folder: Path) -> tuple[dict[str, int], tuple[tuple[int, ...], ...] | None]:
    """({structure: value}, regions or None). The value a region paints gets the region's name."""
    given = {name: value for name, value in (dataset.get("labels") or {}).items() if name != "ignore"}
    if not given:
        raise InputError(f"The dataset.json in '{folder}' names no labels; copy it again.")
    if not any(isinstance(value, list) and len(value) > 1 for value in given.values()):
        single = {name: int(v[0]) if isinstance(v, list) else int(v) for name, v in given.items()}
        return dict(sorted(single.items(), key=lambda entry: entry[1])), None
    order = dataset.get("regions_class_order")
    named = {n: [int(x) for x in (v if isinstance(v, list) else [v])] for n, v in given.items()}
    named = {name: values for name, values in named.items() if any(values)}
    if not order or len(order) != len(named):
        raise InputError(f"The dataset.json in '{folder}' has regions without their regions_class_order; add it.")
    labels = {"background": 0} | {name: int(value) for name, value in zip(named, order, strict=True)}
    painted = set(labels.values())
    regions = tuple(
        (int(value), *(v for v in values if v != value and v in painted))
        for value, values in zip(order, named.values(), strict=True)
    )
    return labels, regions


def steps_of(plans: Mapping[str, Any], configuration: Mapping[str, Any], channels: int) -> list[Step]:
    """From a scan's axes (i, j, k) to the network's: (z, y, x), or slices last."""
    forward = [int(a) for a in plans.get("transpose_forward", (0, 1, 2))]
    steps: list[Step] = [Orient("RAS")] if plans.get("image_reader_writer") in REORIENTING else []
    steps += [Permute(tuple(2 - a for a in forward)), CropNonzero()]
    properties = plans.get("foreground_intensity_properties_per_channel") or {}
    schemes, masks = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
    if len(schemes) != channels:
        raise InputError(f"The plans normalise {len(schemes)} channel(s) and dataset.json names {channels}; copy both.")
    steps.append(
        Normalise(
            tuple(
                {"scheme": scheme, "masked": bool(masked), "properties": properties.get(str(c)) or {}}
                for c, (scheme, masked) in enumerate(zip(schemes, masks, strict=True))
            )
        )
    )
    data, scores = "resampling_fn_data", "resampling_fn_probabilities"
    steps.append(
        Resample(
            tuple(float(s) for s in configuration["spacing"]),
            configuration[data],
            configuration.get(f"{data}_kwargs") or {},
            configuration[scores],
            configuration.get(f"{scores}_kwargs") or {},
        )
    )
    return [*steps, Permute((1, 2, 0))] if len(configuration["patch_size"]) == 2 else steps


def build(configuration: Mapping[str, Any], channels: int, heads: int) -> nn.Module:
    """The network of a configuration, its class from a list of allowed ones."""
    described = configuration.get("architecture") or _older(configuration)
    path = str(described["network_class_name"])
    package, _, name = path.rpartition(".")
    if package != PACKAGE or name not in NETWORKS:
        raise InputError(
            f"The plans ask for the network {path}; only {', '.join(NETWORKS)} of nnU-Net's own are known."
        )
    arguments = dict(described["arch_kwargs"])
    for key in described.get("_kw_requires_import") or ():
        if arguments.get(key) is not None:
            arguments[key] = _layer(str(arguments[key]))
    try:
        architectures = importlib.import_module(PACKAGE)
    except ImportError:
        raise InputError(
            "nnU-Net's networks need one more package; `pip install --no-deps dynamic-network-architectures` "
            "(without `--no-deps` pip may replace torch)."
        ) from None
    return getattr(architectures, name)(
        input_channels=channels, num_classes=heads, deep_supervision=False, **arguments
    ).eval()


def _layer(path: str) -> type[nn.Module]:
    name = path.rpartition(".")[2]
    if not re.fullmatch(r"torch\.nn(\.modules\.\w+)?", path.rpartition(".")[0]) or name not in LAYERS:
        raise InputError(f"The plans ask for the layer {path}; only {', '.join(LAYERS)} of torch.nn are known.")
    return getattr(nn, name)


def _older(c: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of plans written before nnU-Net 2.3, which name it by other keys."""
    dims, name = len(c["patch_size"]), str(c["UNet_class_name"])
    stages = len(c["n_conv_per_stage_encoder"])
    width, most = int(c["UNet_base_num_features"]), int(c["unet_max_num_features"])
    return {
        "network_class_name": f"{PACKAGE}.{name}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(width * 2**i, most) for i in range(stages)],
            "conv_op": f"torch.nn.Conv{dims}d",
            "kernel_sizes": c["conv_kernel_sizes"],
            "strides": c["pool_op_kernel_sizes"],
            "n_blocks_per_stage" if name.startswith("Residual") else "n_conv_per_stage": c["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": c["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _all_ct(configuration: Mapping[str, Any]) -> bool:
    return all(scheme == "CTNormalization" for scheme in configuration["normalization_schemes"])
