"""The command line: it asks, shows and refuses in words; the work is done in `job`, `margin`, `folder` and `report`.

Results go to stdout, everything about their making to stderr. Exit status: 0 done, 1 an internal error or a number that
doesn't hold, 2 bad input (one line on stderr says what is wrong and what to do), 130 abandoned.
"""

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["main"]

INTERRUPTED = 130
COMPLETION = "_PERTURBOX_COMPLETE"  # set by a shell that asks what may come next


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (by default this process's own) and return its exit status. No exception leaves it."""
    status = _status(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None and status == INTERRUPTED:
        os._exit(status)  # at once: tearing the libraries down takes seconds
    return status


def _status(given: list[str]) -> int:
    debug = "--debug" in given  # taken anywhere on the line, for one adds it after something went wrong
    given = [word for word in given if word != "--debug"] or ["--help"]
    # Threads that spin while they wait halve the speed where cores are shared; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that lacks a sign shows another, and goes on
    with _silent_libraries(debug):
        try:
            from perturbox.cli.commands import command

            if COMPLETION in os.environ:
                from typer._completion_classes import completion_init

                completion_init()
            status = command().main(given, prog_name="perturbox", standalone_mode=False)
            sys.stdout.flush()
            return status if isinstance(status, int) else 0
        except BrokenPipeError:  # the reader had enough, as in `perturbox list attacks | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            return INTERRUPTED
        except SystemExit as leaving:  # click's own way out of a closed pipe
            return leaving.code if isinstance(leaving.code, int) else 1
        except Exception as error:
            from perturbox.cli.refusals import explain

            if debug:
                traceback.print_exception(error)
            status, line = explain(error, None if debug else given)
            print(line, file=sys.stderr)
            return status


@contextmanager
def _silent_libraries(debug: bool) -> Iterator[None]:
    """Warnings and log lines of the libraries beneath are for developers: shown with --debug only."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
