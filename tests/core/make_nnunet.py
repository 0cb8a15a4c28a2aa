"""Make a small model folder of nnU-Net v2 through nnU-Net's own network builder, with random weights. Run as
`python make_nnunet.py OUT '{"patch": …}'` by the Python that has nnunetv2; `peers.nnunet_folder` does so.

Random networks give scores near 0 whose highest is noise; a larger last layer makes them look like a trained one's.
"""

import json
import sys
from pathlib import Path

import torch
from nnunet_plans import dataset_of, plans_of
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

out, told = Path(sys.argv[1]), json.loads(sys.argv[2])
plans, dataset = plans_of(told), dataset_of(told)
((configuration, described),) = plans["configurations"].items()
architecture = described["architecture"]
out.mkdir(parents=True)
(out / "plans.json").write_text(json.dumps(plans))
(out / "dataset.json").write_text(json.dumps(dataset))
for fold in range(told.get("folds", 1)):
    torch.manual_seed(fold)
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        len(dataset["channel_names"]),
        len(dataset.get("regions_class_order") or dataset["labels"]),
        deep_supervision=False,
    )
    with torch.no_grad():
        for layer in network.decoder.seg_layers:
            layer.weight.mul_(30)
    (out / f"fold_{fold}").mkdir()
    state = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": configuration, "fold": fold},
        "inference_allowed_mirroring_axes": told.get("mirror", list(range(len(told["patch"])))),
    }
    torch.save(state, out / f"fold_{fold}" / "checkpoint_final.pth")
