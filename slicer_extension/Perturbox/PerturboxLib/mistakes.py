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
_logged: dict[str, str] = {}


def listen(tell: Callable[[Trouble], None] | None) -> None:
    """Tell every mistake to `tell` alone from now on; None: to nobody."""
    _listeners[:] = [] if tell is None else [tell]
    _logged.clear()


def report(error: Exception, place: str = "") -> Trouble:
    """Log a mistake and tell it; a Trouble is no mistake and is only told. place: where the same mistake may come again
    and again, as at every tick of a timer; there it is logged once."""
    if isinstance(error, Trouble):
        said = error
    else:
        detail = "".join(traceback.format_exception(error))
        said = trouble("internal", detail, kind=type(error).__name__)
        if not place or _logged.get(place) != detail:
            log.error("%s\n%s", said.sentence, detail)
        _logged[place] = detail
    for tell in _listeners:
        try:
            tell(said)
        except Exception:
            log.exception("A mistake could not be told.")
    return said


def tried(call: Callable, *arguments):
    """What a call gives that is made again and again; None where it fails, which is reported."""
    try:
        return call(*arguments)
    except Exception as error:
        report(error, getattr(call, "__qualname__", repr(call)))
        return None


def told(call: Callable) -> Callable:
    """Decorator of what Qt or VTK calls: a failure is reported and goes no further."""

    @functools.wraps(call)
    def run(*arguments):
        try:
            return call(*arguments)
        except Exception as error:
            report(error)
            return None

    return run
