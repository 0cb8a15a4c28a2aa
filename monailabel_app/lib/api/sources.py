"""Where the scan of a submission lies: in the datastore by its id, in a session, or among the uploaded files."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.datastructures import UploadFile

from lib import labels
from lib.api.requests import Files, Submission
from lib.dicomweb import DicomServer
from lib.guard.names import check_session
from lib.guard.store import resolve
from perturbox.jobs import Problem, Refused


def locate(
    instance: Any,
    submission: Submission,
    local: Mapping[str, Path],
    sent: Mapping[str, UploadFile],
    structures: Mapping[str, int],
) -> Files:
    """The local files of a submission; local: the uploads as they were kept, sent: with the client's names for them,
    structures: the model's.

    Raises Refused(404) for ids that the datastore or the sessions don't know.
    """
    if submission.image is not None:
        name = resolve(instance.datastore(), submission.image)
        image = from_datastore(instance.datastore(), name)
    elif submission.session is not None:
        image, name = from_session(instance.sessions(), submission.session), submission.session
    else:
        image, name = local["image"], client_name(sent["image"].filename or "upload")
    label, label_map = local.get("label"), None
    if submission.label is not None:
        datastore, id = instance.datastore(), name
        label = labelled(datastore, id, submission.label)
        if submission.label_map is None:
            by_names = labels.label_map(datastore.get_label_info(id, submission.label), structures)
            label_map = labels.outlined(label, by_names)
    return Files(image, name, label, local.get("roi"), label_map)


def from_datastore(datastore: Any, id: str) -> Path:
    """The file of a datastore's image, the folder of a DICOM series; an id is looked up, never taken for a path."""
    if isinstance(datastore, DicomServer):
        return datastore.series(id)
    if id in datastore.list_images():
        path = Path(datastore.get_image_uri(id))
        if path.exists():
            return path
    detail = f"The datastore has no image '{id}'."
    raise Refused(
        404, Problem("no-such-image", detail, "GET /datastore/ lists its images; or send the scan as a file.")
    )


def labelled(datastore: Any, image: str, tag: str) -> Path:
    found = datastore.get_label_by_image_id(image, tag)
    path = Path(datastore.get_label_uri(found, tag)) if found else None
    if path is None or not path.is_file():
        detail = f"The image '{image}' has no label tagged '{tag}'."
        raise Refused(404, Problem("no-such-label", detail, "Save one under this tag, or send the label as a file."))
    return path


def from_session(sessions: Any, id: str) -> Path:
    """The file or folder of a session's scan."""
    found = sessions.get_session(check_session(id)) if sessions is not None else None
    if found is None or not Path(found.image).exists():
        detail = f"There is no session '{id}'; it may have expired."
        raise Refused(404, Problem("no-such-session", detail, "Upload the scan again with PUT /session/."))
    return Path(found.image)


def client_name(name: str) -> str:
    """What a client called its file, without folders and what can't be shown."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(letter for letter in last if letter.isprintable())[:200] or "upload"
