"""Controls keep what they promise (norm, support, spectrum, range), and warnings say what a result can't show."""

import copy

import numpy as np
import pytest
from scipy import ndimage

from perturbox.judge import checks
from perturbox.types import Volume


def scan(rng, shape=(16, 14, 12)):
    return np.rint(rng.normal(scale=80, size=(1, *shape))).clip(-1000, 300).astype(np.float32)


def rms(values):
    return np.sqrt(np.mean(np.square(values, dtype=np.float64)))


# ---------------------------------------------------------------- white noise


@pytest.mark.parametrize("step", [1.0, 0.5, None])
@pytest.mark.parametrize("size", [1.0, 4.0])
def test_white_noise_has_the_rms_the_support_and_the_steps(rng, step, size):
    image = scan(rng, (40, 30, 20))
    delta = rng.choice([-size, 0, size], image.shape).astype(np.float32)
    noise = checks.white_noise(delta, image, None, -1000, 1000, step, rng)
    assert noise.dtype == delta.dtype
    assert not noise[delta == 0].any()
    assert rms(noise) == pytest.approx(rms(delta), rel=2e-3)
    if step:
        assert np.array_equal(noise, np.rint(noise / step) * step)
    # White: neighbours know nothing of each other.
    inside = noise * (delta != 0)
    assert abs(np.mean(inside[:, 1:] * inside[:, :-1])) < 0.02 * rms(delta) ** 2


def test_white_noise_keeps_range_and_roi_and_makes_up_for_what_they_take(rng):
    image = scan(rng, (40, 30, 20))
    delta = np.full_like(image, 6.0)
    roi = np.zeros(image.shape[1:], bool)
    roi[5:30, 5:20, 2:15] = True
    lo, hi = float(image.min()), float(image.max())
    noise = checks.white_noise(delta, image, roi, lo, hi, 1.0, rng)
    assert (image + noise).min() >= lo
    assert (image + noise).max() <= hi
    assert not noise[:, ~roi].any()
    assert rms(noise[:, roi]) == pytest.approx(6.0, rel=2e-3)
    # No room at all above: only the falling half of the noise is left, and it still reaches the norm.
    half = checks.white_noise(delta, np.full_like(image, hi), None, -5000, hi, 1.0, rng)
    assert half.max() == 0
    assert rms(half) == pytest.approx(6.0, rel=5e-3)
    # No room on either side: nothing moves.
    assert not checks.white_noise(delta, np.full_like(image, hi), None, hi, hi, 1.0, rng).any()
    assert not checks.white_noise(0 * delta, image, None, lo, hi, 1.0, rng).any()


# ---------------------------------------------------------------- rolled


def test_rolled_has_the_same_values_elsewhere(rng):
    image = np.zeros((1, 16, 9, 12), np.float32)
    delta = rng.integers(-9, 10, image.shape).astype(np.float32)
    for _ in range(20):
        moved = checks.rolled(delta, image, -1000, 1000, None, rng)
        assert np.array_equal(np.sort(moved, axis=None), np.sort(delta, axis=None))
        # Found again by the peak of the circular correlation: at least a quarter of the way along every axis.
        peak = np.fft.ifftn(np.fft.fftn(moved[0]) * np.conj(np.fft.fftn(delta[0]))).real
        offset = np.unravel_index(np.argmax(peak), peak.shape)
        for shift, n in zip(offset, peak.shape, strict=True):
            assert min(shift, n - shift) >= n / 4


def test_rolled_stays_in_range_and_in_the_roi(rng):
    image = scan(rng)
    delta = rng.integers(-20, 21, image.shape).astype(np.float32)
    roi = np.zeros(image.shape[1:], bool)
    roi[2:10, 3:11, 4:12] = True
    delta[:, ~roi] = 0
    lo, hi = float(image.min()), float(image.max())
    moved = checks.rolled(delta, image, lo, hi, roi, rng)
    assert not moved[:, ~roi].any()
    assert (image + moved).min() >= lo
    assert (image + moved).max() <= hi
    # The roi is a box, and rolling inside it loses nothing but what the range cuts off.
    assert rms(moved) > 0.95 * rms(delta)
    assert not np.array_equal(moved, delta)


def test_rolled_in_two_dimensions_and_along_single_voxels(rng):
    delta = rng.normal(size=(3, 10, 1)).astype(np.float32)
    moved = checks.rolled(delta, np.zeros_like(delta), -10, 10, None, rng)
    assert np.allclose(np.sort(moved, axis=None), np.sort(delta, axis=None))
    assert not np.array_equal(moved, delta)


# ---------------------------------------------------------------- benign floor


def test_benign_members_of_a_ramp_are_exact(rng):
    """On a linear ramp interpolation is exact: the half-voxel scan shows the ramp's values at its own coordinates."""
    affine = np.array([[0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    ramp = np.zeros((1, 6, 5, 4)) + np.arange(6)[:, None, None] * 2 + np.arange(4) * 4 - 50
    image = Volume(ramp.astype(np.float32), affine, dtype=np.dtype(np.int16))
    resave, half = checks.benign(image, None, rng)
    assert (resave.name, half.name) == ("resave", "half_voxel")
    assert np.array_equal(resave.scan.data, image.data)
    assert half.scan.data.dtype == np.float32
    assert half.scan.shape == (5, 4, 3)
    assert np.array_equal(half.scan.data, ramp[:, :-1, :-1, :-1] + 1 + 2)
    assert np.allclose(half.scan.affine @ [0, 0, 0, 1], affine @ [0.5, 0.5, 0.5, 1])
    assert np.array_equal(half.scan.affine[:3, :3], affine[:3, :3])


def test_benign_scans_hold_what_their_file_would(rng):
    data = scan(rng)
    data[0, :4] = -2000  # padding, never changed
    image = Volume(data, dtype=np.dtype(np.int16), slope=0.5, intercept=-1024.0)
    members = {m.name: m for m in checks.benign(image, 12.0, rng)}
    assert list(members) == ["resave", "half_voxel", "noise"]
    for member in members.values():
        assert np.array_equal(member.scan.data * 2, np.rint(member.scan.data * 2))
    change = members["noise"].scan.data - data
    assert not change[0, :4].any()
    assert rms(change[0, 4:]) == pytest.approx(12.0, rel=0.05)
    assert members["noise"].scan.data.max() <= data.max()


def test_half_voxel_of_an_image_with_one_slice_moves_only_where_there_is_room(rng):
    image = Volume(np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1))
    half = checks.benign(image, None, rng)[1]
    assert half.scan.shape == (2, 3, 1)
    assert np.allclose(half.scan.affine[:3, 3], [0.5, 0.5, 0])
    photo = Volume(np.zeros((3, 5, 6), np.float32), unit="intensity")
    assert checks.benign(photo, None, rng)[1].scan.shape == (4, 5)


def test_a_perfect_victim_has_a_perfect_floor(rng):
    """A threshold at 0 commutes with sampling: whatever it answers between voxels, the reference must accept."""
    field = ndimage.gaussian_filter(rng.normal(size=(1, 30, 30, 30)), (0, 3, 3, 3)) * 4000
    image = Volume(field.astype(np.float32), dtype=np.dtype(np.float32))
    half = checks.benign(image, None, rng)[1]

    def predict(scan):
        return (scan.data[0] > 0).astype(np.uint8)

    prediction, clean = predict(half.scan), predict(image)
    settled = half.reference(clean, prediction)
    plain = half.reference(clean, np.full_like(prediction, 9))  # ties settled without asking the victim
    assert np.mean(settled != prediction) < 0.002  # the interpolated field may outvote the corners here and there
    assert np.mean(plain != prediction) > 4 * np.mean(settled != prediction)


def test_half_voxel_reference_is_the_vote_of_the_surrounding_labels(rng):
    clean = np.array([[0, 1, 1], [2, 1, 2]], np.uint8)
    image = Volume(np.zeros((1, 2, 3), np.float32))
    half = checks.benign(image, None, rng)[1]
    assert half.reference(clean, np.array([[2, 2]])).tolist() == [[1, 1]]  # votes 0:1 1:2 2:1, then 1:3 2:1
    tie = np.array([[1, 2], [2, 1]], np.uint8)
    half = checks.benign(Volume(np.zeros((1, 2, 2), np.float32)), None, rng)[1]
    assert half.reference(tie, np.array([[1]], np.uint8)).tolist() == [[1]]
    assert half.reference(tie, np.array([[2]], np.uint8)).tolist() == [[2]]
    assert half.reference(tie, np.array([[3]], np.uint8)).tolist() == [[1]]  # a label nobody voted for is wrong


# ---------------------------------------------------------------- grids


@pytest.mark.parametrize(("cycles", "above"), [(3, 0.0), (8, 0.0), (9, 1.0), (20, 1.0)])
def test_energy_above_of_a_sinusoid(cycles, above):
    """64 mm at 1 mm: a victim's 4 mm grid holds waves of 8 mm and longer, 8 cycles and fewer."""
    wave = np.sin(2 * np.pi * cycles * np.arange(64) / 64 + 0.3)
    delta = np.zeros((1, 8, 64, 6)) + wave[:, None]
    assert checks.energy_above(delta, (1, 1, 1), (1, 4, 1)) == pytest.approx(above, abs=1e-6)
    assert checks.energy_above(delta[0], (1, 1, 1), (1, 4, 1)) == pytest.approx(above, abs=1e-6)
    assert checks.energy_above(delta, (1, 1, 1), (4, 1, 4)) == pytest.approx(0.0, abs=1e-6)
    assert checks.energy_above(delta, (1, 1, 1), (1, 1, 0.5)) == 0.0
    assert checks.energy_above(delta, (1, 1, 1), None) == 0.0
    assert checks.energy_above(0 * delta, (1, 1, 1), (4, 4, 4)) == 0.0


def test_energy_above_adds_up_over_waves_and_axes():
    """A fast wave with twice the amplitude of a slow one holds 4/5 of the energy; so it is with oblique ones."""
    i = np.arange(64)
    slow, fast = np.sin(2 * np.pi * 4 * i / 64), np.sin(2 * np.pi * 20 * i / 64)
    mixture = (slow + 2 * fast)[:, None] + np.zeros(64)
    assert checks.energy_above(mixture, (1, 1), (3, 3)) == pytest.approx(0.8, abs=1e-6)
    assert checks.energy_above(np.outer(slow, fast), (1, 1), (3, 3)) == pytest.approx(1.0, abs=1e-6)
    white = np.random.default_rng(0).normal(size=(60, 60, 60))
    assert checks.energy_above(white, (1, 1, 1), (2, 2, 2)) == pytest.approx(1 - (31 / 60) ** 3, abs=0.01)


# ---------------------------------------------------------------- warnings


def sound():
    """A result that needs no warning: an expert outline, 100 steps, restarts, controls that do nothing."""
    row = {"dice": 0.95, "iou": 0.9, "hd95_mm": 2.0, "nsd": 0.97, "volume_ml": 1500.0}
    return {
        "attack": {
            "name": "annealed",
            "parameters": {"eps": 4.0, "norm": "linf", "steps": 100, "restarts": 2, "target": []},
        },
        "source": {"shape": [8, 8, 8], "spacing_mm": [0.8, 0.8, 1.5], "sizes": "ml"},
        "reference": "label",
        "outlined": ["liver", "right_kidney"],
        "verdicts": {"liver": "dice", "right_kidney": "dice"},
        "budget": {"eps": 4.0, "unit": "HU", "norm": "linf", "measured": {"linf": 4.0, "l2": 3.2, "l0": 0.9}},
        "noise": {"sigma": 11.3, "region": "liver eroded 5 mm, 812 ml", "rms_over_sigma": 0.28, "eps_over_sigma": 0.35},
        "metrics": {
            "clean": {"liver": dict(row), "right_kidney": dict(row)},
            "adversarial": {"liver": row | {"dice": 0.4}, "right_kidney": row | {"dice": 0.6}},
            "against_clean": {"liver": row | {"dice": 0.41}, "right_kidney": row | {"dice": 0.63}},
        },
        "image_metrics": {"psnr_db": 41.0, "ssim": 0.98, "energy_above_grid": 0.02},
        "success": {"succeeded": True},
        "control": {
            "noise": {"dice": {"liver": 0.95, "right_kidney": 0.94}},
            "rolled": {"dice": {"liver": 0.94, "right_kidney": 0.93}},
            "benign": {"dice": {"liver": 0.99, "right_kidney": 0.98}},
        },
        "trace": [{"step": 0, "loss": 0.1}, {"step": 1, "loss": 0.5}],
        "stopped_early": None,
    }


def changed(path, value):
    result = copy.deepcopy(sound())
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


@pytest.mark.parametrize(("norm", "measured"), [("linf", 1.2), ("l2", 0.9)])
def test_steps_that_cant_reach_the_limit_are_told(norm, measured):
    result = sound()
    result["budget"] |= {"norm": norm, "measured": result["budget"]["measured"] | {norm: measured}}
    result["attack"]["parameters"] |= {"alpha": 0.03, "steps": 100}
    said = "100 steps of 0.03 HU can't reach the limit of 4 HU: nothing is known of larger changes; give more steps or "
    assert checks.warnings(result) == [said + "a larger step size."]
    result["attack"]["parameters"] |= {"alpha": 0.04}  # just reaches it
    assert checks.warnings(result) == []


def test_a_change_that_ended_before_the_limit_is_told_unless_it_succeeded():
    result = sound()
    result["budget"] |= {"eps": 100.0, "measured": {"linf": 6.0, "l2": 3.2, "l0": 0.9}}
    result["noise"]["eps_over_sigma"] = 8.0
    assert checks.warnings(result) == []
    result["success"]["succeeded"] = False
    said = "The change ended at 6 HU of the 100 HU that were allowed: nothing is known of larger changes; "
    assert checks.warnings(result) == [said + "give more steps."]


@pytest.mark.parametrize("name", checks.BEATEN)
def test_a_published_recipe_says_that_the_default_finds_more(name):
    result = changed(("attack", "name"), name)
    (said,) = checks.warnings(result)
    assert said.startswith(f"{name} is kept as published; ") and "annealed" in said
    assert checks.warnings(result | {"surrogates": [{"name": "other"}]}) == []  # it was not measured on other models


def test_a_sound_result_needs_no_warning():
    assert checks.warnings(sound()) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            ("reference",),
            "clean_prediction",
            "No expert outline was supplied: every Dice compares the model with itself.",
        ),
        (
            ("attack", "parameters", "steps"),
            20,
            "20 steps and 1 restart: enough for a look, not for a claim (≥ 100 steps and ≥ 1 restart).",
        ),
        (
            ("attack", "parameters"),
            {"steps": 1, "target": ["liver"]},
            "1 step: enough for a look, not for a claim (≥ 100 steps).",
        ),
        (
            ("attack", "parameters", "restarts"),
            1,
            "100 steps and no restart: enough for a look, not for a claim (≥ 100 steps and ≥ 1 restart).",
        ),
        (
            ("attack", "name"),
            "noise",
            "Random noise is a control, not an attack: what holds against it proves nothing.",
        ),
        (
            ("stopped_early",),
            "stopped at step 7 of 20",
            "The attack was stopped at step 7 of 20: the numbers are those of the best result up to there.",
        ),
        (
            ("trace",),
            [{"step": 0, "loss": 0.5}, {"step": 1, "loss": 0.4}],
            "The loss never rose above its first value: the gradient may be masked, or the steps are too large.",
        ),
        (
            ("control", "noise", "dice"),
            {"liver": 0.40, "right_kidney": 0.60},
            "Random noise of the same size lowers mean Dice by 0.45, the attack by 0.45: the gradient may be masked.",
        ),
        (
            ("control", "rolled", "dice"),
            {"liver": 0.40, "right_kidney": 0.61},
            "The same perturbation put elsewhere lowers mean Dice by 0.44, here by 0.45: its texture does it, "
            "not its place.",
        ),
        (
            ("verdicts",),
            {"liver": "benign", "right_kidney": "dice"},
            "No break, since harmless changes of the scan do as much: liver (Dice 0.41, under harmless changes 0.99).",
        ),
        (
            ("metrics", "clean", "right_kidney", "volume_ml"),
            0.0,
            "The model found no right kidney in this scan: nothing to stress there.",
        ),
        (
            ("source", "spacing_mm"),
            [0.8, 0.8, 3.0],
            "The NSD tolerance of 2 mm is below the slice spacing of 3 mm: "
            "a shift by one voxel already counts as wrong.",
        ),
        (
            ("noise",),
            {"sigma": None, "region": "not available: no liver", "rms_over_sigma": None, "eps_over_sigma": None},
            "The scan's own noise is not available: no liver, so the limit can't be compared with it.",
        ),
        (
            ("budget", "measured", "linf"),
            0.0,
            "Nothing changed in the saved scan: raise the limit above the file's storage step, or the effort.",
        ),
        (
            ("budget", "measured", "linf"),
            5.0,
            "The saved perturbation measures 5 in linf, above its limit of 4.",
        ),
        (
            ("image_metrics", "energy_above_grid"),
            0.62,
            "62% of the perturbation's energy is finer than the model's grid, which can't hold it.",
        ),
    ],
)
def test_each_weakness_has_its_one_sentence(path, value, sentence):
    assert checks.warnings(changed(path, value)) == [sentence]


def test_a_poor_model_is_named_before_its_fall():
    result = changed(("metrics", "clean", "right_kidney", "dice"), 0.41)
    result["metrics"]["adversarial"]["right_kidney"]["dice"] = 0.2
    sentence = "Right kidney: Dice with the expert outline is only 0.41 before any attack; fix that first."
    assert sentence in checks.warnings(result)
    result["reference"] = "clean_prediction"
    assert sentence not in checks.warnings(result)


def test_no_effect_is_no_safety():
    result = sound()
    result["metrics"]["adversarial"] = result["metrics"]["clean"]
    result["verdicts"] = {"liver": "held", "right_kidney": "held"}
    sentence = "No change up to 4 HU with this effort: that is not proof of safety; raise effort or limit."
    assert checks.warnings(result) == [sentence]
    result["budget"] |= {"norm": "l0", "eps": 0.9}
    assert checks.warnings(result) == [sentence.replace("up to 4 HU", "within this limit")]
    # A limit of which little was used is credited with what was used.
    result["budget"] |= {"norm": "linf", "eps": 100.0}
    assert checks.warnings(result) == [sentence]
    # A structure that broke by distance hardly lowers the Dice, but it did break.
    result["verdicts"]["liver"] = "distance"
    assert checks.warnings(result) == []


def test_a_large_limit_must_break_everything():
    result = sound()
    result["noise"]["eps_over_sigma"], result["success"]["succeeded"] = 12.2, False
    assert checks.warnings(result) == []
    result["verdicts"] = {"liver": "held", "right_kidney": "benign"}
    assert checks.warnings(result)[1:] == [
        "Even 12 times the scan's noise didn't break the model, as it should: suspect masked gradients."
    ]


def test_only_the_attacked_structures_count():
    """Targets alone enter the comparison with the controls: an untouched structure must not water it down."""
    result = changed(("attack", "parameters", "target"), ["liver"])
    result["metrics"]["adversarial"]["right_kidney"]["dice"] = 0.95
    result["metrics"]["clean"]["right_kidney"]["volume_ml"] = 0.0
    result["control"]["noise"]["dice"] = {"liver": 0.95, "right_kidney": 0.0}
    assert checks.warnings(result) == []


def test_vanished_and_absent_structures_without_a_dice_are_no_obstacle():
    result = changed(("metrics", "clean", "right_kidney"), {"dice": None, "volume_ml": 0.0})
    result["verdicts"]["right_kidney"] = "absent"
    result["metrics"]["against_clean"]["right_kidney"] = {"dice": None, "volume_ml": 0.0}
    result["metrics"]["adversarial"]["right_kidney"] = {"dice": None, "volume_ml": 0.0}
    result["control"]["benign"]["dice"]["right_kidney"] = None
    assert checks.warnings(result) == ["The model found no right kidney in this scan: nothing to stress there."]


def test_an_attack_with_a_space_of_its_own_is_measured_against_that_and_not_against_noise():
    result = changed(("control", "own"), {"dice": {"liver": 0.40, "right_kidney": 0.60}})
    result["control"]["noise"]["dice"] = result["control"]["rolled"]["dice"] = {"liver": 0.1, "right_kidney": 0.1}
    own = {"parameter": "reach", "value": 3.0, "unit": "mm", "meaning": "largest motion"}
    result["attack"]["own_budget"] = own
    result["noise"]["eps_over_sigma"], result["success"]["succeeded"] = 120.0, False
    assert checks.warnings(result) == [
        "This attack has a budget of its own (reach 3 mm: largest motion): what it measured in HU is stated, but isn't "
        "comparable with attacks at a limit.",
        "A random draw in the attack's own space lowers mean Dice by 0.45, the attack by 0.45: the kind of change does "
        "it, not its aim.",
    ]
    result["control"]["own"]["dice"] = {"liver": 0.90, "right_kidney": 0.90}
    assert len(checks.warnings(result)) == 1


def test_losses_of_several_attacks_are_not_compared():
    result = changed(("trace",), [{"step": 0, "loss": 0.5}, {"step": 1, "loss": 0.4}])
    assert len(checks.warnings(result)) == 1
    result["members"] = [{"name": "a"}, {"name": "b"}]
    assert checks.warnings(result) == []


def test_what_was_never_followed_is_not_called_masked():
    rising = changed(("trace",), [{"step": 0, "loss": 0.5}, {"step": 1, "loss": 0.4}])
    never = "The loss never rose above its first value: "
    assert checks.warnings(rising) == [never + "the gradient may be masked, or the steps are too large."]
    for changes in ({"effort": {"backwards": 0.0}}, {"surrogates": [{"name": "other"}]}):
        assert checks.warnings({**rising, **changes}) == [never + "the search found nothing better."]
    noisy = changed(("control", "noise", "dice"), {"liver": 0.40, "right_kidney": 0.60})
    noisy["surrogates"] = [{"name": "other"}]
    assert checks.warnings(noisy) == [
        "Random noise of the same size lowers mean Dice by 0.45, the attack by 0.45: nothing was transferred."
    ]


def test_only_what_the_verdict_calls_benign_is_said_to_be_no_break():
    """Dice above the floor of harmless changes, but a distance beyond its limit: the floor knows no distances."""
    result = changed(("control", "benign", "dice"), {"liver": 0.3, "right_kidney": 0.3})
    result["verdicts"] = {"liver": "distance", "right_kidney": "local"}
    assert checks.warnings(result) == []


def test_what_the_expert_left_out_stays_out_of_means_and_is_said():
    result = changed(("outlined",), ["liver"])
    nothing = dict.fromkeys(("dice", "iou", "hd95_mm", "nsd")) | {"volume_ml": 150.0}
    for rows in ("clean", "adversarial"):
        result["metrics"][rows]["right_kidney"] = nothing
    result["control"]["noise"]["dice"]["right_kidney"] = 0.0  # would be noise's doing if it counted
    assert checks.warnings(result) == [
        "The expert didn't outline right kidney, which the model finds: compared with the model's own clean "
        "prediction, and in no mean."
    ]


def test_a_stop_before_anything_was_found_is_no_reason_to_raise_the_limit():
    result = changed(("stopped_early",), "stopped at step 1 of 20")
    result["budget"]["measured"] = {"linf": 0.0, "l2": 0.0, "l0": 0.0}
    result["verdicts"] = {"liver": "held", "right_kidney": "held"}
    assert not [said for said in checks.warnings(result) if "limit" in said]


def test_a_photograph_has_no_tolerance_in_millimetres():
    assert checks.warnings(changed(("source",), {"shape": [8, 8], "spacing_mm": [5.0, 5.0], "sizes": "pixels"})) == []
