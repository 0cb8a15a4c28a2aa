"""Headers of NRRD and MetaImage: what is accepted reads as ITK reads it, what is refused opens no other file."""

import gzip
import os
import sys
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_io_itk import corners_agree

from perturbox.io import headers, read_volume, write_volume
from perturbox.job.execute import Job
from perturbox.jobs import Order
from perturbox.jobs.files import take_in
from perturbox.types import InputError

SHAPE = (3, 4, 5)
VALUES = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype("<i2")  # (i, j, k)
RAW = VALUES.tobytes(order="F")
CANARY = b"root:x:0:0:CANARY" * 40

NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "3 4 5",
    "space directions": "(0.5,0,0) (0,0.6,0.1) (0,-0.25,1.5)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(1.5,-2.25,300)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "0 1 0 -1 0 0 0 0 1",
    "Offset": "1.5 -2.25 300",
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "ElementSpacing": "0.5 0.6 1.5",
    "DimSize": "3 4 5",
    "ElementType": "MET_SHORT",
}


def nrrd(changes=None, data=RAW, *, end="\n", magic="NRRD0004", more="") -> bytes:
    fields = {**NRRD, **(changes or {})}
    lines = [magic, *(f"{key}: {value}" for key, value in fields.items() if value is not None)]
    return (end.join(lines) + end + more + end).encode("latin-1") + data


def meta(changes=None, data=RAW, *, end="\n", more="", last="ElementDataFile = LOCAL", mark=" = ") -> bytes:
    fields = {**META, **(changes or {})}
    lines = [f"{key}{mark}{value}" for key, value in fields.items() if value is not None]
    return (end.join(lines) + end + more + last + end).encode("latin-1") + data


def big(dtype: str = ">i2") -> bytes:
    return VALUES.astype(dtype).tobytes(order="F")


TEXT = " ".join(str(value) for value in VALUES.ravel(order="F")).encode()
NRRD_FINE = {
    "plain": nrrd(),
    "crlf": nrrd(end="\r\n"),
    "first version": nrrd({"space": None, "space directions": None, "space origin": None, "spacings": "1 2 3"}),
    "magic 1": nrrd({"space": None, "space directions": None, "space origin": None, "kinds": None}, magic="NRRD0001"),
    "magic 5": nrrd(magic="NRRD0005"),
    "gzip": nrrd({"encoding": "gzip"}, gzip.compress(RAW)),
    "gz": nrrd({"encoding": "gz"}, gzip.compress(RAW)),
    "gzip and a tail": nrrd({"encoding": "gzip"}, gzip.compress(RAW + b"tail" * 10)),
    "text": nrrd({"encoding": "ascii"}, TEXT),
    "big endian": nrrd({"endian": "big"}, big()),
    "float": nrrd({"type": "float"}, big("<f4")),
    "double": nrrd({"type": "double"}, big("<f8")),
    "int64": nrrd({"type": "int64"}, big("<i8")),
    "uint8 without endian": nrrd({"type": "uchar", "endian": None}, big("u1")),
    "signed char": nrrd({"type": "signed char"}, big("i1")),
    "unsigned int": nrrd({"type": "unsigned int"}, big("<u4")),
    "RAS": nrrd({"space": "right-anterior-superior"}),
    "RAS short": nrrd({"space": "RAS"}),
    "LAS": nrrd({"space": "left-anterior-superior"}),
    "scanner": nrrd({"space": "scanner-xyz"}),
    "upper case keys": nrrd({"sizes": None, "Sizes": "3 4 5"}),
    "blanks in vectors": nrrd({"space directions": "(0.5, 0, 0) (0, 0.6, 0.1)  (0, -0.25, 1.5)"}),
    "exponents": nrrd({"space origin": "(1e2,-2.5E-1,+3.0)"}),
    "tabs": nrrd({"sizes": "3\t4 5"}),
    "comment": nrrd(more="# data file: /etc/passwd\n"),
    "a free key": nrrd(more="note:=what I saw: nothing\n"),
    "a free key called data file": nrrd(more="data file:=/etc/passwd\n"),
    "content": nrrd({"content": "a scan"}),
    "space dimension": nrrd().replace(b"space: left-posterior-superior", b"space dimension: 3"),
    "centers": nrrd({"centers": "cell cell cell"}),
    "spacings and mins": nrrd(
        {"space": None, "space directions": None, "space origin": None, "spacings": "1 2 3", "axis mins": "4 5 6"}
    ),
    "measurement frame": nrrd({"measurement frame": "(1,0,0) (0,1,0) (0,0,1)"}),
    "units": nrrd({"space units": '"mm" "mm" "mm"'}),
    "byte skip": nrrd({"byte skip": "7"}, b"1234567" + RAW),
    "data at the end": nrrd({"byte skip": "-1"}, b"anything" + RAW),
    "a tail": nrrd(data=RAW + b"tail"),
    "one channel first": nrrd(
        {"dimension": "4", "sizes": "1 3 4 5", "kinds": "vector domain domain domain"}
        | {"space directions": "none " + NRRD["space directions"]}
    ),
    "2D": nrrd(
        {"dimension": "2", "sizes": "12 5", "kinds": None, "space": None, "space directions": None}
        | {"space origin": None, "spacings": "2 3"}
    ),
}
META_FINE = {
    "plain": meta(),
    "crlf": meta(end="\r\n"),
    "colons": meta(mark=": "),
    "tight": meta(mark="="),
    "leading blanks": meta({"DimSize": None}, more="  DimSize = 3 4 5\n"),
    "compressed": meta(
        {"CompressedData": "True", "CompressedDataSize": str(len(zlib.compress(RAW)))}, zlib.compress(RAW)
    ),
    "big endian": meta({"BinaryDataByteOrderMSB": "True"}, big()),
    "another word for order": meta({"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "True"}, big()),
    "order said twice alike": meta({"ElementByteOrderMSB": "False"}),
    "float": meta({"ElementType": "MET_FLOAT"}, big("<f4")),
    "double": meta({"ElementType": "MET_DOUBLE"}, big("<f8")),
    "uchar": meta({"ElementType": "MET_UCHAR"}, big("u1")),
    "char": meta({"ElementType": "MET_CHAR"}, big("i1")),
    "int": meta({"ElementType": "MET_INT"}, big("<i4")),
    "long": meta({"ElementType": "MET_LONG"}, big("<i4")),
    "ulong": meta({"ElementType": "MET_ULONG"}, big("<u4")),
    "long long": meta({"ElementType": "MET_LONG_LONG"}, big("<i8")),
    "position": meta({"Offset": None, "Position": "1 2 3"}),
    "origin": meta({"Offset": None, "Origin": "1 2 3"}),
    "rotation": meta({"TransformMatrix": None, "Rotation": "0 1 0 -1 0 0 0 0 1"}),
    "orientation": meta({"TransformMatrix": None, "Orientation": "0 0 1 0 1 0 -1 0 0"}),
    "no matrix": meta({"TransformMatrix": None}),
    "element size alone": meta({"ElementSpacing": None, "ElementSize": "1 2 3"}),
    "element size too": meta({"ElementSize": "9 9 9"}),
    "remarks": meta(more="Patient Weight = x = y\nComment = hi\n"),
    "modality": meta({"Modality": "MET_MOD_CT"}),
    "local": meta(last="ElementDataFile = Local"),
    "a tail": meta(data=RAW + b"tail"),
    "header size": meta({"HeaderSize": "-1"}),
    "2D": meta(
        {"NDims": "2", "DimSize": "12 5", "TransformMatrix": "1 0 0 1", "Offset": "0 0", "ElementSpacing": "1 2"}
        | {"CenterOfRotation": None, "AnatomicalOrientation": None}
    ),
}
FINE = [(".nrrd", name, content) for name, content in NRRD_FINE.items()]
FINE += [(".mha", name, content) for name, content in META_FINE.items()]


@pytest.mark.parametrize(("suffix", "name", "content"), FINE, ids=[f"{s[1:]} {n}" for s, n, _ in FINE])
def test_what_is_accepted_is_what_itk_reads(tmp_path, suffix, name, content):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    volume = read_volume(path)
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    assert np.array_equal(volume.stored()[0].T, array.reshape(array.shape[: volume.dims]))
    assert volume.dtype == array.dtype
    assert corners_agree(image, volume.affine)
    headers.require_whole(path)


@pytest.mark.parametrize(
    "content",
    [meta({"CompressedData": "True"}, zlib.compress(RAW)), meta({"BinaryData": "False"}, TEXT)],
    ids=["compressed, size not said", "text"],
)
def test_what_itk_gets_wrong_is_read_right(tmp_path, content):
    """ITK gives memory it never wrote to for the first, and says of the second that there is no such file."""
    (tmp_path / "scan.mha").write_bytes(content)
    assert np.array_equal(read_volume(tmp_path / "scan.mha").stored()[0], VALUES)


def other(path: str) -> dict[str, tuple[str, bytes]]:
    """Headers that send some reader to `path`, one of them by every rule that some reader has."""
    found = {f"nrrd {name}": (".nrrd", content) for name, content in _nrrd_elsewhere(path).items()}
    return found | {f"mha {name}": (".mha", content) for name, content in _meta_elsewhere(path).items()}


def _nrrd_elsewhere(path: str) -> dict[str, bytes]:
    lines = {
        "a line ended by CR": f"content: x\rdata file: {path}\r\n",
        "CR CR": f"content: x\r\rdata file: {path}\n",
        "VT": f"content: x\vdata file: {path}\n",
        "FF": f"content: x\fdata file: {path}\n",
        "NUL": f"content: x\0data file: {path}\n",
        "VT before the key": f"\vdata file: {path}\n",
        "FF in the key": f"data\ffile: {path}\n",
        "no blank": f"data file:{path}\n",
        "two blanks": f"data  file: {path}\n",
        "a blank before": f" data file: {path}\n",
        "a tab before": f"\tdata file: {path}\n",
        "a blank behind": f"data file : {path}\n",
        "upper case": f"DATA FILE: {path}\n",
        "one word": f"datafile: {path}\n",
        "twice": f"data file: scan.nrrd\ndata file: {path}\n",
        "both words": f"datafile: scan.nrrd\ndata file: {path}\n",
        "a list": f"data file: LIST\n{path}\n",
        "a pattern": f"data file: {path}%d 1 1 1\n",
        "a remark ended by CR": f"note:=x\rdata file: {path}\r\n",
        "a comment ended by CR": f"# x\rdata file: {path}\r\n",
        "DEL": f"content: x\x7fdata file: {path}\n",
    }
    return {name: nrrd(more=more) for name, more in lines.items()} | {
        "the blank line ended by CR": nrrd(more="", end="\n", data=b"").rstrip(b"\n")
        + f"\r\rdata file: {path}\n\n".encode()
        + RAW,
    }


def _meta_elsewhere(path: str) -> dict[str, bytes]:
    lines = {
        "a colon first": f"ElementDataFile: {path}\n",
        "twice": f"ElementDataFile = {path}\n",
        "CR": f"Comment = x\rElementDataFile = {path}\r\n",
        "VT before": f"\vElementDataFile = {path}\n",
        "FF before": f"\fElementDataFile = {path}\n",
        "VT behind": f"ElementDataFile\v= {path}\n",
        "CR before": f"\rElementDataFile = {path}\n",
        "CR behind": f"ElementDataFile\r= {path}\n",
        "FF behind": f"ElementDataFile\f= {path}\n",
        "a tab before": f"\tElementDataFile = {path}\n",
        "NUL": f"Comment = x\0\nElementDataFile = {path}\n",
        "a list": f"ElementDataFile = LIST\n{path}\n",
        "a list of a dimension": f"ElementDataFile = LIST 2\n{path}\n",
        "a pattern": f"ElementDataFile = {path}%03d 1 2 1\n",
        "no end": f"ElementDataFile = {path}",
        "lower case": f"elementdatafile = {path}\n",
        "a word without a value": f"foo\nElementDataFile = {path}\n",
        "no mark": f"ElementDataFile {path}\n",
        "a key twice": f"NDims = 3\nElementDataFile = {path}\n",
    }
    return {name: meta(more=more) for name, more in lines.items()}


@pytest.mark.parametrize("name", list(other("x")))
@pytest.mark.parametrize("place", ["absolute", "beside"])
def test_no_header_sends_a_client_s_file_to_another(tmp_path, name, place):
    """`beside`: a neighbour's file is a client's business as little as any other."""
    (tmp_path / "canary").write_bytes(CANARY)
    suffix, content = other(str(tmp_path / "canary") if place == "absolute" else "canary")[name]
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        headers.require_whole(path)
    assert "CANARY" not in str(refused.value)
    if place == "absolute":  # for nobody else either
        with pytest.raises(InputError):
            read_volume(path)


ODD = {
    "an empty header": (".nrrd", b"NRRD0004\n\n"),
    "no blank line": (".nrrd", nrrd(data=b"").rstrip(b"\n")),
    "another format": (".nrrd", b"hello"),
    "an unknown version": (".nrrd", nrrd(magic="NRRD0009")),
    "an unknown field": (".nrrd", nrrd({"colour": "red"})),
    "an unknown type": (".nrrd", nrrd({"type": "block"})),
    "an unknown packing": (".nrrd", nrrd({"encoding": "bzip2"})),
    "an unknown byte order": (".nrrd", nrrd({"endian": "middle"})),
    "no byte order": (".nrrd", nrrd({"endian": None})),
    "a missing size": (".nrrd", nrrd({"sizes": "3 4"})),
    "a size that is none": (".nrrd", nrrd({"sizes": "3 4 x"})),
    "huge sizes": (".nrrd", nrrd({"sizes": "99999999 99999999 99999999"})),
    "huge sizes, packed": (".nrrd", nrrd({"sizes": "9999 9999 9999", "encoding": "gzip"}, gzip.compress(RAW))),
    "many dimensions": (".nrrd", nrrd({"dimension": "99999999"})),
    "digits without end": (".nrrd", nrrd({"dimension": "9" * 6000})),
    "skipped lines": (".nrrd", nrrd({"line skip": "2"})),
    "a negative skip": (".nrrd", nrrd({"byte skip": "-5"})),
    "too few voxels": (".nrrd", nrrd(data=RAW[:-1])),
    "too few packed voxels": (".nrrd", nrrd({"encoding": "gzip"}, gzip.compress(RAW[:-2]))),
    "damaged packing": (".nrrd", nrrd({"encoding": "gzip"}, b"\x1f\x8bnonsense" * 9)),
    "text for numbers": (".nrrd", nrrd({"encoding": "text"}, b"x " * 200)),
    "numbers too large": (".nrrd", nrrd({"encoding": "text"}, b"40000 " * 200)),
    "flat directions": (".nrrd", nrrd({"space directions": "(1,0,0) (1,0,0) (0,0,1)"})),
    "a direction that is none": (".nrrd", nrrd({"space directions": "(nan,0,0) (0,1,0) (0,0,1)"})),
    "two axes outside": (".nrrd", nrrd({"kinds": "vector list domain"})),
    "two kinds of space": (".nrrd", nrrd({"space dimension": "3"})),
    "a long header": (".nrrd", nrrd(more="# x\n" * 300_000)),
    "many channels": (
        ".nrrd",
        nrrd({"dimension": "3", "sizes": "5 3 4", "kinds": "vector domain domain", "space directions": None})
        .replace(b"space: left-posterior-superior\n", b"")
        .replace(b"space origin: (1.5,-2.25,300)\n", b""),
    ),
    "an empty mha": (".mha", b"\n\n"),
    "no size": (".mha", meta({"DimSize": None})),
    "no type": (".mha", meta({"ElementType": None})),
    "an odd type": (".mha", meta({"ElementType": "MET_OTHER"})),
    "another object": (".mha", meta({"ObjectType": "Tube"})),
    "a factor": (".mha", meta({"ElementToIntensityFunctionSlope": "2"})),
    "a short matrix": (".mha", meta({"TransformMatrix": "1 0 0"})),
    "a matrix of words": (".mha", meta({"TransformMatrix": "a b c d e f g h i"})),
    "an offset of another dimension": (".mha", meta({"Offset": "1 2"})),
    "two offsets": (".mha", meta({"Position": "7 8 9"})),
    "two orders": (".mha", meta({"ElementByteOrderMSB": "True"})),
    "no truth": (".mha", meta({"CompressedData": "perhaps"})),
    "a skip": (".mha", meta({"HeaderSize": "100"})),
    "no spacing": (".mha", meta({"ElementSpacing": "0 1 1"})),
    "too few": (".mha", meta(data=RAW[:-1])),
    "too few packed": (".mha", meta({"CompressedData": "True"}, zlib.compress(RAW[:-2]))),
    "five dimensions": (".mha", meta({"NDims": "5", "DimSize": "1 1 3 4 5"} | dict.fromkeys(
        ("TransformMatrix", "Offset", "ElementSpacing", "CenterOfRotation", "AnatomicalOrientation")
    ))),
    "no last line": (".mha", meta(last="Foo = LOCAL")),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ODD))
def test_what_no_header_says_is_refused_in_a_sentence(tmp_path, name):
    suffix, content = ODD[name]
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]+; [^\n]+\.$") as refused:
        read_volume(path)
    assert str(path) in str(refused.value) and str(refused.value).isprintable()


def detached(folder, format: str, data: str):
    """A header in `folder` whose voxels are said to be in `data`."""
    folder.mkdir(exist_ok=True)
    path = folder / f"scan{format}"
    if format in (".nhdr", ".nrrd"):
        path.write_bytes(nrrd({"data file": data}, data=b""))
    else:
        path.write_bytes(meta(data=b"", last=f"ElementDataFile = {data}"))
    return path


@pytest.mark.parametrize("format", [".nhdr", ".nrrd", ".mhd", ".mha"])
def test_voxels_beside_their_header_are_read(tmp_path, format):
    path = detached(tmp_path, format, "scan.raw")
    (tmp_path / "scan.raw").write_bytes(RAW)
    assert np.array_equal(read_volume(path).stored()[0], VALUES)
    with pytest.raises(InputError, match="another file; send one whole file"):
        headers.require_whole(path)


@pytest.mark.parametrize("format", [".nhdr", ".mhd"])
@pytest.mark.parametrize("how", ["absolute", "up", "through a folder", "link", "linked folder", "fifo", "folder"])
def test_voxels_elsewhere_are_not(tmp_path, format, how):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.raw").write_bytes(RAW)
    folder = tmp_path / "studies"
    folder.mkdir()
    name = {
        "absolute": str(outside / "secret.raw"),
        "up": "../outside/secret.raw",
        "through a folder": "a/../../outside/secret.raw",
        "link": "link.raw",
        "linked folder": "linked/secret.raw",
        "fifo": "pipe.raw",
        "folder": ".",
    }[how]
    (folder / "a").mkdir()
    (folder / "link.raw").symlink_to(outside / "secret.raw")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "pipe.raw")
    with pytest.raises(InputError, match=r"outside its own folder|is no file"):
        read_volume(detached(folder, format, name))


@pytest.mark.parametrize(("format", "whole"), [(".nhdr", ".nrrd"), (".nrrd", ".nrrd"), (".mhd", ".mha")])
@pytest.mark.parametrize("packed", [False, True])
def test_header_and_voxels_become_one_file(tmp_path, format, whole, packed):
    image = sitk.GetImageFromArray(VALUES.T)
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetMetaData("note", "what I saw: nothing")
    if format == ".nrrd":
        path = detached(tmp_path, format, "scan.raw")
        (tmp_path / "scan.raw").write_bytes(RAW)
    else:
        path = tmp_path / f"scan{format}"
        sitk.WriteImage(image, str(path), packed)
    headers.write_whole(headers.read(path), tmp_path / f"whole{whole}")
    headers.require_whole(tmp_path / f"whole{whole}")
    one, two = read_volume(path), read_volume(tmp_path / f"whole{whole}")
    assert np.array_equal(one.data, two.data) and np.array_equal(one.affine, two.affine)
    assert dict(one.header["metadata"]) == dict(two.header["metadata"])
    assert corners_agree(sitk.ReadImage(str(tmp_path / f"whole{whole}")), one.affine)


def test_remarks_are_written_back_and_no_line_can_be_smuggled_in(tmp_path):
    path = tmp_path / "scan.nrrd"
    path.write_bytes(nrrd(more="note:=a\\ndata file: /etc/passwd\n"))
    volume = read_volume(path)
    write_volume(tmp_path / "copy.nrrd", volume)
    headers.require_whole(tmp_path / "copy.nrrd")
    assert np.array_equal(read_volume(tmp_path / "copy.nrrd").data, volume.data)


SEEDS = [(suffix, content) for suffix, _, content in FINE] + list(other("/proc/self/environ").values())
SEEDS += [seed for name, seed in ODD.items() if name != "a long header"]
INSERTS = [
    b"\r",
    b"\n",
    b"\v",
    b"\0",
    b":",
    b"=",
    b" ",
    b"data file: /etc/passwd\n",
    b"ElementDataFile = /etc/passwd\n",
]
INSERTS += [b"LIST", b"%d", b"9" * 30, b"-1", b"nan", b"(", b")", b"none ", b"\xff", b"\t", b"../", b"1e400"]


@pytest.mark.slow
@settings(max_examples=5000, deadline=2000, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_header_is_read_or_refused_and_opens_no_other_file(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    suffix, content = data.draw(st.sampled_from(SEEDS))
    body = bytearray(content)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, min(len(body), 700)))
        gone = data.draw(st.integers(0, 12))
        body[at : at + gone] = data.draw(st.one_of(st.sampled_from(INSERTS), st.binary(max_size=6)))
    path = folder / f"scan{suffix}"
    path.write_bytes(bytes(body))
    opened.clear()
    try:
        volume = read_volume(path, allow_constant=True)
        assert volume.data.size <= 1032 * len(body)
    except InputError:
        pass
    strange = [name for name in opened if name not in (str(path), os.devnull) and "perturbox-" not in name]
    assert [name for name in strange if not name.endswith((".py", ".pyc"))] == []


opened: list[str] = []


def _note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        opened.append(os.fspath(arguments[0]))


@pytest.fixture(scope="module", autouse=True)
def watched():
    sys.addaudithook(_note)


@pytest.mark.parametrize("format", [".nhdr", ".mhd"])
def test_a_jobs_own_copy_of_a_detached_scan_is_whole(tmp_path, format):
    path = detached(tmp_path / "studies", format, "scan.raw")
    (tmp_path / "studies" / "scan.raw").write_bytes(RAW)
    order = take_in(Order("segment", Job(image=str(path))), tmp_path / "job")
    (copy,) = (tmp_path / "job" / "image").iterdir()
    assert order.job.image == str(copy)
    headers.require_whole(copy)
    assert np.array_equal(read_volume(copy).data, read_volume(path).data)


def test_voxels_in_several_files_are_told_as_that(tmp_path):
    names = "".join(f"s{n:02}.raw\n" for n in range(3))
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 3\nencoding: raw\nendian: little\ndata file: LIST\n{names}"
    )
    (tmp_path / "list.nhdr").write_text(header)
    with pytest.raises(InputError, match="has its voxels in several files; save it as one"):
        headers.read(tmp_path / "list.nhdr")
