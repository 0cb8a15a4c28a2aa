"""The datastore of a DICOM server by itself, against one that behaves as badly as each test needs it to."""

from types import SimpleNamespace

import inside  # noqa: F401
import numpy as np
import pydicom
import pytest
import requests
import tiny
from dicom_series import write_series

from lib import dicomweb
from perturbox import io
from perturbox.jobs import Refused
from perturbox.types import InputError

SERIES, STUDY = "1.2.3.4", "1.2.3"


class Pacs:
    """As much of `DICOMwebClient` as the datastore uses; `slices` are what it lists, `sent` what it really sends."""

    base_url = "http://pacs.test/dicom-web"

    def __init__(self, slices):
        self.slices = self.sent = slices
        self.listed = [{"0020000D": {"Value": [STUDY]}, "0020000E": {"Value": [SERIES]}}]
        self.segs, self.page, self.knows_offset = [], 2, True
        self.asked = []

    def search_for_series(self, search_filters, offset=0):
        self.asked.append(search_filters)
        if search_filters.get("Modality") == "SEG":
            return [] if offset else self.segs
        wanted = search_filters.get("SeriesInstanceUID")
        found = [entry for entry in self.listed if wanted in (None, entry["0020000E"]["Value"][0])]
        offset = offset if self.knows_offset else 0
        return found[offset : offset + self.page]

    def search_for_instances(self, study_instance_uid, series_instance_uid, offset=0):
        assert (study_instance_uid, series_instance_uid) == (STUDY, SERIES)
        uids = [{"00080018": {"Value": [str(image.SOPInstanceUID)]}} for image in self.slices]
        return uids[offset : offset + self.page]

    def iter_series(self, study, series):
        self.asked.append("voxels")
        yield from self.sent

    def retrieve_series_metadata(self, study, series):
        self.asked.append(f"metadata of {series}")
        return [{"00081115": {"vr": "SQ", "Value": [{"0020000E": {"vr": "UI", "Value": [SERIES]}}]}}]


@pytest.fixture
def pacs(tmp_path):
    paths = write_series(tmp_path / "source", tiny.scan())
    return Pacs([pydicom.dcmread(path) for path in paths])


@pytest.fixture
def store(pacs, tmp_path):
    store = dicomweb.DicomServer(pacs, {"Modality": "CT"}, str(tmp_path / "cache"))
    yield store
    store._observer.stop()
    store._observer.join()


def entry(uid: str) -> dict:
    return {"0020000D": {"Value": [STUDY]}, "0020000E": {"Value": [uid]}}


def test_every_page_of_a_list_is_read_once_a_minute(store, pacs):
    pacs.listed = [entry(f"1.2.3.{number}") for number in range(5)]
    assert store.list_images() == [f"1.2.3.{number}" for number in range(5)]
    asked = len(pacs.asked)
    assert store.list_images() and len(pacs.asked) == asked == 4  # pages of 2, 2, 1 and none
    store._listed = (store._listed[0] - dicomweb.LIST_SECONDS - 1, store._listed[1])
    pacs.listed = [entry("1.2.3.9")]
    assert store.list_images() == ["1.2.3.9"]


def test_a_server_that_knows_no_offset_is_not_asked_for_ever(store, pacs):
    pacs.listed, pacs.knows_offset, pacs.page = [entry("1.2.3.1"), entry("1.2.3.2")], False, 10
    assert store.list_images() == ["1.2.3.1", "1.2.3.2"]
    assert len(pacs.asked) == 2


@pytest.mark.parametrize("uid", ["../../etc", "1.2", "1.2.3/..", "", "1.2.3\n", "abc"])
def test_what_is_no_uid_is_not_listed(store, pacs, uid):
    pacs.listed = [entry(uid), entry("1.2.3.4")]
    assert store.list_images() == ["1.2.3.4"]
    with pytest.raises(Refused) as refusal:
        store.series(uid)
    assert refusal.value.status == 404


def test_a_series_is_kept_slice_by_slice_and_fetched_once(store, pacs, tmp_path):
    folder = store.series(SERIES)
    assert folder == tmp_path / "cache" / f"{store.root.name}-slices" / SERIES
    assert {path.stem for path in folder.iterdir()} == {str(image.SOPInstanceUID) for image in pacs.slices}
    assert np.array_equal(io.read_volume(folder).data, io.read_volume(tmp_path / "source").data)
    assert store.series(SERIES) == folder and pacs.asked.count("voxels") == 1
    assert {"Modality": "CT", "SeriesInstanceUID": SERIES} in pacs.asked  # the filter holds for single series too


@pytest.mark.parametrize("left", [0, 1, 17])
def test_a_series_that_comes_short_is_refused_and_not_kept(store, pacs, left):
    pacs.sent = pacs.slices[:left]
    with pytest.raises(Refused) as refusal:
        store.series(SERIES)
    assert refusal.value.status == 503
    assert refusal.value.problem.detail == f"The DICOM server sent {left} of the 18 images of this series."
    assert not (store.slices / SERIES).exists() and not list(store.slices.glob(".draft-*"))
    pacs.sent = pacs.slices
    assert len(list(store.series(SERIES).iterdir())) == 18


def test_a_transfer_that_breaks_leaves_the_old_series(store, pacs):
    def broken(study, series):
        yield pacs.slices[0]
        raise requests.ConnectionError

    folder = store.series(SERIES)
    held = {path.name for path in folder.iterdir()}
    pacs.slices = pacs.slices[:-1]  # one was deleted there
    pacs.iter_series = broken
    with pytest.raises(requests.ConnectionError):
        store.series(SERIES)
    assert {path.name for path in folder.iterdir()} == held and not list(store.slices.glob(".draft-*"))


def test_images_of_another_series_and_names_that_are_paths_are_not_kept(store, pacs):
    stranger = SimpleNamespace(get=lambda *_: "../../../evil", save_as=lambda path: path.write_bytes(b"x"))
    pacs.sent = [stranger, *pacs.slices]
    folder = store.series(SERIES)
    assert len(list(folder.iterdir())) == 18 and not list(store.root.parent.parent.rglob("evil*"))


def test_a_segmentation_counts_for_its_series_and_is_looked_at_once(store, pacs):
    assert store.get_labeled_images() == [] and store.get_unlabeled_images() == [SERIES]
    pacs.segs = [entry("1.2.3.99")]
    store._marked = (0.0, [])
    assert store.get_labeled_images() == [SERIES] and store.get_unlabeled_images() == []
    store._marked = (0.0, [])
    assert store.status() == {"total": 1, "completed": 1, "label_tags": {}}
    assert pacs.asked.count("metadata of 1.2.3.99") == 1
    assert store.get_label_uri(SERIES, "final") == ""  # counted, but not read


def test_a_series_that_lies_askew_is_refused_without_a_path(store, pacs, tmp_path):
    for image in pacs.slices[:5]:
        image.ImagePositionPatient = [*image.ImagePositionPatient[:2], float(image.ImagePositionPatient[2]) + 1]
    with pytest.raises(InputError) as refusal:
        store.get_image_uri(SERIES)
    assert str(refusal.value).startswith("This series ") and str(tmp_path) not in str(refusal.value)
