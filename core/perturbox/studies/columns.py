"""The columns of a study's Parquet files: their types, units and meanings."""

from collections.abc import Mapping

import pyarrow as pa

# Column: its type and, where it has one, its unit or meaning.
Columns = Mapping[str, tuple[pa.DataType, str]]

TEXT, NUMBER, COUNT, YES = pa.string(), pa.float64(), pa.int64(), pa.bool_()
RESULTS: Columns = {
    "surrogate": (TEXT, "the model that the change was made for"),
    "target": (TEXT, "the model that judged the saved file"),
    "attack": (TEXT, ""),
    "knowledge": (
        TEXT,
        "of the attack: white-box or black-box, adaptive (of the target's defences too) or oblivious (of all but them) "
        "where the target has any, transfer where it was made for another model",
    ),
    "stand_in": (TEXT, "in the defences' place, for the gradient of an adaptive attack: the one that left least"),
    "corruption": (TEXT, "an ordinary change in the attack's place; beside an attack's name as large as that one's"),
    "grade": (COUNT, "of the ordinary change; null where it is as large as an attack"),
    "eps": (NUMBER, "in eps_unit"),
    "eps_unit": (TEXT, ""),
    "eps_native": (NUMBER, "in the scan's unit"),
    "norm": (TEXT, ""),
    "seed": (COUNT, ""),
    "case": (TEXT, ""),
    "patient": (TEXT, "the unit of the statistics"),
    "structure": (TEXT, ""),
    "reference": (TEXT, "label or clean_prediction"),
    "size": (NUMBER, "of the structure in the reference, in the case's sizes"),
    "dice_clean": (NUMBER, "before, with the reference"),
    "dice": (NUMBER, "after, with the reference"),
    "dice_against_clean": (NUMBER, "after, with the model's own prediction before"),
    "dice_noise": (NUMBER, "under white noise of the RMS of the target's own attack, with the reference"),
    "dice_rolled": (NUMBER, "under the target's own perturbation rolled elsewhere, with the reference"),
    "dice_benign": (NUMBER, "of the prediction with itself under harmless changes"),
    "iou": (NUMBER, ""),
    "hd95_mm": (NUMBER, "mm, of photographs pixels"),
    "nsd": (NUMBER, ""),
    "volume_clean": (NUMBER, "predicted before, in the case's sizes"),
    "volume": (NUMBER, "predicted after, in the case's sizes"),
    "verdict": (TEXT, ""),
    "linf": (NUMBER, "of the saved change, in the scan's unit"),
    "rms": (NUMBER, "of the saved change, in the scan's unit"),
    "rms_over_sigma": (NUMBER, ""),
    "gradients": (NUMBER, "of whole predictions that the attack took, with every stand-in and draw"),
    "repeats": (YES, "whether the target answered the unchanged scan twice alike"),
    "status": (TEXT, "ok, gated or failed"),
    "reason": (TEXT, ""),
}
CONTROLS = ("dice_noise", "dice_rolled")
MODELS: Columns = {
    "model": (TEXT, ""),
    "sha256": (TEXT, "of weights and pipeline"),
    "structure": (TEXT, ""),
    "dice_clean": (NUMBER, "mean over the cases, with the reference"),
    "cases": (COUNT, "that hold the structure"),
    "defense": (TEXT, "filters before the model, the first nearest to the scan"),
    "gated": (YES, "below the gate: struck out"),
    "factors": (TEXT, "JSON"),
}
CASES: Columns = {
    "case": (TEXT, ""),
    "patient": (TEXT, ""),
    "sha256": (TEXT, "of the scan's file"),
    "label_sha256": (TEXT, ""),
    "shape": (TEXT, "voxels, of a flat image pixels"),
    "spacing_mm": (TEXT, "null for a photograph, whose pixels have no size"),
    "sizes": (TEXT, "what sizes are told in: ml, of a flat image cm², of a photograph pixels"),
    "unit": (TEXT, "of values and of changes"),
    "storage_step": (NUMBER, "in the scan's unit; null for floating point"),
    "p1": (NUMBER, "1 % percentile"),
    "p99": (NUMBER, "99 % percentile"),
    "sigma": (NUMBER, "noise, by the first model's segmentation"),
    "left_out": (TEXT, "why it isn't used"),
}
EFFORT: Columns = {
    "key": (TEXT, ""),
    "kind": (TEXT, ""),
    "status": (TEXT, ""),
    "wall_s": (NUMBER, ""),
    "cpu_s": (NUMBER, ""),
    "threads": (COUNT, ""),
    "forwards": (NUMBER, "predictions of a whole scan"),
    "backwards": (NUMBER, "gradients of a whole prediction"),
}
CERTIFICATES: Columns = {  # results.parquet of a study of kind certify
    "model": (TEXT, "the one that is smoothed"),
    "sigma": (NUMBER, "of the noise, in sigma_unit"),
    "sigma_unit": (TEXT, ""),
    "sigma_native": (NUMBER, "in the scan's unit"),
    "tau": (NUMBER, "the share of noisy copies that a certified answer has more than"),
    "alpha": (NUMBER, "the chance that any certified voxel of the scan is wrong in that"),
    "correction": (TEXT, "of the tests of all voxels"),
    "n0": (COUNT, "copies that choose the answers"),
    "n": (COUNT, "copies that vote"),
    "least_votes": (COUNT, "from which on an answer is certified; null where no voxel has as many"),
    "tests": (COUNT, "voxels that were tested"),
    "seed": (COUNT, ""),
    "case": (TEXT, ""),
    "patient": (TEXT, "the unit of the statistics"),
    "structure": (TEXT, ""),
    "size": (NUMBER, "that the model finds without noise, in the case's sizes"),
    "size_smoothed": (NUMBER, "that was tested as this structure, in the case's sizes"),
    "size_certified": (NUMBER, "certified as this structure, in the case's sizes"),
    "certified": (NUMBER, "share of what the model finds without noise that is certified as this structure"),
    "other": (NUMBER, "share of the same that is certified as another answer"),
    "abstained": (NUMBER, "share of the same that isn't certified"),
    "certified_of_structures": (NUMBER, "share of all structures of the scan together"),
    "dice_clean": (NUMBER, "of the model without noise with the label; null without labels, as the next two"),
    "dice_smoothed": (NUMBER, "of the answers that were tested with the label"),
    "dice": (NUMBER, "of what is certified as this structure with the label"),
    "radius": (NUMBER, "L2 norm over the scan, in the scan's unit"),
    "radius_rms": (NUMBER, "the same as RMS over all values, in the scan's unit"),
    "values": (COUNT, "of the scan: voxels or pixels, times channels"),
    "status": (TEXT, "ok, gated or failed"),
    "reason": (TEXT, ""),
}
SCORES: Columns = {  # scores.parquet of a study of kind detectors
    "model": (TEXT, ""),
    "detector": (TEXT, ""),
    "fitted_on": (TEXT, "the attack that it learned, beside clean scans and noise as large; null if it learns of none"),
    "kind": (TEXT, "of the scan: clean, attacked, noise (as large as the attack), rolled (its change), corruption"),
    "attack": (TEXT, "of attacked scans, and of the noise and the rolled change that are as large"),
    "corruption": (TEXT, "an ordinary change"),
    "grade": (COUNT, "of it"),
    "eps": (NUMBER, "in eps_unit of results.parquet: the first limit at which the answer fell"),
    "seed": (COUNT, ""),
    "case": (TEXT, ""),
    "patient": (TEXT, "the unit of the statistics"),
    "raw": (NUMBER, "the detector's own number, from a fit without this patient"),
    "score": (NUMBER, "how far it lies from those of clean scans; higher is more suspicious"),
}
_OF = "Clopper and Pearson's interval"
DETECTORS: Columns = {  # detectors.parquet of a study of kind detectors
    "model": (TEXT, ""),
    "detector": (TEXT, ""),
    "fitted_on": SCORES["fitted_on"],
    "positives": (TEXT, "attacked, or a control beside clean scans: noise, rolled, corruption"),
    "attack": SCORES["attack"],
    "corruption": SCORES["corruption"],
    "grade": SCORES["grade"],
    "scans": (COUNT, "that were attacked, over seeds"),
    "fell": (COUNT, "of these"),
    "patients_fell": (COUNT, "whom these are of"),
    "eps": (NUMBER, "median over what fell, in eps_unit of results.parquet"),
    "rms": (NUMBER, "median RMS of the change over what fell, in the same unit"),
    "agreement": (NUMBER, "median of the mean Dice with the model's own answer, over what fell"),
    "auroc": (NUMBER, "positives against negatives: clean, noise, rolled and corruptions together; of controls clean"),
    "low": (NUMBER, "of the 95 % bootstrap interval over patients"),
    "high": (NUMBER, "of the same"),
    "auroc_clean": (NUMBER, "against clean scans alone"),
    "auroc_noise": (NUMBER, "against noise as large alone"),
    "auroc_rolled": (NUMBER, "against the rolled change alone"),
    "auroc_corruption": (NUMBER, "against ordinary changes alone"),
    "negatives": (COUNT, ""),
    "attacked": (COUNT, "positives"),
    "patients": (COUNT, "of the negatives"),
    "least_rate": (NUMBER, "the lowest false alarm rate that so many patients resolve"),
    **{
        f"tpr_{rate}{end}": (NUMBER, f"share of positives found at {rate} % false alarms, null if not resolvable")
        if not end
        else (NUMBER, f"end of {_OF}")
        for rate in (1, 5, 10)
        for end in ("", "_low", "_high")
    },
    "reason": (TEXT, "why there is no number"),
}
