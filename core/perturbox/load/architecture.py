"""Networks by description: a class of a closed list, and its arguments as data."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from perturbox.types import InputError

# Of MONAI's networks those that segment and are made of plain arguments.
NETWORKS = ("AttentionUnet", "BasicUNet", "BasicUnet", "BasicUNetPlusPlus", "DiNTS", "DynUNet", "FlexibleUNet",
            "HighResNet", "SegResNet", "SegResNetDS", "SwinUNETR", "UNet", "UNETR", "Unet", "VNet")  # fmt: skip


def network_from(told: Mapping[str, Any], where: str) -> nn.Module:
    """{"_target_": "UNet", …} -> MONAI's network of that name. Raises InputError for others and for wrong arguments."""
    import monai.networks.nets as nets

    target = str(told.get("_target_", ""))
    package, _, name = target.rpartition(".")
    if package not in ("", "monai.networks.nets") and not package.startswith("monai.networks.nets."):
        raise InputError(f"The network {target} of {where} is code of its own; add --trust if you trust it.")
    if name not in NETWORKS:
        raise InputError(f"The network '{target}' of {where} isn't known; there are {', '.join(NETWORKS)} of MONAI.")
    arguments = {key: value for key, value in told.items() if not key.startswith("_")}
    if name == "SwinUNETR":
        arguments.pop("img_size", None)  # it was only checked, and later versions lack it
    try:
        made = getattr(nets, name)
        inspect.signature(made).bind(**arguments)
        return made(**arguments).eval()
    except Exception as error:  # whatever a network says of its arguments
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"The network '{target}' of {where} can't be built by the MONAI installed here ({reason}); "
            "use the MONAI version that the model names."
        ) from None
