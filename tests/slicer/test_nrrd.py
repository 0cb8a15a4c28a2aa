"""NRRD without MRML: equal to what slicer-core's own reader and writer make of it, and words for whatever is broken."""

import gzip
import itertools

import numpy as np
import pytest
import slicer
from grids import AFFINES, volume_node
from PerturboxLib import nrrd
from PerturboxLib.trouble import Trouble

KINDS = ("int16", "uint8", "float32", "float64")
SHAPE = (3, 4, 5)


def numbers(kind: str, shape=SHAPE) -> np.ndarray:
    """Values that only their own type holds, and that no two axes share."""
    values = np.random.default_rng(1).normal(0, 50, shape)
    return values.astype(kind) if np.dtype(kind).kind == "f" else np.abs(values).astype(kind) - (kind == "int16") * 30


def storage(path):
    node = slicer.vtkMRMLNRRDStorageNode()
    node.SetFileName(str(path))
    return slicer.mrmlScene.AddNode(node)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("kind", "grid"), list(itertools.product(KINDS, AFFINES)))
def test_slicer_reads_what_is_written(scene, tmp_path, kind, grid, compress):
    array, affine = numbers(kind), AFFINES[grid]
    path = tmp_path / "written.nrrd"
    path.write_bytes(nrrd.encode(array, affine, {"note": "a"}, compress))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert storage(path).ReadData(node)
    read = slicer.util.arrayFromVolume(node)
    assert read.dtype == array.dtype and np.array_equal(read, array)
    came = slicer.util.arrayFromVTKMatrix(ijk_to_ras(node))
    np.testing.assert_allclose(came, affine, rtol=0, atol=1e-12)
    assert node.GetAttribute("note") == "a"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("kind", "grid"), list(itertools.product(KINDS, AFFINES)))
def test_what_slicer_writes_is_read(scene, tmp_path, kind, grid, compress):
    array, affine = numbers(kind), AFFINES[grid]
    node = volume_node(array, affine)
    note = "two\nlines, a \\ and a := too"
    node.SetAttribute("note", note)
    path = tmp_path / "theirs.nrrd"
    writer = storage(path)
    writer.SetUseCompression(int(compress))
    assert writer.WriteData(node)
    data = path.read_bytes()
    assert (b"encoding: gzip" in data) == compress
    image = nrrd.decode(data)
    assert image.array.dtype == array.dtype and np.array_equal(image.array, array)
    np.testing.assert_allclose(image.ijkToRas, affine, rtol=0, atol=1e-12)
    assert image.fields["note"] == note


def ijk_to_ras(node):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kind", sorted(nrrd.TYPES))
def test_bytes_come_back_as_they_were(kind, compress):
    array = numbers(kind)
    fields = {
        "notice": "ADVERSARIAL - NOT FOR CLINICAL USE",
        "description": 'labels: {"Leber (größer)": 1}',
        "p": "a\\nb\n",
    }
    image = nrrd.decode(nrrd.encode(array, AFFINES["oblique"], fields, compress))
    assert image.array.dtype == array.dtype and np.array_equal(image.array, array)
    assert np.array_equal(image.ijkToRas, AFFINES["oblique"])  # to the last bit
    assert image.fields == fields


def test_bool_is_uint8_and_any_memory_order_will_do():
    mask = numbers("int16") > 20
    assert np.array_equal(nrrd.decode(nrrd.encode(mask, np.eye(4))).array, mask.astype(np.uint8))
    turned = np.asfortranarray(numbers("float32")).astype(">f4")[:, ::-1]
    assert np.array_equal(nrrd.decode(nrrd.encode(turned, np.eye(4))).array, turned)


def test_raw_voxels_are_the_arrays_own_bytes_i_fastest():
    array = numbers("int16")
    data = nrrd.encode(array, np.eye(4))
    assert data.endswith(array.astype("<i2").tobytes()) and b"sizes: 5 4 3\n" in data


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.zeros((0, 2, 2)), np.zeros((1, 1, 1), complex)])
def test_what_is_no_volume_is_refused(array):
    with pytest.raises(ValueError, match="NRRD holds volumes"):
        nrrd.encode(array, np.eye(4))


@pytest.mark.parametrize("key", ["", "a:b", "a\nb", "#a"])
def test_keys_that_would_break_the_header_are_refused(key):
    with pytest.raises(ValueError, match="can't be a key"):
        nrrd.encode(np.zeros((1, 1, 1)), np.eye(4), {key: "x"})


HEADER = """NRRD0004
# a remark
type: {type}
dimension: {dimension}
space: {space}
sizes: {sizes}
space directions: {directions}
kinds: domain domain domain
endian: {endian}
encoding: {encoding}
space origin: (10,20,30)
{more}
"""
GOOD = {"type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "2 1 3", "endian": "little"}
GOOD |= {"directions": "(2,0,0) (0,3,0) (0,0,4)", "encoding": "raw", "more": "a:=b"}
VOXELS = np.arange(6, dtype="<i2").reshape(3, 1, 2)


def made(content: bytes = VOXELS.tobytes(), **changes) -> bytes:
    return HEADER.format(**GOOD | changes).encode() + b"\n" + content


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        *(("left-posterior-superior", (-1, -1, 1)), ("LPS", (-1, -1, 1))),
        *(("Right-Anterior-Superior", (1, 1, 1)), ("RAS", (1, 1, 1))),
        *(("left-anterior-superior", (-1, 1, 1)), ("LAS", (-1, 1, 1))),
    ],
)
def test_every_space_becomes_ras(space, signs):
    image = nrrd.decode(made(space=space))
    assert np.array_equal(np.diag(image.ijkToRas), [2 * signs[0], 3 * signs[1], 4 * signs[2], 1])
    assert np.array_equal(image.ijkToRas[:3, 3], np.array([10, 20, 30]) * signs)
    assert np.array_equal(image.array, VOXELS) and image.fields == {"a": "b"}


def test_big_endian_gzip_ends_of_lines_and_spellings():
    swapped = VOXELS.astype(">i2").tobytes()
    image = nrrd.decode(made(gzip.compress(swapped), endian="big", encoding="GZ", type="Signed  short int"))
    assert image.array.dtype == np.int16 and image.array.dtype.isnative and np.array_equal(image.array, VOXELS)
    windows = HEADER.format(**GOOD).replace("\n", "\r\n").encode() + b"\r\n" + VOXELS.tobytes()
    assert np.array_equal(nrrd.decode(windows).array, VOXELS)
    assert np.array_equal(nrrd.decode(made(directions="(2, 0, 0) (0,3,0) ( 0,0,4 )")).array, VOXELS)
    assert nrrd.decode(made(VOXELS.astype(np.uint8).tobytes(), type="uchar", endian="")).array.dtype == np.uint8


BAD = {
    "another type": {"type": "block"},
    "no number of axes": {"dimension": "x"},
    "four axes": {"dimension": "4"},
    "two sizes": {"sizes": "2 3"},
    "a size of none": {"sizes": "0 1 3"},
    "a negative size": {"sizes": "-2 -1 3"},
    "sizes in words": {"sizes": "two one three"},
    "other sizes": {"sizes": "1 1 3"},
    "an unknown space": {"space": "scanner-xyz"},
    "two directions": {"directions": "(2,0,0) (0,3,0)"},
    "a direction of none": {"directions": "none (0,3,0) (0,0,4)"},
    "directions in a plane": {"directions": "(2,0,0) (0,3,0) (2,3,0)"},
    "directions without end": {"directions": "(inf,0,0) (0,3,0) (0,0,4)"},
    "no number as direction": {"directions": "(nan,0,0) (0,3,0) (0,0,4)"},
    "an unknown order of bytes": {"endian": "middle"},
    "another encoding": {"encoding": "bzip2"},
    "text for gzip": {"encoding": "gzip"},
    "voxels elsewhere": {"more": "data file: /etc/passwd"},
    "a part to skip": {"more": "byte skip: -1"},
    "a line without a colon": {"more": "nonsense"},
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_a_trouble(name):
    with pytest.raises(Trouble) as caught:
        nrrd.decode(made(**BAD[name]))
    assert caught.value.code == "bad-file" and caught.value.detail.startswith("NRRD")


@pytest.mark.parametrize(
    "field", ["type", "sizes", "space directions", "space origin", "encoding", "dimension", "endian"]
)
def test_a_field_that_is_missing_is_a_trouble(field):
    lines = made().split(b"\n")
    with pytest.raises(Trouble) as caught:
        nrrd.decode(b"\n".join(line for line in lines if not line.startswith(field.encode() + b":")))
    assert caught.value.code == "bad-file"


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_cut_anywhere_is_truncated(compress):
    data = nrrd.encode(numbers("int16"), np.eye(4), {"k": "v"}, compress)
    for length in range(len(data)):
        with pytest.raises(Trouble) as caught:
            nrrd.decode(data[:length])
        assert caught.value.code == "truncated", (length, caught.value.detail)


def test_more_than_the_header_says_and_other_bytes_are_bad():
    for data in (made() + b"x", b"PK\x03\x04 a zip", made(gzip.compress(VOXELS.tobytes() + b"xx"), encoding="gzip")):
        with pytest.raises(Trouble) as caught:
            nrrd.decode(data)
        assert caught.value.code == "bad-file"


def test_a_flipped_byte_in_gzip_never_passes_for_voxels():
    packed = bytearray(gzip.compress(VOXELS.tobytes()))
    packed[-6] ^= 1  # in its checksum
    with pytest.raises(Trouble) as caught:
        nrrd.decode(made(bytes(packed), encoding="gzip"))
    assert caught.value.code == "bad-file"


def test_gzip_never_unpacks_more_than_the_header_says():
    import tracemalloc

    bomb = made(gzip.compress(bytes(2**26)), encoding="gzip")
    tracemalloc.start()
    with pytest.raises(Trouble):
        nrrd.decode(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_random_bytes_are_never_another_exception():
    rng = np.random.default_rng(3)
    whole = made()
    for _ in range(2000):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 5)):
            data[place] = rng.integers(0, 256)
        try:
            nrrd.decode(bytes(data))
        except Trouble as error:
            assert error.code in ("bad-file", "truncated")
