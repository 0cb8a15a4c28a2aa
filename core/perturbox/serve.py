"""From `perturbox serve` to MONAI Label's server: check everything cheap, copy the app, become the server.

MONAI Label itself is never imported here: it is another program, started on our app.
"""

import hashlib
import importlib.util
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import perturbox
from perturbox.defaults import VICTIMS
from perturbox.errors import InputError

TOKEN, HOME = "PERTURBOX_TOKEN", "PERTURBOX_HOME"
TERMINAL, LOG = "PERTURBOX_TERMINAL", "PERTURBOX_LOG"
LONGEST_LOG = 10_000_000  # bytes; a longer one is set aside at the next start
SOURCE = "git+https://github.com/perturbox/perturbox"
INSTALL = f"pip install 'perturbox[server] @ {SOURCE}' && pip install --no-deps monailabel==0.8.5 pydicom-seg==0.4.1"
WEIGHTS = Path(perturbox.__file__).parent / "zoo" / "weights"
NEEDED = ("monailabel", "pydicom_seg", "distributed", "fastapi", "uvicorn")
STUDY_NEEDED = ("pyarrow", "pydantic")


@dataclass(frozen=True)
class Serving:
    """What was asked for; studies None: an empty folder of its own; home None: the user's data folder; verbose: whether
    the log is shown instead of kept; study_results: a folder of `perturbox study`'s folders, which clients may read;
    detectors: NAME=FILE, folders of them, names of shipped ones, or "shipped" for all of these."""

    studies: str | None
    host: str
    port: int
    victims: tuple[str, ...]
    token: str | None
    scheduler: str | None
    home: Path | None
    device: str
    cors: tuple[str, ...]
    trust: bool = False
    verbose: bool = False
    study_results: Path | None = None
    detectors: tuple[str, ...] = ()


def serve(asked: Serving, begun: Callable[[], None] = lambda: None) -> NoReturn:
    """Become MONAI Label's server; `begun` is called before what takes seconds. Raises InputError for whatever can be
    known to fail before it starts."""
    require_monai_label()
    require_token(asked)
    studies = find_studies(asked)
    require_study_results(asked.study_results)
    require_free_port(asked.host, asked.port)
    begun()
    from perturbox.io.files import require_writable  # with every reader of images

    specs, detectors = check_victims(asked), check_detectors(asked)
    folder = base_folder()
    home = asked.home.resolve() if asked.home else folder / "server"
    os.umask(0o077)  # what the server keeps are patients' scans: nobody else's on this machine
    for place in (folder / "app", home / "jobs"):
        require_writable(place)
    try:
        app = copy_app(find_app(), folder)
        if studies is None:
            studies = str(home / "studies")
            Path(studies).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"The server can't write to {folder} ({reason}); free space, or set {HOME} to another folder."
        ) from None
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies]
    command += ["--host", asked.host, "--port", str(asked.port)]
    conf = {"victims": ",".join(specs), "home": str(home), "device": asked.device}
    conf |= {"scheduler": asked.scheduler or "", "cors": ",".join(asked.cors)}
    conf["study_results"] = str(asked.study_results.resolve()) if asked.study_results else ""
    conf["detectors"] = ",".join(detectors)
    command += [word for key, value in conf.items() if value for word in ("--conf", key, value)]
    become(command, environment(asked.token, None if asked.verbose else home / "server.log"))


def require_monai_label() -> None:
    """Raises InputError that says how to install what the server is made of."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"The server needs {missing[0]}, which isn't installed; install it with: {INSTALL}")


def require_token(asked: Serving) -> None:
    """Raises InputError where other machines could reach a server that asks nobody who they are."""
    if not is_loopback(asked.host) and not (asked.token or os.environ.get(TOKEN)):
        raise InputError(
            f"At --host {asked.host} other machines reach the server; give --token or set {TOKEN}, "
            "or keep it to this machine with --host 127.0.0.1."
        )
    for source, token in (("--token", asked.token), (TOKEN, os.environ.get(TOKEN))):
        if token and (len(token) < 8 or not token.isascii() or not token.isprintable()):
            raise InputError(f"{source} needs eight or more plain characters; take those of `openssl rand -hex 16`.")
    if asked.token == "":
        raise InputError("--token needs eight or more plain characters; take those of `openssl rand -hex 16`.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_studies(asked: Serving) -> str | None:
    """The studies as MONAI Label wants them, a folder or a DICOMweb address; None where none were named."""
    if asked.studies is None or asked.studies.startswith(("http://", "https://")):
        return asked.studies
    path = Path(asked.studies)
    if not path.is_dir():
        raise InputError(f"There is no folder '{asked.studies}'; give --studies the folder that holds the scans.")
    return str(path.resolve())


def require_study_results(folder: Path | None) -> None:
    """Raises InputError unless there is such a folder and what reads studies is installed."""
    if folder is None:
        return
    if not folder.is_dir():
        raise InputError(
            f"There is no folder '{folder}'; give --study-results the folder in which studies have their --out folders."
        )
    if missing := [name for name in STUDY_NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"--study-results needs the extra 'study' ({missing[0]} is missing); run `pip install 'perturbox[study]'`."
        )


def require_free_port(host: str, port: int) -> None:
    """Raises InputError where the server couldn't listen."""
    if not 0 < port < 2**16:
        raise InputError(f"There is no port {port}; choose a --port from 1 to 65535.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"Nothing can listen at {host}:{port} ({reason.lower()}); choose another --port or --host."
        ) from None


def check_victims(asked: Serving) -> list[str]:
    """The specs with whole paths, those of Python files loaded once. Raises InputError for one that can't be."""
    specs = []
    for spec in asked.victims:
        if (WEIGHTS / f"{spec}.safetensors").is_file():  # built in, so that torch can wait
            specs.append(spec)
            continue
        from perturbox.load import load_victim, read_spec

        whole = str(read_spec(spec).absolute())
        if "," in whole:
            raise InputError(f"The path of '{spec}' holds a comma, which can't be served; rename it.")
        load_victim(whole, asked.device, asked.trust)
        specs.append(whole)
    return specs


def check_detectors(asked: Serving) -> list[str]:
    """NAME=FILE of each detector, with whole paths; raises InputError for one that can't be read.

    Whether they belong to the models that are served is seen when these are loaded.
    """
    if not asked.detectors:
        return []
    from perturbox.detectors.fitted import Detector
    from perturbox.job.detecting import named

    found = named(asked.detectors, asked.victims or VICTIMS)
    for path in found.values():
        if "," in str(path):
            raise InputError(f"The path of '{path}' holds a comma, which can't be served; rename it.")
        Detector.read(path)
    return [f"{name}={path}" for name, path in found.items()]


def base_folder() -> Path:
    """Where this user's server keeps what it needs."""
    return Path(os.environ.get(HOME) or Path.home() / ".local" / "share" / "perturbox").resolve()


def find_app() -> Path:
    """The app as installed: in the wheel beside this module, or in the checkout of an editable install."""
    here = Path(perturbox.__file__).parent
    for place in (here / "_app", here.parents[1] / "monailabel_app"):
        if (place / "main.py").is_file():
            return place
    raise InputError("The server's app is missing from this installation; reinstall perturbox.")


def copy_app(source: Path, folder: Path) -> Path:
    """A copy that MONAI Label may write into, one per version and content; one that is there is used again."""
    files = sorted(path for path in source.rglob("*.py") if "__pycache__" not in path.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(source).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    target = folder / f"app-{perturbox.__version__}-{digest.hexdigest()[:12]}"
    if not (target / "main.py").is_file():
        draft = folder / f".{target.name}-{os.getpid()}"
        for path in files:
            place = draft / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        try:
            draft.replace(target)
        except OSError:  # another server made the same at the same moment
            shutil.rmtree(draft, ignore_errors=True)
    return target


def environment(token: str | None, log: Path | None = None) -> dict[str, str]:
    """The server's environment; the token goes here, for a command line can be read by every user. log: the file for
    all that isn't said to the operator; None: all is shown."""
    given = {**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
    given |= {LOG: str(log)} if log else {}
    return given | ({TOKEN: token} if token else {})


def hand_over(log: Path) -> str:
    """Send what this process and the one it becomes print to a file; returns the number of the open file that still
    leads to the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.is_file() and log.stat().st_size > LONGEST_LOG:
        log.replace(log.with_name(log.name + ".old"))
    terminal, sink = os.dup(2), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.set_inheritable(terminal, True)
    for stream in (1, 2):
        os.dup2(sink, stream)
    os.close(sink)
    return str(terminal)


def become(command: Sequence[str], environment: dict[str, str]) -> NoReturn:
    """Replace this process by that command, or (Windows, which can't) end as it ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":  # its processes don't inherit open files by number, so all is shown
        shown = {name: value for name, value in environment.items() if name != LOG}
        sys.exit(subprocess.run(command, env=shown, check=False).returncode)
    if log := environment.get(LOG):
        environment = {**environment, TERMINAL: hand_over(Path(log))}
    os.execve(command[0], list(command), environment)
