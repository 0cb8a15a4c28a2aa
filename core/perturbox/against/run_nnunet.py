"""nnU-Net v2's own prediction of one scan. Run as `python run_nnunet.py asked.json` where nnunetv2 is installed.

Its reader, preprocessing, sliding window and export, in its own order; the network's input and the logits are written
out between them.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

ABSENT = 3
asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
out = Path(asked["out"])
try:
    import numpy as np
    import torch
    from nnunetv2.inference import export_prediction  # pyright: ignore[reportMissingImports]
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # pyright: ignore[reportMissingImports]
except ImportError as error:
    print(error.name, file=sys.stderr)
    sys.exit(ABSENT)

started = time.perf_counter()
predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
folds = asked["folds"]
predictor.initialize_from_trained_model_folder(
    asked["model"], None if folds is None else tuple(int(fold) for fold in folds.split(","))
)
plans, configuration = predictor.plans_manager, predictor.configuration_manager
preprocessor = configuration.preprocessor_class(verbose=False)
data, _, properties = preprocessor.run_case(asked["files"], None, plans, configuration, predictor.dataset_json)
prepared = torch.from_numpy(np.asarray(data, dtype=np.float32))
logits = predictor.predict_logits_from_preprocessed_data(prepared)
scores = logits.cpu().numpy().copy()
segmentation = export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape(
    logits, plans, configuration, predictor.label_manager, properties
)
ending = predictor.dataset_json["file_ending"]
plans.image_reader_writer_class().write_seg(segmentation, str(out / f"labels{ending}"), properties)
# A network of slices goes along the first axis; perturbox keeps the slices last.
slices = len(configuration.patch_size) == 2
for name, array in (("input", prepared.numpy()), ("scores", scores)):
    np.save(out / f"{name}.npy", np.moveaxis(array, 1, -1) if slices else array)
told = {"version": version("nnunetv2"), "labels": f"labels{ending}", "seconds": time.perf_counter() - started}
(out / "told.json").write_text(json.dumps(told))
