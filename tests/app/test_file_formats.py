"""The server's lists of file formats are those of the core's table."""

import inside  # noqa: F401 — puts the app on the path
from monailabel.config import settings

from lib import nrrd
from lib.api import files
from lib.guard import store, uploads
from perturbox.io import formats


def test_uploads_datastore_and_downloads_know_every_format_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_FILE_EXT", ["*.nii"])
    assert store.open_folder(str(tmp_path), tmp_path) is None  # MONAI Label opens it, with these suffixes:
    assert [f"*{suffix}" for suffix in formats.WHOLE] == settings.MONAI_LABEL_DATASTORE_FILE_EXT
    assert uploads.SCANS == formats.WHOLE and {".mha", ".bmp", ".jpeg", ".tiff"} < set(uploads.SCANS)
    assert uploads.MASKS == formats.MASKS and uploads.LABELS == nrrd.CONVERTIBLE == formats.VOLUMES
    assert {suffix: files.media_type(f"x{suffix}") for suffix in formats.FORMATS} == formats.MEDIA
