"""How the server was started: MONAI Label's own command line, its --conf pairs, and the environment."""

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from lib import terminal
from perturbox.defaults import VICTIMS
from perturbox.job.detecting import named
from perturbox.types import InputError

UPLOAD_LIMIT_MB = 2048
KNOWN = ("victims", "home", "device", "scheduler", "cors", "upload_limit_mb", "study_results", "detectors")
TOKEN, SERVER_URL, HOME = "PERTURBOX_TOKEN", "PERTURBOX_SERVER_URL", "PERTURBOX_HOME"


@dataclass(frozen=True)
class Options:
    """victims: specs; home: what must outlive the server; upload_limit: bytes; cors: origins that may call;
    study_results: the folder of studies that clients may read; detectors: their files by name."""

    home: Path
    victims: tuple[str, ...]
    device: str
    scheduler: str | None
    cors: tuple[str, ...]
    upload_limit: int
    token: str | None
    host: str
    port: int
    tls: bool
    study_results: Path | None = None
    detectors: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def read(cls, conf: Mapping[str, str], environment: Mapping[str, str], argv: Sequence[str]) -> "Options":
        """From --conf pairs, environment and command line; ends the process where they can't be used."""
        unknown = [key for key in conf if key not in KNOWN and key != "server_mode"]
        if unknown:
            refuse(InputError(f"There is no --conf '{unknown[0]}'; there are {', '.join(KNOWN)}."))
        default = Path(environment.get(HOME) or Path.home() / ".local" / "share" / "perturbox") / "server"
        try:
            limit = float(conf.get("upload_limit_mb") or UPLOAD_LIMIT_MB)
            port = int(_argument(argv, "-p", "--port") or 8000)
        except ValueError:
            refuse(InputError("--conf upload_limit_mb and --port need numbers."))
        victims = _listed(conf.get("victims") or "") or VICTIMS
        try:
            detectors = named(_listed(conf.get("detectors") or ""), victims)
        except InputError as error:
            refuse(error)
        return cls(
            home=Path(conf.get("home") or default).resolve(),
            victims=victims,
            device=conf.get("device") or "cpu",
            scheduler=conf.get("scheduler") or None,
            cors=_listed(conf.get("cors") or ""),
            upload_limit=int(limit * 2**20),
            token=environment.get(TOKEN) or None,
            host=_argument(argv, "-i", "--host") or "0.0.0.0",
            port=port,
            tls=_argument(argv, "", "--ssl_certfile") is not None,
            study_results=Path(folder).resolve() if (folder := conf.get("study_results")) else None,
            detectors=detectors,
        )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """Where this machine reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def check_host(self, auth: bool) -> None:
        """Raises InputError where others than this machine could use the server without saying who they are."""
        if not self.loopback and not self.token and not auth:
            raise InputError(
                f"Others could reach the server at {self.host} unasked; "
                f"start it with --host 127.0.0.1, or set {TOKEN} to a secret that clients must send."
            )

    def check_token(self) -> None:
        """Raises InputError for a token that could be guessed."""
        if self.token and (len(self.token) < 8 or not self.token.isascii() or not self.token.isprintable()):
            raise InputError(f"{TOKEN} needs eight or more plain characters; take those of `openssl rand -hex 16`.")

    def tell_children(self) -> None:
        """Let the processes that MONAI Label starts find this server."""
        os.environ[SERVER_URL] = self.url


def unusable(home: Path, error: Exception) -> InputError:
    """Why a server can't keep what it must keep."""
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return InputError(f"The server can't use its folder {home} ({reason}); free space, or choose another home.")


def refuse(error: InputError) -> NoReturn:
    """End the process with one sentence. An exception would come out of the server's start as pages of traceback."""
    terminal.say(f"perturbox: {error}")
    os._exit(2)


def _argument(argv: Sequence[str], short: str, long: str) -> str | None:
    """The value of an option as argparse would take it: the last one given, as two words or as one."""
    found = None
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if equals and name == long:
            found = value
        elif word in (short, long) and index + 1 < len(argv):
            found = argv[index + 1]
        elif short and word.startswith(short) and not word.startswith("--") and len(word) > len(short):
            found = word[len(short) :].removeprefix("=")
    return found


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))
