"""The report as a pure function of a result folder: what travels in it, what it says, what it must not carry."""

import base64
import gzip
import hashlib
import io
import json
import os
import re
import struct
import zlib
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from report_fixture import LABELS, NOT_FOR_PRINT, make_result

from perturbox.report import colours, display, encode, flows, write_report
from perturbox.report.charts import _ticks
from perturbox.report.findings import CHANGED_ML, main_run
from perturbox.report.load import load, without_private
from perturbox.report.page import shown, viewer_meta
from perturbox.report.pictures import triptych, worst_positions
from perturbox.report.story import tell
from perturbox.report.words import hidden_failures, number, signed
from perturbox.types import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_result(tmp_path_factory.mktemp("report") / "result")


@pytest.fixture(scope="module")
def story(folder):
    return tell(load(folder))


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder).read_text(encoding="utf-8")


def change_record(folder, tmp_path, **changes):
    """A copy of a result folder with other entries in its record."""
    copy = tmp_path / "changed"
    copy.mkdir()
    for file in folder.glob("*.nii.gz"):
        os.link(file, copy / file.name)
    record = {**json.loads((folder / "result.json").read_text()), **changes}
    (copy / "result.json").write_text(json.dumps(record))
    return copy


# ---- what travels ----


def unpack_int16(stream, shape):
    """The viewer's four steps backwards, in numpy."""
    planes = np.frombuffer(gzip.decompress(stream), np.uint8)
    codes = planes[: planes.size // 2].astype(np.uint16) | planes[planes.size // 2 :].astype(np.uint16) << 8
    errors = (codes >> 1).astype(np.int16) ^ -(codes & 1).astype(np.int16)
    return np.cumsum(errors.reshape(shape).astype(np.int64), axis=-1).astype(np.int16)


def test_packed_scan_is_exact_over_the_whole_range(rng):
    volume = rng.integers(-32768, 32768, (3, 5, 7)).astype(np.int16)
    volume[0, 0, :2] = [-32768, 32767]
    assert (unpack_int16(encode.pack_int16(volume), volume.shape) == volume).all()


def test_streams_hold_no_time(story):
    for stream in story.streams.values():
        assert stream[4:8] == b"\0\0\0\0" and stream[3] == 0  # mtime, flags (no name)


def test_png_is_what_was_painted(rng):
    picture = rng.integers(0, 256, (9, 13, 3)).astype(np.uint8)
    data, chunks, at = encode.png(picture), {}, 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (13, 9)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(9, 1 + 39)
    assert (rows[:, 0] == 2).all()
    assert (np.cumsum(rows[:, 1:].astype(int), axis=0) % 256 == picture.reshape(9, 39)).all()
    assert b"NOT FOR CLINICAL USE" in chunks[b"tEXt"]


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SAR", "PIL"])
def test_display_axes_are_anatomical_whatever_the_file_does(tmp_path, story, axes):
    other = tell(load(make_result(tmp_path / axes, axes=axes, tilt=8)))
    for name in display.STREAMS[:4]:
        assert (getattr(other.copy, name) == getattr(story.copy, name)).all(), name
    assert [axis.ends for axis in other.copy.axes] == [("I", "S"), ("A", "P"), ("R", "L")]
    assert [round(axis.spacing, 6) for axis in other.copy.axes] == [5, 3, 3]


def test_copy_is_adversarial_minus_change_of_the_kept_voxels(folder, story):
    perturbed = nib.load(folder / "adversarial.nii.gz").get_fdata()
    change = nib.load(folder / "perturbation.nii.gz").get_fdata()
    z, y, x = (axis.kept for axis in story.copy.axes)
    at = np.ix_(x, y, z)
    assert (story.copy.before[0] == (perturbed - change)[at].transpose(2, 1, 0)).all()
    assert (story.copy.after[0] == perturbed[at].transpose(2, 1, 0)).all()
    assert (story.copy.scale, story.copy.offset, story.copy.before.dtype) == (1.0, 0.0, np.int16)


def test_crop_keeps_the_structures_and_two_centimetres(folder, story):
    labelled = (
        nib.load(folder / "clean_seg.nii.gz").get_fdata() + nib.load(folder / "adversarial_seg.nii.gz").get_fdata() > 0
    )
    for axis in story.copy.axes:
        hit = np.flatnonzero(labelled.any(axis=tuple(a for a in range(3) if a != axis.file)))
        pad = int(np.ceil(20 / axis.spacing - 1e-3))
        low, high = max(hit[0] - pad, 0), min(hit[-1] + pad, axis.length - 1)
        assert (axis.kept.min(), axis.kept.max()) == (low, high)


def axes_of(shape, spacing=(5.0, 1.0, 1.0)):
    return tuple(
        display.Axis(2 - a, np.arange(n), False, n, s, ("", ""))
        for a, (n, s) in enumerate(zip(shape, spacing, strict=True))
    )


def test_unchanged_slices_go_first():
    changed = np.zeros(300, bool)
    changed[100:180] = True
    z, y, x = display.thin(axes_of((300, 512, 400)), changed, np.array([7]), 112)
    assert set(range(100, 180)) <= set(z.kept.tolist()) and 7 in z.kept
    assert 112 <= z.kept.size <= 113 and (y.kept.size, x.kept.size) == (512, 400)


def test_of_too_many_changed_slices_every_nth_stays_with_the_worst():
    z, _, _ = display.thin(axes_of((400, 10, 10)), np.ones(400, bool), np.array([123]), 112)
    assert z.kept.tolist() == sorted({*range(0, 400, 4), 123})


@pytest.fixture
def tight(monkeypatch):
    """So little room that most slices have to be left out."""
    monkeypatch.setattr(display, "TARGET_BYTES", 320_000)
    return display.TARGET_BYTES


def test_budget_is_met_with_whole_slices(folder, tight):
    story = tell(load(folder))
    assert sum(display.weight(streams) for streams in (story.streams, *story.beside.values())) <= tight
    across, y, x = story.copy.axes
    assert across.kept.size < across.length and (np.diff(y.kept) == 1).all() and (np.diff(x.kept) == 1).all()
    moved = story.planes[0].slices.moved[:, story.planes[0].slices.moved.any(0)]
    assert set(moved.argmax(0).tolist()) <= set(across.kept.tolist())  # the worst of each structure
    assert (story.copy.clean == display.pick(story.result.labels("clean_seg"), story.copy.axes)).all()
    assert re.search(r"about 1 in \d of those that changed|all that changed", shown(story))
    assert "`perturbox report FOLDER --full-report` puts every slice that changed beside it" in shown(story)


def test_of_planes_across_the_slices_the_worst_of_each_structure_is_whole(folder, tight):
    story = tell(load(folder))
    assert "of the other planes the most changed slice of each structure" in shown(story)
    worst = next(f for f in story.findings if f.name == "spleen")
    for plane in story.planes[1:]:
        position = int(plane.slices.moved[story.whole.axes[plane.axis].kept, worst.number - 1].argmax())
        streams = story.beside[plane.axis, position]
        labels = np.frombuffer(gzip.decompress(streams["adversarial"]), np.uint8)
        assert (labels == story.whole.adversarial.take(position, plane.axis).ravel()).all()
        scan = unpack_int16(streams["before"], story.whole.before[0].take(position, plane.axis).shape)
        assert (scan == story.whole.before[0].take(position, plane.axis)).all()


def test_the_first_picture_shows_what_the_sentence_is_about(story, folder):
    assert story.subject.name == "spleen" and "broke spleen, kidney_left" in story.result.record["summary"]["headline"]
    # By hand: of the file's three axes, the slice with the largest area of lost and gained spleen, the scan's own
    # slices (5 mm apart) unless another has half as much again.
    clean, after = (nib.load(folder / f"{n}_seg.nii.gz").get_fdata() == 2 for n in ("clean", "adversarial"))
    counts = [(clean != after).sum(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    areas = [counts[axis].max() * 45 / spacing for axis, spacing in enumerate((3, 3, 5))]
    best = 2 if max(areas) <= 1.5 * areas[2] else int(np.argmax(areas))
    look = story.result.record["summary"]["look"]
    assert look == {"structure": "spleen", "axis": best, "index": int(counts[best].argmax())}
    assert story.opening.name == ("sagittal", "coronal", "axial")[best]
    opening = viewer_meta(story)["opening"]
    assert opening == {"plane": story.opening.axis, "structure": story.subject.number}


def test_the_picture_of_the_flows_is_as_wide_as_they_are(story):
    svg = flows.section(story)
    rows = story.result.record["flow"]
    assert svg.count('class="band') == min(len(rows), flows.DRAWN + 1)
    assert svg.count("<tbody>") == 1 and svg.count('<tr><th scope="row">') == len(rows)
    high = [
        float(v) for v in re.findall(r'<rect class="node[^"]*" x="190" y="[\d.]+" width="10" height="([\d.]+)"', svg)
    ]
    totals = {}
    for row in rows:
        totals[row["from"]] = totals.get(row["from"], 0) + row["ml"]
    wanted = sorted(totals.values())
    assert sorted(high) == pytest.approx([v * max(high) / max(wanted) for v in wanted], abs=1)


def test_of_many_flows_the_rest_is_one_band(story):
    rows = [(f"part_{k}", "background", 100.0 - k) for k in range(30)]
    svg = flows.diagram(rows, {}, story)
    assert svg.count('class="band') == flows.DRAWN + 1
    assert f"Others {sum(ml for *_, ml in rows[flows.DRAWN :]):.0f} ml" in svg


def test_what_is_said_of_nsd_alone_stands_where_it_is_shown(folder, tmp_path):
    note = "The NSD tolerance of 2 mm is below the slice spacing of 5 mm: a shift by one voxel already counts as wrong."
    page = write_report(change_record(folder, tmp_path, warnings=[note, "Another."])).read_text(encoding="utf-8")
    assert "NSD" not in readable(page) and "Another." in page and "1 note on what this doesn’t show" in page


def unpack_floats(stream, dtype, beside=None):
    """The viewer's steps for numbers that travel as their bits."""
    width = np.dtype(dtype).itemsize
    bits = np.ascontiguousarray(np.frombuffer(gzip.decompress(stream), np.uint8).reshape(width, -1).T).view(dtype)[:, 0]
    return bits if beside is None else (bits.view(f"u{width}") ^ beside.ravel().view(f"u{width}")).view(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_without_steps_travel_as_their_bits(rng, dtype):
    before = rng.normal(0, 300, (1, 4, 5, 6)).astype(dtype)
    after = (before + rng.normal(0, 1, before.shape)).astype(dtype)
    after[0, 1] = before[0, 1]
    assert display.as_int16(before, after, None) is None
    assert (unpack_floats(encode.pack_floats(before), dtype) == before.ravel()).all()
    assert (unpack_floats(encode.pack_floats(after, before), dtype, before) == after.ravel()).all()


@pytest.mark.parametrize(
    ("low", "step", "values"),
    [(-1024.0, 1.0, 4096), (0.0, 1.0, 65536), (-7.5, 0.5, 4096), (1e5, 1.0, 65536), (-1024.0, 0.1, 4096)],
)
def test_steps_of_a_file_are_kept_exactly(rng, low, step, values):
    """Whole numbers, those beyond int16, halves, and a step that float32 can't hold."""
    stored = rng.integers(0, values - 1, (1, 3, 4, 5))
    before, after = ((s * step + low).astype(np.float32) for s in (stored, stored + 1))
    codes, others, scale, offset = display.as_int16(before, after, step)
    assert scale == step and codes.dtype == others.dtype == np.int16
    for exact, kept in ((before, codes), (after, others)):
        assert ((kept * scale + offset).astype(np.float32) == exact).all()
    assert (unpack_int16(encode.pack_int16(codes), codes.shape) == codes).all()


def test_influence_is_shown_by_the_root_of_its_size(tmp_path, rng):
    influence = rng.normal(0, 1, (6, 5, 4)).astype(np.float32) ** 5
    codes = display.as_roots(influence)
    back = np.sign(codes) * (codes / 127.0) ** 2 * np.abs(influence).max()
    assert np.abs(codes).max() == 127 and (np.sign(codes) == np.sign(influence))[codes != 0].all()
    assert np.abs(np.sqrt(np.abs(back)) - np.sqrt(np.abs(influence))).max() <= np.sqrt(np.abs(influence).max()) / 253
    folder = make_result(tmp_path / "r", axes="SAR", influence=True)
    copy = tell(load(folder)).copy
    stored = nib.load(folder / "influence.nii.gz").get_fdata()
    assert (copy.influence == display.as_roots(display.pick(stored, copy.axes))).all() and copy.influence.any()


# ---- what it finds ----


def test_slice_counts_are_those_of_the_record(folder, story):
    rows = {
        (r["structure"], r["axis"], r["index"]): r for r in json.loads((folder / "result.json").read_text())["slices"]
    }
    seen = 0
    for plane in story.planes:
        file = story.copy.axes[plane.axis].file
        for n, name in enumerate(story.result.structures):
            for index in np.flatnonzero(plane.slices.before[:, n] + plane.slices.after[:, n]):
                row = rows[name, file, int(index)]
                assert (plane.slices.lost[index, n], plane.slices.gained[index, n]) == (row["lost"], row["gained"])
                assert plane.slices.dice[index, n] == pytest.approx(row["dice"])
                seen += 1
    assert seen == len(rows)


def test_findings_are_worst_first_and_agree_with_the_record(folder, story):
    record = json.loads((folder / "result.json").read_text())
    assert [(f.name, f.reason) for f in story.findings] == [
        ("spleen", "dice"),
        ("kidney_left", "dice"),
        ("stomach", "dice"),
        ("liver", "distance"),
        ("lung", "held"),
    ]
    for f in story.findings:
        row = record["metrics"]["adversarial"][f.name]
        assert f.agreement == pytest.approx(row["dice"])
        assert f.after == pytest.approx(row["volume_ml"])
        assert f.before + f.gained - f.lost == pytest.approx(f.after)


def test_overlap_no_worse_than_benign_changes_is_no_break(folder, tmp_path):
    record = json.loads((folder / "result.json").read_text())
    record["control"]["benign"]["dice"] = dict.fromkeys(LABELS, 0.5)
    reasons = {
        f.name: f.reason for f in tell(load(change_record(folder, tmp_path, control=record["control"]))).findings
    }
    assert reasons == {
        "liver": "distance",
        "lung": "held",
        **dict.fromkeys(("spleen", "stomach", "kidney_left"), "benign"),
    }


def test_changed_slices_differ_by_more_than_half_a_millilitre(story):
    assert (story.planes[0].changed == (story.planes[0].slices.differ * 0.045 > CHANGED_ML)).all()
    assert 0 < story.planes[0].changed.sum() < len(story.planes[0].changed)


def test_verdict_sentence(folder, story):
    """A folder of the first schema holds no flow: the report counts it in the label maps, as is done here by hand."""
    clean, after = (np.asanyarray(nib.load(folder / f"{n}_seg.nii.gz").dataobj) for n in ("clean", "adversarial"))
    ml = {n: {m: 0.045 * ((clean == LABELS[n]) & (after == LABELS[m])).sum() for m in LABELS} for n in LABELS}
    for row in story.result.record["flow"]:
        assert row["ml"] == pytest.approx(ml[row["from"]][row["to"]])
    assert sum(row["ml"] for row in story.result.record["flow"]) == pytest.approx(0.045 * (clean != after).sum())
    spleen = next(f for f in story.findings if f.name == "spleen")
    assert spleen.lost == pytest.approx(ml["spleen"]["background"])  # nothing else becomes of it
    assert story.result.record["summary"]["headline"] == (
        "A change of at most 10 HU (0.85 × this scan's own noise) broke spleen, kidney_left, stomach and liver: "
        f"of {spleen.before:.0f} ml spleen {spleen.lost:.0f} are lost (now called nothing); mean Dice 1.00 → "
        f"{np.mean([f.agreement for f in story.findings if f.target]):.2f}; random noise of the same size left every "
        "Dice at 0.99 or above."
    )


def test_warnings_name_the_slices_where_it_shows(story, folder, tmp_path):
    record = json.loads((folder / "result.json").read_text())
    record["verdicts"]["kidney_left"] = "local"
    findings = tell(load(change_record(folder, tmp_path, verdicts=record["verdicts"]))).findings
    liver, kidney = (next(f for f in findings if f.name == n) for n in ("liver", "kidney_left"))
    counts = story.planes[0].slices
    leak = np.flatnonzero(counts.gained[:, 0] > 0.02 * np.maximum(counts.before, counts.after)[:, 0])
    plane, first, last = kidney.look
    assert hidden_failures(findings, story.units) == [
        f"*Kidney left:* Dice {kidney.agreement:.3f} hides {kidney.failed} of {kidney.present} {plane} slices with "
        f"Dice below 0.8. Look at {plane} slices {first + 1}–{last + 1}.",
        f"*Liver:* Dice {liver.agreement:.3f} looks good, but {liver.gained:.0f} ml was added and the outlines lie up "
        f"to {number(liver.hd95_mm)} mm apart (HD95, limit 20 mm). "
        f"Look at axial slices {leak[0] + 1}–{leak[-1] + 1}.",
    ]


def test_the_run_in_which_most_moved():
    chosen = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
    assert main_run(chosen, np.array([1, 1, 9, 2, 3, 1, 0, 5])) == (3, 5)
    assert main_run(np.zeros(3, bool), np.array([1, 5, 2])) == (1, 1)


def test_verdict_says_when_nothing_broke_and_when_noise_does_it_too(folder, tmp_path):
    record = json.loads((folder / "result.json").read_text())
    record["control"]["noise"]["dice"]["spleen"] = 0.81
    copy = change_record(folder, tmp_path, control=record["control"], verdicts=dict.fromkeys(LABELS, "held"))
    story = tell(load(copy))
    sentence = story.result.record["summary"]["headline"]
    assert "broke no structure, which is no proof of safety: mean Dice" in sentence
    assert "alone took spleen to 0.81" in sentence


def test_numbers_read_well():
    assert [number(v) for v in (None, 0, 4.0, 0.339, 1234.0, -2.5, 11.84)] == [
        "–",
        "0",
        "4",
        "0.339",
        "1234",
        "−2.5",
        "11.8",
    ]
    assert [signed(v) for v in (0.04, 2.0, -3.26, -0.01)] == ["0.0", "+2.0", "−3.3", "0.0"]


@pytest.mark.parametrize("ends", [(0, 59), (7, 300), (3, 3), (0, 20), (511, 900)])
def test_ticks_are_round_and_inside(ends):
    ticks = _ticks(*ends, base=-1)
    assert ticks == sorted(set(ticks)) and ticks[0] == ends[0] and ticks[-1] == ends[1] and len(ticks) <= 14


def test_structure_colours_separate_from_the_ground():
    for n in range(1, len(colours.PALETTE) + 1):
        assert colours.contrast(colours.structure(n), "#000000") >= 5.4
        assert colours.contrast(colours.on_light(colours.structure(n)), "#ffffff") >= 4.5
    assert len({(colours.structure(n), colours.dash(n)) for n in range(1, 13)}) == 12


# ---- pictures ----


def test_worst_pictures_show_different_places():
    differ = np.zeros(60)
    differ[28:33] = [5, 6, 9, 6, 5]
    differ[50] = 1
    assert worst_positions(differ) == [30, 50]


def test_pictures_differ_where_the_model_does(story):
    worst = worst_positions(story.planes[0].slices.differ[story.whole.axes[0].kept])[0]
    three = triptych(story.copy, 0, worst, (400, 40))
    _, y, x = story.copy.clean.shape
    assert struct.unpack(">II", three.before[16:24]) == (2 * x, 2 * y)
    assert three.width_mm / three.height_mm == pytest.approx(x / y)
    assert len({three.before, three.after, three.difference}) == 3


def test_one_structure_is_pictured_with_what_it_became(story):
    """Spleen of which half is called liver now: that half in liver's colour, the rest of the liver plain."""
    clean = story.copy.clean
    at = int((clean == 2).sum((1, 2)).argmax())
    half = (clean == 2) & (np.arange(clean.shape[2]) % 8 < 4)
    copy = replace(story.copy, adversarial=np.where(half, 1, clean).astype(np.uint8))
    after = np.asarray(Image.open(io.BytesIO(triptych(copy, 0, at, (400, 40), only=2).after))).astype(int)[::2, ::2]
    green, blue = after[..., 1] - after[..., 0], after[..., 2] - after[..., 0]
    assert (green[half[at]] > blue[half[at]]).mean() > 0.8  # but for the dashed line of before
    assert (blue[(clean[at] == 2) & ~half[at]] > 20).all()
    liver = clean[at] == 1
    assert liver.sum() > 100 and (green[liver] == 0).all()


# ---- the page ----


def test_page_is_pure(folder, page):
    assert write_report(folder).read_text(encoding="utf-8") == page
    assert not list(folder.glob("*.part"))


def test_page_asks_nothing_of_any_network(page):
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "@import" not in page and "url(" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def readable(page):
    """The page without its packed data, in which any short word occurs by chance."""
    return re.sub(r"[A-Za-z0-9+/=]{200,}", "", page)


def test_page_carries_no_private_text(folder, page, tmp_path):
    for text in (NOT_FOR_PRINT, str(folder), "adversarial.nii.gz", ".nii"):
        assert text not in readable(page)
    secret = change_record(
        folder,
        tmp_path,
        warnings=["Read /home/jane/scans/DOE_JANE.nii.gz of 2024-03-01, UID 1.2.840.113619.2.55.3; C:\\data\\x.dcm"],
    )
    text = readable(write_report(secret).read_text(encoding="utf-8"))
    for private in ("jane", "DOE", "2024-03-01", "1.2.840", "x.dcm"):
        assert private not in text
    assert "of …, UID …" in text


def test_private_text_is_told_from_plain_words():
    plain = "Dice/volume 1/2, arXiv 1706.06083, torch 2.13.0+cpu, https://arxiv.org/abs/1706.06083, before / after"
    assert without_private({"a": [plain]}) == {"a": [plain]}


def test_what_a_record_lacks_is_not_stated(page):
    for fact in ("Intended use", "Training data", "Known limits"):
        assert f"<dt>{fact}</dt><dd>not stated</dd>" in page


def test_what_a_record_says_about_the_model_is_shown(folder, tmp_path):
    sentences = {"intended_use": "To be attacked.", "training_data": "Phantoms.", "limits": "Dose < 1 mGy. Children."}
    victim = json.loads((folder / "result.json").read_text())["victim"] | sentences
    text = write_report(change_record(folder, tmp_path, victim=victim)).read_text(encoding="utf-8")
    assert "<dt>Intended use</dt><dd>To be attacked.</dd>" in text
    assert "<dt>Training data</dt><dd>Phantoms.</dd>" in text
    assert "<dt>Known limits</dt><dd>Dose &lt; 1 mGy. Children.</dd>" in text


def test_members_own_budgets_and_other_models_are_told(folder, tmp_path):
    record = json.loads((folder / "result.json").read_text())
    lowest = dict.fromkeys(record["trace"][0]["dice"], 0.125)
    found = {"step": 3, "restart": 0, "score": 0.875, "succeeded": False, "size": 7.0, "lowest_dice": lowest}
    own = {"parameter": "q", "value": 20.0, "unit": "HU", "meaning": "largest step of the quantisation"}
    drawn = {"dice": {name: 0.765 for name, value in LABELS.items() if value}}
    copy = change_record(
        folder,
        tmp_path,
        members=[{**found, "name": name} for name in ("apgd:dice", "a<b>")],
        crafted_on=[{"sha256": "12" * 32}, {"sha256": "34" * 32}],
        surrogates=[{"name": "other-net", "spec": "x", "sha256": "ef" * 32}],
        control=record["control"] | {"own": drawn},
        attack=record["attack"] | {"own_budget": own},
    )
    page = write_report(copy).read_text(encoding="utf-8")
    row = '<tr><th scope="row">apgd:dice</th><td>0.875</td><td>7</td><td>no</td><td>0.125</td>'
    assert row in page and "a&lt;b&gt;" in page and "Change, HU" in page
    assert "other models: other-net (SHA-256 efefefef…efef); the attacked model was never asked; 2 other files" in page
    assert "q 20 HU, largest step of the quantisation; not comparable with attacks at a limit" in page
    assert "random draws of the same kind alone took liver to 0.77" in page
    assert '<th scope="col">Random draw</th>' in page and page.count("<td>0.765</td>") == 10
    assert "Random draw<br><small>same kind, Dice" in page


def test_labels_of_an_expert_add_a_column(folder, tmp_path):
    text = write_report(change_record(folder, tmp_path, reference="label", margin=None)).read_text(encoding="utf-8")
    assert "Dice with expert" in text and "Breaks at" not in text
    assert "Dice against the expert outline" in text


def test_texts_are_escaped(folder, tmp_path):
    record = json.loads((folder / "result.json").read_text())
    record["victim"]["title"] = "<img src=x onerror=alert(1)>"
    text = write_report(change_record(folder, tmp_path, victim=record["victim"])).read_text(encoding="utf-8")
    assert "<img src=x" not in text and "&lt;img src=x" in text


def test_flat_pictures_have_one_plane(tmp_path):
    story = tell(load(make_result(tmp_path / "flat", flat=True)))
    assert [plane.name for plane in story.planes] == ["image"]
    assert story.copy.before.shape[:2] == (1, 1) and story.copy.axes[2].ends == ("", "")
    assert story.units.size == "pixels" and story.units.value == "units" and story.units.length == "pixels"
    clean = np.asanyarray(nib.load(tmp_path / "flat" / "clean_seg.nii.gz").dataobj)
    spleen = next(f for f in story.findings if f.name == "spleen")
    assert spleen.before == (clean == LABELS["spleen"]).sum()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "result.json").unlink(), "no result.json"),
        (lambda d: (d / "result.json").write_text("{"), "is damaged"),
        (lambda d: (d / "result.json").write_text("{}"), "doesn't follow perturbox-result/2"),
        (lambda d: (d / "clean_seg.nii.gz").unlink(), "lacks clean_seg.nii.gz"),
        (lambda d: (d / "perturbation.nii.gz").unlink(), "lacks perturbation.nii.gz"),
        (
            lambda d: nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), d / "adversarial_seg.nii.gz"),
            "does not line up",
        ),
    ],
)
def test_incomplete_folders_are_refused_and_the_old_report_stays(tmp_path, damage, words):
    folder = make_result(tmp_path / "r", shape=(40, 36, 24))
    old = write_report(folder).read_bytes()
    damage(folder)
    with pytest.raises(InputError, match=words):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == old


@pytest.mark.slow
def test_clinical_size_stays_within_15_megabytes(tmp_path):
    folder = make_result(tmp_path / "big", shape=(128, 128, 75), spacing=(3.2, 3.2, 6.0), tilt=10, repeat=4)
    page = write_report(folder)
    assert page.stat().st_size <= 15_000_000
    said = re.search(r"On this page: [^<]*", page.read_text(encoding="utf-8")).group(0)
    assert "in plane, every one" in said and re.search(r"about 1 in \d+ of those that changed", said)
