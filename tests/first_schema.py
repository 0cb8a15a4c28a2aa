"""How the folders in tests/core/first_schema came about: two attacks on the tiny victim by the last version that wrote
perturbox-result/1 (commit 2ce5e3c, its core on PYTHONPATH), run at the repository's root.

    PYTHONPATH=OLD/core:tests/core python tests/first_schema.py
"""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import tiny

from perturbox.job.execute import Job, run_job

HERE = Path("tests/core/first_schema")
VICTIM = "tests/core/tiny.py:volume"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scan = tiny.write_scan(Path(folder) / "ct.nii.gz", shape=(14, 12, 10))
        image = nib.load(scan)
        liver = (np.asanyarray(image.dataobj) > -50) & (np.asanyarray(image.dataobj) < 100)
        nib.save(nib.Nifti1Image(liver.astype(np.uint8), image.affine), Path(folder) / "liver.nii.gz")
        for name, label in (("own", None), ("expert", str(Path(folder) / "liver.nii.gz"))):
            run_job(Job(str(scan), victim=VICTIM, eps=12, steps=3, seed=3, label=label), HERE / name)
            (HERE / name / "report.html").unlink()  # `perturbox report` writes it again


if __name__ == "__main__":
    main()
