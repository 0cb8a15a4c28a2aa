"""Studies that the operator shows, through the server: progress, rows and page; nothing foreign gets through."""

import json
import shutil

import pytest
import tiny
from jobs_client import refused
from serving import TINY
from serving import start_server as start

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
import pyarrow.parquet as pq

from perturbox.studies.run import run_study

TEXT = f"""\
schema: perturbox-study/1
name: tiny curve
kind: curve
models:
  tiny: {{victim: "{TINY}"}}
cases: {{images: "scan*.nii.gz"}}
attacks: [{{name: pgd, steps: 2}}]
eps: {{values: [10, 40]}}
keep_worst: 0
"""
PIECES = 5  # a clean look, and for each of two limits a craft and a judgement
SCRIPT = b"<!doctype html><script>alert(1)</script><img src=http://elsewhere.example/x>"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """ "whole", "begun" and some that no study wrote."""
    place = tmp_path_factory.mktemp("served")
    tiny.write_scan(place / "scan0.nii.gz")
    (place / "study.yaml").write_text(TEXT)
    root = place / "shelf"
    root.mkdir()
    assert run_study(place / "study.yaml", root / "whole") is not None
    for name in ("begun", "damaged", "hostile", "absurd"):
        (root / name).mkdir()
    for file in ("plan.json", "ledger.jsonl"):
        for name in ("begun", "hostile", "absurd"):
            shutil.copy(root / "whole" / file, root / name)
    with open(root / "begun" / "ledger.jsonl", "r+b") as ledger:
        ledger.truncate(ledger.seek(0, 2) - 30)
    (root / "damaged" / "ledger.jsonl").write_bytes(b"\xff\n")
    keys = [json.loads(line)["key"] for line in (root / "whole" / "ledger.jsonl").read_text().splitlines()]
    lines = (json.dumps({"key": key, "status": "failed", "reason": "\ud800" + "x" * 10**5}) for key in keys)
    (root / "hostile" / "ledger.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (root / "hostile" / "report.html").write_bytes(SCRIPT)
    lines = (json.dumps({"key": key, "status": "ok", "structures": [[]]}) for key in keys)
    (root / "absurd" / "ledger.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (root / "linked").symlink_to(root / "whole")
    (root / "other").mkdir()
    return root


@pytest.fixture(scope="module")
def clinic(shelf, tmp_path_factory):
    """A server without a token, which trusts this machine."""
    server = start(tmp_path_factory.mktemp("clinic"), arguments=["--study-results", str(shelf)])
    yield server
    server.stop()


@pytest.fixture
def http(clinic):
    return clinic.http


def test_without_a_folder_the_list_is_empty(server):
    assert server.http.get("/perturbox/studies").json() == {"studies": [], "total": 0, "next": None}
    told = refused(server.http.get("/perturbox/studies/whole"), 404)
    assert told["detail"] == "This server shows no study 'whole'."


def test_the_list_tells_how_far_each_is(http):
    answer = http.get("/perturbox/studies")
    assert answer.status_code == 200 and answer.headers["Perturbox-API"] == "1.0"
    found = {study["name"]: study for study in answer.json()["studies"]}
    assert list(found) == ["absurd", "begun", "damaged", "hostile", "whole"]
    whole, begun, damaged = found["whole"], found["begun"], found["damaged"]
    assert (whole["state"], whole["done"], whole["all"], whole["failed"]) == ("done", PIECES, PIECES, 0)
    assert (whole["study"], whole["kind"], whole["models"], whole["cases"]) == ("tiny curve", "curve", ["tiny"], 1)
    assert whole["links"] == {
        "self": "/perturbox/studies/whole",
        "report": "/perturbox/studies/whole/report.html",
    }
    assert (begun["state"], begun["done"], begun["all"]) == ("unfinished", PIECES - 1, PIECES)
    assert begun["verdict"] == [] and whole["changed"].endswith("Z")
    assert damaged["state"] == "unreadable"
    assert damaged["problem"].startswith("The study's ledger.jsonl, line 1 is damaged;")
    first = http.get("/perturbox/studies", params={"limit": 2}).json()
    assert ([study["name"] for study in first["studies"]], first["total"], first["next"]) == (["absurd", "begun"], 5, 2)


def test_rows_are_those_of_the_parquet(http, shelf):
    table = pq.read_table(shelf / "whole" / "results.parquet").to_pylist()
    told = http.get("/perturbox/studies/whole").json()
    assert told["total"] == len(table) == 4 and told["next"] is None
    key = lambda row: (row["eps"], row["structure"])  # noqa: E731
    assert sorted(told["rows"], key=key) == sorted(table, key=key)
    assert told["columns"]["eps"] == "in eps_unit"
    assert told["verdict"] == json.loads((shelf / "whole" / "study.json").read_text())["verdict"]
    pages = [http.get("/perturbox/studies/whole", params={"offset": n, "limit": 3}).json() for n in (0, 3)]
    assert [page["next"] for page in pages] == [3, None]
    assert pages[0]["rows"] + pages[1]["rows"] == told["rows"]


def test_a_study_in_the_midst_has_the_rows_it_has(http):
    told = http.get("/perturbox/studies/begun").json()
    assert (told["state"], told["total"]) == ("unfinished", 2)  # of one of its two judgements
    assert refused(http.get("/perturbox/studies/begun/report.html"), 404)["error"] == "no-page-yet"


def test_a_page_can_neither_load_nor_run_anything(http, shelf):
    answer = http.get("/perturbox/studies/whole/report.html")
    assert answer.content == (shelf / "whole" / "report.html").read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    foreign = http.get("/perturbox/studies/hostile/report.html")
    assert foreign.content == SCRIPT
    for page in (answer, foreign):
        assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none';")
        assert page.headers["x-content-type-options"] == "nosniff"


def test_what_no_study_wrote_is_told_in_a_sentence(http, shelf):
    absurd = http.get("/perturbox/studies/absurd").json()
    assert absurd["state"] == "unreadable" and absurd["rows"] == []
    assert absurd["problem"].startswith("The study's ledger.jsonl holds what no study writes;")
    hostile = http.get("/perturbox/studies/hostile").json()
    assert (hostile["state"], hostile["failed"]) == ("unfinished", PIECES)
    assert {len(row["reason"]) for row in hostile["rows"]} == {1000}
    assert all(row["reason"].startswith("?x") for row in hostile["rows"])


@pytest.mark.parametrize(
    "name", ["linked", "other", "..", "%2e%2e", "whole%2f..%2fwhole", "%00", "x" * 201, "whole%0a"]
)
def test_other_names_lead_nowhere(http, name):
    for place in (f"/perturbox/studies/{name}", f"/perturbox/studies/{name}/report.html"):
        answer = http.get(place)
        assert answer.status_code in (404, 422), answer.text
        assert set(answer.json()) == {"error", "detail", "what_to_do"}


def test_no_answer_tells_where_the_server_keeps_things(http, shelf):
    names = [study["name"] for study in http.get("/perturbox/studies").json()["studies"]]
    for place in ("/perturbox/studies", *(f"/perturbox/studies/{name}" for name in (*names, "none"))):
        text = http.get(place).text
        assert str(shelf) not in text and str(shelf.parent) not in text and TINY.split(":")[0] not in text


@pytest.mark.parametrize("place", ["", "/whole", "/whole/report.html"])
def test_the_guard_stands_before_these_routes_too(http, server, place):
    address = f"/perturbox/studies{place}"
    refused(server.http.get(address, headers={"Authorization": "Bearer another"}), 401)
    refused(http.get(address, headers={"Origin": "https://elsewhere.example"}), 403)
    refused(http.get(address, headers={"Host": "elsewhere.example"}), 403)
    refused(http.get(address, headers={"Perturbox-API": "2"}), 409)
    assert http.get(address).headers["x-frame-options"] == "SAMEORIGIN"
    for method in ("POST", "PUT", "DELETE"):
        refused(http.request(method, address), 405)
