"""The phantoms' anatomy and colours, the networks, the training run's repeatability, the shipped weights."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from perturbox.hardening import organs
from perturbox.hardening.training import Pgd
from perturbox.zoo.acquisition import PHASES, TISSUES, draw_acquisition
from perturbox.zoo.anatomy import make_anatomy
from perturbox.zoo.appearance import colour, deform, make_crop
from perturbox.zoo.canvas import SHAPE, SPACING, Canvas, beads
from perturbox.zoo.materials import CLASSES, LABEL_OF, Material
from perturbox.zoo.models import MODELS, WEIGHTS, Model, load_network, read_metadata, save_weights
from perturbox.zoo.network import ResUNet
from perturbox.zoo.phantom import phantom_case
from perturbox.zoo.stream import HELD_OUT_PATIENTS, TRAINING_PATIENTS, Patients, Stream
from perturbox.zoo.train import Recipe, average, dice_ce, soft_dice, train

TINY = Model("tiny", dims=3, channels=(4, 8), window=(16, 16, 16))


@pytest.fixture(scope="module")
def anatomy() -> np.ndarray:
    return make_anatomy(5)


@pytest.fixture(scope="module")
def patients(anatomy: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which every early training patient is the same one, so that no test waits for anatomies."""
    folder = tmp_path_factory.mktemp("patients")
    np.savez_compressed(folder / "one.npz", map=anatomy)
    for seed in TRAINING_PATIENTS[:32]:
        shutil.copy(folder / "one.npz", folder / f"{seed}.npz")
    return folder


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


# --- anatomy ---


def test_tube_is_a_capsule() -> None:
    canvas = Canvas(np.random.default_rng(0))
    tube = canvas.tube_shape([[-60, 0, 0], [60, 0, 0]], 15)
    capsule = np.pi * 15**2 * 120 + 4 / 3 * np.pi * 15**3
    assert tube.mask.sum() * SPACING**3 == pytest.approx(capsule, rel=0.06)
    x, y, z = canvas.coordinates(tube.box)
    axis_distance = np.sqrt(np.maximum(np.abs(x) - 60, 0) ** 2 + y**2 + z**2)
    assert not tube.mask[axis_distance > 15].any()


def test_beads_cover_the_line_from_end_to_end() -> None:
    centres, radii = beads([[0, 0, 0], [0, 0, 30]], [3, 6], step=0.5)
    assert centres[0].tolist() == [0, 0, 0] and centres[-1].tolist() == [0, 0, 30]
    assert np.diff(centres[:, 2]).max() <= 0.5 * 3 + 1e-9
    np.testing.assert_allclose(radii, 3 + centres[:, 2] / 10)


def test_ellipsoid_has_its_volume_and_turns_with_spin() -> None:
    canvas = Canvas(np.random.default_rng(0))
    upright, turned = (canvas.ellipsoid([0, 0, 0], [30, 60, 20], spin=spin) for spin in (0.0, np.pi / 2))
    volume = 4 / 3 * np.pi * 30 * 60 * 20
    for shape, extent in ((upright, (60, 120, 40)), (turned, (120, 60, 40))):
        assert shape.mask.sum() * SPACING**3 == pytest.approx(volume, rel=0.03)
        found = [np.ptp(np.flatnonzero(shape.mask.any(axis=other))) * SPACING for other in ((1, 2), (0, 2), (0, 1))]
        np.testing.assert_allclose(found, np.array(extent) - SPACING, atol=SPACING)


PLAUSIBLE_ML = {
    "liver": (700, 2800),
    "spleen": (60, 900),
    "kidney": (150, 650),
    "bone": (1500, 5000),
    "muscle": (1500, 7000),
    "gut": (500, 4500),
    "lung": (1500, 8000),
}


def test_every_organ_has_a_plausible_volume(anatomy: np.ndarray) -> None:
    assert anatomy.shape == SHAPE and anatomy.dtype == np.uint8
    ml = np.bincount(LABEL_OF[anatomy].ravel(), minlength=len(CLASSES)) * SPACING**3 / 1000
    for name, (least, most) in PLAUSIBLE_ML.items():
        assert least < ml[CLASSES.index(name)] < most, name


def test_organs_lie_where_they_belong(anatomy: np.ndarray) -> None:
    """RAS: liver right and spleen left of the midline, lungs above the kidneys, psoas and back muscle behind."""
    centre = {name: np.argwhere(LABEL_OF[anatomy] == i).mean(0) for i, name in enumerate(CLASSES)}
    middle = SHAPE[0] / 2
    assert centre["spleen"][0] < middle - 15 < middle + 5 < centre["liver"][0]
    assert max(centre["kidney"][2], centre["liver"][2]) < centre["lung"][2] - 20
    assert centre["muscle"][1] < centre["gut"][1]


def test_anatomies_differ_by_seed(anatomy: np.ndarray) -> None:
    assert (make_anatomy(6) != anatomy).mean() > 0.05


# --- appearance ---


def test_every_material_has_a_tissue_and_one_class() -> None:
    assert set(TISSUES) == set(Material)
    names = {material.name: CLASSES[LABEL_OF[material]] for material in Material}
    assert names["LIVER"] == names["HEPATIC_VESSEL"] == "liver"
    assert names["RENAL_CORTEX"] == "kidney" and names["RENAL_SINUS"] == names["CYST"] == "background"
    assert names["MUSCLE"] == "muscle" and names["OTHER_MUSCLE"] == "background"
    gut = [name for name, label in names.items() if label == "gut"]
    assert len(gut) == 12 and {"STOMACH_GAS", "CHYME_A", "STOOL_FATTY"} <= set(gut)


@pytest.mark.parametrize("phase", PHASES)
def test_contrast_phases_follow_physiology(phase: str) -> None:
    drawn = [draw_acquisition(np.random.default_rng(seed)) for seed in range(400)]
    mean = np.mean([a.mean for a in drawn if a.phase == phase], axis=0)
    assert mean[Material.LUNG] < -650 < mean[Material.FAT] < -80 < mean[Material.BILE] < 30
    assert mean[Material.CORTICAL_BONE] > mean[Material.SPONGY_BONE] > mean[Material.MUSCLE] > 20
    if phase == "native":
        assert 10 < mean[Material.RENAL_CORTEX] < 35 and mean[Material.ARTERY] < 50
        assert mean[Material.LIVER] > mean[Material.SPLEEN] > mean[Material.RENAL_CORTEX]
    else:
        assert mean[Material.RENAL_CORTEX] > mean[Material.LIVER] and mean[Material.ARTERY] > 80
    if phase == "arterial":
        assert mean[Material.ARTERY] > 2 * mean[Material.VEIN]


def test_colour_keeps_contrast_and_adds_the_stated_noise() -> None:
    halves = np.full((32, 32, 32), Material.LIVER, np.uint8)
    halves[16:] = Material.FAT
    drawn = draw_acquisition(np.random.default_rng(3))
    plain = replace(drawn, texture=np.zeros_like(drawn.texture), noise=0.0, blur=(0.0, 0.0))
    noisy = replace(plain, noise=25.0)
    clean, other = (colour(halves, acquisition, np.random.default_rng(4)) for acquisition in (plain, noisy))
    assert clean.dtype == np.float32
    contrast = drawn.mean[Material.LIVER] - drawn.mean[Material.FAT]
    assert clean[:16].mean() - clean[16:].mean() == pytest.approx(contrast, rel=0.1)
    assert (other - clean).std() == pytest.approx(25.0, rel=0.04)


def test_crops_are_pairs_of_the_asked_size(anatomy: np.ndarray) -> None:
    hu, labels = make_crop(anatomy, np.random.default_rng(0), (48, 40, 32))
    assert hu.shape == labels.shape == (48, 40, 32)
    assert hu.dtype == np.float32 and labels.dtype == np.uint8
    assert hu.min() >= -1024 and hu.max() <= 3071 and labels.max() < len(CLASSES)


def test_phantom_case_repeats_by_seed_and_is_centred() -> None:
    hu, labels, affine = phantom_case(11, (96, 80, 72), 4.0)
    again = phantom_case(11, (96, 80, 72), 4.0)
    assert digest(hu, labels, affine) == digest(*again)
    assert hu.dtype == np.int16 and labels.dtype == np.uint8 and hu.shape == labels.shape == (96, 80, 72)
    np.testing.assert_allclose(affine @ [47.5, 39.5, 35.5, 1], [0, 0, -20, 1])
    np.testing.assert_allclose(np.abs(affine[:3, :3]).sum(0), 4.0)
    assert set(np.unique(labels)) == set(range(len(CLASSES)))
    median = {name: np.median(hu[labels == i]) for i, name in enumerate(CLASSES)}
    assert median["lung"] < -600 and median["bone"] > 90
    assert all(-10 < median[name] < 260 for name in ("liver", "spleen", "kidney", "muscle"))


# --- stream ---


def test_samples_depend_on_seed_and_index_alone(patients: Path) -> None:
    first, second = (Stream(Patients(patients), 0, 40, (32, 32, 16)) for _ in range(2))
    _ = second[7], second[1]
    for index in (0, 3, 7):
        for a, b in zip(first[index], second[index], strict=True):
            assert torch.equal(a, b)
    other = Stream(Patients(patients), 1, 40, (32, 32, 16))
    assert not torch.equal(first[3][0], other[3][0])


def test_slices_come_first_in_2d(patients: Path) -> None:
    hu, labels = Stream(Patients(patients), 0, 4, (32, 48, 12), slices=4)[2]
    assert hu.shape == labels.shape == (4, 32, 48) and labels.dtype == torch.int64


def test_held_out_patients_are_never_trained_on() -> None:
    assert not set(HELD_OUT_PATIENTS) & set(TRAINING_PATIENTS)


# --- network ---


@pytest.mark.parametrize(("name", "most"), [("ct-organs", 1_500_000), ("ct-organs-2d", 2_000_000)])
def test_models_stay_small_and_map_sides_to_logits(name: str, most: int) -> None:
    model = MODELS[name]
    network = model.build()
    assert sum(p.numel() for p in network.parameters()) <= most
    assert network.divisor == 16
    sides = (32, 48, 16)[: model.dims]
    assert network(torch.zeros(2, 1, *sides)).shape == (2, 8, *sides)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradient_in_float64_matches_finite_differences(dims: int) -> None:
    torch.manual_seed(0)
    network = ResUNet(dims, 1, 3, (2, 4)).double()
    x = torch.randn(1, 1, *(4,) * dims, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,), eps=1e-6, atol=1e-6, fast_mode=True)


def test_network_is_the_same_function_in_eval_in_batches_and_twice() -> None:
    torch.manual_seed(0)
    network = ResUNet(3, 1, 3, (4, 8, 16))
    x = torch.randn(2, 1, 16, 8, 12, requires_grad=True)
    trained, evaluated = network(x), network.eval()(x)
    assert torch.equal(trained, evaluated)
    torch.testing.assert_close(network(x[1:]), evaluated[1:], rtol=1e-5, atol=1e-5)
    (both,) = torch.autograd.grad((network(x) + network(x)).square().sum() / 4, x)
    (once,) = torch.autograd.grad(network(x).square().sum(), x)
    torch.testing.assert_close(both, once)


@pytest.mark.parametrize(("dims", "shape"), [(3, (1, 1, 16, 16, 10)), (3, (1, 1, 16, 16)), (2, (1, 1, 16, 16, 16))])
def test_network_refuses_other_sides(dims: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        ResUNet(dims, 1, 3, (4, 8, 16))(torch.zeros(shape))
    with pytest.raises(ValueError, match="use 2 or 3"):
        ResUNet(4, 1, 3)


def test_normalise_maps_the_window_to_one() -> None:
    hu = torch.tensor([-1000.0, -250.0, 50.0, 350.0, 3000.0])
    assert MODELS["ct-organs"].normalise(hu).tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]


# --- training ---


def test_dice_ce_of_uniform_logits_in_closed_form() -> None:
    """Four voxels, two of class 1, class 2 absent: Dice of class 1 is (2·2/3 + 1) / (4/3 + 2 + 1), CE is log 3."""
    target = torch.tensor([[0, 1, 1, 0]])
    loss = dice_ce(torch.zeros(1, 3, 4, dtype=torch.float64), target)
    assert loss.item() == pytest.approx(1 - (4 / 3 + 1) / (4 / 3 + 3) + np.log(3), abs=1e-12)


def test_dice_ce_of_a_perfect_answer_is_nil() -> None:
    target = torch.randint(0, 3, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    logits = 200.0 * torch.nn.functional.one_hot(target, 4).movedim(-1, 1)
    assert dice_ce(logits, target).item() == pytest.approx(0, abs=1e-6)


def test_average_is_uniform() -> None:
    states: list[dict[str, Tensor]] = [{"w": torch.full((2,), float(value))} for value in (1, 2, 6)]
    assert average(states)["w"].tolist() == [3.0, 3.0]


def test_a_resumed_run_equals_an_uninterrupted_one(patients: Path, tmp_path: Path) -> None:
    recipe = Recipe(crop=(16, 16, 16), batch=2, iterations=6)
    options = {"seed": 3, "workers": 0, "cache": patients, "checkpoint_every": 2}
    whole = train(TINY, recipe, tmp_path / "whole", **options)
    train(TINY, recipe, tmp_path / "parts", stop_at=2, **options)
    resumed = train(TINY, recipe, tmp_path / "parts", resume=True, **options)
    assert whole.iteration == resumed.iteration == 6
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key
        assert torch.equal(whole.ema[key], resumed.ema[key]), key
    assert sorted(path.name for path in (tmp_path / "parts").glob("ema-*")) == ["ema-000006.safetensors"]
    other = train(TINY, recipe, tmp_path / "other", **{**options, "seed": 4})
    assert not torch.equal(whole.ema["head.weight"], other.ema["head.weight"])


def test_a_run_may_begin_with_weights_of_another(patients: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    first = TINY.build().state_dict()
    save_weights(TINY, first, tmp_path / "first.safetensors")
    recipe = Recipe(crop=(16, 16, 16), batch=1, iterations=1, learning_rate=0.0)
    options = {"seed": 3, "workers": 0, "cache": patients}
    begun = train(TINY, recipe, tmp_path / "second", start=tmp_path / "first.safetensors", **options)
    for key, value in first.items():  # no rate, no step: what it began with is what it has
        assert torch.equal(begun.network.state_dict()[key], value.half().float()), key
        assert torch.allclose(begun.ema[key], value.half().float(), rtol=1e-6), key


# --- weights ---


def test_saved_weights_keep_their_description(tmp_path: Path) -> None:
    network = TINY.build()
    save_weights(TINY, network.state_dict(), tmp_path / "tiny.safetensors", iterations=6, seed=3)
    metadata = read_metadata(tmp_path / "tiny.safetensors")
    assert metadata["labels"] == list(CLASSES) and metadata["spacing_mm"] == [3.0, 3.0, 3.0]
    assert metadata["hu_range"] == [-250.0, 350.0] and metadata["channels"] == [4, 8]
    assert metadata["iterations"] == 6 and metadata["seed"] == 3


def test_training_under_attack_goes_on_bit_for_bit(patients: Path, tmp_path: Path) -> None:
    recipe = Recipe(crop=(16, 16, 16), batch=1, iterations=4)

    def run(place: str, stop_at: int | None = None, attacked: bool = True) -> dict[str, Tensor]:
        objective = organs.Objective(recipe) if attacked else None
        return train(
            TINY, recipe, tmp_path / place, seed=3, workers=0, resume=True, cache=patients, stop_at=stop_at,
            objective=objective,
        ).ema  # fmt: skip

    whole = run("whole")
    run("parts", stop_at=2)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["iteration"] == 2
    again = run("parts")
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    plain = run("plain", attacked=False)
    assert not all(torch.equal(plain[key], value) for key, value in whole.items())


@pytest.mark.parametrize("name", MODELS)
def test_shipped_weights_are_small_described_and_frozen(name: str) -> None:
    path = WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size <= 5 * 2**20
    metadata, model = read_metadata(path), MODELS[name]
    assert metadata["model"] == name and metadata["channels"] == list(model.channels)
    assert metadata["labels"] == list(CLASSES) and metadata["window"] == list(model.window)
    network = load_network(name)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in network.parameters())


def test_shipped_weights_segment_a_patient_they_never_saw(anatomy: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    middle = np.array([84, 52, 112], np.float32)
    materials = deform(anatomy, rng, (112, 96, 48), middle, np.ones(3, np.float32))
    hu, labels = colour(materials, draw_acquisition(rng), rng), LABEL_OF[materials]
    model = MODELS["ct-organs"]
    found = load_network("ct-organs")(model.normalise(torch.from_numpy(hu))[None, None])[0].argmax(0).numpy()
    dice = {
        name: 2 * ((found == index) & (labels == index)).sum() / ((found == index).sum() + (labels == index).sum())
        for index, name in enumerate(CLASSES[1:], start=1)
    }
    assert min(dice.values()) > 0.6 and np.mean(list(dice.values())) > 0.8, dice


def test_the_hardened_weights_stand_what_breaks_the_plain_ones(anatomy: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    materials = deform(anatomy, rng, (112, 96, 48), np.array([84, 52, 112], np.float32), np.ones(3, np.float32))
    hu = torch.from_numpy(colour(materials, draw_acquisition(rng), rng))[None]
    y = torch.from_numpy(LABEL_OF[materials].astype(np.int64))[None]
    attack = Pgd(soft_dice, 10.0, organs.prepare, organs.VALID, steps=5, alpha=0.5)
    kept = {}
    for name in ("ct-organs", "ct-organs-hardened"):
        network = load_network(name)
        with torch.inference_mode():
            clean = soft_dice(network(organs.prepare(hu)), y)
        with torch.no_grad():
            kept[name] = (
                1 - clean.item(),
                1 - soft_dice(network(organs.prepare(attack.perturb(network, hu, y))), y).item(),
            )
    assert kept["ct-organs-hardened"][1] > kept["ct-organs"][1] + 0.015
    assert kept["ct-organs-hardened"][0] > kept["ct-organs"][0] - 0.05
