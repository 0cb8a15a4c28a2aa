"""One conversation with a server: connect, run a job, bring its result into the scene. Knows no widget.

`process` is called from a timer; it alone touches the scene. All that takes long happens in a thread that never does.
"""

import slicer
from slicer.i18n import tr as _

from . import certificates, scene, tasks
from .background import ENDS
from .client import Client
from .mistakes import report, tried
from .trouble import Trouble

DISCONNECTED, CONNECTING, READY = "disconnected", "connecting", "ready"
RUNNING, RECONNECTING, STOPPING, IMPORTING = "running", "reconnecting", "stopping", "importing"
BUSY = (RUNNING, RECONNECTING, STOPPING, IMPORTING)


class Session:
    """changed() is called whenever something a panel shows has changed; finished(kind, node, record) when a result is
    in the scene, node None for kinds that make none. Whatever fails in these two, or here, is reported; the job, its
    events and its result don't suffer from it."""

    def __init__(self, changed=lambda: None, finished=lambda kind, node, record: None):
        self.changed, self.finished = changed, finished
        self.background = tasks.Background()
        self.client = None
        self.schema = None
        self.trouble = None
        self.note = ""
        self.state = DISCONNECTED
        self.job = None
        self.jobId = ""
        self.trace = []
        self.sourceId = ""
        self.resultId = ""
        self.answered = False
        """Whether this connection has taken up, or been asked for, a job."""
        self.begun = 0
        """How often a user has begun something."""
        self._importing = None
        self._bundle = self._node = None

    @property
    def busy(self) -> bool:
        return self.state in BUSY

    @property
    def connected(self) -> bool:
        return self.schema is not None

    def victim(self, name: str):
        """The model's entry in the server's schema; None if it serves no such model."""
        return next((each for each in self.schema["victims"] if each["name"] == name), None) if self.schema else None

    # ------------------------------------------------------------ what a user asks for

    def connect(self, address: str, token: str = "") -> None:
        """Begin to connect; raises Trouble for an address that can't be one."""
        self.disconnect()
        self.client = Client(address, token)
        self._begin(CONNECTING)
        self.answered = False
        self.background.start(tasks.connect(self.client))

    def disconnect(self) -> None:
        """Forget the server. A job that runs there goes on."""
        self.background.stop()
        self._dropImport()
        self.client = self.schema = self.job = None
        self.jobId, self.sourceId, self.trace = "", "", []
        self._set(DISCONNECTED)

    def run(self, request: dict, parcel, sourceNode, resultNode=None) -> None:
        """Submit a job on that scan. resultNode: the result to which a margin belongs."""
        self.answered = True
        self._begin(RUNNING, sourceNode, resultNode)
        grid = (parcel.shape, parcel.affine)
        self.background.start(tasks.run(self.client, request, parcel.files, grid))

    def follow(self, jobId: str, sourceNode, grid) -> None:
        """Take up a job that runs on the server already, or is over."""
        self.answered = True
        self._begin(RUNNING, sourceNode)
        self.jobId = jobId
        self.background.start(tasks.follow(self.client, jobId, grid))

    def stop(self, keep: bool = True) -> None:
        """Ask the job to end; keep: with the best result so far."""
        if self.state in (RUNNING, RECONNECTING):
            self._set(STOPPING)
            self.background.cancel(keep)

    def abandon(self, why: str = "") -> None:
        """The scan or the scene is gone: drop the job on the server too, and everything of it here."""
        if not self.busy:
            return
        self._dropImport()
        self.background.cancel(keep=False)
        self.background.stop()
        self.job, self.jobId, self.sourceId, self.trace = None, "", "", []
        self.note = why
        self._set(READY)

    def close(self) -> None:
        """End every thread; the job, if one runs, goes on and can be taken up again."""
        self._dropImport()
        self.background.stop()

    def _dropImport(self) -> None:
        """Take back what was made of a result so far."""
        importing, self._importing, self._bundle, self._node = self._importing, None, None, None
        if importing is not None:
            tried(importing.close)

    # ------------------------------------------------------------ what the timer does

    def process(self) -> None:
        """Take in what the thread has to say, or bring one more piece of a result into the scene."""
        if self._importing is not None:
            self._importOn()
            return
        for event in self.background.drain():
            try:
                getattr(self, f"_on{event.name.capitalize()}")(event.data)
            except Exception as error:
                said = report(error, event.name)
                if event.name in ENDS:  # nothing comes after it
                    self._onTrouble(said)

    def _onConnected(self, schema) -> None:
        self.schema = schema
        self._set(READY)

    def _onSubmitted(self, job) -> None:
        self.jobId = job["id"]
        self._onStatus(job)

    def _onStatus(self, job) -> None:
        self.job = job
        self.trace = job["progress"]["trace"] or self.trace
        self._set(STOPPING if self.state == STOPPING else RUNNING)

    def _onReconnecting(self, _) -> None:
        self._set(STOPPING if self.state == STOPPING else RECONNECTING)

    def _onDownloading(self, _) -> None:
        self._set(self.state)

    def _onResult(self, bundle) -> None:
        source = slicer.mrmlScene.GetNodeByID(self.sourceId) if self.sourceId else None
        if source is None:
            self._over(_("The scan is no longer in the scene, so its result was not loaded."))
            return
        if bundle.kind == "margin":
            self._addMargin(bundle.record)
            return
        makers = {"segment": scene.addSegmentation, "certify": certificates.addCertificate}
        self._importing = makers.get(bundle.kind, scene.addResult)(bundle, source)
        self._bundle, self._node = bundle, None
        self._set(IMPORTING)

    def _importOn(self) -> None:
        """One step of bringing a result into the scene; what was made is taken back where a step fails."""
        try:
            self._node = next(self._importing)
            return
        except StopIteration as end:
            self._node = end.value or self._node
        except Exception as error:
            self._onTrouble(error if isinstance(error, Trouble) else report(error))
            return
        bundle, node = self._bundle, self._node
        self._importing = self._bundle = self._node = None
        self._over()
        tried(self.finished, bundle.kind, node, bundle.record)

    def _addMargin(self, record) -> None:
        node = slicer.mrmlScene.GetNodeByID(self.resultId) if self.resultId else None
        if node is not None:
            scene.addMargin(node, record)
        self._over("" if node is not None else _("The result was removed, so its breaking points were not kept."))
        tried(self.finished, "margin", node, record)

    def _onOver(self, status) -> None:
        self._over(_("Stopped before there was anything to keep."))

    def _onTrouble(self, trouble) -> None:
        self.trouble = trouble
        self._dropImport()
        failed = self.state == CONNECTING
        if failed:
            self.client = self.schema = None
        self.job, self.jobId = None, ""
        self._set(DISCONNECTED if failed else READY)

    def _over(self, note: str = "") -> None:
        self.note = note
        self.job, self.jobId, self.sourceId = None, "", ""
        self._set(READY)

    def _begin(self, state: str, sourceNode=None, resultNode=None) -> None:
        self.trouble, self.note, self.job, self.jobId, self.trace = None, "", None, "", []
        self.sourceId = sourceNode.GetID() if sourceNode else ""
        self.resultId = resultNode.GetID() if resultNode else ""
        self.begun += 1
        self._set(state)

    def _set(self, state: str) -> None:
        self.state = state
        tried(self.changed)
