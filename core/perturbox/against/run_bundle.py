"""A MONAI bundle's own prediction of one scan, by MONAI's ConfigWorkflow. Run as `python run_bundle.py asked.json`
where monai and pytorch-ignite are installed. Whatever the bundle's configuration executes is executed.

The inferer is listened to for the network's input and its scores.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ABSENT = 3
asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
out, root = Path(asked["out"]), Path(asked["model"])
try:
    import ignite  # pyright: ignore[reportMissingImports]  # noqa: F401  (MONAI's evaluators are ignite's engines)
    import nibabel
    import numpy as np
    from monai.bundle.workflows import ConfigWorkflow
except ImportError as error:
    print(error.name, file=sys.stderr)
    sys.exit(ABSENT)

started = time.perf_counter()
sys.path.insert(0, str(root))
files = asked["files"]
config = next(path for path in sorted((root / "configs").glob("inference.*")))
workflow: Any = ConfigWorkflow(
    config_file=str(config),
    meta_file=str(root / "configs" / "metadata.json"),
    logging_file=False,
    workflow_type="infer",
)
parser = workflow.parser
changed = {
    "bundle_root": str(root),
    "output_dir": str(out / "eval"),
    "device": "$torch.device('cpu')",
    "dataset#data": [{"image": files[0] if len(files) == 1 else files}],
    "dataloader#num_workers": 0,
}
for key, value in changed.items():
    section, _, inner = key.partition("#")
    if section in parser and (not inner or inner in parser[section]):
        parser[key] = value
workflow.initialize()

seen: dict[str, Any] = {}
inferer = workflow.inferer
real = type(inferer).__call__


def listen(self: Any, inputs: Any, network: Any, *rest: Any, **options: Any) -> Any:
    """The inferer's own call; keeps what it was given and what it made."""
    found = real(self, inputs, network, *rest, **options)
    seen["input"], seen["scores"] = inputs, found
    return found


type(inferer).__call__ = listen
workflow.run()
for name, tensor in seen.items():
    np.save(out / f"{name}.npy", np.asarray(tensor.detach().cpu())[0])
answer = workflow.evaluator.state.output[0]
pred = np.asarray(answer["pred"].cpu() if hasattr(answer["pred"], "cpu") else answer["pred"])
labels = np.zeros(pred.shape[1:], np.int16)
if len(pred) == 1:
    labels[...] = np.rint(pred[0])
else:  # channels that answer yes or no paint one over the other
    for channel, said in enumerate(pred):
        labels[said > 0] = channel + 1
affine = nibabel.load(files[0]).affine  # type: ignore[attr-defined]
nibabel.save(nibabel.Nifti1Image(labels, affine), out / "labels.nii.gz")  # type: ignore[attr-defined]
told = {"version": version("monai"), "labels": "labels.nii.gz", "seconds": time.perf_counter() - started}
(out / "told.json").write_text(json.dumps(told))
