"""A real server for the whole run: `perturbox serve` with a model that answers in milliseconds, on two tiny scans."""

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "core"), str(HERE.parents[1] / "monailabel_app")]
TOKEN = "a-token-for-tests"


def pytest_collection_modifyitems(items):
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        # MONAI Label's client leaves its sockets and files to the garbage collector.
        item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
        item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
        if importlib.util.find_spec("monailabel") is None:
            item.add_marker(pytest.mark.skip(reason="needs MONAI Label; `make setup` installs it"))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server that every test may use and none may end; studies: case_a, case_b (see tests/core/tiny.py)."""
    import tiny
    from serving import start_server

    folder = tmp_path_factory.mktemp("server")
    (folder / "studies").mkdir()
    for seed, name in enumerate(("case_a", "case_b")):
        tiny.write_scan(folder / "studies" / f"{name}.nii.gz", seed=seed)
    server = start_server(folder, token=TOKEN)
    yield server
    server.stop()


@pytest.fixture
def start_server(tmp_path):
    """start_server(**options) -> Server, ended after the test; each in a folder of its own unless told `folder`."""
    from serving import start_server as start

    servers = []

    def begin(folder: Path | None = None, **options):
        servers.append(start(folder or tmp_path / f"server-{len(servers)}", **options))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()
