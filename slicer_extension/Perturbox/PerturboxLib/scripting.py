"""One job from a script, without the panel: connect, submit, wait."""

import time

import slicer
from slicer.i18n import tr as _

from . import sending
from .session import Session
from .trouble import Trouble


def run(volumeNode, address: str, token: str, seconds: float, request: dict):
    """What a job on a volume, or on a list of one per channel, brings into the scene; raises Trouble for whatever goes
    wrong, a time-out included."""
    volumeNode, *others = volumeNode if isinstance(volumeNode, (list, tuple)) else [volumeNode]
    results = []
    talk = Session(finished=lambda kind, node, record: results.append(node))
    try:
        end = time.monotonic() + seconds
        talk.connect(address, token)
        _until(talk, lambda: talk.connected, end)
        request.setdefault("victim", talk.schema["defaults"]["victim"])
        victim = talk.victim(request["victim"])
        if victim is None:
            raise Trouble(
                "no-model",
                _("The server has no model '{model}'.").format(model=request["victim"]),
                _("Choose one that it serves."),
            )
        talk.run(request, sending.pack(volumeNode, victim, others=others), volumeNode)
        _until(talk, lambda: results or not talk.busy, end)
        if not results:
            raise Trouble("over", talk.note or _("There is no result."), "")
        return results[0]
    finally:
        talk.close()


def _until(talk: Session, met, end: float) -> None:
    while not met():
        talk.process()
        slicer.app.processEvents()
        if talk.trouble is not None:
            raise talk.trouble
        if time.monotonic() > end:
            talk.stop(keep=False)
            raise Trouble(
                "time-out", _("It took longer than was allowed."), _("Allow more seconds, or ask for fewer steps.")
            )
        time.sleep(0.02)
