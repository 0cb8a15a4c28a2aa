"""A fuzzer over the OpenAPI page: whatever is sent, the server never makes a mistake of its own, and lives."""

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis isn't installed; pip install perturbox[dev]")

pytestmark = pytest.mark.slow
EXAMPLES = 12
# Each of these would start minutes of work in a process of its own with the first example that happens to be valid.
LONG = ("/batch/infer/{model}", "/train/", "/train/{model}", "/scoring/", "/scoring/{method}")


def operations(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=server.headers)
    return [found.ok() for found in schema.get_all_operations() if found.ok().path not in LONG]


def test_no_request_makes_the_server_fail(server):
    from hypothesis import HealthCheck, Phase, given, settings

    asked = 0
    for operation in operations(server):

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case):
            nonlocal asked
            answer = case.call(headers=server.headers, timeout=60)
            asked += 1
            assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text[:500]}"
            if answer.status_code >= 400 and answer.content:
                assert set(answer.json()) == {"error", "detail", "what_to_do"}

        check()
    assert asked > 40 * EXAMPLES
    assert server.http.get("/info/").status_code == 200
    assert "Traceback" not in server.said()
