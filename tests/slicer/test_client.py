"""The client: addresses, what goes over the wire, and the whole job API against the real server."""

import email
import email.policy
import hashlib
import json
import socket
import subprocess
import threading
import time
import types
from typing import ClassVar

import misbehaving as bad
import numpy as np
import pytest
from grids import AFFINES
from PerturboxLib import nrrd
from PerturboxLib.client import Client, Waits
from PerturboxLib.trouble import WORDS, Trouble, trouble

WAITS = Waits(connect=0.5, answer=1, submit=1, convert=1)
TOKEN = "a-token-for-tests"


def trouble_of(call, *arguments, **options) -> Trouble:
    with pytest.raises(Trouble) as caught:
        call(*arguments, **options)
    return caught.value


# ---------------------------------------------------------------- words


def test_every_trouble_has_a_sentence_and_what_to_do():
    for code, (sentence, whatToDo) in WORDS.items():
        assert code == code.lower() and " " not in code
        assert sentence.endswith((".", "}")), code
        assert code == "stopped" or whatToDo.endswith((".", "?", "…")), code


def test_a_trouble_in_words():
    found = trouble("not-hu", low=0, high=255)
    said = "Values run from 0 to 255. This is not CT in Hounsfield units, so a limit in HU means nothing."
    assert (found.code, found.sentence) == ("not-hu", said)
    assert str(found) == f"{said} Load the original CT."
    with pytest.raises(KeyError):
        trouble("not-hu", low=0)
    with pytest.raises(KeyError):
        trouble("no-such-code")


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("typed", "address", "host", "isLoopback"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("  localhost:8000/ ", "http://localhost:8000", "localhost:8000", True),
        ("LOCALHOST", "http://localhost", "localhost", True),
        ("::1", "http://[::1]", "[::1]", True),
        ("[::1]:8000", "http://[::1]:8000", "[::1]:8000", True),
        ("127.8.9.10:1", "http://127.8.9.10:1", "127.8.9.10:1", True),
        ("gpu-ws:8000", "http://gpu-ws:8000", "gpu-ws:8000", False),
        ("GPU-WS.Example:8000//", "http://gpu-ws.example:8000", "gpu-ws.example:8000", False),
        ("https://ws.example/perturbox-1/", "https://ws.example/perturbox-1", "ws.example", False),
        ("10.0.0.7", "http://10.0.0.7", "10.0.0.7", False),
        ("127.0.0.1.example", "http://127.0.0.1.example", "127.0.0.1.example", False),
        ("localhost.example:8000", "http://localhost.example:8000", "localhost.example:8000", False),
    ],
)
def test_addresses_as_they_are_typed(typed, address, host, isLoopback):
    client = Client(typed)
    assert (client.address, client.host, client.isLoopback) == (address, host, isLoopback)
    assert client.isPrivate == (isLoopback or address.startswith("https"))


NO_ADDRESSES = [
    "",
    "  ",
    "ftp://host",
    "http://",
    "http:/host",
    "http//host",
    "https:host",
    "file:///etc/passwd",
    "a b",
]
NO_ADDRESSES += ["host:99999", "host:0", "host:x", "user:secret@host", "host?x=1", "host#x", "http://[::1", "host\nx"]
NO_ADDRESSES += ["\\\\server\\share"]


@pytest.mark.parametrize("typed", NO_ADDRESSES)
def test_what_is_no_address_is_refused(typed):
    found = trouble_of(Client, typed)
    assert found.code == "bad-address" and "secret" not in found.detail


@pytest.mark.parametrize("token", ["tök", "two\nlines", "a\tb"])
def test_a_token_that_no_header_can_carry_is_refused(token):
    assert trouble_of(Client, "localhost", token).code == "token-wrong"


# ---------------------------------------------------------------- reaching a server


def test_nothing_listens():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        found = trouble_of(Client(f"127.0.0.1:{listener.getsockname()[1]}").connect)
    assert found.code == "no-server" and found.sentence.startswith("No answer from 127.0.0.1:")
    assert "refused" in found.detail


def test_no_such_machine():
    found = trouble_of(Client("http://no-such-machine.invalid:8000").connect)
    assert found.code == "unknown-host" and "'no-such-machine.invalid'" in found.sentence


@pytest.fixture
def full():
    """An address that lets no connection through, as a firewall would: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for filler in fillers:
            filler.close()


def test_a_firewall_swallows_everything(full):
    begun = time.monotonic()
    assert trouble_of(Client(full, waits=WAITS).connect).code == "no-server"
    assert 0.4 < time.monotonic() - begun < 2


@pytest.mark.parametrize("where", ["connecting", "tls", "answer", "body"])
def test_interrupting_ends_a_request_wherever_it_is(full, where):
    fault = bad.dribble if where == "body" else bad.silence
    with bad.Misbehaving(faults={"connect": fault}) as server, socket.create_server(("127.0.0.1", 0)) as mute:
        addresses = {"connecting": full, "tls": f"https://127.0.0.1:{mute.getsockname()[1]}"}
        address = addresses.get(where, server.url)
        client = Client(address, waits=Waits(connect=30, answer=30))
        found = []
        thread = threading.Thread(target=lambda: found.append(trouble_of(client.connect)))
        thread.start()
        time.sleep(0.4)
        begun = time.monotonic()
        client.interrupt()
        thread.join(5)
        assert time.monotonic() - begun < 1 and [error.code for error in found] == ["stopped"]
        assert trouble_of(client.health).code == "stopped", "what is asked later is refused as well"


def test_https_to_a_server_that_speaks_http():
    with bad.Misbehaving() as server:
        assert trouble_of(Client(server.url.replace("http", "https")).connect).code == "no-tls"


def test_a_certificate_of_nobody(tmp_path):
    """What the browser would warn of ends here; nothing is sent."""
    import ssl

    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl program to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with bad.Misbehaving() as server:
        server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
        found = trouble_of(Client(server.url.replace("http", "https"), TOKEN).connect)
        assert found.code == "certificate" and server.calls == []


# ---------------------------------------------------------------- what goes over the wire


def test_every_request_says_its_version_and_its_token():
    with bad.Misbehaving(token=TOKEN) as server:
        client = Client(server.url, f" {TOKEN}\n")
        client.connect()
        client.submit({"kind": "segment"}, {"image": ("scan.nrrd", b"x")})
        client.status(bad.ID)
        client.files(bad.ID)
        client.download(bad.ID, "result.json")
        client.cancel(bad.ID)
        client.close()
    assert [call[0] for call in server.calls] == ["connect", "submit", "poll", "files", "download", "cancel"]
    for *_, headers in server.calls:
        assert headers["Authorization"] == f"Bearer {TOKEN}" and headers["Perturbox-API"] == "1"


def test_a_submission_is_a_request_and_its_files_byte_for_byte():
    scan, sent = np.random.default_rng(0).bytes(3_000_001), []
    files = {"image": ('Müller "A";\r\nx.nrrd', scan), "roi": ("roi.nrrd", b"\r\n--\r\n")}
    with bad.Misbehaving() as server:
        client = Client(server.url)
        told = client.submit({"eps": 4, "target": ["Leber"]}, files, lambda *progress: sent.append(progress))
        client.close()
    headers = next(call[3] for call in server.calls if call[0] == "submit")
    body = next(content for moment, content in server.bodies if moment == "submit")
    assert told["id"] == bad.ID and int(headers["Content-Length"]) == len(body)
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    parts = list(email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts())
    names = [part.get_param("name", header="content-disposition") for part in parts]
    assert names == ["request", "image", "roi"]
    assert json.loads(parts[0].get_content()) == {"eps": 4, "target": ["Leber"]}
    assert parts[0].get_filename() is None and parts[1].get_filename() == "M_ller _A____x.nrrd"
    for part, (_, content) in zip(parts[1:], files.values(), strict=True):
        boundary = headers["Content-Type"].partition("boundary=")[2].encode()
        assert content + b"\r\n--" + boundary in body and part.get_content_type() == "application/octet-stream"
    assert sent[-1] == (len(body), len(body)) and [a for a, _ in sent] == sorted(a for a, _ in sent)


def test_numbers_that_json_lacks_are_refused_before_anything_is_sent():
    with bad.Misbehaving() as server:
        found = trouble_of(Client(server.url).submit, {"eps": float("nan")})
    assert found.code == "bad-input" and server.calls == []


def test_a_scan_larger_than_the_limit_is_never_sent():
    with bad.Misbehaving() as server:
        client = Client(server.url)
        client.connect()
        found = trouble_of(client.twin().submit, {}, {"image": ("scan.nrrd", bytes(2**20))})
        client.close()
    assert found.code == "too-large" and "1 MiB" in found.sentence and server.count("submit") == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_neither_scan_nor_token_follows_a_redirect(status):
    with bad.Misbehaving() as other, bad.Misbehaving() as server:
        fault = bad.says(status, headers={"Location": f"{other.url}/perturbox/jobs"})
        server.faults = dict.fromkeys(("connect", "submit"), fault)
        client = Client(server.url, TOKEN)
        for call in (client.connect, lambda: client.submit({}, {"image": ("scan.nrrd", b"x")})):
            found = trouble_of(call)
            assert found.code == "redirect" and other.url in found.whatToDo
        assert other.calls == []


def test_proxies_of_the_environment_are_for_other_machines_only(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine perturbox.example login me password secret\nmachine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with bad.Misbehaving() as server, bad.Misbehaving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for client in (Client(server.url), Client("http://perturbox.example:8000"), Client("perturbox.example", TOKEN)):
            client.connect()
            client.close()
    assert [call[2] for call in server.calls] == ["/perturbox/schema"]
    assert [call[2] for call in proxy.calls] == [
        "http://perturbox.example:8000/perturbox/schema",
        "http://perturbox.example/perturbox/schema",
    ]
    # Passwords that the user keeps for other programs are not sent.
    sent = [call[3].get("Authorization") for call in (*server.calls, *proxy.calls)]
    assert sent == [None, None, f"Bearer {TOKEN}"]


def test_a_proxy_that_is_gone(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert trouble_of(Client("http://perturbox.example").connect).code == "proxy"


def test_twins_share_what_was_learnt_and_nothing_else():
    with bad.Misbehaving(token=TOKEN) as server:
        client = Client(server.url, TOKEN, WAITS)
        client.connect()
        twin = client.twin()
        client.interrupt()
        assert (twin.limits, twin.waits) == (client.limits, WAITS) and twin.limits["upload_bytes"] == 2**20
        assert twin.connect()["api"] == "1.0"
        twin.close()
        client.close()


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize(("hadToken", "code"), [("", "token-missing"), ("wrong-token", "token-wrong")])
def test_tokens_missing_and_wrong(hadToken, code):
    with bad.Misbehaving(token=TOKEN) as server:
        assert trouble_of(Client(server.url, hadToken).connect).code == code


@pytest.mark.parametrize(("api", "code"), [("2.0", "newer-server"), ("0.3", "older-server"), ("", "older-server")])
def test_a_server_that_speaks_another_version_without_refusing(api, code):
    answer = json.dumps({"api": api, "victims": [], "attacks": [], "models": {}}).encode()
    with bad.Misbehaving(faults={"connect": bad.gives(answer)}) as server:
        found = trouble_of(Client(server.url).connect)
    assert found.code == code and found.whatToDo.startswith("Update the P" if api == "2.0" else "Ask for the server")


def test_what_answers_without_perturbox():
    nothing = {"connect": bad.says(404), "info": bad.says(404)}
    with bad.Misbehaving(faults={"connect": bad.says(404)}) as server:
        found = trouble_of(Client(server.url).connect)
        assert str(found) == (
            "This MONAI Label server has no Perturbox app. Ask for it to be started with the Perturbox app."
        )
        server.faults = nothing
        found = trouble_of(Client(server.url).connect)
        assert found.code == "not-perturbox" and "404" in found.detail


def test_the_servers_own_sentences_are_passed_on():
    told = {"detail": "Unknown attack 'pdg'.", "what_to_do": "Did you mean 'pgd'?"}
    with bad.Misbehaving(faults={"submit": bad.says(422, "bad-input", **told)}) as server:
        found = trouble_of(Client(server.url).submit, {"attack": "pdg"})
    assert str(found) == "Unknown attack 'pdg'. Did you mean 'pgd'?"
    assert (found.code, found.reason) == ("bad-input", "bad-input") and "422" in found.detail


@pytest.mark.parametrize(("said", "seconds"), [("7", 7), ("0", 1), ("soon", 5)])
def test_a_full_queue_says_when_to_come_back(said, seconds):
    fault = bad.says(429, "queue-full", {"Retry-After": said}, detail="32 jobs are waiting already.")
    with bad.Misbehaving(faults={"submit": fault}) as server:
        found = trouble_of(Client(server.url).submit, {})
    assert str(found) == f"32 jobs are waiting already. Try again in {seconds} s."


def test_a_full_queue_may_name_a_date():
    from email.utils import formatdate

    fault = bad.says(429, headers={"Retry-After": formatdate(time.time() + 60, usegmt=True)})
    with bad.Misbehaving(faults={"submit": fault}) as server:
        found = trouble_of(Client(server.url).submit, {})
    assert found.whatToDo in [f"Try again in {seconds} s." for seconds in range(56, 61)]


def test_details_stay_short():
    with bad.Misbehaving(faults={"connect": bad.gives(b"x" * 10**6)}) as server:
        server.faults["info"] = bad.says(404)
        assert len(trouble_of(Client(server.url).connect).detail) < 2500


def test_no_answer_of_json_is_read_without_end():
    with bad.Misbehaving(faults={"connect": bad.gives(b"[" * (65 * 2**20)), "info": bad.says(404)}) as server:
        found = trouble_of(Client(server.url).connect)
    assert found.code == "not-perturbox" and "more than" in found.detail


def test_a_download_that_is_another_file_than_listed_is_damaged():
    job = bad.Job()
    with bad.Misbehaving(job) as server:
        client = Client(server.url)
        listed = {file["name"]: file["sha256"] for file in client.files(bad.ID)}
        wanted = {"id": bad.ID, "name": "adversarial.nrrd", "asNrrd": True, "sha256": listed["adversarial.nrrd"]}
        assert client.download(**wanted) == job.images["adversarial.nrrd"]
        job.images["adversarial.nrrd"] += b"!"  # so that it has another hash
        assert trouble_of(client.download, **wanted).code == "damaged"
        client.close()


def test_a_body_shorter_than_it_said_is_noticed_whatever_the_library_does():
    class Short:
        headers: ClassVar = {"Content-Length": "10"}
        request = types.SimpleNamespace(method="GET", path_url="/perturbox/schema")

        def iter_content(self, size):
            return iter([b"12345"])

    found = trouble_of(Client("localhost")._read, Short())
    assert (found.code, found.detail) == ("truncated", "5 of 10 bytes")


def test_a_flipped_byte_on_the_way_is_seen():
    told = hashlib.sha256(b'{"a": 1}').hexdigest()
    with bad.Misbehaving(faults={"download": bad.gives(b'{"a": 2}', headers={"ETag": f'"{told}"'})}) as server:
        assert trouble_of(Client(server.url).download, bad.ID, "result.json").code == "damaged"


# ---------------------------------------------------------------- the real server


@pytest.fixture
def real(tiny_server):
    client = Client(tiny_server.url, tiny_server.token)
    yield client
    client.close()


def scan(shape=(18, 22, 24)) -> np.ndarray:
    """k j i, int16 HU: air, fat, and a liver that 10 HU can take away."""
    array = np.full(shape, -1000, np.int16)
    array[2:-2, 3:-3, 3:-3] = -100
    array[4:-4, 5:-5, 5:-5] = 8
    return array + np.random.default_rng(0).integers(-3, 4, shape).astype(np.int16)


def finished(client: Client, id: str) -> dict:
    end = time.monotonic() + 120
    while (told := client.status(id))["state"] not in ("done", "failed", "cancelled", "interrupted"):
        assert time.monotonic() < end, told
        time.sleep(0.1)
    return told


def test_the_schema_has_what_a_module_shows(real):
    offer = real.connect()
    victim = offer["victims"][0]
    assert victim["name"] == "tiny" and victim["labels"] == {"background": 0, "liver": 1, "bone": 2}
    assert (victim["unit"], victim["dims"], victim["licence"]) == ("HU", 3, "none")
    assert {"intended_use", "training_data", "limits", "spacing_mm", "title"} <= victim.keys()
    assert offer["models"]["tiny-pgd"]["config_schema"]["properties"]["eps"]["x-unit"] == "HU"
    assert real.limits["upload_bytes"] == offer["limits"]["upload_bytes"] > 2**20
    assert real.health()["workers"] == 1


@pytest.mark.parametrize("grid", ["axial", "oblique", "flipped"])
def test_a_job_from_submission_to_deletion(real, grid):
    array, progress = scan(), []
    files = {"image": ("scan.nrrd", nrrd.encode(array, AFFINES[grid]))}
    told = real.submit({"kind": "attack", "eps": 10, "steps": 2, "seed": 1}, files)
    assert told["state"] in ("queued", "running") and told["image"] == "scan.nrrd"
    assert finished(real, told["id"])["state"] == "done"
    whole, rest = (real.status(told["id"], since)["progress"] for since in (0, 1))
    assert len(whole["trace"]) >= 2 and rest["trace"] == whole["trace"][1:]
    assert real.jobs()[0]["id"] == told["id"]
    listing = {file["name"]: file for file in real.files(told["id"])}
    images = {}
    for name in ("adversarial.nrrd", "perturbation.nii.gz", "clean_seg.nii.gz"):
        content = real.download(told["id"], name, True, lambda *p: progress.append(p), listing[name]["sha256"])
        images[name] = nrrd.decode(content)
        assert progress[-1] == (len(content), len(content))
        np.testing.assert_allclose(images[name].ijkToRas, AFFINES[grid], rtol=0, atol=1e-5)
    # The scan is the perturbed one minus the perturbation, voxel by voxel: no axis was turned on the way.
    adversarial = images["adversarial.nrrd"].array
    assert adversarial.dtype == np.int16
    assert np.array_equal(adversarial - images["perturbation.nii.gz"].array, array)
    assert images["adversarial.nrrd"].fields["notice"] == "ADVERSARIAL - NOT FOR CLINICAL USE"
    assert images["clean_seg.nii.gz"].fields["description"].startswith("labels: ")
    assert np.array_equal(images["clean_seg.nii.gz"].array[6:-6, 7:-7, 7:-7], np.ones((6, 8, 10)))
    raw = real.download(told["id"], "result.json", sha256=listing["result.json"]["sha256"])
    assert json.loads(raw)["attack"]["parameters"]["eps"] == 10
    as_it_lies = nrrd.decode(real.download(told["id"], "adversarial.nrrd"))
    assert np.array_equal(as_it_lies.array, adversarial)
    again = real.resubmit(told["id"])
    assert again["id"] != told["id"] and finished(real, again["id"])["state"] == "done"
    real.delete(told["id"])
    assert trouble_of(real.status, told["id"]).code == "job-gone"


def test_refusals_of_the_real_server(real):
    image = {"image": ("scan.nrrd", nrrd.encode(scan(), AFFINES["axial"]))}
    found = trouble_of(real.submit, {"attack": "pdg"}, image)
    assert str(found) == "Unknown attack 'pdg'. Did you mean 'pgd'?" and found.code == "bad-input"
    assert trouble_of(real.submit, {}, {"image": ("scan.doc", b"x")}).code == "other-format"
    assert trouble_of(real.status, "no-such-job").code == "job-gone"
    assert trouble_of(real.status, "../../info").code in ("job-gone", "not-found")
    told = real.submit({"kind": "segment"}, image)
    assert finished(real, told["id"])["state"] == "done"
    found = trouble_of(real.cancel, told["id"])
    assert (found.code, found.reason) == ("conflict", "over")
    found = trouble_of(real.download, told["id"], "../result.json")
    assert found.code == "not-found"


def test_the_real_server_refuses_another_version(real, monkeypatch):
    import PerturboxLib.client as module

    monkeypatch.setattr(module, "API", "2")
    assert trouble_of(real.connect).code == "older-server"
    monkeypatch.setattr(module, "API", "0")
    assert trouble_of(real.connect).code == "newer-server"
