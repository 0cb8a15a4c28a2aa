"""Every refusal in one line: what is wrong and what to do. Never a box, never a traceback."""

import errno
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from perturbox.errors import InputError, did_you_mean

BAD_INPUT, INTERNAL = 2, 1

# Newer typer carries its own copy of click, older uses the package; the family of exceptions is the same.
ClickException = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

# The system's refusals that the user can do something about.
_REFUSED = {
    errno.EACCES: "permission is denied; choose a place you may write to",
    errno.EPERM: "permission is denied; choose a place you may write to",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "your quota is used up; free some space or choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EISDIR: "it is a folder, not a file; give a file",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOENT: "there is no such file or folder; check the path",
}


def explain(error: Exception, arguments: Sequence[str] | None) -> tuple[int, str]:
    """(exit status, one line) for whatever ended a command.

    Of an internal error the traceback goes to a file together with `arguments`; None: it was shown already.
    """
    record = sys.modules.get("perturbox.judge.record")  # what was never imported raised nothing
    if record is not None and isinstance(error, record.Unfinished) and isinstance(error.__cause__, Exception):
        status, why = explain(error.__cause__, arguments)
        return status, f"{why} {error}"
    if isinstance(error, InputError):
        return BAD_INPUT, one_line(str(error))
    if isinstance(error, ClickException):
        return BAD_INPUT, one_line(usage(error, arguments or ()))
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
        return BAD_INPUT, one_line(f"'{error.filename}' can't be used: {_REFUSED[error.errno]}.")
    if _out_of_memory(error):
        return INTERNAL, "The memory ran out; crop the scan to the organ, or use a machine with more of it."
    line = f"Stopped by an internal error ({one_line(f'{type(error).__name__}: {error}')[:200]})"
    if arguments is not None:
        line += f"; the details are in {_write_log(error, arguments)}, please report it with them"
    return INTERNAL, line + "."


def usage(error: Any, arguments: Sequence[str]) -> str:
    """A mistake in the command line itself, in our words."""
    context = getattr(error, "ctx", None)
    said = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    path = context.command_path if context is not None else f"perturbox {said}".strip()
    see = f"see `{path} --help`."
    kind = type(error).__name__
    parameter = getattr(error, "param", None)
    if kind == "NoSuchOption":
        known = [option for entry in context.command.params for option in entry.opts] if context is not None else []
        return f"There is no option '{error.option_name}'; {did_you_mean(error.option_name, known, see)}"
    if kind == "MissingParameter" and parameter is not None:
        what = (
            parameter.opts[0]
            if parameter.param_type_name == "option"
            else (parameter.metavar or parameter.name.upper())
        )
        return f"{what} is missing; {see}"
    if kind == "BadParameter" and parameter is not None:
        problem, option = error.message.lower(), parameter.opts[0]
        number = "a number" if "number" in problem or "float" in problem else None
        wanted = "a whole number" if "integer" in problem else number
        return (
            f"{option} needs {wanted or f'another value ({error.message})'}, not '{_value(option, arguments)}'; {see}"
        )
    if kind == "BadOptionUsage":
        return f"{error.option_name} needs a value; {see}"
    message = error.format_message()
    if message.startswith("No such command"):
        name = message.split("'")[1]
        known = list(context.command.commands) if context is not None else []
        return f"There is no command '{name}'; {did_you_mean(name, known, see)}"
    return f"{message.rstrip('.')}; {see}"


def _value(option: str, arguments: Sequence[str]) -> str:
    """What the user gave for an option, last one first; "" if it isn't on the line."""
    for index in range(len(arguments) - 1, -1, -1):
        name, equals, value = arguments[index].partition("=")
        if name == option:
            return value if equals else " ".join(arguments[index + 1 : index + 2])
    return ""


def one_line(text: str) -> str:
    return " ".join(text.split())


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _write_log(error: Exception, arguments: Sequence[str]) -> Path:
    import shlex

    with tempfile.NamedTemporaryFile(
        "w", prefix="perturbox-error-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        log.write(f"perturbox {shlex.join(arguments)}\n\n")
        log.write("".join(traceback.format_exception(error)))
    return Path(log.name)
