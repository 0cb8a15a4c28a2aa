"""What went wrong, in words for a radiologist: one sentence, what to do about it, and the technical detail apart.

`WORDS` has the sentences. `trouble("no-server", host="gpu-ws:8000")` makes the error from them; what a server says in
sentences of its own is passed on as `Trouble(code, sentence, whatToDo, detail)`.
"""


class Trouble(Exception):
    """A failure with a short code for programs; detail: for "Show details"; reason: the server's own code, if any."""

    def __init__(self, code: str, sentence: str, whatToDo: str = "", detail: str = "", reason: str = ""):
        super().__init__(code, sentence, whatToDo, detail, reason)
        self.code, self.sentence, self.whatToDo, self.detail, self.reason = code, sentence, whatToDo, detail, reason

    def __str__(self) -> str:
        return f"{self.sentence} {self.whatToDo}".strip()


WORDS: dict[str, tuple[str, str]] = {
    # Reaching the server
    "bad-address": ("'{address}' is no address of a server.", "Write it like http://127.0.0.1:8000."),
    "no-server": ("No answer from {host}.", "Is the server running, and is this the right address?"),
    "unknown-host": ("There is no machine named '{name}'.", "Check the spelling of the address and your network."),
    "time-out": ("{host} took longer than {seconds} s to answer.", "It may be busy; try again in a moment."),
    "lost": ("The connection to {host} broke.", "Check the network, then try again."),
    "certificate": (
        "The certificate of {host} is not trusted on this computer.",
        "Ask who runs the server for an address with a valid certificate.",
    ),
    "no-tls": ("{host} does not speak https.", "Try the address with http://, or ask who runs the server."),
    "proxy": ("The proxy between this computer and {host} fails.", "Check the proxy settings, or ask your IT."),
    "redirect": (
        "{host} sends visitors on to another address; nothing was sent there.",
        "If you trust {target}, enter it as the address.",
    ),
    "stopped": ("Stopped.", ""),
    # What answers there
    "wrong-app": ("This MONAI Label server has no Perturbox app.", "Ask for it to be started with the Perturbox app."),
    "not-perturbox": ("{host} answers, but it is no Perturbox server.", "Check the address and its port."),
    "newer-server": (
        "{host} speaks version {theirs} of the job API, this module version {ours}.",
        "Update the Perturbox extension.",
    ),
    "older-server": (
        "{host} speaks version {theirs} of the job API, this module version {ours}.",
        "Ask for the server to be updated, or use an older extension.",
    ),
    "token-missing": ("{host} asks for a token.", "Enter the token that its operator gave you."),
    "token-wrong": ("{host} does not accept this token.", "Check the token, or ask its operator for a new one."),
    # Refusals; a Perturbox server has its own sentences for most, which go before these.
    "forbidden": ("{host} refuses this.", "Ask who runs the server for access."),
    "not-found": ("{host} does not have what was asked for.", "Connect again, then try once more."),
    "job-gone": (
        "The server no longer has this job.",
        "Your scan and earlier results are unchanged. Press Attack to run it again.",
    ),
    "conflict": ("{host} can't do this now.", "Look at the state of the job, then try again."),
    "too-large": (
        "The scan is larger than {host} takes ({limit}).",
        "Crop it to the organ, or ask for a higher limit.",
    ),
    "other-format": ("{host} can't read what was sent.", "Update the extension and the server to versions that match."),
    "bad-input": ("{host} can't use this request.", "Change the settings and try again."),
    "busy": ("The queue of {host} is full.", "Try again in {seconds} s."),
    "unavailable": ("{host} can't serve this now.", "Try again in a moment."),
    "server-error": ("{host} made a mistake.", "Try again; if it stays so, tell who runs the server."),
    "odd-answer": ("{host} gave an answer that can't be understood.", "Check the address; a proxy may answer instead."),
    "not-json": ("{host} gave an answer that can't be read.", "Try again; a proxy may answer instead."),
    # What came back
    "truncated": ("What the server sent arrived incomplete.", "Try again; what it has computed is not lost."),
    "damaged": ("A file of the result arrived damaged.", "Try again; the result is still on the server."),
    "bad-file": ("A file of the result can't be read.", "Update the extension and the server to versions that match."),
    "no-file": ("The result has no {name}.", "Update the extension and the server to versions that match."),
    "no-memory": ("This computer has too little memory for the result.", "Close other scans, then try again."),
    "mismatch": ("The result does not line up with the scan (different geometry).", "It was not loaded."),
    # The scan
    "not-hu": (
        "Values run from {low} to {high}. This is not CT in Hounsfield units, so a limit in HU means nothing.",
        "Load the original CT.",
    ),
    "uneven-slices": (
        "Slice spacing is irregular.",
        "Clone the scan, harden its acquisition transform (in Data, right-click the transform), choose the clone.",
    ),
    "non-linear": (
        "The scan is bent by a non-linear transform.",
        "Harden the transform on a copy of the scan, then choose the copy.",
    ),
    "sheared": (
        "The scan is sheared, so its voxels are no boxes.",
        "Harden the transform on a copy of the scan, resample that with Crop Volume, then choose the result.",
    ),
    "no-size": ("The scan's grid has no size.", "Check the spacing of the scan and its transform."),
    "no-voxels": ("The scan has no voxels.", "Load it again."),
    # The job
    "given-up": (
        "{host} has not answered for {minutes} min.",
        "The attack may still be running there; connect again to pick it up.",
    ),
    "unfinished": (
        "The job ended as '{state}' and said no reason.",
        "Run it again; if it stays so, tell who runs the server.",
    ),
    # A server of one's own
    "no-python": ("There is no Python at '{path}'.", "Choose the python program of an environment with Perturbox."),
    "not-python": (
        "'{path}' is no Python that runs here.",
        "Choose the python program of an environment with Perturbox.",
    ),
    "old-python": ("'{path}' is Python {version}; Perturbox needs 3.11 or newer.", "Choose another Python."),
    "no-perturbox": ("Perturbox is not installed for '{path}'.", "Install it there, or choose another Python."),
    "no-server-parts": (
        "The server's parts are not installed for '{path}' ({missing} is missing).",
        "Install them there, or choose another Python.",
    ),
    "no-folder": ("Nothing can be written to '{path}'.", "Choose another folder for the server."),
    "server-ended": ("The server ended at once: {line}", "See the details, mend that, then start it again."),
    "server-slow": ("The server did not get ready within {seconds} s.", "See the details, then try again."),
    # Nothing foreseen
    "internal": ("The module made a mistake ({kind}).", "Save your work and report it with the details."),
}


def trouble(code: str, detail: str = "", reason: str = "", **words) -> Trouble:
    """The Trouble of that code, its words filled in; raises KeyError for a code or a word there is none of."""
    sentence, whatToDo = WORDS[code]
    return Trouble(code, sentence.format(**words), whatToDo.format(**words), detail, reason)
