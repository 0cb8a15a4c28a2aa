"""A DICOM server (PACS) as the datastore: what it lists, and each series as it is there at this moment.

MONAI Label's own believes a list for hours, keeps a series that came incomplete for good, and turns slices into NIfTI
without a look at where they lie. Here attacks read the slices themselves, by the reader that checks them; NIfTI is made
for viewers only, by the same reader. Nothing is sent to the DICOM server but a final label, as DICOM SEG.
"""

import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import nifti_to_dicom_seg
from monailabel.datastore.utils.dicom import dicom_web_upload_dcm
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter

from perturbox import io
from perturbox.jobs import Problem, Refused
from perturbox.types import InputError

UID = re.compile(r"[0-9]+(\.[0-9]+){2,}")
CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
LIST_SECONDS = 60.0  # for so long a list of what there is, is believed
MOST_PAGES = 10_000
DRAFT, STALE_SECONDS = ".draft-", 86400.0
TAGS = {"StudyInstanceUID": "0020000D", "SeriesInstanceUID": "0020000E", "SOPInstanceUID": "00080018"}
SEG_WRITER = "itkimage2segimage"  # of dcmqi

Found = dict[str, Any]  # one series or instance as DICOM JSON


class Patience(HTTPAdapter):
    """Requests to a server that gives no answer end."""

    def send(self, request, **options):
        options["timeout"] = options.get("timeout") or (CONNECT_SECONDS, READ_SECONDS)
        return super().send(request, **options)


def connect(url: str, home: Path) -> "DicomServer":
    """The datastore of a DICOM server, with MONAI Label's own settings; what was fetched is kept in `home`."""
    google = "googleapis.com" in url
    session = create_session_from_gcp_credentials() if google else requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Patience())
    if settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session.auth = (settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD)
    prefixes = {
        "qido_url_prefix": settings.MONAI_LABEL_QIDO_PREFIX,
        "wado_url_prefix": settings.MONAI_LABEL_WADO_PREFIX,
        "stow_url_prefix": settings.MONAI_LABEL_STOW_PREFIX,
    }
    client = DICOMwebClient(url, session) if google else DICOMwebClientX(url, session, **prefixes)
    client.set_http_retry_params(retry=False)  # else a server that is down is asked for half a minute
    cache = settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or str(home / "dicom")
    return DicomServer(client, settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER, cache)


class DicomServer(DICOMWebDatastore):
    """Series of a DICOM server by their UID; labels and notes on them are kept here, beside what was fetched."""

    def __init__(self, client: DICOMwebClient, search_filter: dict[str, Any], cache_path: str):
        self._table = threading.RLock()  # of the table of local files
        self._asking = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._listed: tuple[float, list[str]] = (0.0, [])
        self._marked: tuple[float, list[str]] = (0.0, [])
        self._marks: dict[str, str] = {}  # which series a DICOM SEG is about; that never changes
        super().__init__(client, search_filter, cache_path)
        self.slices.mkdir(exist_ok=True)
        for draft in self.slices.glob(f"{DRAFT}*"):  # of a server that was killed, not of one at work
            if time.time() - draft.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(draft, ignore_errors=True)

    @property
    def root(self) -> Path:
        """Where NIfTI and labels lie, watched for changes."""
        return Path(self._datastore.image_path()).resolve()

    @property
    def slices(self) -> Path:
        """Where the series lie as they came; nobody watches thousands of files come and go."""
        return self.root.with_name(f"{self.root.name}-slices")

    def _reconcile_datastore(self) -> None:
        with self._table:  # the file watcher has a thread of its own
            super()._reconcile_datastore()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        with self._table:
            super()._init_from_datastore_file(throw_exception)

    # ------------------------------------------------------------ what there is

    def list_images(self) -> list[str]:
        """UIDs of the series that the search filter lets through; a minute old at most."""
        with self._asking:
            when, listed = self._listed
            if time.monotonic() - when > LIST_SECONDS or not when:
                found = _every(self._client.search_for_series, search_filters=self._search_filter)
                listed = [uid for series in found if UID.fullmatch(uid := _value(series, "SeriesInstanceUID"))]
                self._listed = (time.monotonic(), listed)
        return list(listed)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series with a final label: a DICOM SEG there, or a label map here."""
        there = set(self.list_images())
        with self._asking:
            when, marked = self._marked
            if time.monotonic() - when > LIST_SECONDS or not when:
                found = _every(self._client.search_for_series, search_filters={"Modality": "SEG"})
                marked = [uid for seg in found if (uid := self._subject(seg))]
                self._marked = (time.monotonic(), marked)
        with self._table:
            here = LocalDatastore.get_labeled_images(self)
        return sorted(there & {*marked, *here})

    def _subject(self, seg: Found) -> str:
        study, series = _value(seg, "StudyInstanceUID"), _value(seg, "SeriesInstanceUID")
        if series not in self._marks:
            about = Dataset.from_json(self._client.retrieve_series_metadata(study, series)[0])
            refers = about.get("ReferencedSeriesSequence") or [Dataset()]
            self._marks[series] = str(refers[0].get("SeriesInstanceUID", ""))
        return self._marks[series]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return sorted(set(self.list_images()) - set(self.get_labeled_images()))

    def status(self) -> dict[str, Any]:
        total, completed = len(self.list_images()), len(self.get_labeled_images())
        with self._table:
            tags = [tag for entry in self._datastore.objects.values() for tag in entry.labels]
        return {
            "total": total,
            "completed": completed,
            "label_tags": {tag: tags.count(tag) for tag in sorted(set(tags))},
        }

    def json(self) -> dict[str, Any]:
        """The table of all series, whether they were fetched or not."""
        listed = self.list_images()
        with self._table:
            told = LocalDatastore.json(self)
        unknown = {"image": {"ext": "", "info": {}}, "labels": {}}
        told["objects"] = {uid: told["objects"].get(uid, unknown) for uid in listed}
        return told

    # ------------------------------------------------------------ what it holds

    def series(self, image_id: str) -> Path:
        """The folder of a series' slices, the same as are on the DICOM server now.

        Raises Refused: 404 for a series that isn't there, 503 for one that didn't come whole.
        """
        study = self.study(image_id)
        expected = _every(self._client.search_for_instances, study_instance_uid=study, series_instance_uid=image_id)
        uids = {uid for found in expected if UID.fullmatch(uid := _value(found, "SOPInstanceUID"))}
        folder = self.slices / image_id
        with self._fetching.setdefault(image_id, threading.Lock()):
            if not uids or {path.stem for path in folder.glob("*.dcm")} != uids:
                self._fetch(study, image_id, uids, folder)
        return folder

    def study(self, image_id: str) -> str:
        """The study that holds a series, which the list may not know yet. Raises Refused (404) where there is none."""
        if UID.fullmatch(image_id):
            asked = {**self._search_filter, "SeriesInstanceUID": image_id}
            for found in self._client.search_for_series(search_filters=asked):
                if _value(found, "SeriesInstanceUID") == image_id:
                    return _value(found, "StudyInstanceUID")
        detail = f"The datastore has no image '{image_id[:80]}'."
        raise Refused(404, Problem("no-such-image", detail, "GET /datastore/?output=all lists those there are."))

    def _fetch(self, study: str, image_id: str, uids: set[str], folder: Path) -> None:
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.slices))
        try:
            new, came = draft / "new", set()
            new.mkdir()
            for instance in self._client.iter_series(study, image_id):
                uid = str(instance.get("SOPInstanceUID", ""))
                if uid in uids:
                    instance.save_as(new / f"{uid}.dcm")
                    came.add(uid)
            if came != uids or not uids:
                detail = f"The DICOM server sent {len(came)} of the {len(uids)} images of this series."
                what_to_do = "Try again; if it stays so, look at the series on the DICOM server."
                raise Refused(503, Problem("incomplete", detail, what_to_do))
            if folder.exists():  # the series has changed since
                folder.rename(draft / "old")
            new.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def get_image_uri(self, image_id: str) -> str:
        """The series as one NIfTI file for viewers, on the grid that label maps and results have."""
        folder, file = self.series(image_id), self.root / f"{image_id}.nii.gz"
        with self._fetching[image_id]:
            fresh = file.exists() and file.stat().st_mtime >= folder.stat().st_mtime
            if not fresh or image_id not in self._datastore.objects:
                self._convert(image_id, folder)
        return str(file)

    def _convert(self, image_id: str, folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="perturbox-") as scratch:
            copy = Path(scratch) / "series.nii.gz"
            try:
                io.write_volume(copy, replace(io.read_volume(folder), format=".nii.gz", header={}))
            except InputError as error:
                raise InputError(str(error).replace(str(folder), "This series")) from None
            info = self._dicom_info(image_id)
            with self._table:
                LocalDatastore.add_image(self, image_id, str(copy), info)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        if image_id not in self._datastore.objects:
            self.get_image_uri(image_id)  # only what lies here can have notes
        with self._table:
            LocalDatastore.update_image_info(self, image_id, info)

    # ------------------------------------------------------------ labels

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """A label map that was saved here. A DICOM SEG from elsewhere isn't read: its segments' numbers needn't be the
        model's label values."""
        return LocalDatastore.get_label_uri(self, image_id or label_id, label_tag)

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        with self._table:
            return LocalDatastore.datalist(self, full_path)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Keep a label map; a final one goes to the DICOM server too, as DICOM SEG."""
        image = self.get_image_uri(image_id)
        if label_tag == DefaultLabelTag.FINAL:
            label_info = {
                **label_info,
                "SeriesInstanceUID": self._send_seg(image_id, image, label_filename, label_info),
            }
        with self._table:
            return LocalDatastore.save_label(self, image_id, label_filename, label_tag, label_info)

    def _send_seg(self, image_id: str, image: str, label: str, info: dict[str, Any]) -> str:
        """The new series' UID. Raises Refused (406) where the program that writes DICOM SEG is missing."""
        if shutil.which(SEG_WRITER) is None:
            detail = (
                "Final labels go to the DICOM server as DICOM SEG, and dcmqi, which writes it, is not installed here."
            )
            what_to_do = "`pip install dcmqi` brings it; under another tag a label is kept on this server."
            raise Refused(406, Problem("not-offered", detail, what_to_do))
        try:
            labels = io.read_labels(label, io.read_volume(image))
        except InputError as error:
            raise InputError(str(error).replace(label, "The label map").replace(image, "the image")) from None
        if not labels.any():
            raise InputError("The label map is empty; outline a structure, then send it again.")
        file = nifti_to_dicom_seg(str(self.slices / image_id), label, info.get("label_info"))
        try:
            if not Path(file).is_file():
                problem = Problem("unavailable", "dcmqi wrote no DICOM SEG of this label.", "See the server's log.")
                raise Refused(503, problem)
            self._marked = (0.0, [])
            return dicom_web_upload_dcm(file, self._client)
        finally:
            with suppress(OSError):
                Path(file).unlink()


def _every(search: Callable[..., list[Found]], **asked: Any) -> list[Found]:
    """All pages of a search. A server that knows no offset sends the first page again, which ends it."""
    found: list[Found] = []
    for _ in range(MOST_PAGES):
        page = search(offset=len(found), **asked)
        if not page or page[0] in found[: len(page)]:
            break
        found += page
    return found


def _value(found: Found, keyword: str) -> str:
    """The first value of an attribute in DICOM JSON; empty where it has none."""
    return str((found.get(TAGS[keyword], {}).get("Value") or [""])[0])
