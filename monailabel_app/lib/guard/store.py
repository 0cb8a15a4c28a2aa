"""The datastore as clients may use it: only what is registered, nothing outside its folder, one writer at a time."""

import functools
import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from lib import backend
from lib.dicomweb import DicomServer
from lib.guard import names, uploads
from lib.guard.errors import Refusal, bad, missing

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


logger = logging.getLogger("perturbox.server")
ALIAS = "client_name"  # what a client called an image that is kept under another name


def open_folder(studies: str, home: Path) -> LocalDatastore | None:
    """The datastore of a folder that can't be written to, as archives are mounted: its table and labels are kept in
    `home`. None for any other, which MONAI Label opens itself."""
    settings.MONAI_LABEL_DATASTORE_FILE_EXT = [f"*{suffix}" for suffix in uploads.SCANS]  # its own list knows fewer
    if studies.startswith(("http://", "https://")) or not os.path.isdir(studies) or os.access(studies, os.W_OK):
        return None
    images = os.path.realpath(studies)
    place = home / "read-only" / hashlib.sha256(images.encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    logger.warning("the studies folder can't be written to; labels are kept in the server's home")
    return LocalDatastore(
        str(place), images_dir=images, extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT, auto_reload=False
    )


def is_read_only(app: Any) -> bool:
    """Whether nothing can be written to the studies folder."""
    datastore = app.datastore()
    return isinstance(datastore, LocalDatastore) and os.path.isabs(datastore._datastore.images_dir)


def share(datastore: Any) -> None:
    """Let several threads use a local datastore, which is written for one."""
    if not isinstance(datastore, LocalDatastore) or isinstance(datastore, DicomServer):
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


def resolve(datastore: Any, image: str, kind: str = "image") -> str:
    """The datastore's own id of an image, by that id or by what the client that sent it called it; raises a 422 for
    what neither can be. One that isn't there comes back as it is."""
    if isinstance(datastore, DicomServer):
        return names.check(kind, image)
    if image in datastore.list_images():
        return image
    names.check_id(image, kind)
    kept = names.stored(image)
    return kept if kept != image and datastore.get_image_info(kept).get(ALIAS) == image else image


def check_image(app: Any, image: str) -> None:
    """Raises a 404 for an id that the datastore hasn't."""
    datastore = app.datastore()
    if isinstance(datastore, DicomServer):  # asked for the image itself, for its list may be a minute old
        datastore.study(image)
    elif image not in datastore.list_images():
        raise missing("The datastore has no image of this id.", "GET /datastore/?output=all lists them.")


def scan_of(datastore: Any, image: str) -> str:
    """Where an image's own voxels are: a file, or the folder of a DICOM series."""
    return str(datastore.series(image)) if isinstance(datastore, DicomServer) else datastore.get_image_uri(image)


def check_label(app: Any, label: str, tag: str) -> None:
    """Raises 422 if it is not a tag, 404 if the datastore lacks the label."""
    names.check("tag", tag)
    if not app.datastore().get_label_uri(label, tag):
        raise missing("The datastore has no label of this id and tag.", "GET /datastore/?output=all lists them.")


def check_new(app: Any, image: str, suffix: str) -> None:
    """Raises a 409 where an image would take the place of another, by its id or file, or where none can be added."""
    if isinstance(app.datastore(), DicomServer):
        detail = "Images are not stored on the DICOM server from here."
        raise Refusal(409, detail, "Store it there yourself, or send the scan along with your request.")
    if is_read_only(app):
        raise Refusal(409, "The studies folder can't be written to.", "Send the scan along with your request.")
    if image in app.datastore().list_images():
        raise Refusal(409, "The datastore has an image of this id already.", "Choose another id, or delete that one.")
    root = root_of(app)
    if root is not None and os.path.lexists(root / f"{image}{suffix}"):
        raise Refusal(409, "The studies folder has a file of this name already.", "Choose another id.")


def add_image(app: Any, image: str, file: Path, info: dict[str, Any]) -> str:
    """Add an image; where that fails no half of it stays in the studies folder, which would be listed as one."""
    try:
        return app.datastore().add_image(image, str(file), info)
    except OSError:
        if (root := root_of(app)) is not None and image not in app.datastore().list_images():
            (root / f"{image}{file.name.removeprefix('image')}").unlink(missing_ok=True)
        raise


def check_tag_for(model: str, tag: Any) -> None:
    """Raises a 422 where an attack's label map would be kept as final: training and a DICOM server believe those."""
    if tag == DefaultLabelTag.FINAL.value and backend.tasks()[model][1] is not None:
        detail = "The prediction for a perturbed scan is not a final label."
        raise bad(detail, "Choose another label_tag, or leave it out.")


def check_place(app: Any, image: str, tag: str, suffix: str) -> None:
    """Raises a 409 where a label would be written through a link that leads out of the studies folder."""
    names.check("tag", tag)
    if is_read_only(app):  # labels lie in the server's home
        return
    _check_inside(app, root_of(app) and str(root_of(app) / "labels" / tag / f"{image}{suffix}"))  # type: ignore[operator]


def check_removable(app: Any, image: str, tag: str | None = None) -> None:
    """Raises a 409 where deleting an image or label would reach a file outside the studies folder."""
    if tag is None:
        check_image(app, image)
    datastore = app.datastore()
    if isinstance(datastore, DicomServer):
        raise Refusal(409, "Images of a DICOM server are not deleted from here.", "Delete them on the DICOM server.")
    if tag is not None:
        if not is_read_only(app):
            _check_inside(app, datastore.get_label_uri(image, tag))
        return
    if is_read_only(app):
        raise Refusal(409, "The studies folder can't be written to.", "Whoever runs this server can delete its files.")
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
