"""The running server with MONAI Label's login by an identity provider: who gets in, and what each role may."""

import sys
import time

import httpx
import inside  # noqa: F401
import pytest
import requests
import tiny
from jobs_client import post, refused, submit, wait
from monailabel.endpoints.user import auth
from provider import PASSWORD, Provider, new_key
from serving import TINY, start_server

from lib.guard import oidc


@pytest.fixture(scope="module")
def provider():
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def server(provider, tmp_path_factory):
    folder = tmp_path_factory.mktemp("provider")
    (folder / "studies").mkdir()
    tiny.write_scan(folder / "studies" / "case_a.nii.gz")
    command = [sys.executable, "-m", "perturbox", "serve", "--studies", str(folder / "studies"), "--victim", TINY]
    command += ["--home", str(folder / "home"), "--port", "{port}"]
    told = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": provider.realm}
    server = start_server(folder, command=command, token=provider.token("user", 3600), environment=told)
    yield server
    server.stop()


@pytest.fixture
def as_user(server, provider):
    """as_user(name) -> plain HTTP with that user's token."""
    clients = []

    def client(name: str, **options) -> httpx.Client:
        headers = {"Authorization": f"Bearer {provider.token(name, **options)}"}
        clients.append(httpx.Client(base_url=server.url, headers=headers, timeout=120, trust_env=False))
        return clients[-1]

    yield client
    for client in clients:
        client.close()


# ---------------------------------------------------------------- logging in


def test_a_stock_client_logs_in_segments_and_attacks(server, provider, tmp_path):
    client = server.stock_client(tmp_path)
    client.update_auth(None)
    client._headers = {}
    assert client.auth_enabled() is True and client.auth_valid_token() is False
    token = client.auth_token("user", PASSWORD)
    assert set(token) == {"access_token", "token_type"}
    client.update_auth(token)
    assert client.auth_valid_token() is True and client.info()["name"] == "Perturbox"
    assert client.infer("tiny", "case_a", {})[1]["victim"] == "tiny"
    assert client.infer("tiny-pgd", "case_a", {"steps": "1"})[1]["adversarial"] is True


@pytest.mark.parametrize(("name", "password"), [("user", "wrong"), ("nobody", PASSWORD), ("user", " ")])
def test_a_name_or_password_that_the_provider_refuses_is_a_401(server, name, password):
    answer = httpx.post(f"{server.url}/auth/token", data={"username": name, "password": password}, trust_env=False)
    assert "accepts no such name and password" in refused(answer, 401)["detail"]


@pytest.mark.parametrize("path", ["/info/", "/perturbox/jobs", "/docs", "/openapi.json", "/", "/static/x", "/auth/x"])
def test_nothing_else_is_open(server, path):
    refused(httpx.get(server.url + path, trust_env=False), 401)


def test_tokens_that_are_not_the_providers_or_no_more_are_refused(as_user):
    for options in ({"key": new_key()}, {"seconds": -5}):
        for path in ("/info/", "/perturbox/jobs", "/docs"):
            refused(as_user("admin", **options).get(path), 401)


# ---------------------------------------------------------------- what each role may


def test_each_role_may_what_monai_label_lets_it(as_user, server):
    scan = (server.studies / "case_a.nii.gz").read_bytes()

    def asked(http: httpx.Client) -> list[int]:
        label = {"label": ("label.nii.gz", scan)}
        return [
            http.get("/info/").status_code,
            http.get("/perturbox/schema").status_code,
            http.put("/datastore/label?image=case_a&tag=draft", files=label).status_code,
            http.get("/logs/").status_code,
            http.post("/reload").status_code,
        ]

    assert asked(as_user("stranger")) == [403, 403, 403, 403, 403]
    assert asked(as_user("user")) == [200, 200, 403, 403, 403]
    assert asked(as_user("annotator")) == [200, 200, 200, 403, 403]
    assert asked(as_user("admin")) == [200, 200, 200, 200, 200]
    told = refused(as_user("user").post("/reload"), 403)
    assert "monailabel-admin" in told["detail"]


def test_jobs_are_for_users(as_user):
    refused(post(as_user("stranger"), image="case_a", steps=1), 403)
    http = as_user("user")
    assert wait(http, submit(http, image="case_a", steps=1)["id"])["state"] == "done"


@pytest.mark.slow
def test_the_servers_own_processes_get_in_without_a_user(as_user):
    http = as_user("admin")
    assert http.post("/batch/infer/tiny-noise?images=all", json={"steps": "1", "label_tag": "x"}).status_code == 200
    end = time.monotonic() + 200
    while (task := http.get("/batch/infer").json())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < end
        time.sleep(0.5)
    assert task["status"] == "DONE"
    assert http.get("/datastore/label?label=case_a&tag=x").status_code == 200


# ---------------------------------------------------------------- the provider's key


@pytest.fixture
def mended(monkeypatch, provider):
    """MONAI Label's check in this process, mended, asking the provider."""
    monkeypatch.setattr(auth.settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(auth.settings, "MONAI_LABEL_AUTH_REALM_URI", provider.realm)
    for name in ("jwt", "from_token", "get_public_key"):
        monkeypatch.setattr(auth, name, getattr(auth, name))
    oidc.mend("a-secret-of-its-own")


def test_a_withdrawn_key_is_forgotten_in_time(mended, provider, monkeypatch):
    old = provider.key
    assert auth.from_token(provider.token("user")).username == "user"
    asked = provider.asked.count("/realms/clinic")
    assert auth.from_token(provider.token("admin")).username == "admin"
    assert provider.asked.count("/realms/clinic") == asked  # not for each token
    try:
        provider.key = new_key()
        auth.get_public_key.cache.clear()  # as time does
        assert auth.from_token(provider.token("user")).username == "user"
        with pytest.raises(auth.InvalidTokenError):
            auth.from_token(provider.token("user", key=old))
        assert auth.get_public_key.cache.ttl == oidc.KEY_SECONDS == 600
    finally:
        provider.key = old


def test_a_provider_that_is_down_is_not_taken_for_a_bad_token(mended, provider, monkeypatch):
    monkeypatch.setattr(auth.settings, "MONAI_LABEL_AUTH_REALM_URI", "http://127.0.0.1:9/realms/clinic")
    import asyncio

    with pytest.raises(requests.ConnectionError):  # which is answered with 503
        asyncio.run(oidc.verify(provider.token("user")))


def test_the_log_tells_no_token(server, provider):
    said = server.said()
    assert "eyJ" not in said and PASSWORD not in said
