"""Plans and dataset of small nnU-Net v2 models, as nnU-Net writes them; for the script that makes their folders in a
Python that has nnU-Net, and for tests that have none."""

from typing import Any

NAMES = {"CT": "CTNormalization", "MR": "ZScoreNormalization", "rescale": "RescaleTo01Normalization"}
# The kinds of models that are compared with nnU-Net. patch, spacing: along nnU-Net's axes (z, y, x), transposed.
KINDS: dict[str, dict[str, Any]] = {
    "ct": {"patch": [12, 12, 12], "spacing": [2.6, 1.8, 1.8]},
    "z-score in mask": {"patch": [12, 12, 12], "spacing": [2.6, 1.8, 1.8], "channels": ["MR"], "mask": True},
    "two channels": {"patch": [12, 12, 12], "spacing": [2.6, 1.8, 1.8], "channels": ["MR", "CT"]},
    "2d": {"patch": [12, 12], "spacing": [1.8, 1.8], "configuration": "2d", "channels": ["MR"]},
    "residual": {"patch": [12, 12, 12], "spacing": [2.6, 1.8, 1.8], "residual": True},
    "regions": {"patch": [12, 12, 12], "spacing": [2.6, 1.8, 1.8], "regions": True},
    "two folds": {"patch": [12, 12, 12], "spacing": [2.6, 1.8, 1.8], "folds": 2, "mirror": [0, 2]},
    "transposed": {"patch": [12, 16, 12], "spacing": [1.8, 2.6, 2.0], "transpose": [2, 0, 1]},
    "separate z": {"patch": [8, 12, 12], "spacing": [6.0, 1.6, 1.6]},
    "by torch": {"patch": [12, 12, 12], "spacing": [2.6, 1.8, 1.8], "resampling": "torch", "mirror": None},
    "rescaled": {"patch": [12, 12, 12], "spacing": [2.6, 1.8, 1.8], "channels": ["rescale"], "mirror": None},
}  # fmt: skip


def plans_of(told: dict[str, Any]) -> dict[str, Any]:
    dims = len(told["patch"])
    channels = told.get("channels", ["CT"])
    stages, residual = 3, told.get("residual", False)
    spatial = [[1] * dims, [2] * dims, [2] * dims]
    arguments = {
        "n_stages": stages,
        "features_per_stage": [6, 8, 12],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[3] * dims] * stages,
        "strides": spatial,
        "n_blocks_per_stage" if residual else "n_conv_per_stage": [1] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    network_class = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    architecture = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network_class}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    by_torch = told.get("resampling") == "torch"
    function = "resample_torch_fornnunet" if by_torch else "resample_data_or_seg_to_shape"

    def options(order: int, segmentation: bool) -> dict[str, Any]:
        own = {"memefficient_seg_resampling": False} if by_torch else {"order": order, "order_z": 0}
        return {"is_seg": segmentation, "force_separate_z": None, **own}

    forward = told.get("transpose", [0, 1, 2])
    return {
        "dataset_name": "Dataset998_Made",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": [40] * 3,
        "image_reader_writer": told.get("reader", "SimpleITKIO"),
        "transpose_forward": forward,
        "transpose_backward": [forward.index(axis) for axis in range(3)],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(c): {"max": 1400.0, "mean": 60.0, "median": 55.0, "min": -900.0, "percentile_00_5": -160.0,
                     "percentile_99_5": 260.0, "std": 80.0} for c in range(len(channels))
        },
        "configurations": {
            told.get("configuration", "3d_fullres"): {
                "data_identifier": "nnUNetPlans",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": told["patch"],
                "median_image_size_in_voxels": [40.0] * dims,
                "spacing": told["spacing"],
                "normalization_schemes": [NAMES[channel] for channel in channels],
                "use_mask_for_norm": [told.get("mask", False)] * len(channels),
                "resampling_fn_data": function,
                "resampling_fn_seg": function,
                "resampling_fn_probabilities": function,
                "resampling_fn_data_kwargs": options(3, False),
                "resampling_fn_seg_kwargs": options(1, True),
                "resampling_fn_probabilities_kwargs": options(1, False),
                "architecture": architecture,
                "batch_dice": False,
            }
        },
    }  # fmt: skip


def dataset_of(told: dict[str, Any]) -> dict[str, Any]:
    regions = told.get("regions", False)
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3} if regions else {"background": 0, "a": 1, "b": 2, "c": 3}  # fmt: skip  # noqa: E501
    return {
        "channel_names": {str(c): channel for c, channel in enumerate(told.get("channels", ["CT"]))},
        "labels": labels,
        "numTraining": 1,
        "file_ending": ".nii.gz",
        **({"regions_class_order": [1, 2, 3]} if regions else {}),
    }
