"""Fixtures for tests of the Slicer module: application, clean scene, loaded module, real servers and scans."""

import logging
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNABLE = pytest.StashKey[str]()
MODULE = ROOT / "slicer_extension" / "Perturbox" / "Perturbox.py"

try:
    import slicer
    import vtk
except ImportError:
    collect_ignore_glob = ["*"]  # another environment's run: `make setup` makes .venv-slicer, which has slicer-core
else:
    import harness  # noqa: F401  (sets the environment Qt and VTK read)
    from harness import app as application
    from harness import host, pictures, settings, views
    from harness.dialogs import dialogs as the_dialogs
    from harness.server import TINY, start_server

    application.install()
    # Where made_scores and results_made lie. Not before: slicer-core takes every folder `slicer` on the path for a part
    # of itself, this one too, and would import all its files.
    sys.path.append(str(ROOT / "tests"))


def pytest_addoption(parser):
    parser.addoption("--without-server", action="store_true", help="leave out tests that start a server")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--without-server"):
        left_out = [item for item in items if {"server", "tiny_server"} & set(item.fixturenames)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test whose slot couldn't render is skipped, whatever it made of that."""
    report = yield
    if report.failed and UNABLE in item.stash:
        report.outcome, report.longrepr = "skipped", (str(item.path), item.location[1], item.stash[UNABLE])
    return report


@pytest.fixture(scope="session")
def slicer_app():
    """The application, started once."""
    return application.start()


@pytest.fixture(autouse=True)
def excepthook(request):
    """Exceptions that reached sys.excepthook or a thread's; a test fails at its end if any is left here."""
    caught, before = [], (sys.excepthook, threading.excepthook)

    def catch(kind, error, trace):
        if isinstance(error, views.CannotRender):
            request.node.stash[UNABLE] = str(error)
        else:
            caught.append("".join(traceback.format_exception(kind, error, trace)))

    sys.excepthook = catch
    threading.excepthook = lambda hooked: catch(hooked.exc_type, hooked.exc_value, hooked.exc_traceback)
    yield caught
    sys.excepthook, threading.excepthook = before
    if UNABLE in request.node.stash:
        pytest.skip(request.node.stash[UNABLE])
    if caught:
        pytest.fail("an exception reached sys.excepthook:\n" + "\n".join(caught), pytrace=False)


@pytest.fixture(autouse=True)
def mistakes():
    """Tracebacks of the module's own mistakes that it logged; a test fails at its end if any is left here."""
    logged = []

    class Keeper(logging.Handler):
        def emit(self, record):
            logged.append(record.getMessage())

    keeper = Keeper(logging.ERROR)
    logging.getLogger("Perturbox").addHandler(keeper)
    yield logged
    logging.getLogger("Perturbox").removeHandler(keeper)
    if logged:
        pytest.fail("the module logged mistakes:\n" + "\n".join(logged), pytrace=False)


@pytest.fixture(autouse=True)
def vtk_errors():
    """Errors VTK and MRML reported; a test fails at its end if any is left here. Warnings are only printed."""
    said, window = [], vtk.vtkOutputWindow.GetInstance()

    @vtk.calldata_type(vtk.VTK_STRING)
    def hear(caller, event, text):
        said.append(text.strip())

    tag = window.AddObserver(vtk.vtkCommand.ErrorEvent, hear)
    yield said
    window.RemoveObserver(tag)
    if said:
        pytest.fail("VTK reported errors:\n" + "\n".join(said[:20]), pytrace=False)


@pytest.fixture
def dialogs():
    """What was asked and what the test answers; an answer nobody asked for fails the test."""
    the_dialogs.clear()
    yield the_dialogs
    left = list(the_dialogs.answers)
    the_dialogs.clear()
    assert not left, f"nobody asked for the answers {left}"


@pytest.fixture
def scene(slicer_app, dialogs, tmp_path):
    """An empty scene in the four-up layout and settings of the test's own; whoever observes it must let go."""
    settings.use(tmp_path / "Slicer.ini")
    slicer.mrmlScene.Clear(0)
    slicer_app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    slicer_app.processEvents()
    observers = set(slicer.mrmlScene.observers)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(0)
    slicer_app.processEvents()
    left = [react for tag, react in slicer.mrmlScene.observers.items() if tag not in observers]
    assert not left, f"still observing the scene: {left}"


@pytest.fixture
def load_module(scene, slicer_app):
    """Loads a scripted module (Perturbox's file if none is named), shows it and returns its widget."""
    loaded = []

    def load(path: Path = MODULE):
        module = host.load(str(path))
        loaded.append(module)
        slicer.util.selectModule(module.name)
        slicer_app.processEvents()
        return module.widgetRepresentation().self()

    yield load
    for module in reversed(loaded):
        slicer.util.mainWindow().moduleSelector().selectModule("")
        host.unload(module)
    slicer_app.processEvents()


@pytest.fixture
def wait_until(slicer_app):
    """`wait_until(condition, seconds)` runs the event loop until the condition holds; fails when it doesn't in time."""

    def wait(condition, seconds: float = 10, what: str = ""):
        end = time.monotonic() + seconds
        while True:
            slicer_app.processEvents()
            found = condition()
            if found:
                return found
            if time.monotonic() > end:
                pytest.fail(f"{what or condition} didn't come true in {seconds} s")
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The real server with the built-in models."""
    running = start_server(tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory):
    """The real server with the model of tests/core/tiny.py, which answers in milliseconds."""
    running = start_server(tmp_path_factory.mktemp("tiny-server"), victims=[TINY])
    yield running
    running.stop()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real scans (PERTURBOX_DATA, default ../shared/data); tests that need it skip where it is absent."""
    folder = Path(os.environ.get("PERTURBOX_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "ct_abdomen" / "example_ct.nii.gz").exists():
        pytest.skip(f"no real scans at {folder}; set PERTURBOX_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def real_ct(data_dir) -> Path:
    return data_dir / "ct_abdomen" / "example_ct.nii.gz"


@pytest.fixture(scope="session")
def rendering(slicer_app):
    """Pictures of views; skips where no view can be rendered."""
    views.require_rendering()
    return pictures
