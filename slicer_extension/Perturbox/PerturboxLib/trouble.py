"""What went wrong, in words for a radiologist: one sentence, what to do about it, and the technical detail apart.

`WORDS` has the sentences. `trouble("no-server", host="gpu-ws:8000")` makes the error from them; what a server says in
sentences of its own is passed on as `Trouble(code, sentence, whatToDo, detail)`.
"""

from slicer.i18n import tr as _


class Trouble(Exception):
    """A failure with a short code for programs; detail: for "Show details"; reason: the server's own code, if any."""

    def __init__(self, code: str, sentence: str, whatToDo: str = "", detail: str = "", reason: str = ""):
        super().__init__(code, sentence, whatToDo, detail, reason)
        self.code, self.sentence, self.whatToDo, self.detail, self.reason = code, sentence, whatToDo, detail, reason

    def __str__(self) -> str:
        return f"{self.sentence} {self.whatToDo}".strip()


WORDS: dict[str, tuple[str, str]] = {
    # Reaching the server
    "bad-address": (_("'{address}' is not a server's address."), _("Write it like http://127.0.0.1:8000.")),
    "no-server": (_("No answer from {host}."), _("Is the server running, and is this the right address?")),
    "unknown-host": (
        _("There is no machine named '{name}'."),
        _("Check the spelling of the address and your network."),
    ),
    "time-out": (_("{host} took longer than {seconds} s to answer."), _("It may be busy; try again in a moment.")),
    "lost": (_("The connection to {host} broke."), _("Check the network, then try again.")),
    "certificate": (
        _("The certificate of {host} is not trusted on this computer."),
        _("Ask who runs the server for an address with a valid certificate."),
    ),
    "no-tls": (_("{host} does not speak https."), _("Try the address with http://, or ask who runs the server.")),
    "proxy": (_("The proxy between this computer and {host} fails."), _("Check the proxy settings, or ask your IT.")),
    "redirect": (
        _("{host} redirects to another address; nothing was sent there."),
        _("If you trust {target}, enter it as the address."),
    ),
    "stopped": (_("Stopped."), ""),
    # What answers there
    "wrong-app": (
        _("This MONAI Label server has no Perturbox app."),
        _("Ask for it to be started with the Perturbox app."),
    ),
    "not-perturbox": (_("{host} answers, but it is not a Perturbox server."), _("Check the address and its port.")),
    "newer-server": (
        _("{host} speaks version {theirs} of the job API, this module version {ours}."),
        _("Update the Perturbox extension."),
    ),
    "older-server": (
        _("{host} speaks version {theirs} of the job API, this module version {ours}."),
        _("Ask for the server to be updated, or use an older extension."),
    ),
    "token-missing": (_("{host} asks for a token."), _("Enter the token that its operator gave you.")),
    "token-wrong": (_("{host} does not accept this token."), _("Check the token, or ask its operator for a new one.")),
    # Refusals; a Perturbox server has its own sentences for most, which go before these.
    "forbidden": (_("{host} refuses this."), _("Ask who runs the server for access.")),
    "not-found": (_("{host} does not have what was asked for."), _("Connect again, then try once more.")),
    "job-gone": (
        _("The server no longer has this job."),
        _("Your scan and earlier results are unchanged. Press Attack to run it again."),
    ),
    "conflict": (_("{host} can't do this now."), _("Look at the state of the job, then try again.")),
    "too-large": (
        _("The scan is larger than {host} takes ({limit})."),
        _("Crop it to the organ, or ask for a higher limit."),
    ),
    "other-format": (
        _("{host} can't read what was sent."),
        _("Update the extension and the server to versions that match."),
    ),
    "bad-models": (
        _("A quotation mark in the list of models is never closed."),
        _("Close it, or leave the models out to serve the built-in ones."),
    ),
    "bad-detectors": (
        _("A quotation mark in the list of detectors is never closed."),
        _("Close it, or leave the detectors out to use those that come with the models."),
    ),
    "bad-input": (_("{host} can't use this request."), _("Change the settings and try again.")),
    "busy": (_("The queue of {host} is full."), _("Try again in {seconds} s.")),
    "unavailable": (_("{host} can't serve this now."), _("Try again in a moment.")),
    "server-error": (
        _("Internal error on {host}."),
        _("Try again; if it happens again, tell whoever runs the server."),
    ),
    "odd-answer": (
        _("{host} gave an answer that can't be understood."),
        _("Check the address; a proxy may answer instead."),
    ),
    "not-json": (_("{host} gave an answer that can't be read."), _("Try again; a proxy may answer instead.")),
    # What came back
    "truncated": (_("What the server sent arrived incomplete."), _("Try again; the result is not lost.")),
    "damaged": (_("A file of the result arrived damaged."), _("Try again; the result is still on the server.")),
    "bad-file": (
        _("A file of the result can't be read."),
        _("Update the extension and the server to versions that match."),
    ),
    "no-file": (_("The result has no {name}."), _("Update the extension and the server to versions that match.")),
    "no-memory": (_("This computer has too little memory for the result."), _("Close other scans, then try again.")),
    "mismatch": (_("The result does not line up with the scan (different geometry)."), _("It was not loaded.")),
    # The scan
    "not-hu": (
        _("Values run from {low} to {high}. This is not CT in Hounsfield units, so a limit in HU means nothing."),
        _("Load the original CT."),
    ),
    "uneven-slices": (
        _("Slice spacing is irregular."),
        _("Clone the scan, harden its acquisition transform (in Data, right-click the transform), choose the clone."),
    ),
    "non-linear": (
        _("The scan is bent by a non-linear transform."),
        _("Harden the transform on a copy of the scan, then choose the copy."),
    ),
    "sheared": (
        _("The scan is sheared, so its voxels are not boxes."),
        _("Harden the transform on a copy of the scan, resample that with Crop Volume, then choose the result."),
    ),
    "no-size": (_("The scan's grid has no size."), _("Check the spacing of the scan and its transform.")),
    "no-voxels": (_("The scan has no voxels."), _("Load it again.")),
    # The job
    "given-up": (
        _("{host} has not answered for {minutes} min."),
        _("The attack may still be running there; connect again to pick it up."),
    ),
    "unfinished": (
        _("The job ended as '{state}' without a reason."),
        _("Run it again; if it happens again, tell whoever runs the server."),
    ),
    # A server on this computer
    "no-python": (
        _("There is no Python at '{path}'."),
        _("Choose the python program of an environment with Perturbox."),
    ),
    "not-python": (
        _("'{path}' is not a Python that runs here."),
        _("Choose the python program of an environment with Perturbox."),
    ),
    "old-python": (_("'{path}' is Python {version}; Perturbox needs 3.11 or newer."), _("Choose another Python.")),
    "no-perturbox": (_("Perturbox is not installed for '{path}'."), _("Install it there, or choose another Python.")),
    "no-server-parts": (
        _("The server's parts are not installed for '{path}' ({missing} is missing)."),
        _("Install them there, or choose another Python."),
    ),
    "no-folder": (_("Nothing can be written to '{path}'."), _("Choose another folder for the server.")),
    "server-ended": (
        _("The server ended at once: {line}"),
        _("See the details, fix the problem, then start it again."),
    ),
    "server-slow": (_("The server did not get ready within {seconds} s."), _("See the details, then try again.")),
    # Unforeseen
    "internal": (_("Internal error in the module ({kind})."), _("Save your work and report it with the details.")),
}


def trouble(code: str, detail: str = "", reason: str = "", **words) -> Trouble:
    """The Trouble of that code with its words filled in; raises KeyError if the code or a word is missing."""
    sentence, whatToDo = WORDS[code]
    return Trouble(code, sentence.format(**words), whatToDo.format(**words), detail, reason)
