"""Rows, sentences and slices of a result, by value: hand-made records, and counts worked out from label maps."""

import json

import bundles
import numpy as np
import pytest
import scans
from PerturboxLib import palette
from PerturboxLib.counts import Counts, countsFromRecord
from PerturboxLib.numbers import number, signed
from PerturboxLib.results import Result, acquisitionAxis, countLabels, mainRun, planes

ML = 2 * 2 * 3 / 1000


def made(grid="axial", counted=True, **changes) -> Result:
    """The made-up result; changes: keys of its record that are replaced."""
    clean, after = bundles.maps()
    record = bundles.record(scans.GRIDS[grid], clean, after) | changes
    counts = countLabels(clean, after, bundles.LABELS) if counted else None
    return Result(record, scans.GRIDS[grid], counts)


def row(result: Result, name: str):
    return next(each for each in result.rows(absent=True) if each.name == name)


# ---------------------------------------------------------------- the table


def test_rows_hold_the_numbers_of_the_label_maps_worst_first():
    clean, after = bundles.maps()
    rows = made().rows()
    assert [r.name for r in rows] == ["kidney_left", "spleen", "liver"]  # Dice 0, then the lowest; aorta is absent
    for r in rows:
        a, b = clean == r.value, after == r.value
        assert r.dice == bundles.dice(a, b) and r.agreement == pytest.approx(r.dice)
        assert r.beforeMl == pytest.approx(a.sum() * ML) and r.afterMl == pytest.approx(b.sum() * ML)
        assert r.lostMl == pytest.approx((a & ~b).sum() * ML) and r.gainedMl == pytest.approx((b & ~a).sum() * ML)
        assert r.deltaMl == pytest.approx(r.gainedMl - r.lostMl)
        assert r.deltaPercent == pytest.approx(100 * (b.sum() / a.sum() - 1))
    assert [r.verdict for r in rows] == ["✕ vanished", "▼ Dice", "▲ far"]
    assert [r.colour for r in rows] == ["#F0E442", "#56B4E9", "#009E73"]


def test_cells_are_texts_under_the_headers():
    result = made()
    assert result.headers() == [
        "Structure", "Agreement with own clean prediction", "Δ ml", "HD95 mm", "Slices < 0.8", "Breaks at HU",
        "in noise σ", "Random noise Dice", "Verdict",
    ]  # fmt: skip
    # liver: 252 voxels, keeps them all and gains 30 + 12: Dice 504 / 546
    assert row(result, "liver").cells() == [
        "Liver",
        "0.923",
        "+0.5 (+17 %)",
        "24.2",
        "0 of 8",
        "–",
        "–",
        "0.991",
        "▲ far",
    ]
    # spleen: 180 voxels loses 30 + 36
    assert row(result, "spleen").cells()[:4] == ["Spleen", "0.776", "−0.8 (−37 %)", "9.5"]
    # vanished: no distance, no later volume
    assert row(result, "kidney_left").cells()[:4] == ["Kidney left", "0.000", "−0.2 (−100 %)", "–"]


def test_a_structure_in_neither_map_has_no_value_rather_than_a_perfect_one():
    aorta = row(made(), "aorta")
    assert (aorta.dice, aorta.agreement, aorta.deltaPercent, aorta.reason) == (None, None, None, "absent")
    assert aorta.cells()[1] == "–" and aorta.verdict == "– absent"
    assert np.isnan(made().series("aorta")).all()


def test_an_expert_outline_makes_two_columns_of_dice():
    clean, after = bundles.maps()
    expert = np.roll(clean, 1, axis=2)
    record = bundles.record(scans.GRIDS["axial"], clean, after, expert)
    result = Result(record, counts=countLabels(clean, after, bundles.LABELS))
    liver = row(result, "liver")
    assert result.headers()[1:3] == ["Dice clean vs expert", "Dice adversarial vs expert"]
    assert liver.cells(withExpert=True)[1:3] == [
        f"{bundles.dice(clean == 1, expert == 1):.3f}",
        f"{bundles.dice(after == 1, expert == 1):.3f}",
    ]
    assert liver.agreement == pytest.approx(504 / 546)  # stays with the clean prediction
    assert "expert outline" in result.agreementNote() and "itself" not in result.agreementNote()
    assert made().agreementNote() == "No expert outline: values compare the model with itself."


@pytest.mark.parametrize(
    ("bound", "texts"),
    [
        ({"breaks_at": 2.0, "above": 1.0}, ("≤ 2", "≤ 0.16")),
        ({"breaks_at": None, "above": 4.0}, ("> 4", "> 0.32")),
        ({"breaks_at": None, "above": None, "verdict": "not-tested", "reason": "no gradient"}, ("not tested", "–")),
        ({}, ("–", "–")),
    ],
)
def test_a_bound_is_never_an_exact_threshold(bound, texts):
    spleen = row(made(margin={"spleen": bound}), "spleen")
    assert (spleen.breaksAt, spleen.inSigma) == texts
    clean, after = bundles.maps()
    apart = Result(bundles.record(scans.GRIDS["axial"], clean, after), margin={"structures": {"spleen": bound}})
    assert row(apart, "spleen").breaksAt == texts[0]


def test_behind_a_defence_the_bound_without_it_stands_beside():
    clean, after = bundles.maps()
    margin = {
        "structures": {"spleen": {"breaks_at": 5.0}, "liver": {"breaks_at": None, "above": 4.0}},
        "undefended": {"folder": "without", "structures": {"spleen": {"breaks_at": 2.0}, "liver": {}}},
    }
    result = Result(bundles.record(scans.GRIDS["axial"], clean, after), margin=margin)
    assert row(result, "spleen").breaksAt == "≤ 5 (without defence ≤ 2)"
    assert row(result, "liver").breaksAt == "> 4 (without defence –)"


def test_without_noise_a_bound_has_no_sigma():
    noise = {"sigma": None, "region": "too small", "rms_over_sigma": None, "eps_over_sigma": None}
    result = made(margin={"spleen": {"breaks_at": 2.0}}, noise=noise)
    assert (row(result, "spleen").breaksAt, row(result, "spleen").inSigma) == ("≤ 2", "–")
    assert "(this scan’s noise is not available)" in result.verdict()


def test_a_break_counts_only_below_what_harmless_changes_do():
    control = made().record["control"]
    floors = {**control["benign"]["dice"], "spleen": 0.77, "liver": 0.90}
    result = made(control={**control, "benign": {"dice": floors}})
    assert row(result, "spleen").reason == "benign" and row(result, "spleen").verdict == "● as benign"
    assert not row(result, "spleen").broken
    assert row(result, "liver").reason == "distance"  # the floor is a Dice: it knows no distances
    just = made(control={**control, "benign": {"dice": {**floors, "spleen": 0.78}}})
    assert row(just, "spleen").reason == "dice"


def test_dice_above_the_limit_with_verdict_dice_is_a_change_of_volume():
    result = made(verdicts={"liver": "dice", "spleen": "held", "kidney_left": "held", "aorta": "held"})
    assert row(result, "liver").reason == "volume" and row(result, "liver").verdict == "▼ size"
    assert row(result, "spleen").verdict == "● held"


# ---------------------------------------------------------------- sentences


def test_the_verdict_is_built_from_the_numbers():
    result = made()
    assert result.verdict() == (
        "≤ 10 HU (0.8 × this scan’s noise) made kidney left (0.2 ml) vanish, removed 0.8 ml of spleen and added "
        "0.5 ml of “liver”. Random noise of that size: Dice ≥ 0.988."
    )


def test_the_verdict_names_a_large_amount_in_whole_millilitres():
    clean, after = bundles.maps()
    record = bundles.record(np.diag([20.0, 20.0, 30.0, 1.0]), clean, after)
    record["verdicts"]["kidney_left"] = "held"
    result = Result(record, counts=countLabels(clean, after, bundles.LABELS))
    assert "removed 792 ml of spleen and added 504 ml of “liver”" in result.verdict()  # 66 and 42 voxels of 12 ml


def test_a_verdict_without_a_break_claims_nothing():
    result = made(verdicts=dict.fromkeys(bundles.LABELS, "held"))
    assert result.verdict() == (
        "≤ 10 HU (0.8 × this scan’s noise) changed no structure beyond the limits (lowest Dice 0.000, kidney left). "
        "Random noise of that size: Dice ≥ 0.988. That is not proof of safety: raise effort or limit."
    )


@pytest.mark.parametrize(
    ("norm", "start"),
    [("l2", "≤ 5 HU RMS (0.4 × this scan’s noise)"), ("l0", "≤ 10 % of the voxels (RMS 0.4 × this scan’s noise)")],
)
def test_other_norms_say_what_is_limited(norm, start):
    budget = {"eps": {"l2": 5.0, "l0": 0.1}[norm], "unit": "HU", "norm": norm}
    result = made(budget=budget | {"measured": {"linf": 9.0, "l2": 5.0, "l0": 0.1}})
    assert result.verdict().startswith(start)
    # What stayed clearly below its limit is told by its own size.
    result = made(budget=budget | {"eps": 4 * budget["eps"], "measured": {"linf": 9.0, "l2": 5.0, "l0": 0.1}})
    assert result.verdict().startswith(start.split(" (")[0] + " (limit ")


def test_random_noise_that_breaks_it_as_well_is_said():
    control = made().record["control"]
    noise = {"dice": {**control["noise"]["dice"], "spleen": 0.71}}
    assert (
        made(control={**control, "noise": noise})
        .verdict()
        .endswith("Random noise of that size alone lowers Dice to 0.710 (spleen).")
    )
    assert made(control={}).verdict().endswith("No random-noise control was run.")


def test_an_attack_with_a_space_of_its_own_stands_beside_draws_from_it():
    control = made().record["control"]
    drawn = made(control={**control, "own": {"dice": {**control["noise"]["dice"], "spleen": 0.71}}})
    assert drawn.verdict().endswith("A random draw of the same kind alone lowers Dice to 0.710 (spleen).")
    assert "Random draw Dice" in drawn.headers() and "Random noise Dice" not in drawn.headers()
    (spleen,) = (row for row in drawn.rows() if row.name == "spleen")
    assert spleen.randomDice == 0.71


def test_flags_say_what_a_good_dice_hides():
    assert made().flags() == [
        "Liver: Dice 0.923 looks good, but 0.5 ml was added up to 24.2 mm from the edge before (HD95, limit 20 mm). "
        "Look at axial slices 4–5."
    ]
    clean = np.zeros((20, 20, 20), np.uint8)
    clean[:, :, 2:18] = 1
    after = clean.copy()
    after[5:9, :, 2:14] = 0  # four axial slices keep a quarter: Dice 0.4
    record = bundles.record(np.diag([2.0, 2.0, 5.0, 1.0]), clean, after)
    record["verdicts"]["liver"] = "local"
    result = Result(record, counts=countLabels(clean, after, bundles.LABELS))
    agreement = 2 * after.astype(bool).sum() / (clean.sum() + after.sum())
    assert row(result, "liver").cells()[4] == "4 of 20"
    assert result.flags() == [
        f"Liver: Dice {agreement:.3f} hides 4 of 20 axial slices with Dice below 0.8. Look at axial slices 6–9."
    ]


def test_small_slices_and_small_changes_do_not_fail():
    clean = np.zeros((6, 40, 40), np.uint8)
    clean[:5] = 1
    clean[5, :5, :5] = 1  # 25 of 1600 voxels: below a tenth of the largest area
    after = clean.copy()
    after[5] = 0
    counts = countLabels(clean, after, {"liver": 1})[2]
    assert counts.failed(0, 1.0).tolist() == [False] * 6
    after[4, :, :20] = 0  # Dice 2/3 of a full slice
    counts = countLabels(clean, after, {"liver": 1})[2]
    assert counts.failed(0, 1.0).tolist() == [False] * 4 + [True, False]
    assert not counts.failed(0, 0.5 / 800).any()  # exactly 0.5 ml differs there: not over it


def test_where_it_was_stopped_stands_first_among_the_warnings():
    result = made(stopped_early="stopped at step 7 of 20")
    assert result.warnings()[0] == "Stopped at step 7 of 20." and result.warnings()[1].startswith("No expert outline")


# ---------------------------------------------------------------- slices


def test_series_differing_changed_and_worst_are_those_of_the_maps():
    clean, after = bundles.maps()
    result = made()
    assert (result.axis, result.plane, result.slices) == (2, "axial", 10)
    for name, value in bundles.LABELS.items():
        if value:
            expected = [bundles.dice(clean[k] == value, after[k] == value) for k in range(10)]
            assert np.allclose(result.series(name), [np.nan if d is None else d for d in expected], equal_nan=True)
    differ = (clean != after).sum((1, 2)) * ML
    assert np.allclose(result.differing(), differ)
    spleen = ((clean == 2) != (after == 2)).sum((1, 2)) * ML
    assert np.allclose(result.differing(["spleen"]), spleen)
    both = spleen + ((clean == 1) != (after == 1)).sum((1, 2)) * ML
    assert np.allclose(result.differing(["spleen", "liver"]), both)
    assert result.changed() == []  # nowhere over 0.5 ml
    assert result.changed(["spleen"]) == [3, 4, 7, 8]
    assert result.worst() == int(differ.argmax()) and result.worst(["spleen"]) == 7
    assert result.nextChanged(4, ["spleen"]) == 7 and result.nextChanged(8, ["spleen"]) is None
    assert result.previousChanged(7, ["spleen"]) == 4 and result.previousChanged(3, ["spleen"]) is None
    assert result.worstSlices(2) == sorted(range(10), key=lambda k: -differ[k])[:2]


def test_over_half_a_millilitre_is_changed_whatever_the_structure():
    clean, after = bundles.maps()
    record = bundles.record(np.diag([10.0, 10.0, 30.0, 1.0]), clean, after)
    result = Result(record, counts=countLabels(clean, after, bundles.LABELS))
    assert result.changed() == [k for k in range(10) if (clean[k] != after[k]).any()]  # 3 ml a voxel


def test_worst_never_is_an_empty_slice():
    clean, _ = bundles.maps()
    record = bundles.record(scans.GRIDS["axial"], clean, clean)
    result = Result(record, counts=countLabels(clean, clean, bundles.LABELS))
    assert result.worst(["kidney_left"]) == 4 and result.worst(["aorta"]) is None and result.worstSlices() == []


def test_the_record_alone_gives_the_same_rows():
    alone, counted = made(counted=False), made()
    for name in ("liver", "spleen", "kidney_left"):
        mine, known = row(alone, name), row(counted, name)
        assert (mine.lostMl, mine.gainedMl) == (known.lostMl, known.gainedMl)
        assert mine.beforeMl == pytest.approx(known.beforeMl) and mine.agreement == pytest.approx(known.agreement)
        assert (mine.failed, mine.present, mine.reason, mine.look) == (
            known.failed,
            known.present,
            known.reason,
            known.look,
        )
    for axis in range(3):
        lean, full = countsFromRecord(alone.record, axis), counted.counts[axis]
        assert np.array_equal(lean.lost, full.lost) and np.array_equal(lean.gained, full.gained)
        assert np.allclose(lean.dice, full.dice, equal_nan=True)
        assert (lean.differ >= full.differ).all()  # relabelled voxels count once for each of two structures


def test_counts_survive_json():
    for counts in made().counts:
        again = Counts.unpacked(json.loads(json.dumps(counts.packed())))
        for name in ("before", "after", "shared", "differ"):
            assert np.array_equal(getattr(again, name), getattr(counts, name))


@pytest.mark.parametrize(
    ("grid", "shape", "axis", "plane"),
    [
        ("axial", (16, 14, 10), 2, "axial"),
        ("flipped", (16, 14, 10), 2, "axial"),
        ("oblique", (16, 14, 10), 2, "axial"),
        ("sagittal", (16, 14, 10), 2, "sagittal"),
        ("anisotropic", (16, 14, 10), 2, "axial"),
        ("anisotropic", (1, 14, 10), 0, "sagittal"),
    ],
)
def test_slices_lie_along_the_widest_spacing(grid, shape, axis, plane):
    affine = scans.GRIDS[grid]
    assert acquisitionAxis(affine, shape) == axis and planes(affine)[axis] == plane


def test_equal_spacing_means_axial():
    turned = np.eye(4)[:, [2, 0, 1, 3]]  # i runs to the head
    turned[:3, :3] *= 1.5
    assert acquisitionAxis(turned, (5, 6, 7)) == int(np.abs(turned[2, :3]).argmax())
    assert planes(turned)[acquisitionAxis(turned, (5, 6, 7))] == "axial"


def test_other_axes_than_k_are_followed():
    clean, after = bundles.maps()
    affine = np.diag([4.0, 2.0, 2.0, 1.0])  # slices along i
    result = Result(bundles.record(affine, clean, after), affine, countLabels(clean, after, bundles.LABELS))
    assert (result.axis, result.plane, result.slices) == (0, "sagittal", 16)
    assert np.allclose(result.differing(), (clean != after).sum((0, 1)) * 0.016)


def test_a_run_is_the_one_where_most_moved():
    chosen, moved = np.array([1, 1, 0, 1, 0], bool), np.array([1, 1, 9, 5, 0])
    assert mainRun(chosen, moved) == (3, 3) and mainRun(chosen & False, moved) == (2, 2)


def test_figures_read_well():
    assert [number(v) for v in (None, 0, 10.0, 0.8621, 1234.5, -0.5)] == ["–", "0", "10", "0.862", "1234", "−0.5"]
    assert [signed(v, 1) for v in (0.04, -0.04, 1.25, -3)] == ["0.0", "0.0", "+1.2", "−3.0"]


# ---------------------------------------------------------------- the palette


def test_names_and_codes_are_those_of_slicers_own_list():
    assert palette.terminology("kidney_left") == (
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
        "~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic codes - DICOM master list~^^~^^"
    )
    assert "SCT^10200004^Liver~^^~" in palette.terminology("liver")
    assert "SCT^15825003^Aorta~^^~" in palette.terminology("aorta")
    assert "SCT^85756007^Tissue~SCT^272673000^Bone" in palette.terminology("bone")
    assert "SCT^45653009^Upper lobe of lung~SCT^24028007^Right" in palette.terminology("lung_upper_lobe_right")
    assert "SCT^113197003^Rib~^^" in palette.terminology("rib_left_7")
    assert palette.terminology("gut").count("SCT^85756007^Tissue") == 2
    assert palette.readable("kidney_left") == "Kidney left"


def test_colours_separate_and_darken_for_white():
    assert [palette.structureColour(n) for n in range(1, 6)] == ["#009E73", "#56B4E9", "#F0E442", "#CC79A7", "#D55E00"]
    many = [palette.structureColour(n) for n in range(1, 118)]
    assert len(set(many)) == 117
    for colour in many[:12]:
        darker = palette.onLight(colour)
        assert 1.05 / (palette._luminance(palette.rgb(darker)) + 0.05) >= 4.19
    assert palette.rgb("#FF8000") == pytest.approx((1.0, 128 / 255, 0.0))
    assert [palette.lineStyle(n) for n in (1, 2, 6)] == ["Solid", "Dash", "Solid"]
