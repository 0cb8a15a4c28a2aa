"""The servers tests talk to are real: started, answering, ended, started again."""

from harness.server import TINY, start_server


def test_the_tiny_server_serves_its_model(tiny_server):
    schema = tiny_server.get("/perturbox/schema").json()
    assert [victim["name"] for victim in schema["victims"]] == ["tiny"]
    assert "pgd" in [attack["name"] for attack in schema["attacks"]]


def test_a_token_is_asked_for_and_a_server_comes_back(tmp_path):
    server = start_server(tmp_path, victims=[TINY], token="secret-of-the-test")
    try:
        assert server.get("/perturbox/schema", headers={}).status_code == 401
        assert server.get("/perturbox/jobs").status_code == 200
        server.stop()
        assert server.process.poll() is not None
        server.start_again()
        assert server.get("/perturbox/jobs").status_code == 200
    finally:
        server.stop()
