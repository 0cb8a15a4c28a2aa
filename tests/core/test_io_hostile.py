"""Pictures and scans made to hold a reader up: refused within seconds, in one sentence, in bounded memory."""

import gzip
import io
import resource
import struct
import time
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from perturbox.io import read_volume
from perturbox.types import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)


def written(path, suffix: str, array=PIXELS) -> bytes:
    target = path.with_suffix(suffix)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(target))
    return target.read_bytes()


def tiff(entries, next_page: int, order: str = "<", tail: bytes = b"") -> bytes:
    """A TIFF of one directory at 8, whose next is at `next_page`."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack(f"{order}HHI", tag, kind, count)
        body += struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", value)
    return head + body + struct.pack(f"{order}I", next_page) + tail


def page(width: int, height: int, compression: int = 1, place: int = 300) -> list[tuple[int, int, int, int]]:
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, 1, place),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, width * height % 2**32),
    ]


def bmp(width: int, height: int, bits: int = 8, packing: int = 0, pixels: bytes = b"") -> bytes:
    colours = b"".join(bytes([value, value, value, 0]) for value in range(256)) if bits == 8 else b""
    offset = 54 + len(colours)
    head = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, len(pixels), 0, 0, 0, 0)
    return head + info + colours + pixels


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg(path, width: int, height: int) -> bytes:
    raw = bytearray(written(path, ".jpg"))
    at = max(raw.find(b"\xff\xc0"), raw.find(b"\xff\xc2"))
    raw[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


def pages_in_a_row(count: int) -> bytes:
    """Many small directories one after the other."""
    size = 2 + 12 + 4
    body = b"".join(
        struct.pack("<HHHIII", 1, 256, 4, 1, 5, 8 + (number + 1) * size if number + 1 < count else 0)
        for number in range(count)
    )
    return b"II" + struct.pack("<HI", 42, 8) + body


def two_pages_in_a_circle() -> bytes:
    first = tiff(page(4, 4), 200).ljust(200, b"\0")
    second = struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 4) + struct.pack("<I", 8)
    return (first + second).ljust(400, b"\0")


def nifti_with(tail: int = 0, **fields) -> bytes:
    image = nib.Nifti1Image(np.random.default_rng(0).integers(-1000, 1000, (8, 8, 8)).astype(np.int16), np.eye(4))
    raw = bytearray(image.to_bytes())
    for at, layout, value in fields.values():
        struct.pack_into(layout, raw, at, value)
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 1, buffer) as packed:
        packed.write(raw)
        for _ in range(tail):
            packed.write(bytes(2**20))
    return buffer.getvalue()


HOSTILE = {
    "a TIFF whose page follows itself": (".tif", lambda path: tiff(page(4, 4), 8).ljust(400, b"\0"), "circle"),
    "the same of the other byte order": (".tif", lambda path: tiff(page(4, 4), 8, ">").ljust(400, b"\0"), "circle"),
    "two pages in a circle": (".tiff", lambda path: two_pages_in_a_circle(), "circle"),
    "pages without end": (".tif", lambda path: pages_in_a_row(20_000), "circle or have no end"),
    "a TIFF of 40000²": (".tif", lambda path: tiff(page(40_000, 40_000), 0).ljust(400, b"\0"), "more than the 256"),
    "a TIFF of 10000²": (".tif", lambda path: tiff(page(10_000, 10_000), 0).ljust(400, b"\0"), "can't be read"),
    "the same packed": (".tif", lambda path: tiff(page(10_000, 10_000, 8), 0).ljust(400, b"\0"), "can't be read"),
    "a TIFF directory beyond its end": (".tif", lambda path: b"II*\0" + struct.pack("<I", 10**6), "can't be read"),
    "a BMP of 40000²": (".bmp", lambda path: bmp(40_000, 40_000)[:154], "can't be read|more than the 256"),
    "a BMP of 10000²": (".bmp", lambda path: bmp(10_000, 10_000), "can't be read"),
    "a BMP of run lengths": (".bmp", lambda path: bmp(10_000, 10_000, packing=1, pixels=b"\0\1"), "can't be read"),
    "a BMP upside down": (".bmp", lambda path: bmp(10_000, -10_000), "can't be read"),
    "a BMP cut": (".bmp", lambda path: written(path, ".bmp")[:-500], "can't be read"),
    "a BMP cut that says its own length": (
        ".bmp",
        lambda path: b"BM" + struct.pack("<I", 1200) + written(path, ".bmp")[6:1200],
        "can't be read",
    ),
    "a BMP cut that says no length": (
        ".bmp",
        lambda path: b"BM\0\0\0\0" + written(path, ".bmp")[6:1200],
        "can't be read",
    ),
    "a PNG of 100000²": (".png", lambda path: png(100_000, 100_000), "more than the 256"),
    "a PNG of 15000²": (".png", lambda path: png(15_000, 15_000), "can't be read"),
    "a JPEG of 60000²": (".jpg", lambda path: jpeg(path, 60_000, 60_000), "more than the 256"),
    "a JPEG of 15000²": (".jpeg", lambda path: jpeg(path, 15_000, 15_000), "can't be read"),
    "a JPEG without end": (".jpg", lambda path: written(path, ".jpg")[:-2], "can't be read"),
    "a scan with 256 MiB behind it": (".nii.gz", lambda path: nifti_with(256), "goes on for more than 16 MiB"),
    "voxels a gigabyte on": (
        ".nii.gz",
        lambda path: nifti_with(64, offset=(108, "<f", 2.0**30)),
        "damaged NIfTI header",
    ),
    "an extension of a gigabyte": (
        ".nii.gz",
        lambda path: nifti_with(64, offset=(108, "<f", 2.0**30), extension=(348, "<I", 1)),
        "damaged NIfTI header",
    ),
    "a scan of 2000³": (
        ".nii.gz",
        lambda path: nifti_with(x=(42, "<h", 2000), y=(44, "<h", 2000), z=(46, "<h", 2000)),
        "ends too early",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_what_would_hold_a_reader_up_is_refused_at_once(tmp_path, name):
    suffix, make, words = HOSTILE[name]
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(make(tmp_path / "made"))
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(InputError, match=words):
        read_volume(path)
    assert time.process_time() - begun < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".png", ".jpg"])
@pytest.mark.parametrize("shape", [(40, 30), (1, 7), (64, 64), (33, 2000)])
@pytest.mark.parametrize("flat", [False, True])
def test_honest_pictures_are_read(tmp_path, suffix, shape, flat):
    array = np.zeros(shape, np.uint8) if flat else np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=True)
    volume = read_volume(path, allow_constant=True)
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.array_equal(volume.data[0].T, read if read.ndim == 2 else read[..., 0])


def test_a_short_tail_is_nobodys_business(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(nifti_with(2))
    assert read_volume(tmp_path / "a.nii.gz").shape == (8, 8, 8)
