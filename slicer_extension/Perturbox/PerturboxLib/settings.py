"""What the module remembers between two starts of Slicer: servers, the chosen Python, how fast each model is.

Never a token, never anything of a scan.
"""

import json

import qt

RECENT = 5
DEFAULT_SERVER = "http://127.0.0.1:8000"


def recentServers() -> list:
    """Addresses used last, newest first."""
    return _read("servers", []) or [DEFAULT_SERVER]


def rememberServer(address: str) -> None:
    known = [other for other in _read("servers", []) if other != address]
    _write("servers", [address, *known][:RECENT])


def python() -> str:
    """The Python that was chosen to start a server with; empty if none was."""
    return _read("python", "")


def rememberPython(path: str) -> None:
    _write("python", path)


def models() -> str:
    """The models that a server on this computer was started with, as they were written."""
    return _read("models", "")


def rememberModels(text: str) -> None:
    _write("models", text)


def detectors() -> str:
    """The detectors that a server on this computer was started with, as they were written."""
    return _read("detectors", "")


def rememberDetectors(text: str) -> None:
    _write("detectors", text)


def maySend(host: str) -> bool:
    """Whether the user said once and for all that scans may go to this host."""
    return host in _read("maySend", [])


def allowSending(host: str) -> None:
    _write("maySend", sorted({*_read("maySend", []), host}))


def pace(model: str) -> float:
    """Seconds a step took per million voxels, when this model was attacked last; 0 if it never was."""
    return float(_read("pace", {}).get(model, 0.0))


def rememberPace(model: str, seconds: float) -> None:
    _write("pace", {**_read("pace", {}), model: seconds})


def _read(key, otherwise):
    text = qt.QSettings().value(f"Perturbox/{key}", "")
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return otherwise
    return found if isinstance(found, type(otherwise)) else otherwise


def _write(key, value) -> None:
    qt.QSettings().setValue(f"Perturbox/{key}", json.dumps(value))
