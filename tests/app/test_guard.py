"""The guard's parts by themselves: gate, names, parameters, uploads, archives, log lines, tokens of a provider."""

import asyncio
import gzip
import io
import json
import logging
import lzma
import multiprocessing
import os
import resource
import stat
import tarfile
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_io_headers import FINE, other

pytest.importorskip("monailabel", reason="MONAI Label isn't installed; pip install '.[server]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI Label imports what Python is about to drop
    import jwt
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from monailabel.datastore.local import LocalDatastore
    from monailabel.endpoints.user import auth
    from monailabel.interfaces.exception import ImageNotFoundException, MONAILabelError, MONAILabelException

    from lib import private
    from lib.guard import (
        archive,
        asgi,
        errors,
        gate,
        infer,
        logs,
        names,
        parameters,
        proxy,
        routes,
        store,
        uploads,
        upstream,
    )

from perturbox.job.execute import Job
from perturbox.jobs import Order, Problem, Record, Refused
from perturbox.types import InputError

TOKEN = "s3cret-tøken"
LIMIT = 1000


def toy(token: str | None = TOKEN, cors: tuple[str, ...] = (), auth: bool = False) -> FastAPI:
    """A small app behind the gate; `received` counts the bytes that reached its handler."""
    app = FastAPI()
    app.received = []

    @app.api_route("/echo", methods=["GET", "POST", "HEAD", "OPTIONS"], include_in_schema=False)
    async def echo(request: Request):
        async for piece in request.stream():
            app.received.append(len(piece))
        return {"bytes": sum(app.received)}

    @app.get("/mistake")
    async def mistake():
        raise RuntimeError("DOE_JOHN at /srv/patients")

    for kind in errors.HANDLED:
        app.add_exception_handler(kind, errors.handle)
    app.user_middleware = gate(token, LIMIT, cors, auth)
    return app


def call(app: FastAPI, method: str, path: str, token: str | None = None, host: str = "127.0.0.1:8000", **options):
    headers = {"Host": host, **options.pop("headers", {})}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}".encode()

    async def ask():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, headers=headers, **options)

    return asyncio.run(ask())


def told(answer) -> dict[str, str]:
    document = answer.json()
    assert set(document) == {"error", "detail", "what_to_do"}
    assert all(isinstance(text, str) and text for text in document.values())
    assert "Traceback" not in answer.text
    return document


# ---------------------------------------------------------------- who calls


@pytest.mark.parametrize("path", ["/", "/echo", "/docs", "/redoc", "/openapi.json", "/static/x", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_nothing_is_answered_without_the_token(method, path):
    answer = call(toy(), method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    if method != "HEAD":
        assert told(answer)["error"] == "unauthorized"


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN])
def test_only_the_token_itself_opens(sent):
    assert call(toy(), "GET", "/echo", headers={"Authorization": sent.encode()}).status_code == 401


def test_with_the_token_requests_pass_and_its_word_is_case_insensitive():
    assert call(toy(), "GET", "/echo", TOKEN).json() == {"bytes": 0}
    assert call(toy(), "GET", "/echo", headers={"Authorization": f"bEARER {TOKEN}".encode()}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "127.9.9.9"])
def test_without_a_token_this_machines_own_names_pass(host):
    assert call(toy(None), "GET", "/echo", host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.1:8000", "localhost.evil.example", "", "127.0.0.1:x", "[::"])
def test_without_a_token_other_names_are_refused(host):
    answer = call(toy(None), "GET", "/echo", host=host)
    assert answer.status_code == 403
    assert "this machine's own name" in told(answer)["detail"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://[", ""])
def test_without_a_token_pages_of_other_sites_are_refused(origin):
    answer = call(toy(None), "POST", "/echo", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "other sites" in told(answer)["detail"]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("mode", "dest", "method", "status"),
    [
        ("no-cors", "image", "GET", 403),
        ("no-cors", "script", "GET", 403),
        ("no-cors", "empty", "POST", 403),
        ("cors", "empty", "GET", 403),
        ("navigate", "iframe", "GET", 403),
        ("navigate", "document", "POST", 403),
        ("navigate", "document", "GET", 200),
        ("", "", "GET", 403),
    ],
)
def test_without_a_token_what_other_sites_embed_is_refused(site, mode, dest, method, status):
    """A picture's address in a page is asked for without an Origin."""
    sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    assert call(toy(None), method, "/echo", headers=sent).status_code == status
    listed = {**sent, "Origin": "https://viewer.example"}
    assert call(toy(None, ("https://viewer.example",)), method, "/echo", headers=listed).status_code == 200
    assert call(toy(TOKEN), method, "/echo", headers=sent).status_code == 401


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_what_a_user_asks_for_passes(site):
    sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert call(toy(None), "GET", "/echo", headers=sent).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/echo", 200), ("/mistake", 500), ("/nowhere", 404)])
def test_no_answer_can_be_embedded_elsewhere(path, status):
    answer = call(toy(), "GET", path, TOKEN)
    assert answer.status_code == status
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["x-content-type-options"] == "nosniff"
    refused = call(toy(), "GET", path)
    assert refused.status_code == 401 and refused.headers["cross-origin-resource-policy"] == "same-origin"


def test_own_and_listed_pages_pass():
    app = toy(None, cors=("https://ohif.example",))
    assert call(app, "POST", "/echo", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200
    answer = call(app, "POST", "/echo", headers={"Origin": "https://ohif.example"})
    assert answer.headers["access-control-allow-origin"] == "https://ohif.example"
    assert "access-control-allow-credentials" not in answer.headers


def preflight(app, origin):
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization",
    }
    return call(app, "OPTIONS", "/echo", headers=asked)


def test_cors_is_closed_unless_listed():
    assert preflight(toy(), "https://ohif.example").status_code == 401
    answer = call(toy(), "GET", "/echo", TOKEN, headers={"Origin": "https://evil.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)
    listed = toy(cors=("https://ohif.example/",))
    assert preflight(listed, "https://evil.example").status_code == 401
    assert preflight(listed, "https://ohif.example").status_code == 200
    assert call(listed, "GET", "/echo", headers={"Origin": "https://ohif.example"}).status_code == 401


# ---------------------------------------------------------------- how much


def test_an_upload_that_says_its_size_is_refused_unread():
    app = toy()
    answer = call(app, "POST", "/echo", TOKEN, content=b"x" * (LIMIT + 1))
    assert answer.status_code == 413
    assert "MiB" in told(answer)["detail"]
    assert app.received == []


def test_an_upload_that_hides_its_size_is_cut_off():
    app = toy()

    async def endless():
        for _ in range(100):
            yield b"x" * 100

    answer = call(app, "POST", "/echo", TOKEN, content=endless())
    assert answer.status_code == 413
    assert told(answer)["error"] == "too-large"
    assert sum(app.received) <= LIMIT


def test_an_upload_of_just_the_limit_passes():
    assert call(toy(), "POST", "/echo", TOKEN, content=b"x" * LIMIT).json() == {"bytes": LIMIT}


def test_a_stale_content_length_on_a_get_does_not_matter():
    # MONAI Label's client keeps the length of its last upload in the headers of all that follow.
    assert call(toy(), "GET", "/echo", TOKEN, headers={"Content-Length": str(LIMIT * 9)}).status_code == 200


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("error", "status", "code", "piece"),
    [
        (errors.Refusal(415, "No such format.", "Send another."), 415, "unsupported-media-type", "No such format."),
        (HTTPException(404, "Model File NOT Found"), 404, "not-found", "NOT Found"),
        (HTTPException(400, "There was an error parsing the body"), 422, "bad-input", "parsing"),
        (HTTPException(409, {"a": 1}), 409, "conflict", "can't be served"),
        (InputError("The scan is empty; export it again."), 422, "bad-input", "The scan is empty."),
        (Refused(429, Problem("queue-full", "The queue is full.", "Wait.")), 429, "queue-full", "full"),
        (ImageNotFoundException("Image x not found"), 404, "not-found", "Image x not found."),
        (MONAILabelException(MONAILabelError.INVALID_INPUT, "no model"), 422, "bad-input", "No model."),
        (MemoryError(), 503, "out-of-memory", "memory"),
        (OSError(28, "No space left on device"), 503, "disk-full", "disk is full"),
        (RuntimeError("DOE_JOHN"), 500, "internal", "number"),
        (
            RequestValidationError([{"loc": ("query", "tag"), "msg": "Field required"}]),
            422,
            "bad-input",
            "'tag' in the",
        ),
    ],
)
def test_every_exception_has_its_status_and_sentences(error, status, code, piece):
    answer = errors.response(error)
    document = json.loads(answer.body)
    assert (answer.status_code, document["error"]) == (status, code)
    assert piece in document["detail"]
    assert document["what_to_do"]
    assert "DOE_JOHN" not in answer.body.decode()


def test_an_input_errors_second_half_says_what_to_do():
    assert errors.explain(InputError("The scan is empty; export it again."))[1].what_to_do == "Export it again."


def test_the_unforeseen_is_numbered_in_answer_and_log_without_its_text(caplog):
    with caplog.at_level(logging.ERROR, "perturbox.server"):
        answer = call(toy(), "GET", "/mistake", TOKEN)
    assert answer.status_code == 500
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    line = logs.JsonLines().format(record)
    document = json.loads(line)
    assert document["number"] in told(answer)["detail"]
    assert document["exception"] == "RuntimeError"
    assert document["where"][-1].startswith("test_guard.py:")
    assert "DOE_JOHN" not in line + answer.text


def test_undefined_numbers_become_null_and_numpys_pythons():
    given = {"a": float("nan"), 1: [np.float32("inf"), np.int64(3)], "b": (np.array([0.5, np.nan]),)}
    assert errors.plain(given) == {"a": None, "1": [None, 3], "b": [[0.5, None]]}


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        "case_a",
        "CT Abdomen 01",
        "1.2.840.113619.2.55.3",
        "Müller, Ö (2)",
        "x",
        "a__pgd__0a1b2c3d",
        "O'Brien",
        "a" * 200,
    ],
)
def test_names_as_datastores_have_them_pass(name):
    assert names.check("image", name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/../b", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", "-rf", ".hidden", "a\0b", "a\nb", " x"),
        *("x ", "x.", "a" * 201, "a..b", "a*b", "a?b", "~root/x", "a%2fb", "a\ud800b", "\u202eevil"),
    ],
)
def test_names_that_could_be_paths_are_refused(name):
    with pytest.raises(errors.Refusal) as refused:
        names.check("image", name)
    assert refused.value.status_code == 422


@given(st.text(max_size=40))
def test_no_accepted_name_leaves_its_folder(name):
    for kind in ("image", "tag", "model"):
        try:
            names.check(kind, name)
        except errors.Refusal:
            continue
        path = os.path.normpath(os.path.join("/studies", f"{name}.nii.gz"))
        assert os.path.dirname(path) == "/studies"
        assert os.path.basename(path) == f"{name}.nii.gz"


@pytest.mark.parametrize("id", ["", "x", "../x", "a" * 36, "{00000000-0000-0000-0000-000000000000}"])
def test_session_ids_are_uuids(id):
    with pytest.raises(errors.Refusal):
        names.check_session(id)


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("3", "not a JSON object"),
        ('{"eps": NaN}', "NaN"),
        ('{"eps": 1e999}', "NaN or infinite"),
        ('{"a": "\\ud800"}', "not Unicode"),
        ("[" * 5000, "not JSON"),
        ('{"a":' * 20 + "1" + "}" * 20, "nested too deeply"),
    ],
)
def test_parameters_must_be_a_plain_json_object(text, piece):
    with pytest.raises(errors.Refusal) as refused:
        parameters.parse(text)
    assert refused.value.status_code == 422
    assert piece in refused.value.detail


def test_long_parameters_are_refused():
    with pytest.raises(errors.Refusal) as refused:
        parameters.parse(json.dumps({"a": "x" * 70_000}))
    assert refused.value.status_code == 413


@pytest.mark.parametrize("key", sorted(parameters.RESERVED))
def test_parameters_cannot_say_what_the_address_says(key):
    with pytest.raises(errors.Refusal):
        parameters.check_request({key: "x"})


@pytest.mark.parametrize(
    "given",
    [
        {"device": "bogus"},
        {"device": ["cuda:0", "tpu"]},
        {"device": 3},
        {"gpus": 5},
        {"gpus": "0;rm"},
        {"label_tag": "../x"},
        {"y_pred": "/x"},
        {"max_workers": -1},
        {"max_batch_size": "all"},
        {"max_workers": True},
        {"victim": "/models/x.py"},
        {"settings": {"deep": ["a\\b"]}},
    ],
)
def test_parameters_hold_no_path_and_no_bogus_device(given):
    with pytest.raises(errors.Refusal):
        parameters.check_request(given)


def test_what_stock_clients_send_passes():
    parameters.check_request(
        {"device": ["cpu"], "client_id": "user/1", "label_tag": "original", "result_extension": ".nrrd"}
    )
    parameters.check_request({"eps": "4", "steps": "", "max_workers": 1, "gpus": "all", "multi_gpu": True})


def test_clients_cannot_unmark_an_adversarial_image():
    with pytest.raises(errors.Refusal):
        parameters.check_info({"adversarial": False})


# ---------------------------------------------------------------- uploads and archives


@pytest.mark.parametrize(
    ("name", "suffix"), [("/home/a b/CT.NII.GZ", ".nii.gz"), ("1.2.3.nii", ".nii"), ("..\\x.nrrd", ".nrrd")]
)
def test_of_a_name_only_the_suffix_is_kept(name, suffix):
    assert uploads.suffix_of(name) == suffix
    assert "/" not in uploads.stem_of(name, suffix)


@pytest.mark.parametrize("name", [None, "", "x", "x.exe", "x.nii.gz/", "x.nhdr", "x.mhd", "datastore_v2.json"])
def test_other_formats_are_refused(name):
    with pytest.raises(errors.Refusal) as refused:
        uploads.suffix_of(name)
    assert refused.value.status_code == 415


@pytest.mark.parametrize(("suffix", "name", "content"), FINE, ids=[f"{s[1:]} {n}" for s, n, _ in FINE])
def test_whole_files_pass(tmp_path, suffix, name, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    uploads.check_content(path, suffix)


@pytest.mark.parametrize("name", list(other("x")))
def test_headers_cannot_send_the_reader_to_another_file(tmp_path, name):
    suffix, content = other("/etc/passwd")[name]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(errors.Refusal, match="The uploaded file") as refused:
        uploads.check_content(path, suffix)
    assert refused.value.status_code == 422 and str(tmp_path) not in str(refused.value)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(b"")
    with pytest.raises(errors.Refusal):
        uploads.check_content(path, ".nii.gz")


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def tarred(path: Path, *entries: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for entry in entries:
            packed.addfile(entry, io.BytesIO(b"x" * entry.size))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


def test_good_archives_are_unpacked_under_plain_names(tmp_path):
    (tmp_path / "out").mkdir()
    packed = zipped(tmp_path / "a", **{"series/DOE_JOHN.dcm": b"one", "series/1.2.840": b"two", "x.nii.gz": b"three"})
    found = archive.unpack(packed, tmp_path / "out", 100)
    assert [path.name for path in found] == ["00001.dcm", "00002", "00003.nii.gz"]
    assert [path.read_bytes() for path in found] == [b"one", b"two", b"three"]
    (tmp_path / "tar").mkdir()
    packed = tarred(tmp_path / "b", entry("d", tarfile.DIRTYPE), entry("d/a.dcm", size=3))
    assert [path.read_bytes() for path in archive.unpack(packed, tmp_path / "tar", 100)] == [b"xxx"]


@pytest.mark.parametrize("packing", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_are_read_as_python_reads_them(tmp_path, packing, format):
    rng = np.random.default_rng(0)
    names = ["a.dcm", "d/b.dcm", "d/" + "long" * 20 + ".dcm"]
    names += ["d/" * 20 + "e" * 90 + ".nii.gz", "Ä b.dcm"]
    names += ["f/" + "very-long" * 25 + ".dcm"] if format != tarfile.USTAR_FORMAT else []
    held = {name: rng.bytes(size) for name, size in zip(names, (0, 1, 512, 70_000, 513, 3_000_000), strict=False)}
    with tarfile.open(tmp_path / "a", packing, format=format) as packed:
        packed.addfile(entry("d", tarfile.DIRTYPE))
        for name, content in held.items():
            told = entry(name, size=len(content))
            packed.addfile(told, io.BytesIO(content))
    (tmp_path / "out").mkdir()
    found = archive.unpack(tmp_path / "a", tmp_path / "out", 10**7)
    assert [path.read_bytes() for path in found] == list(held.values())


def raw_entry(name: str, kind: bytes, size: int) -> bytes:
    return entry(name, kind, size=size).tobuf(tarfile.GNU_FORMAT)


def gzipped(path: Path, *pieces: tuple[bytes, int]) -> Path:
    """A gzip file of each piece so many times; never whole in memory."""
    with gzip.open(path, "wb", 1) as packed:
        for piece, times in pieces:
            for _ in range(times):
                packed.write(piece)
    return path


MIB = bytes(2**20)
MANY = 120_000


def long_names_in_a_row(path):
    return gzipped(path, (raw_entry("././@LongLink", b"L", 8) + b"a.dcm".ljust(512, b"\0"), MANY // 3))


def many_folders_in_a_zip(path):
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(MANY // 3):
            packed.writestr(f"folder-with-a-long-name-{number:060d}/", b"")
    return path


def nested_sizes(path):
    """A pax header that says of its member that it is larger than any disk."""
    said = b"30 size=1000000000000000000000\n"
    record = raw_entry("x", b"x", len(said)) + said.ljust(512, b"\0") + raw_entry("a.dcm", b"0", 0)
    return gzipped(path, (record, 1), (MIB, 64))


def zip_with_lzma(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("a.dcm", b"x")
    return path


def xz_with_a_huge_dictionary(path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]
    path.write_bytes(lzma.compress(raw_entry("a.dcm", b"0", 0) + bytes(1024), filters=filters))
    return path


def many_files_on_one_content(path):
    """Entries of a zip's table that all mean the same megabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.dcm", MIB * 32)
        first = packed.filelist[0]
        for number in range(1000):
            other = zipfile.ZipInfo(f"{number:04d}.dcm")
            for field in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(other, field, getattr(first, field))
            other.orig_filename = other.filename
            packed.filelist.append(other)
        packed._didModify = True
    return path


def zip_of_zeros(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("a.dcm", "w") as member:
        for _ in range(256):
            member.write(MIB)
    return path


BOMBS = {
    "a GNU long name of 256 MiB": lambda path: gzipped(path, (raw_entry("l", b"L", 2**28), 1), (MIB, 256)),
    "a GNU long link of 256 MiB": lambda path: gzipped(path, (raw_entry("l", b"K", 2**28), 1), (MIB, 256)),
    "a pax header of 256 MiB": lambda path: gzipped(path, (raw_entry("p", b"x", 2**28), 1), (b"9" * 2**20, 256)),
    "a global pax header of 256 MiB": lambda path: gzipped(path, (raw_entry("p", b"g", 2**28), 1), (MIB, 256)),
    "long names in a row": long_names_in_a_row,
    "a size beyond any disk": nested_sizes,
    "a sparse file": lambda path: gzipped(path, (raw_entry("s.dcm", b"S", 512), 1), (b"\1" * 512, MANY)),
    "folders without end": lambda path: gzipped(path, (raw_entry("d/", b"5", 0), MANY)),
    "files without end": lambda path: gzipped(path, (raw_entry("a.dcm", b"0", 0), MANY)),
    "a folder of 256 MiB": lambda path: gzipped(path, (raw_entry("d", b"5", 2**28), 1), (MIB, 256)),
    "a file of 256 MiB": lambda path: gzipped(path, (raw_entry("a.dcm", b"0", 2**28), 1), (MIB, 256)),
    "many folders in a zip": many_folders_in_a_zip,
    "a zip of zeros": zip_of_zeros,
    "many files on one content": many_files_on_one_content,
    "a zip with lzma": zip_with_lzma,
    "a dictionary of 1 GiB": xz_with_a_huge_dictionary,
}


def unpack_watched(bomb: Path, folder: Path, told) -> None:
    """Say how unpacking ends: the refusal, bytes written, seconds of computing, KiB by which this process has grown."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        archive.unpack(bomb, folder, 64 * 2**20)
        status = 0
    except errors.Refusal as refused:
        status = refused.status_code
    written = sum(path.stat().st_size for path in folder.iterdir())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    told.send((status, written, time.process_time() - begun, grown))


@pytest.mark.parametrize("name", list(BOMBS))
def test_archive_bombs_are_refused_in_bounded_memory_and_time(tmp_path, name):
    """In a process of its own, whose largest size is known: 64 MiB may be unpacked."""
    bomb = BOMBS[name](tmp_path / "bomb")
    (tmp_path / "out").mkdir()
    mine, its = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=unpack_watched, args=(bomb, tmp_path / "out", its))
    process.start()
    assert mine.poll(300)
    status, written, seconds, kib = mine.recv()
    process.join()
    assert status in (413, 422)
    assert written <= 65 * 2**20 and seconds < 20 and kib < 100 * 1024


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/abs", "..\\x", "C:\\x", "a\nb"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_with_paths_that_lead_outside_are_refused(tmp_path, kind, name):
    folder = tmp_path / "out"
    folder.mkdir()
    made = zipped(tmp_path / "a", **{name: b"x"}) if kind == "zip" else tarred(tmp_path / "a", entry(name, size=1))
    with pytest.raises(errors.Refusal) as refused:
        archive.unpack(made, folder, 100)
    assert refused.value.status_code == 422
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_archives_with_links_or_devices_are_refused(tmp_path, kind):
    with pytest.raises(errors.Refusal, match="link or a device"):
        archive.unpack(tarred(tmp_path / "a", entry("x", kind, "/etc/passwd")), tmp_path, 100)
    link = zipfile.ZipInfo("x")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "b", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(errors.Refusal, match="link or a device"):
        archive.unpack(tmp_path / "b", tmp_path, 100)


def test_archives_that_grow_too_much_are_cut_off(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(errors.Refusal) as refused:
        archive.unpack(zipped(tmp_path / "a", x=bytes(10**6)), tmp_path / "out", 1000)
    assert refused.value.status_code == 413
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 1000
    monkeypatch.setattr(archive, "MOST_FILES", 2)
    with pytest.raises(errors.Refusal) as refused:
        (tmp_path / "many").mkdir()
        archive.unpack(zipped(tmp_path / "b", a=b"", b=b"", c=b""), tmp_path / "many", 1000)
    assert refused.value.status_code == 413


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04", b"\x1f\x8b\x08\x00broken"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(errors.Refusal) as refused:
        archive.unpack(tmp_path / "a", tmp_path, 1000)
    assert refused.value.status_code == 422


def test_a_damaged_zip_is_refused(tmp_path):
    path = zipped(tmp_path / "a", x=bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(errors.Refusal, match="damaged"):
        archive.unpack(path, tmp_path, 10**6)


# ---------------------------------------------------------------- the datastore


@pytest.fixture
def local(tmp_path):
    """(app, studies): a datastore of MONAI Label with an image, and a link that leads out of it."""
    studies, outside = tmp_path / "studies", tmp_path / "outside.nii.gz"
    studies.mkdir()
    outside.write_bytes(b"precious")
    (studies / "case.nii.gz").write_bytes(b"scan")
    (studies / "link.nii.gz").symlink_to(outside)
    datastore = LocalDatastore(str(studies))
    store.share(datastore)
    return SimpleNamespace(studies=str(studies), datastore=lambda: datastore), outside


def test_only_registered_images_and_labels_are_known(local):
    app, _ = local
    store.check_image(app, "case")
    for image in ("other", "datastore_v2"):
        with pytest.raises(errors.Refusal) as refused:
            store.check_image(app, image)
        assert refused.value.status_code == 404
    with pytest.raises(errors.Refusal) as refused:
        store.check_label(app, "case", "final")
    assert refused.value.status_code == 404


def test_deleting_and_writing_stay_inside_the_studies_folder(local):
    app, outside = local
    store.check_removable(app, "case")
    with pytest.raises(errors.Refusal) as refused:
        store.check_removable(app, "link")
    assert refused.value.status_code == 409
    (Path(app.studies) / "labels" / "evil").symlink_to(outside.parent)
    with pytest.raises(errors.Refusal, match="leads out"):
        store.check_place(app, "case", "evil", ".nii.gz")
    assert outside.read_bytes() == b"precious"


def test_a_new_image_takes_no_others_place(local):
    app, _ = local
    store.check_new(app, "new", ".nii.gz")
    (Path(app.studies) / "stray.nii.gz").write_bytes(b"not registered")
    for image in ("case", "stray"):
        with pytest.raises(errors.Refusal) as refused:
            store.check_new(app, image, ".nii.gz")
        assert refused.value.status_code == 409


# ---------------------------------------------------------------- routes


def test_an_endpoint_that_never_waits_is_driven_to_its_end():
    async def never():
        return 42

    async def waits():
        await asyncio.sleep(0)

    assert upstream.drive(never()) == 42
    with pytest.raises(RuntimeError, match="waits"):
        upstream.drive(waits())


@pytest.mark.parametrize("path", ["qido/studies", "wado/studies/1.2.3/series/4.5", "studies/1.2.3/metadata"])
def test_the_proxy_takes_dicom_paths(path):
    assert proxy.address(path)


@pytest.mark.parametrize(
    "path", ["", "/", "//evil", "../x", "qido/../x", "@evil", "http://evil", "a\\b", "a?b", "a\r\nb", ".."]
)
def test_the_proxy_takes_no_other_paths(path):
    with pytest.raises(errors.Refusal):
        proxy.address(path)


def test_the_viewers_pages_stay_in_their_folder(tmp_path):
    viewer = tmp_path / "ohif"
    viewer.mkdir()
    (viewer / "index.html").write_text("start")
    (viewer / "app.js").write_text("code")
    (tmp_path / "secret").write_text("no")
    assert Path(routes._page(viewer, "app.js").path).name == "app.js"
    for path in ("", "viewer/1.2.3", "../secret", "/etc/passwd", ".."):
        assert Path(routes._page(viewer, path).path).name == "index.html"


@pytest.mark.parametrize(
    ("code", "status"),
    [("bad-input", 422), ("cancelled", 409), ("worker-died", 503), ("out-of-memory", 503), ("stuck", 503), ("x", 500)],
)
def test_a_job_without_a_result_says_why_and_tells_no_path(code, status):
    order = Order("segment", Job(image="/srv/jobs/1/DOE.nii.gz"), name="case_a")
    problem = Problem(code, "/srv/jobs/1/DOE.nii.gz is too large.", "Crop it.")
    record = Record("1", order, 0.0, state="failed", problem=problem)
    with pytest.raises(errors.Refusal) as refused:
        infer._answer(None, None, order, record, "tiny", {}, infer.Source("x", "case_a", True))
    assert refused.value.status_code == status
    assert refused.value.problem == Problem(code, "case_a is too large.", "Crop it.")


def test_a_client_that_leaves_has_its_job_cancelled():
    order = Order("segment", Job(image="x"))
    running, cancelled = Record("1", order, 0.0, state="running"), []

    class Gone:
        async def is_disconnected(self):
            return True

    queue = SimpleNamespace(get=lambda id: running, cancel=cancelled.append)
    with pytest.raises(errors.Refusal, match="client has gone"):
        asyncio.run(infer._finish(queue, running, Gone()))
    assert cancelled == ["1"]


def test_info_is_told_from_memory_but_for_the_numbers_of_images(local):
    app, _ = local

    class App(SimpleNamespace):
        asked = 0

        def info(self):
            self.asked += 1
            return {"name": "x", "score": float("nan")}

    held = App(datastore=app.datastore, _trainers={})
    info = routes.Info(held)
    assert info() == {"name": "x", "score": None, "datastore": app.datastore().status(), "train_stats": {}}
    (Path(app.studies) / "new.nii.gz").write_bytes(b"scan")
    app.datastore().refresh()
    assert info()["datastore"]["total"] == 3
    assert held.asked == 1
    info.forget()
    info()
    assert held.asked == 2
    with ThreadPoolExecutor(1) as pool, app.datastore().guard_lock:  # the other thread has to wait for the datastore
        assert pool.submit(info).result(5)["datastore"]["total"] == 3


# ---------------------------------------------------------------- logs


def line(name: str, text: str, level: int = logging.WARNING) -> tuple[bool, dict]:
    record = logging.LogRecord(name, level, "/x/local.py", 7, text, None, None)
    return logs.Relevant().filter(record), json.loads(logs.JsonLines().format(record))


def test_other_codes_words_are_not_logged():
    kept, document = line("monailabel.datastore.local", "Adding DOE_JOHN")
    assert kept
    assert document["event"] == "local.py:7"
    assert "DOE_JOHN" not in json.dumps(document)
    assert not line("monailabel.endpoints.infer", "DOE_JOHN", logging.INFO)[0]


def test_our_own_words_are():
    assert line("perturbox.jobs", "job done", logging.INFO)[1]["event"] == "job done"


def test_background_processes_lines_are_passed_on_only_if_ours():
    ours = '{"time": "now", "event": "x"}'
    for text, expected in ((ours, ours), ("Running DOE_JOHN", None)):
        record = logging.LogRecord("task_scoring", logging.INFO, "x.py", 1, text, None, None)
        shown = logs.Relay().format(record)
        assert shown == expected if expected else "DOE_JOHN" not in shown


# ---------------------------------------------------------------- an identity provider


@pytest.fixture
def provider(monkeypatch):
    """(sign(claims, **how), an app behind a gate that asks this provider)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    monkeypatch.setattr(auth, "get_public_key", lambda realm: public.decode())
    monkeypatch.setattr(auth.settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(auth, "jwt", auth.jwt)
    monkeypatch.setattr(auth, "from_token", auth.from_token)
    monkeypatch.setitem(private._kept, "PERTURBOX_TOKEN", "of-the-servers-own-processes")
    claims = {"preferred_username": "doe", "realm_access": {"roles": ["monailabel-user"]}, "exp": time.time() + 60}

    def sign(key=key, algorithm="RS256", **changes):
        content = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        return jwt.encode(content, key, algorithm=algorithm)

    return sign, toy(None, auth=True), public


def test_a_valid_token_of_the_provider_opens_every_route(provider):
    sign, app, _ = provider
    assert call(app, "GET", "/echo", sign(), host="server.example").status_code == 200
    assert call(app, "GET", "/openapi.json", sign()).status_code == 200
    assert call(app, "GET", "/echo", "of-the-servers-own-processes").status_code == 200


def test_the_mended_check_tells_user_and_roles(provider):
    sign, _, _ = provider
    user = auth.from_token(sign())
    assert (user.username, user.roles) == ("doe", ["monailabel-user"])


def test_other_tokens_do_not(provider):
    sign, app, public = provider
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    unsigned = jwt.encode({"preferred_username": "doe", "exp": time.time() + 60}, None, algorithm="none")
    head = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT"}')
    body = jwt.utils.base64url_encode(json.dumps({"preferred_username": "doe", "exp": time.time() + 60}).encode())
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(head + b"." + body, public)
    confused = b".".join((head, body, jwt.utils.base64url_encode(mac))).decode()
    tokens = {
        "none": None,
        "unsigned": unsigned,
        "public key as secret": confused,
        "another's": sign(key=other),
        "expired": sign(exp=time.time() - 60),
        "endless": sign(exp=None),
        "nobody's": sign(preferred_username=None),
        "odd roles": sign(realm_access="all"),
        "garbage": "x.y.z",
    }
    for name, token in tokens.items():
        answer = call(app, "GET", "/openapi.json", token)
        assert answer.status_code == 401, name
        assert told(answer)["error"] == "unauthorized"
    assert "expired" in call(app, "GET", "/echo", tokens["expired"]).json()["detail"]


def test_logging_in_stays_open(provider):
    _, app, _ = provider
    assert call(app, "GET", "/auth/").status_code == 404  # past the gate; this app has no such route
    assert call(app, "GET", "/auth/token/valid").status_code == 401


def test_loopback_names():
    assert asgi.is_loopback("localhost.")
    assert not asgi.is_loopback(None)
    assert not asgi.is_loopback("0.0.0.0")
