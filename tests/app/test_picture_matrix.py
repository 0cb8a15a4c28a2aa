"""Grey and colour, 2D, slice by slice and 3D through the server: the job API and MONAI Label's own client."""

from pathlib import Path

import numpy as np
import pytest
import spots
from jobs_client import fetch, submit, wait

from perturbox import io
from perturbox.job.folder import verify

EPS = 20.0
HERE = Path(__file__).resolve().parent.parent / "core" / "spots.py"

pytestmark = pytest.mark.slow


def name(colour: str, grid: str) -> str:
    return f"{colour}-{grid}"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with every victim, and every kind of scan among its studies; and where the scans lie."""
    from serving import start_server

    folder = tmp_path_factory.mktemp("pictures")
    (folder / "studies").mkdir()
    scans = {}
    for colour, grid in spots.KINDS:
        place = folder / name(colour, grid)
        place.mkdir()
        scans[colour, grid] = spots.write(place, colour, grid)
        image = scans[colour, grid][0]
        (folder / "studies" / f"{name(colour, grid)}{io.suffix(image)}").write_bytes(image.read_bytes())
    specs = [f"{HERE}:{colour}_{grid}" for colour, grid in spots.KINDS]
    server = start_server(folder, victims=specs)
    yield server, scans
    server.stop()


@pytest.mark.parametrize("expert", [False, True], ids=["own", "expert"])
@pytest.mark.parametrize(("colour", "grid"), spots.KINDS)
def test_the_job_api_attacks_what_is_sent(served, colour, grid, expert, tmp_path):
    server, scans = served
    image, label = scans[colour, grid]
    files = {"image": image, **({"label": label} if expert else {})}
    job = submit(server.http, files, victim=name(colour, grid), attack="pgd", eps=EPS, steps=3)
    done = wait(server.http, job["id"])
    assert not any("could not be written" in line for line in done["warnings"])
    listed = [entry["name"] for entry in server.http.get(done["links"]["files"]).json()["files"]]
    assert "report.html" in listed
    for file in listed:
        fetch(server.http, job["id"], file, tmp_path)
    assert verify(tmp_path) == []
    original = io.read_volume(image).data
    perturbed = io.read_volume(tmp_path / f"adversarial{io.suffix(image)}").data
    assert perturbed.shape == original.shape and 0 < np.abs(perturbed - original).max() <= EPS


@pytest.mark.parametrize(("colour", "grid"), spots.KINDS)
def test_the_stock_client_attacks_what_is_stored(served, colour, grid, tmp_path):
    server, scans = served
    image, _ = scans[colour, grid]
    client = server.stock_client(tmp_path)
    file, told = client.infer(f"{name(colour, grid)}-pgd", name(colour, grid), {"eps": str(EPS), "steps": "3"})
    assert told["budget"]["measured"]["linf"] <= EPS and told["adversarial"] is True
    segmented = io.read_stored(file).values
    assert segmented.shape[1:] == io.read_volume(image).shape
    stored = server.studies / f"{told['image']}{io.suffix(image)}"
    perturbed, original = io.read_volume(stored).data, io.read_volume(image).data
    assert perturbed.shape == original.shape and 0 < np.abs(perturbed - original).max() <= EPS
