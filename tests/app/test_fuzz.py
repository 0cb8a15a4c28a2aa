"""A fuzzer over the OpenAPI page: whatever is sent, the server never makes a mistake of its own, and lives."""

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis isn't installed; pip install perturbox[dev]")

pytestmark = pytest.mark.slow
EXAMPLES = 30
# Each of these would start minutes of work in a process of its own with the first example that happens to be valid.
LONG = ("/batch/infer/{model}", "/train/", "/train/{model}", "/scoring/", "/scoring/{method}")


# Names that lead past the first check, to what is behind it.
KNOWN = {"image": "fuzzed", "label": "fuzzed", "id": "fuzzed", "tag": "final", "model": "tiny", "strategy": "random"}


def operations(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=server.headers)
    return [found.ok() for found in schema.get_all_operations() if found.ok().path not in LONG]


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE", "KNOWN"])
def test_no_request_makes_the_server_fail(server, mode):
    scan = ("x.nii.gz", (server.studies / "case_a.nii.gz").read_bytes())
    server.http.put("/datastore/image?image=fuzzed", files={"file": scan})
    server.http.put("/datastore/label?image=fuzzed", files={"label": scan})
    kind = schemathesis.GenerationMode["NEGATIVE" if mode == "NEGATIVE" else "POSITIVE"]
    asked = 0
    for operation in operations(server):

        @settings(
            max_examples=10 if mode == "KNOWN" else EXAMPLES,  # those are real work
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=kind))
        def check(case):
            nonlocal asked
            if mode == "KNOWN":
                for held in (case.query, case.path_parameters):
                    held.update({key: name for key, name in KNOWN.items() if key in held})
            answer = case.call(headers=server.headers, timeout=120)
            asked += 1
            assert answer.status_code < 500, f"{answer.status_code} {case.as_curl_command()}\n{answer.text[:500]}"
            if answer.status_code >= 400 and answer.content:
                assert set(answer.json()) == {"error", "detail", "what_to_do"}

        with suppress(Unsatisfiable):  # an operation that takes anything can't be asked wrongly
            check()
    assert asked >= {"POSITIVE": 35 * EXAMPLES, "NEGATIVE": 15 * EXAMPLES, "KNOWN": 35 * 10}[mode]
    assert server.http.get("/info/").status_code == 200
    assert "Traceback" not in server.said()
    server.http.delete("/datastore/image?id=fuzzed")
