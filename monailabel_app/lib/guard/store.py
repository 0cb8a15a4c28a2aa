"""The datastore as clients may use it: only what is registered, nothing outside its folder, one writer at a time."""

import functools
import os
import re
import threading
from pathlib import Path
from typing import Any

from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore

from lib.guard import names
from lib.guard.errors import Refusal, missing

UID = re.compile(r"[0-9]+(\.[0-9]+){2,}")
# Each of these walks over or changes the one table of images, which a file watcher and several threads share.
ONE_AT_A_TIME = [
    "add_image",
    "remove_image",
    "save_label",
    "remove_label",
    "update_image_info",
    "update_label_info",
    "refresh",
    "status",
    "json",
    "list_images",
    "datalist",
    "get_labeled_images",
    "get_unlabeled_images",
    "_init_from_datastore_file",
    "_reconcile_datastore",
]


def share(datastore: Any) -> None:
    """Let several threads use a local datastore, which is written for one."""
    if not isinstance(datastore, LocalDatastore) or isinstance(datastore, DICOMWebDatastore):
        return
    lock = datastore.guard_lock = threading.RLock()

    def alone(method: Any) -> Any:
        @functools.wraps(method)
        def locked(*args: Any, **kwargs: Any) -> Any:
            with lock:
                return method(*args, **kwargs)

        return locked

    for name in ONE_AT_A_TIME:
        setattr(datastore, name, alone(getattr(datastore, name)))


def lock_of(datastore: Any) -> Any:
    """The lock that `share` gave a datastore; a free one where it needs none."""
    return getattr(datastore, "guard_lock", None) or threading.RLock()


def check_image(app: Any, image: str) -> None:
    """Raises a 422 for what is no id, a 404 for one that the datastore hasn't."""
    names.check("image", image)
    datastore = app.datastore()
    if isinstance(datastore, DICOMWebDatastore):  # its list is hours old at times, and asking costs a query
        there = UID.fullmatch(image) or image in datastore.list_images()
    else:
        there = image in datastore.list_images()
    if not there:
        raise missing("The datastore has no image of this id.", "GET /datastore/?output=all lists them.")


def check_label(app: Any, label: str, tag: str) -> None:
    """Raises a 422 for what is no id or tag, a 404 for a label that the datastore hasn't."""
    names.check("label", label)
    names.check("tag", tag)
    if isinstance(app.datastore(), DICOMWebDatastore) and UID.fullmatch(label):
        return
    if not app.datastore().get_label_uri(label, tag):
        raise missing("The datastore has no label of this id and tag.", "GET /datastore/?output=all lists them.")


def check_new(app: Any, image: str, suffix: str) -> None:
    """Raises a 409 where an image would take the place of another, by its id or its file."""
    if image in app.datastore().list_images():
        raise Refusal(409, "The datastore has an image of this id already.", "Choose another id, or delete that one.")
    root = root_of(app)
    if root is not None and os.path.lexists(root / f"{image}{suffix}"):
        raise Refusal(409, "The studies folder has a file of this name already.", "Choose another id.")


def check_place(app: Any, image: str, tag: str, suffix: str) -> None:
    """Raises a 409 where a label would be written through a link that leads out of the studies folder."""
    names.check("tag", tag)
    _check_inside(app, root_of(app) and str(root_of(app) / "labels" / tag / f"{image}{suffix}"))  # type: ignore[operator]


def check_removable(app: Any, image: str, tag: str | None = None) -> None:
    """Raises a 409 where deleting an image or label would reach a file outside the studies folder."""
    if tag is None:
        check_image(app, image)
    datastore = app.datastore()
    if isinstance(datastore, DICOMWebDatastore):
        raise Refusal(409, "Images of a DICOM server are not deleted from here.", "Delete them on the DICOM server.")
    if tag is not None:
        _check_inside(app, datastore.get_label_uri(image, tag))
        return
    _check_inside(app, datastore.get_image_uri(image))
    for held in datastore.get_labels_by_image_id(image):
        _check_inside(app, datastore.get_label_uri(image, held))


def root_of(app: Any) -> Path | None:
    """The studies folder; None where the datastore is another server."""
    studies = str(app.studies)
    return None if studies.startswith(("http://", "https://")) else Path(os.path.realpath(studies))


def _check_inside(app: Any, path: str | None) -> None:
    root = root_of(app)
    if root is not None and path and not Path(os.path.realpath(path)).is_relative_to(root):
        detail = "This file is a link that leads out of the studies folder."
        raise Refusal(409, detail, "Whoever runs this server can remove the link by hand.")
