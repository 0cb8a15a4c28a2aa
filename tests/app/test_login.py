"""A stock client logs in with the server's token as its password, and gets nowhere without."""

import pytest

from conftest import TOKEN


def test_a_stock_client_logs_in_as_with_a_provider(server, tmp_path):
    client = server.stock_client(tmp_path)
    client.update_auth(None)
    client._headers = {}
    assert client.auth_enabled() is True
    assert client.auth_valid_token() is False
    token = client.auth_token("anybody", TOKEN)
    assert token == {"access_token": TOKEN, "token_type": "Bearer"}
    client.update_auth(token)
    assert client.auth_valid_token() is True
    assert client.info()["name"] == "Perturbox"


@pytest.mark.parametrize("password", ["", "a-token-for-test", f"{TOKEN} ", "Ω" * 20])
def test_another_password_is_refused(server, password):
    answer = server.http.post(
        "/auth/token", data={"username": "anybody", "password": password}, headers={"Authorization": ""}
    )
    assert answer.status_code in (401, 422) and TOKEN not in answer.text
    assert set(answer.json()) == {"error", "detail", "what_to_do"}


def test_only_logging_in_is_open(server):
    for path in ("/auth", "/auth/token/", "/auth/token/valid", "/auth/../info/", "/auth//"):
        answer = server.http.get(path, headers={"Authorization": ""})
        assert answer.status_code == 401, path
