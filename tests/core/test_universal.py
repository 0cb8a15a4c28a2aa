"""Universal perturbations: a pattern for every shape, an epoch by hand, other scans and pictures it is crafted on."""

import dataclasses
import os
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny
import torch
import victims
from attacking import attacked, built, multi_label, recipe_of, same_bits, with_channels

from perturbox import io
from perturbox.attacks.attack import random_draw
from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.recipes.uap_natural import crop, photograph, scenes
from perturbox.attacks.runner import run
from perturbox.attacks.solvers.one_by_one import OneByOne
from perturbox.attacks.spaces.shared import Shared
from perturbox.job.execute import Job, prepare, run_job
from perturbox.job.folder import replay, verify
from perturbox.model.sliding import Window
from perturbox.types import Case, Effort, InputError, Volume
from perturbox.zoo.leaves import dead_leaves

FLOAT = np.dtype(np.float32)
TINY = f"{tiny.__file__}:volume"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensor(image) -> torch.Tensor:
    return torch.from_numpy(image.data)[None]


def on_others(image, victim, others, name="uap", eps=8.0, norm="linf", steps=3, goal=None, **options):
    """The outcome of a universal attack on `image`, crafted on `others`."""
    run_options = {key: options.pop(key) for key in ("seed", "surrogates") if key in options}
    goal = goal or Goal.parse("change", (), victim.labels)
    attack = built(name, eps, norm, steps, **{"fit": "tile", **options})
    reference = victim.predict(image)
    effort = Effort()
    outcome = run(attack, victim.on(image, effort), Case(image), reference, goal, others=others, **run_options)
    return outcome, effort


# ---------------------------------------------------------------- one pattern for every shape


@pytest.mark.parametrize("shape", [(14, 12, 10), (7, 23, 3), (18, 17)])
def test_a_tile_is_repeated_whatever_the_shape(shape):
    image = victims.random_scan(shape, dtype=FLOAT)
    limits = dataclasses.replace(Budget.of(Case(image), 8.0), clip=(-1e6, 1e6))
    z = 8 * (2 * torch.rand(1, 1, *[4] * len(shape), generator=generator()) - 1)
    found = Shared(4).decode(z, torch.zeros(1, 1, *shape), limits)[0, 0].numpy()
    expected = np.tile(z[0, 0].numpy(), [-(-n // 4) for n in shape])[tuple(slice(n) for n in shape)]
    assert np.array_equal(found, expected)


def test_a_tile_in_mm_lies_at_the_same_places_on_any_voxels():
    """Samples 3 mm apart, seen every 1.5 mm: each second voxel is one, between them their mean."""
    values = torch.tensor([3.0, -5.0, 8.0, 0.0]).double()
    fine, coarse = Shared(4, 3.0).weights(16, 1.5), Shared(4, 3.0).weights(5, 6.0)
    assert (fine @ values).tolist() == [3, -1, -5, 1.5, 8, 4, 0, 1.5] * 2
    assert (coarse @ values).tolist() == [3, 8, 3, 8, 3]
    assert torch.equal(fine.sum(1), torch.ones(16).double()) and Shared(4, 3.0).period(1.5) == 8
    assert torch.equal(Shared(4, 0.7).weights(9, 2.0), Shared(4, 0.7).weights(30, 2.0)[:9])
    assert Shared(4).period(1.5) == 4 and Shared(4, 0.7).period(2.0) == 2


@pytest.mark.parametrize("shape", [(14, 12, 10), (18, 17)])
def test_a_stretched_pattern_is_interpolated_over_the_whole_scan(shape):
    image = victims.random_scan(shape, dtype=FLOAT)
    limits = dataclasses.replace(Budget.of(Case(image), 8.0), clip=(-1e6, 1e6))
    z = 8 * (2 * torch.rand(1, 1, *[4] * len(shape), generator=generator()) - 1)
    found = Shared(4, fit="stretch").decode(z, torch.zeros(1, 1, *shape), limits)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    torch.testing.assert_close(found, torch.nn.functional.interpolate(z, shape, mode=mode), atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_pattern_stays_in_its_ball_and_draws_fill_it(norm):
    image = victims.random_scan(dtype=FLOAT)
    x, limits, space = tensor(image), Budget.of(Case(image), 6.0, norm), Shared(4)
    size = {"linf": lambda z: z.abs().max(), "l2": lambda z: z.square().mean().sqrt()}[norm]
    z = 20 * torch.randn(1, 1, 4, 4, 4, generator=generator())
    assert float(size(space.project(z, x, limits))) == pytest.approx(6.0, rel=1e-6)
    assert torch.equal(space.project(z / 100, x, limits), z / 100)
    drawn = space.draw(x, limits, generator())
    assert float(size(drawn)) == pytest.approx(6.0, rel=1e-6)
    assert norm == "l2" or set(drawn.unique().tolist()) == {-6.0, 6.0}
    control = random_draw(built("uap", 6.0, norm, fit="tile"), Case(image), victims.textured())
    assert control is not None and limits.size(torch.from_numpy(control(1) - image.data)[None]) == pytest.approx(
        6.0, rel=0.02
    )


def test_a_ball_of_l2_has_a_gradient_at_no_change():
    image = victims.random_scan(dtype=FLOAT)
    limits = Budget.of(Case(image), 6.0, "l2")
    delta = torch.zeros_like(tensor(image)).requires_grad_()
    (slope,) = torch.autograd.grad(limits.project(delta, tensor(image)).sum(), delta)
    assert bool(slope.isfinite().all()) and float(slope.mean()) > 0.9


@pytest.mark.parametrize("fit", ["tile", "stretch"])
def test_the_same_perturbation_comes_of_the_same_scans_whatever_is_attacked(fit):
    """Cases of another shape, with other values, one of them without any structure the other has."""
    victim = victims.textured()
    others = [victims.random_scan((12, 12, 12), seed=seed) for seed in (1, 2)]
    looks, deltas = [], []

    @dataclasses.dataclass(frozen=True)
    class Watched(Shared):
        def decode(self, z, x, budget):
            if x.shape[2:] != (12, 12, 12):
                looks[-1].append(z.clone())
            return super().decode(z, x, budget)

    attack = built("uap", 8.0, steps=3, fit=fit, side=4, alpha=3.0)
    attack = dataclasses.replace(attack, space=Watched(4, fit=fit))
    goal = Goal.parse("change", (), victim.labels)
    for shape, present in [((14, 12, 10), (1, 2)), ((9, 16, 11), (2,))]:
        image = victims.random_scan(shape, seed=shape[0], dtype=FLOAT)
        image.data[0, 0, 0, 0], image.data[0, -1, -1, -1] = -900, 900  # room for every change of all the others
        looks.append([])
        here = dataclasses.replace(goal, targets=present)
        outcome = run(attack, victim.on(image), Case(image), victim.predict(image), here, others=others)
        deltas.append(outcome.delta[0])
    assert len(looks[0]) == len(looks[1]) == 4
    assert all(torch.equal(a, b) for a, b in zip(*looks, strict=True)) and looks[0][-1].abs().max() > 0
    if fit == "tile":
        common = tuple(slice(1, min(a, b) - 1) for a, b in zip(*(d.shape for d in deltas), strict=True))
        np.testing.assert_allclose(deltas[0][common], deltas[1][common], atol=1e-4)
    assert all(np.abs(delta).max() > 2 for delta in deltas)


# ---------------------------------------------------------------- an epoch


def linear_victim():
    """Two labels, voxel by voxel, with logit 0.1 x - 0.5, in one window."""
    network = victims.Linear([0.1], 0.5)
    return victims.organ_of(2, network=network, window=Window((8, 6), blend="constant"))


def flat_scan(seed: int) -> Volume:
    return victims.random_scan((8, 6), seed=seed, scale=20.0, affine=np.eye(4), dtype=FLOAT)


def test_an_epoch_by_hand():
    """On a linear victim in double precision, with the scans' order drawn here from the same seed."""
    victim, others, alpha, eps = linear_victim(), [flat_scan(seed) for seed in (1, 2, 3)], 1.5, 2.0
    case = flat_scan(4)
    case.data[0, 0, 0], case.data[0, -1, -1] = -200, 200
    outcome, _ = on_others(case, victim, others, eps=eps, steps=2, alpha=alpha, side=2, loss="ce")

    scans = [other.data[0].astype(np.float64) for other in others]
    labels = [0.1 * scan - 0.5 > 0 for scan in scans]

    def slope_and_loss(z, index):
        low, high = scans[index].min(), scans[index].max()
        wanted = np.tile(z, (4, 3))
        delta = np.clip(wanted, low - scans[index], high - scans[index])
        score = 0.1 * (scans[index] + delta) - 0.5
        right = np.where(labels[index], score, -score)
        slope = -1 / (1 + np.exp(right)) * np.where(labels[index], 0.1, -0.1) / score.size
        slope = np.where(delta == wanted, slope, 0)
        return slope.reshape(4, 2, 3, 2).sum((0, 2)), np.log1p(np.exp(-right)).mean()

    z, order, epochs = np.zeros((2, 2)), generator(0), []
    for _ in range(3):
        epochs.append((z, np.mean([slope_and_loss(z, index)[1] for index in range(3)])))
        for index in torch.randperm(3, generator=order).tolist():
            z = np.clip(z + alpha * np.sign(slope_and_loss(z, index)[0]), -eps, eps)
    losses = [loss for _, loss in epochs]
    assert [step.loss for step in outcome.trace] == pytest.approx(losses, rel=1e-5)
    assert losses[1] > losses[0] and losses[2] != losses[1]
    best = epochs[outcome.best.step][0]
    assert outcome.best.step > 0 and np.abs(best).max() == outcome.best.linf > 0
    inside = (slice(1, -1),) * 2
    np.testing.assert_allclose(outcome.delta[0][inside], np.tile(best, (4, 3))[inside], atol=1e-4)


def test_a_scan_rests_while_the_goal_is_reached_on_it():
    asked = []

    def single(z, index):
        asked.append((index, float(z)))
        return 0.0, torch.tensor([(-1.0, 5.0, 1.0)[index]]), index == 1

    oracle = Oracle(
        None, lambda z: asked.append("look") or 0.0, None, lambda z: z.clamp(-3, 3), None, models=3, single=single
    )
    z, _ = OneByOne(2.0).step(oracle, torch.tensor([2.5]), (generator(1), False))
    order = torch.randperm(3, generator=generator(1)).tolist()
    at, expected = 2.5, []
    for index in order:
        expected.append((index, at))
        at = min(3.0, max(-3.0, at + {0: -2.0, 1: 0.0, 2: 2.0}[index]))
    assert asked == ["look", *expected] and float(z) == at


def test_each_scan_alone_is_judged_by_the_goal_and_costs_no_look():
    """The steps are counted in epochs, and every epoch asks each scan twice: all together, then one by one."""
    victim = victims.textured()
    others = [victims.random_scan((12, 12, 12), seed=seed) for seed in (1, 2)]
    outcome, effort = on_others(victims.random_scan(), victim, others, steps=3, side=4)
    assert len(outcome.trace) == 4 and (effort.backwards, effort.forwards) == (6, 2 * 3 + 2 * 4 + 2)
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(OneByOne):
        def step(self, oracle, z, state):
            oracle.value(z)
            seen.append([oracle.single(z + offset, k)[2] for k in range(2) for offset in (0.0, 60.0)])
            return z, state

    attack = dataclasses.replace(built("uap", 60.0, steps=1, side=4), solver=Watched(1.0))
    image = victims.organ_scan(inside=60.0)
    one, two = victims.organ_scan((12, 12, 9)), victims.organ_scan((12, 12, 9), inside=110.0, outside=-50.0)
    goal = Goal.parse("change", (), {"background": 0, "organ": 1})
    victim = victims.organ()
    run(attack, victim.on(image), Case(image), victim.predict(image), goal, others=[one, two])
    assert seen == [[False, True, False, False]]


# ---------------------------------------------------------------- other scans


def test_scans_without_the_structures_are_left_out_and_it_is_said():
    victim, image = victims.organ(), victims.organ_scan()
    empty = victims.organ_scan((12, 12, 9), inside=0.0)
    empty.data[0, -1, -1, -1] = 40.0
    outcome, effort = on_others(image, victim, [empty, victims.organ_scan((12, 12, 9))], side=4)
    assert outcome.trace and any("In 1 of the 2 scans to craft on organ saw none" in note for note in effort.notes)
    with pytest.raises(InputError, match="hold none of the structures; choose others"):
        on_others(image, victim, [empty], side=4)


def test_with_a_surrogate_it_is_crafted_on_the_surrogate_and_the_other_scans():
    image, others = victims.random_scan(), [victims.random_scan((12, 12, 12), seed=1)]
    calls = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = victims.conv_net(3)

        def forward(self, x):
            calls.append(x.shape)
            return self.inner(x)

    victim = victims.textured(network=Watched())
    reference, goal = victim.predict(image), Goal.parse("change", (), victim.labels)
    calls.clear()
    attack = built("uap", 8.0, steps=3, side=4, alpha=3.0, fit="tile")
    surrogate = victims.textured()
    options = {"others": others, "surrogates": [surrogate.on(image)]}
    outcome = run(attack, victim.on(image), Case(image), reference, goal, **options)
    assert not calls and outcome.delta.any()
    plain, _ = on_others(image, surrogate, others, side=4, alpha=3.0)
    assert same_bits(plain.x_adv, outcome.x_adv)


@pytest.mark.parametrize("kind", ["picture", "slices", "colours", "regions"])
def test_every_kind_of_case_is_crafted_on_its_like(kind):
    flat = {"affine": np.eye(4)}
    shape, victim = {
        "picture": ((18, 17), victims.textured(2)),
        "slices": ((14, 13, 3), victims.textured(2)),
        "colours": ((18, 17), with_channels(3, 2)),
        "regions": ((12, 11, 9), multi_label()),
    }[kind]
    channels = victim.channels

    def scan(seed):
        data = np.concatenate([victims.random_scan(shape, seed=seed + 10 * c).data for c in range(channels)])
        return victims.random_scan(shape, **(flat if len(shape) == 2 else {})).with_data(data)

    outcome, _ = on_others(scan(1), victim, [scan(2), scan(3)], steps=2, side=4, alpha=3.0)
    assert outcome.delta.any() and outcome.x_adv.shape == scan(1).data.shape
    recipe = recipe_of("uap-natural", 8.0, steps=2, side=4, count=2, alpha=3.0)
    made = recipe.recipe.make_scans(victim, scan(1), [], generator(), recipe.parameters)
    natural, _ = on_others(scan(1), victim, made, "uap-natural", steps=2, side=4, count=2, alpha=3.0)
    assert natural.delta.any() and all(step.linf <= 8 for step in natural.trace)
    vanish = Goal.parse("vanish", (next(iter(victim.structures)),), victim.labels)
    aimed, _ = on_others(scan(1), victim, [scan(2), scan(3)], steps=2, side=4, alpha=3.0, goal=vanish)
    assert all(np.isfinite(step.loss) for step in aimed.trace) and aimed.trace[-1].loss > aimed.trace[0].loss


# ---------------------------------------------------------------- from files


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return [tiny.write_scan(folder / f"{seed}.nii.gz", seed=seed) for seed in range(3)]


def job(ct, name="uap", **settings) -> Job:
    return Job(str(ct), TINY, name, eps=12.0, steps=3, settings={"side": 4} | settings)


def joined(paths) -> str:
    return os.pathsep.join(map(str, paths))


def test_a_universal_job_is_told_verified_and_replayed_to_the_bit(scans, tmp_path):
    result = run_job(job(scans[0], scans=joined(scans[1:]), alpha=4.0), tmp_path / "R")
    assert result["attack"]["parameters"]["scans"] == joined(path.resolve() for path in scans[1:])
    assert [len(row["sha256"]) for row in result["crafted_on"]] == [64, 64]
    assert verify(tmp_path / "R", trust=True) == []
    again = replay(tmp_path / "R", tmp_path / "again", trust=True)
    first, second = (
        io.read_volume(tmp_path / name / "perturbation.nii.gz", allow_constant=True).data for name in ("R", "again")
    )
    assert np.array_equal(first, second) and first.any() and again["crafted_on"] == result["crafted_on"]
    assert again["trace"] == result["trace"]


def test_scans_that_are_others_than_then_are_not_replayed(scans, tmp_path):
    copy = tmp_path / "other.nii.gz"
    copy.write_bytes(scans[1].read_bytes())
    run_job(job(scans[0], scans=str(copy)), tmp_path / "R")
    copy.write_bytes(scans[2].read_bytes())
    with pytest.raises(InputError, match="hold something else than then"):
        replay(tmp_path / "R", tmp_path / "again", trust=True)


def test_scans_that_would_prove_nothing_are_refused(scans, tmp_path):
    copy = tmp_path / "a-copy.nii.gz"
    copy.write_bytes(scans[0].read_bytes())
    flat = tiny.write_scan(tmp_path / "flat.nii.gz", (24, 22))
    for settings, words in [
        ({}, f"name some with `--set scans=FIRST{os.pathsep}SECOND`"),
        ({"scans": joined([scans[1], scans[0]])}, "is the scan that uap is to be tried on; leave it out"),
        ({"scans": str(copy)}, "a-copy.nii.gz is the scan that uap is to be tried on"),
        ({"scans": str(flat)}, "is 2D and the scan to attack 3D"),
        ({"scans": "nowhere.nii.gz"}, "doesn't exist"),
    ]:
        with pytest.raises(InputError, match=words):
            prepare(job(scans[0], **settings))
    with pytest.raises(InputError, match=r"uap needs files of the machine it runs on \(scans\); run it there"):
        from perturbox.attacks import recipes

        recipes.get("uap").build(8.0, "linf", 3, {"scans": str(copy)})


# ---------------------------------------------------------------- natural images


def test_leaves_have_the_edges_of_photographs_and_are_made_again_by_their_seed():
    picture = dead_leaves((64, 64), 1, generator(3))
    assert picture.shape == (1, 64, 64) and 0 <= float(picture.min()) < 0.1 < 0.9 < float(picture.max()) <= 1
    assert torch.equal(picture, dead_leaves((64, 64), 1, generator(3)))
    assert not torch.equal(picture, dead_leaves((64, 64), 1, generator(4)))
    # Differences of neighbours are mostly 0 and sometimes large: far from a normal distribution, whose kurtosis is 3.
    steps = picture[0].diff(dim=0).flatten().double()
    assert float((steps == 0).double().mean()) > 0.4 and float(steps.pow(4).mean() / steps.square().mean() ** 2) > 4
    # Power falls about as 1 / f^2: from each octave to the next, twice as fine, by about 4 per frequency.
    power = torch.fft.fft2(picture[0] - picture[0].mean()).abs().square()
    frequency = torch.fft.fftfreq(64) * 64
    radius = torch.hypot(frequency[:, None], frequency[None])
    octaves = [float(power[(radius >= low) & (radius < 2 * low)].mean()) for low in (2, 4, 8, 16)]
    assert all(1.5 < a / b < 16 for a, b in pairwise(octaves))
    assert dead_leaves((9, 8, 7), 3, generator()).shape == (3, 9, 8, 7)


def test_a_crop_by_hand():
    """A photograph whose values are its own coordinate shows which part was taken, slice by slice."""
    ramp = ((torch.arange(200.0) + 0.5) / 200).view(1, 200, 1).expand(1, 200, 100)
    found = crop(ramp, (10, 8, 5), generator(7))
    source, parts = generator(7), []
    for _ in range(2):
        share = 0.5 + 0.5 * float(torch.rand(1, generator=source))
        parts.append((share, (1 - share) * (2 * float(torch.rand(2, generator=source)[0]) - 1)))
    across = (torch.arange(10.0) + 0.5) / 10 * 2 - 1
    for k in range(5):
        share, middle = (a + k / 4 * (b - a) for a, b in zip(*parts, strict=True))
        expected = ((middle + share * across) + 1) / 2
        torch.testing.assert_close(found[0, :, 3, k], expected, atol=0.02, rtol=0)
    across_the_other = crop(ramp.transpose(1, 2), (10, 8), generator(7))
    assert float(across_the_other.diff(dim=1).abs().max()) < 1e-5 < float(across_the_other.diff(dim=2).min())


def test_photographs_become_grey_or_coloured_as_the_victim_reads_them():
    data = np.random.default_rng(0).integers(20, 200, (3, 6, 5)).astype(np.float32)
    colour = Volume(data, unit="intensity", dtype=np.dtype(np.uint8), format=".png")
    scaled = (data - data.min()) / (data.max() - data.min())
    np.testing.assert_allclose(photograph(colour, 3).numpy(), scaled, atol=1e-6)
    np.testing.assert_allclose(photograph(colour, 1).numpy(), scaled.mean(0, keepdims=True), atol=1e-6)
    grey = photograph(colour.with_data(data[:1]), 3)
    assert torch.equal(grey[0], grey[2]) and grey.shape == (3, 6, 5)
    with pytest.raises(InputError, match="must be 2D"):
        photograph(victims.random_scan(), 1)


def test_scenes_fill_the_victims_window_on_voxels_like_the_scans():
    """A victim of 3 mm voxels in RAS, a scan of 1.5 × 2 × 3 mm in another order."""
    affine = np.array([[0, -2.0, 0, 0], [1.5, 0, 0, 0], [0, 0, -3.0, 0], [0, 0, 0, 1]])
    image = victims.random_scan((20, 15, 10), affine=affine)
    victim = victims.textured(orientation="RAS", spacing=(3.0, 3.0, 3.0), window=Window((12, 9, 6), batch=1))
    made = scenes(victim, image, [], 2, Shared(4), generator())
    assert len(made) == 2 and not np.array_equal(made[0].data, made[1].data)
    for scan in made:
        assert victim.on(scan).grid.target == (12, 9, 6) and scan.spacing == image.spacing
        assert nib.aff2axcodes(scan.affine) == nib.aff2axcodes(affine) and scan.shape == (18, 18, 6)
        assert scan.data.min() >= -100 and scan.data.max() <= 100 and np.ptp(scan.data) > 100 and scan.step is None
    # Where the pattern is larger than the window, all of it is seen.
    assert scenes(victim, image, [], 1, Shared(25), generator())[0].shape == (25, 25, 25)
    slices = victims.textured(2, window=Window((8, 6), batch=1))
    assert scenes(slices, image, [], 1, Shared(5), generator())[0].shape == (8, 6, 5)


def test_a_volume_of_the_photograph_is_laid_along_the_networks_slices():
    """The plane of the photograph is the network's first two axes, whatever their order in the file."""
    affine = np.array([[0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])  # file axes: A, S, R
    image = victims.random_scan((10, 12, 8), affine=affine)
    victim = victims.textured(orientation="RAS", window=Window((8, 8, 6), batch=1))
    ramp = np.linspace(0, 255, 64, dtype=np.float32)[None, :, None].repeat(32, 2)
    photo = Volume(ramp, unit="intensity", dtype=np.dtype(np.uint8), format=".png")
    (made,) = scenes(victim, image, [photo], 1, Shared(4), generator())
    assert made.shape == (8, 6, 8)  # A 8, S 6, R 8
    seen = victim.on(made).prepare(tensor(made))[0, 0]
    assert float(seen.diff(dim=0).min()) > 0 and float(seen.diff(dim=1).abs().max()) < 1e-4


def test_natural_jobs_are_replayed_with_and_without_photographs(scans, tmp_path):
    photo = tmp_path / "photo.png"
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(photo))
    for name, settings in [("leaves", {}), ("photo", {"images": str(photo)})]:
        ready = job(scans[0], "uap-natural", count=2, alpha=4.0, **settings)
        result = run_job(ready, tmp_path / name)
        assert len(result["crafted_on"]) == len(settings)
        again = replay(tmp_path / name, tmp_path / f"{name}-again", trust=True)
        assert again["trace"] == result["trace"] and verify(tmp_path / name, trust=True) == []
        found = prepare(ready).others
        assert [scan.shape for scan in found] == [(16, 16, 16)] * 2
        other = prepare(dataclasses.replace(ready, seed=1)).others
        assert not np.array_equal(found[0].data, other[0].data)
    volume = job(scans[0], "uap-natural", images=str(scans[1]))
    with pytest.raises(InputError, match="must be 2D"):
        prepare(volume)


def test_without_other_scans_the_recipes_are_the_same_attack():
    """What the runner makes of both where nobody checks: crafted on the case itself."""
    image, victim = victims.random_scan(), victims.textured()
    first = attacked(image, victim, "uap", 8.0, side=4, fit="tile")
    assert same_bits(first.x_adv, attacked(image, victim, "uap-natural", 8.0, side=4).x_adv)
