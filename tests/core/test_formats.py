"""The one table of file formats: what follows from it, and that a new format touches two files."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perturbox import io
from perturbox.io import formats
from perturbox.report.load import without_private

CORE = Path(__file__).resolve().parents[2] / "core"
ROW = 'TABLE = (\n    Format(".raw8", "raw8", nearest=".nrrd", media="image/x-raw8"),'
MODULE = '''"""Voxels and nothing else."""

import numpy as np

from perturbox.io.checks import Stored


def read(path):
    values = np.frombuffer(path.read_bytes(), np.uint8).reshape(1, 2, 3, 4)
    return Stored(values=values, affine=np.eye(4), format=".raw8")
'''
PROOF = """
import sys; from pathlib import Path
from perturbox import io; from perturbox.io import formats; from perturbox.report.load import without_private
folder = Path(sys.argv[1]); (folder / "scan.raw8").write_bytes(bytes(range(24)))
volume = io.read_volume(folder / "scan.raw8")
assert volume.shape == (2, 3, 4) and volume.data.max() == 23 and io.writable_format(volume) == ".nrrd"
assert all(".raw8" in known for known in (io.FORMATS, formats.WHOLE, formats.MASKS)) and ".raw8" not in io.WRITABLE
assert without_private("of scan.raw8 alone") == "of … alone" and formats.MEDIA[".raw8"] == "image/x-raw8"
"""


def test_what_follows_from_the_table():
    assert len(formats.BY_SUFFIX) == len(formats.TABLE)
    assert formats.FORMATS == (
        ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp",
    )  # fmt: skip
    assert formats.WRITABLE == (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".bmp")
    assert set(formats.FORMATS) - set(formats.WHOLE) == {".nhdr", ".mhd"}
    assert set(formats.WHOLE) - set(formats.MASKS) == {".jpg", ".jpeg"}
    assert formats.VOLUMES == (".nii.gz", ".nii", ".nrrd", ".mha") and formats.PACKED[:2] == (".nii.gz", ".png")
    for one in formats.TABLE:
        assert (one.suffix in formats.WRITABLE) != (one.nearest in formats.WRITABLE), one
        assert one.suffix.startswith(".") and (one.whole or one.nearest)


@pytest.mark.parametrize("suffix", (*formats.FORMATS, ".dcm"))
def test_a_report_hides_the_name_of_a_scan_in_any_format(suffix):
    assert without_private(f"The file DOE_JANE{suffix} was read.") == "The file … was read."


def test_a_new_format_touches_two_files(tmp_path):
    core = tmp_path / "core"
    shutil.copytree(CORE, core, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    table = core / "perturbox" / "io" / "formats.py"
    table.write_text(table.read_text(encoding="utf-8").replace("TABLE = (", ROW), encoding="utf-8")
    (core / "perturbox" / "io" / "raw8.py").write_text(MODULE, encoding="utf-8")
    before = {path.relative_to(CORE): path.read_bytes() for path in CORE.rglob("*.py")}
    after = {path.relative_to(core): path.read_bytes() for path in core.rglob("*.py")}
    assert len([path for path in after if after[path] != before.get(path)]) == 2
    code = f"import sys; sys.path.insert(0, {str(core)!r}){PROOF}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readers_are_named_in_the_table():
    assert {one.reader for one in formats.TABLE} == {"nifti", "itk", "pictures"}
    assert io.has_room_for_notice(".png") and not io.has_room_for_notice(".bmp")
    assert not io.has_room_for_notice(formats.DICOM)
