"""Medical Aegis' Shield: moments, fit and score recomputed voxel by voxel, and an attack that knows of it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import victims
from attacking import attacked, multi_label
from detecting import fitted, scans, sklearn
from torch import nn

from perturbox.detectors import get
from perturbox.detectors.fitted import Detector
from perturbox.detectors.seen import JOINT, Asked, Sample, look_at
from perturbox.detectors.shield import RIDGE, deviation, ridge
from perturbox.model.victim import as_input


class Strided(nn.Module):
    """One layer at full resolution, one at half, and a third before the answer."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.near, self.far = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 5, 3, 2, 1)
            self.deep, self.out = nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(10, 3, 1)
            nn.init.normal_(self.out.weight, std=2.0)
            nn.init.zeros_(self.out.bias)

    def forward(self, x):
        near = torch.tanh(self.near(x))
        deep = torch.tanh(self.deep(torch.tanh(self.far(near))))
        return self.out(torch.cat([near, F.interpolate(deep, scale_factor=2)], 1))


def strided():
    return victims.textured(2, network=Strided(), name="strided")


def by_hand(victim, scan, layers=("near", "far")) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(features "m d", logits "m") of each group's voxels, of a scan that one window covers."""
    network, seen = victim.network, {}
    handles = [
        dict(network.named_modules())[name].register_forward_hook(
            lambda m, i, made, name=name: seen.update({name: made})
        )
        for name in layers
    ]
    x = victim.normalise(as_input(scan, victim.device))
    pads = [(12 - n) // 2 for n in scan.shape]
    sides = [side for n, p in zip(reversed(scan.shape), reversed(pads), strict=True) for side in (p, 12 - n - p)]
    with torch.no_grad():
        logits = network(F.pad(x, sides, mode="replicate"))[0]
    for handle in handles:
        handle.remove()
    box = tuple(slice(p, p + n) for p, n in zip(pads, scan.shape, strict=True))
    logits = logits[(slice(None), *box)].double().numpy()
    maps = []
    for made in seen.values():
        made = made[0].double().numpy()
        for axis in (1, 2):
            made = np.repeat(made, 12 // made.shape[axis], axis)
        maps.append(made[(slice(None), *box)])
    rows = np.concatenate(maps).reshape(sum(map(len, maps)), -1).T
    if victim.regions is None:
        masks = [(logits.argmax(0) == c, c) for c in range(3)]
    else:
        masks = [*((logits[c] <= 0, c) for c in range(3)), *((logits[c] > 0, c) for c in range(3))]
    return [rows[mask.ravel()] for mask, _ in masks], [logits[c][mask] for mask, c in masks]


# ---------------------------------------------------------------- moments


@pytest.mark.parametrize("shape", [(12, 12), (9, 11)], ids=["a window", "smaller than one"])
def test_moments_are_means_of_products_voxel_by_voxel(shape):
    victim, scan = strided(), victims.random_scan(shape, affine=np.eye(4))
    found = look_at(victim, scan, Asked(("near", "far"), joint=True))
    for group, (rows, z) in enumerate(zip(*by_hand(victim, scan), strict=True)):
        assert float(found.voxels[JOINT][group]) == len(z) and bool(found.present[group]) == (len(z) >= 8)
        v = np.column_stack([np.ones(len(z)), rows, z])
        expected = v.T @ v / max(len(z), 1)
        np.testing.assert_allclose(found.features[JOINT][group].numpy().reshape(11, 11), expected, rtol=1e-5, atol=1e-6)


def test_a_yes_and_a_no_of_a_channel_have_its_logit():
    victim, scan = multi_label(2), victims.random_scan((12, 12), affine=np.eye(4))
    found = look_at(victim, scan, Asked(("0",), joint=True))
    assert found.features[JOINT].shape == (6, 100)
    for group, (_, z) in enumerate(zip(*by_hand(victim, scan, ("0",)), strict=True)):
        if len(z):
            told = float(found.features[JOINT][group].reshape(10, 10)[0, -1])
            assert told == pytest.approx(z.mean(), rel=1e-5) and (told > 0) == (group >= 3)


# ---------------------------------------------------------------- fit and score


def test_the_fit_is_scikit_learns_ridge_and_the_score_what_is_left_of_it():
    """Voxel by voxel, every scan weighed alike."""
    sklearn()
    from sklearn.linear_model import Ridge

    victim, images = strided(), scans(11, (12, 12))
    asked = Asked(("near", "far"), joint=True)
    seen = [look_at(victim, image, asked) for image in images]
    parts, shield = get("shield").fit(seen[:10], []), get("shield")
    voxels = [by_hand(victim, image) for image in images]
    ratios = []
    for group in range(3):
        mine = [(rows[group], z[group]) for rows, z in voxels[:10] if len(z[group]) >= 8]
        rows, z = (np.concatenate([one[i] for one in mine]) for i in (0, 1))
        weigh = np.concatenate([np.full(len(one[1]), 1 / len(one[1]) / len(mine)) for one in mine])
        mean = weigh @ rows
        scale = np.sqrt(weigh @ (rows - mean) ** 2)
        fit = Ridge(RIDGE, solver="cholesky").fit((rows - mean) / scale, z, sample_weight=weigh)
        w = fit.coef_ / scale
        np.testing.assert_allclose(
            parts["weights"][group].numpy(), [fit.intercept_ - w @ mean, *w], rtol=1e-4, atol=1e-5
        )
        usual = weigh @ (z - fit.predict((rows - mean) / scale)) ** 2
        assert float(parts["scale"][group]) == pytest.approx(usual, rel=1e-4)
        new_rows, new_z = voxels[10][0][group], voxels[10][1][group]
        if len(new_z) >= 8:
            left = new_z - fit.predict((new_rows - mean) / scale)
            ratios.append(np.mean(left**2) / usual)
    assert float(shield.raw(parts, seen[10])) == pytest.approx(math.log(np.mean(ratios)), rel=1e-4)


def test_logits_that_follow_from_the_features_leave_nothing():
    rng = np.random.default_rng(0)
    rows = rng.normal(0, [1, 30, 0], (400, 3))  # the last never varies
    v = np.column_stack([np.ones(400), rows, 4 + rows @ [2, -0.1, 5]])
    m = torch.from_numpy(v.T @ v / 400)
    weights = ridge(m)
    assert weights.tolist() == pytest.approx([4, 2, -0.1, 0], rel=0.02, abs=0.02)
    assert float(deviation(weights, m)) < 1e-4 * float(m[-1, -1])
    assert float(deviation(torch.zeros(4).double(), m)) == pytest.approx(float(m[-1, -1]))


def test_it_looks_at_the_first_three_convolutions_unless_others_are_named():
    victim, _, found = fitted("shield", 10, strided())
    assert found.layout.layers == {"near": 4, "far": 5, "deep": 6} and found.parts["weights"].shape == (3, 16)
    _, _, other = fitted("shield", 10, victim, layers=["far"])
    assert other.layout.layers == {"far": 5}


def test_a_class_that_it_never_saw_says_nothing():
    victim, images = strided(), scans(12, (12, 12))
    seen = [look_at(victim, image, Asked(("near",), joint=True)) for image in images]
    for one in seen[:-1]:
        one.present[2] = False
    parts = get("shield").fit(seen[:-1], [])
    assert parts["known"].tolist() == [1, 1, 0] and not parts["weights"][2].any()
    there = seen[-1]
    without = Sample(there.features, there.voxels, torch.tensor([True, True, False]))
    assert float(get("shield").raw(parts, there)) == float(get("shield").raw(parts, without))


def test_its_file_gives_the_same_scores(tmp_path):
    victim, _, found = fitted("shield", 12, strided())
    found.write(tmp_path / "shield.safetensors")
    again, new = Detector.read(tmp_path / "shield.safetensors"), scans(30)[29]
    assert again.detect(victim, new) == found.detect(victim, new)


# ---------------------------------------------------------------- attacks


def test_an_attack_that_knows_of_it_scores_lower(tmp_path):
    victim, _, found = fitted("shield", 20, strided())
    found.write(tmp_path / "shield.safetensors")
    new = victims.random_scan((24, 24), seed=77, affine=np.eye(4), dtype=np.dtype(np.float32))

    def outcome(name, **settings):
        seen = new.with_data(attacked(new, victim, name, 40.0, steps=30, **settings).x_adv)
        return float(np.mean(victim.predict(seen) == victim.predict(new))), found.detect(victim, seen).score

    kept, score = outcome("pgd")
    still, passed = outcome("evade", detector=str(tmp_path / "shield.safetensors"), detector_weight=0.01)
    assert kept < 0.5 and still < kept + 0.05 and passed < 0.5 * score
