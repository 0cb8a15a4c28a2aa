"""Mistakes of the module's own: each is logged with its traceback and told in one sentence, and ends nothing else.

Qt's slots, timers and VTK's observers are called by C++, which drops an exception. What they call is `told`.
"""

import functools
import logging
import traceback
from collections.abc import Callable

from .trouble import Trouble, trouble

log = logging.getLogger("Perturbox")
_listeners: list[Callable[[Trouble], None]] = []
_last = ""


def listen(tell: Callable[[Trouble], None] | None) -> None:
    """Have every mistake told by `tell`, and no longer by whoever did before; None for nobody."""
    global _last
    _listeners[:] = [] if tell is None else [tell]
    _last = ""


def report(error: Exception) -> Trouble:
    """Log a mistake and tell it; a Trouble is no mistake and is only told. The same one in a row, as at every tick of a
    timer, is logged once."""
    global _last
    if isinstance(error, Trouble):
        said = error
    else:
        detail = "".join(traceback.format_exception(error))
        said = trouble("internal", detail, kind=type(error).__name__)
        if detail != _last:
            log.error("%s\n%s", said.sentence, detail)
        _last = detail
    for tell in _listeners:
        try:
            tell(said)
        except Exception:
            log.exception("A mistake could not be told.")
    return said


def tried(call: Callable, *arguments):
    """What a call gives; None where it fails, which is reported."""
    try:
        return call(*arguments)
    except Exception as error:
        report(error)
        return None


def told(call: Callable) -> Callable:
    """Decorator of what Qt or VTK calls: a failure is reported, as often as it happens, and goes no further."""

    @functools.wraps(call)
    def run(*arguments):
        global _last
        _last = ""
        return tried(call, *arguments)

    return run
