"""What users give by mistake: damaged files, scans that don't fit, and arguments that make no sense.

`BAD_IMAGES` are scans as (name, builder(folder) -> path, expected words): reading them and checking their HU must
end in one InputError that holds every word. `BAD_INPUTS` are the arguments of a whole command line (beginning with
"attack"), those images among them; each must end with exit status 2, one line on stderr that holds every word (case
doesn't matter), and no result.
Both tables fit `pytest.mark.parametrize`. Images have 16 to 24 voxels a side.
"""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from dicom_series import write_series

SHAPE = (20, 18, 16)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])

Builder = Callable[[Path], Path]
Arguments = Callable[[Path], list[str]]


def ct_values(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """HU of a ball of soft tissue with a rim of fat in air, with noise, int16."""
    noise = np.random.default_rng(0).normal(0, 10, shape)
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(p**2 for p in places))
    hu = np.where(radius < 0.7, 50.0, np.where(radius < 0.85, -100.0, -1000.0))
    return np.rint(hu + noise).astype(np.int16)


def good_ct(folder: Path, name: str = "ct.nii.gz", values: np.ndarray | None = None) -> Path:
    """A scan that can be read, so that only the argument under test is wrong."""
    path = folder / name
    nib.save(nib.Nifti1Image(ct_values() if values is None else values, AFFINE), path)
    return path


def patched(folder: Path, **fields: object) -> Path:
    """A scan whose NIfTI header says something else in these fields, without the checks of a library."""
    path = good_ct(folder, "ct.nii")
    raw = bytearray(path.read_bytes())
    header = np.frombuffer(raw, nib.Nifti1Header.template_dtype, 1).copy()
    for field, value in fields.items():
        header[field] = value
    raw[: header.nbytes] = header.tobytes()
    path.write_bytes(raw)
    return path


def _written(name: str, content: bytes) -> Builder:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def _cut(make: Builder, keep: float) -> Builder:
    """The same file without its end."""

    def build(folder: Path) -> Path:
        path = make(folder)
        raw = path.read_bytes()
        path.write_bytes(raw[: int(keep * len(raw))])
        return path

    return build


def _itk(name: str, values: np.ndarray | None = None, vector: bool = False) -> Builder:
    def build(folder: Path) -> Path:
        array = ct_values() if values is None else values
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(folder / name))
        return folder / name

    return build


def _header(**fields: object) -> Builder:
    return lambda folder: patched(folder, **fields)


def _values(change: Callable[[np.ndarray], np.ndarray]) -> Builder:
    return lambda folder: good_ct(folder, values=change(ct_values()))


def _with(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float32)
        values[3, 4, 5] = value
        return values

    return change


def _meta(spacing: str) -> Builder:
    head = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 20 18 16\n"
        f"ElementSpacing = {spacing}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    return _written("ct.mha", head.encode() + ct_values().tobytes(order="F"))


def _series(**options) -> Builder:
    def build(folder: Path) -> Path:
        write_series(folder / "series", ct_values((16, 16, 6)), **options)
        return folder / "series"

    return build


def _empty_folder(folder: Path) -> Path:
    (folder / "series").mkdir()
    (folder / "series" / "notes.txt").write_text("no images here")
    return folder / "series"


def _two_series(folder: Path) -> Path:
    first = write_series(folder / "first", ct_values((16, 16, 6)))
    write_series(folder / "series", ct_values((16, 16, 4)))
    for path in first:
        shutil.copy(path, folder / "series" / f"other-{path.name}")
    return folder / "series"


def _damaged_slice(folder: Path) -> Path:
    last = write_series(folder / "series", ct_values((16, 16, 6)))[-1]
    last.write_bytes(last.read_bytes()[:-100])
    return folder / "series"


def _damaged_gzip(folder: Path) -> Path:
    path = good_ct(folder)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    return path


def _rgb_nifti(folder: Path) -> Path:
    colours = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(colours, AFFINE), folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def _scaled(folder: Path) -> Path:
    """An ordinary picture of 0 to 255 made of a CT."""
    values = ct_values().astype(np.float64)
    return good_ct(folder, values=np.rint(255 * (values - values.min()) / np.ptp(values)).astype(np.uint8))


def _magnetic_resonance(folder: Path) -> Path:
    values = np.rint(400 + 0.3 * ct_values()).clip(-40).astype(np.int16)
    return good_ct(folder, values=values)


BAD_IMAGES: list[tuple[str, Builder, tuple[str, ...]]] = [
    ("missing file", lambda folder: folder / "none.nii.gz", ("none.nii.gz", "doesn't exist")),
    ("missing folder", lambda folder: folder / "none" / "ct.nii", ("doesn't exist",)),
    ("empty file", _written("ct.nii.gz", b""), ("empty",)),
    ("empty nrrd", _written("ct.nrrd", b""), ("empty",)),
    ("unknown suffix", _written("ct.docx", b"words"), ("suffix", ".nii.gz")),
    ("text as nii.gz", _written("ct.nii.gz", b"This is text, not a scan."), ("isn't a gzip file",)),
    ("zipped text", _written("ct.nii.gz", gzip.compress(b"This is text." * 99)), ("isn't a nifti file",)),
    ("text as nii", _written("ct.nii", b"This is text." * 99), ("isn't a nifti file",)),
    ("text as nrrd", _written("ct.nrrd", b"This is text." * 99), ("can't be read as .nrrd",)),
    ("text as mha", _written("ct.mha", b"This is text." * 99), ("can't be read as .mha",)),
    ("text as png", _written("ct.png", b"This is text." * 99), ("can't be read as .png",)),
    ("text as dcm", _written("ct.dcm", b"This is text." * 99), ("isn't a dicom file",)),
    ("truncated nii.gz", _cut(good_ct, 0.6), ("truncated",)),
    ("truncated gzip trailer", _cut(good_ct, 0.9999), ("truncated",)),
    ("truncated nii", _cut(lambda folder: good_ct(folder, "ct.nii"), 0.6), ("truncated",)),
    ("truncated nii header", _cut(lambda folder: good_ct(folder, "ct.nii"), 0.01), ("isn't a nifti file",)),
    ("truncated nrrd", _cut(_itk("ct.nrrd"), 0.6), ("truncated",)),
    ("truncated mha", _cut(_itk("ct.mha"), 0.6), ("truncated",)),
    ("truncated png", _cut(_itk("ct.png", np.arange(400, dtype=np.uint8).reshape(20, 20)), 0.6), ("truncated",)),
    ("truncated jpg", _cut(_itk("ct.jpg", np.arange(400, dtype=np.uint8).reshape(20, 20)), 0.8), ("truncated",)),
    ("damaged gzip", _damaged_gzip, ("damaged",)),
    ("gzip named nii", lambda folder: good_ct(folder).rename(folder / "ct.nii"), ("rename it to .nii.gz",)),
    ("time series", lambda folder: good_ct(folder, values=np.zeros((*SHAPE, 5), np.int16)), ("20×18×16×5", "3d")),
    ("time series nrrd", _itk("ct.nrrd", np.zeros((5, *SHAPE), np.int16)), ("time series",)),
    ("one dimension", lambda folder: good_ct(folder, values=np.arange(20, dtype=np.int16)), ("2d or 3d",)),
    ("axis of size 0", _header(dim=[3, 20, 0, 16, 1, 1, 1, 1]), ("no voxels", "20×0×16")),
    ("NaN", _values(_with(np.nan)), ("1 nan",)),
    ("infinity", _values(_with(np.inf)), ("1 infinite",)),
    ("NaN in nrrd", _itk("ct.nrrd", _with(np.nan)(ct_values())), ("1 nan",)),
    ("constant", lambda folder: good_ct(folder, values=np.full(SHAPE, 40, np.int16)), ("same value (40)",)),
    ("complex", _values(lambda values: values.astype(np.complex64)), ("complex64",)),
    ("RGB volume", _rgb_nifti, ("rgb",)),
    ("vector volume", _itk("ct.nrrd", np.stack([ct_values()] * 3, -1), vector=True), ("one channel",)),
    ("zero spacing", _header(pixdim=[1, 3, 0, 3, 0, 0, 0, 0]), ("0 mm", "axis j")),
    ("negative spacing", _header(pixdim=[1, -3, 3, 3, 0, 0, 0, 0]), ("-3 mm", "axis i")),
    ("NaN spacing", _header(pixdim=[1, 3, 3, np.nan, 0, 0, 0, 0]), ("nan mm", "axis k")),
    ("zero spacing mha", _meta("3 3 0"), ("0 mm", "axis k")),
    ("negative spacing mha", _meta("3 -3 3"), ("-3 mm", "axis j")),
    ("singular affine", _header(srow_x=[3, 3, 0, 0], srow_y=0), ("singular",)),
    ("zero affine column", _header(srow_x=[0, 0, 0, 0]), ("0 mm", "axis i")),
    ("NaN position", _header(srow_x=[3, 0, 0, np.nan]), ("isn't a number",)),
    ("spacing in metres", _header(xyzt_units=1), ("millimetres",)),
    ("infinite slope", _header(scl_slope=np.inf), ("slope",)),
    ("NaN intercept", _header(scl_slope=1, scl_inter=np.nan), ("intercept",)),
    ("unknown type of values", _header(datatype=7), ("damaged",)),
    ("half of a pair", _header(magic=b"ni1"), ("pair",)),
    ("folder without DICOM", _empty_folder, ("no dicom images",)),
    ("two DICOM series", _two_series, ("2 dicom series (6 and 4 images)", "folder of its own")),
    ("missing DICOM slice", _series(places=[0, 2.5, 5, 10, 12.5, 15]), ("lacks about 1 slice",)),
    ("uneven DICOM slices", _series(places=[0, 2.5, 5.3, 7.5, 10, 12.5]), ("2.2 to 2.8 mm",)),
    ("repeated DICOM slices", _series(places=[0, 2.5, 2.5, 5, 7.5, 10]), ("same place",)),
    ("tilted gantry", _series(shear=0.2), ("tilted gantry",)),
    ("damaged DICOM slice", _damaged_slice, ("damaged",)),
    ("MR as DICOM", _series(modality="MR"), ("not ct in hounsfield units", "--force")),
    ("MR", _magnetic_resonance, ("not ct in hounsfield units", "--force")),
    ("0 to 255", _scaled, ("values run from 0 to 255", "--force")),
    ("0 to 1", _values(lambda values: ((values + 1100) / 2000.0).astype(np.float32)), ("not ct in hounsfield units",)),
    ("no rescale intercept", _values(lambda values: (values + 1100).astype(np.uint16)), ("not ct in hounsfield",)),
    ("grey png", _itk("ct.png", np.arange(400, dtype=np.uint8).reshape(20, 20)), ("not ct in hounsfield units",)),
    ("RGB png", _itk("ct.png", np.arange(1200).astype(np.uint8).reshape(20, 20, 3), vector=True), ("colour", "grey")),
]  # fmt: skip


def command(image: Path | str, out: Path | str, *more: str) -> list[str]:
    """The arguments of an ordinary attack, short enough to be quick should it run."""
    return ["attack", str(image), "--victim", "ct-organs", "--attack", "pgd", "--steps", "1", "--out", str(out), *more]


def _of_image(build: Builder) -> Arguments:
    def arguments(folder: Path) -> list[str]:
        (folder / "in").mkdir()
        return command(build(folder / "in"), folder / "out")

    return arguments


def _option(*more: str) -> Arguments:
    """A good scan with these options; a later option takes the place of an earlier one."""

    def arguments(folder: Path) -> list[str]:
        options = command(good_ct(folder), folder / "out")
        for name, value in zip(more[::2], more[1::2], strict=True):
            if name in options:
                options[options.index(name) + 1] = value
            else:
                options += [name, value]
        return options

    return arguments


def _labels(option: str, values: np.ndarray | None, *more: str, affine: np.ndarray = AFFINE) -> Arguments:
    """A good scan with a label map or region of interest made of `values`."""

    def arguments(folder: Path) -> list[str]:
        path = folder / "labels.nii.gz"
        if values is not None:
            nib.save(nib.Nifti1Image(values, affine), path)
        return command(good_ct(folder), folder / "out", option, str(path), *more)

    return arguments


def _occupied(folder: Path) -> list[str]:
    (folder / "out").mkdir()
    (folder / "out" / "earlier.txt").write_text("keep me")
    return command(good_ct(folder), folder / "out")


def _onto_source(folder: Path) -> list[str]:
    image = good_ct(folder)
    return command(image, image)


def _inside_file(folder: Path) -> list[str]:
    image = good_ct(folder)
    return command(image, image / "out")


def _air(folder: Path, *more: str) -> list[str]:
    noise = np.random.default_rng(1).normal(-1000, 10, SHAPE).astype(np.int16)
    return command(good_ct(folder, values=noise), folder / "out", *more)


def _flat_image(folder: Path) -> list[str]:
    return command(good_ct(folder, values=ct_values(SHAPE[:2])), folder / "out")


def _label_values(value: float, dtype: type = np.uint8) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype)
    labels[5:9, 5:9, 5:9] = value
    return labels


ELSEWHERE = AFFINE + np.array([[0, 0, 0, 30.0]] + 3 * [[0, 0, 0, 0]])

BAD_INPUTS: list[tuple[str, Arguments, tuple[str, ...]]] = [
    *((name, _of_image(build), words) for name, build, words in BAD_IMAGES),
    ("2D image for a 3D victim", _flat_image, ("2d", "3d")),
    ("unknown victim, near", _option("--victim", "ct-organ"), ("unknown victim", "did you mean 'ct-organs'")),
    ("unknown victim", _option("--victim", "zebra"), ("unknown victim 'zebra'", "ct-organs")),
    ("missing Python victim", _option("--victim", "none.py:model"), ("none.py",)),
    ("unknown attack, near", _option("--attack", "pdg"), ("unknown attack 'pdg'", "did you mean 'pdpgd' or 'pgd'?")),
    ("unknown attack", _option("--attack", "zebra"), ("unknown attack 'zebra'", "perturbox list attacks")),
    ("negative eps", _option("--eps", "-4"), ("eps", "-4")),
    ("eps nan", _option("--eps", "nan"), ("eps", "nan")),
    ("eps infinite", _option("--eps", "inf"), ("eps", "inf")),
    ("eps not a number", _option("--eps", "four"), ("eps", "four")),
    ("no steps", _option("--steps", "0"), ("steps", "0")),
    ("negative steps", _option("--steps", "-3"), ("steps", "-3")),
    ("steps not whole", _option("--steps", "2.5"), ("steps", "2.5")),
    ("seed not a number", _option("--seed", "random"), ("seed", "random")),
    ("unknown norm", _option("--norm", "l7"), ("norm", "l7")),
    ("unknown target, near", _option("--target", "lver"), ("'lver'", "did you mean 'liver'")),
    ("unknown target", _option("--target", "zebra"), ("'zebra'", "liver")),
    ("target not in this scan", lambda folder: _air(folder, "--target", "liver"), ("liver", "in this scan")),
    ("no structure in this scan", _air, ("none of its structures", "in this scan")),
    ("unknown goal", _option("--goal", "explode"), ("unknown goal 'explode'", "vanish")),
    ("vanish without target", _option("--goal", "vanish"), ("vanish", "--target")),
    ("become without structure", _option("--goal", "become", "--target", "liver"), ("become=",)),
    ("become unknown", _option("--goal", "become=zebra", "--target", "liver"), ("'zebra'", "liver")),
    ("become itself", _option("--goal", "become=liver", "--target", "liver"), ("itself",)),
    ("roi missing", _labels("--roi", None), ("doesn't exist",)),
    ("roi empty", _labels("--roi", _label_values(0)), ("outlines nothing",)),
    ("roi of another size", _labels("--roi", np.ones((9, 9, 9), np.uint8)), ("9×9×9 voxels instead of 20×18×16",)),
    ("roi elsewhere", _labels("--roi", _label_values(1), affine=ELSEWHERE), ("another grid",)),
    ("label missing", _labels("--label", None), ("doesn't exist",)),
    ("label elsewhere", _labels("--label", _label_values(1), affine=ELSEWHERE), ("another grid", "nearest")),
    ("label of another size", _labels("--label", np.ones((9, 9, 9), np.uint8)), ("another grid",)),
    ("label with fractions", _labels("--label", _label_values(1.5, np.float32)), ("1.5", "whole numbers")),
    ("label with negative values", _labels("--label", _label_values(-1, np.int16)), ("-1",)),
    ("label with NaN", _labels("--label", _label_values(np.nan, np.float32)), ("nan",)),
    ("label with unknown values", _labels("--label", _label_values(99)), ("99", "--label-map")),
    ("label-map malformed", _labels("--label", _label_values(5), "--label-map", "liver:5"), ("liver:5", "liver=5")),
    ("label-map without number", _labels("--label", _label_values(5), "--label-map", "liver=five"), ("liver=five",)),
    ("label-map unknown name", _labels("--label", _label_values(5), "--label-map", "zebra=5"), ("'zebra'",)),
    ("out holds files", _occupied, ("exists already", "--out")),
    ("out is the scan", _onto_source, ("exists already", "--out")),
    ("out inside a file", _inside_file, ("ct.nii.gz",)),
    ("unknown setting, near", _option("--set", "alfa=1"), ("'alfa'", "did you mean 'alpha'")),
    ("unknown setting", _option("--set", "zebra=1"), ("'zebra'", "alpha")),
    ("setting out of range", _option("--set", "restarts=0"), ("restarts", "0")),
    ("setting of another type", _option("--set", "alpha=fast"), ("alpha", "fast")),
    ("setting without value", _option("--set", "alpha"), ("alpha", "=")),
    ("unknown choice", _option("--set", "loss=hinge"), ("loss", "hinge")),
    ("unknown device", _option("--device", "abacus"), ("unknown device 'abacus'", "cpu")),
    ("unsupported device", _option("--device", "meta"), ("'meta'", "cpu")),
]  # fmt: skip
