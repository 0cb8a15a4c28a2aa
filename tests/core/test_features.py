"""Features of clean scans: what is pooled, the mixtures fitted to it, and their file."""

import numpy as np
import pytest
import torch
import victims
from attacking import multi_label
from scipy.stats import multivariate_normal

from perturbox.attacks.features import Features
from perturbox.attacks.fitting import fit_features
from perturbox.attacks.mixture import Mixture, fit_mixture
from perturbox.model.pooling import Pool, convolutions, cut, group_names, groups_of, own_groups
from perturbox.model.windows import Place
from perturbox.types import InputError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---------------------------------------------------------------- mixtures

TRUE = [
    (0.2, [0.0, 0.0, 5.0], [[1.0, 0.5, 0.0], [0.5, 2.0, 0.0], [0.0, 0.0, 0.3]]),
    (0.3, [8.0, 0.0, 0.0], [[0.5, 0.0, 0.2], [0.0, 0.5, 0.0], [0.2, 0.0, 1.0]]),
    (0.5, [0.0, -9.0, 0.0], [[2.0, 0.0, 0.0], [0.0, 1.0, -0.4], [0.0, -0.4, 1.0]]),
]


def samples(count: int = 6000) -> np.ndarray:
    parts = [rng(i).multivariate_normal(m, c, int(w * count)) for i, (w, m, c) in enumerate(TRUE)]
    return rng(9).permutation(np.concatenate(parts))


def covariances(mixture: Mixture) -> list[np.ndarray]:
    return [np.linalg.inv(factor @ factor.T) for factor in mixture.factors]


def test_a_mixture_of_known_gaussians_is_recovered():
    found = fit_mixture(samples(), 3, rng(), shrink=0.0)
    order = np.argsort(found.weights)
    for index, (weight, mean, covariance) in zip(order, TRUE, strict=True):
        assert found.weights[index] == pytest.approx(weight, abs=0.01)
        np.testing.assert_allclose(found.means[index], mean, atol=0.12)
        np.testing.assert_allclose(covariances(found)[index], covariance, atol=0.2)


def test_the_log_likelihood_is_that_of_the_density():
    x = samples(50)
    found = fit_mixture(samples(600), 3, rng())
    parts = zip(found.weights, found.means, covariances(found), strict=True)
    density = sum(w * multivariate_normal(m, c).pdf(x) for w, m, c in parts)
    np.testing.assert_allclose(found.log_likelihood(x), np.log(density), rtol=1e-9)


def test_one_gaussian_is_the_mean_and_covariance_of_the_samples():
    x = samples(300)
    found = fit_mixture(x, 1, rng(), shrink=0.0)
    np.testing.assert_allclose(found.means[0], x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariances(found)[0], np.cov(x.T, bias=True), rtol=1e-4)
    # Hence the mean of (L^T (x - mu))^2 over samples and features is 1.
    assert np.square((x - found.means[0]) @ found.factors[0]).mean() == pytest.approx(1, rel=1e-5)


def test_few_samples_of_many_features_keep_their_variances_and_lose_most_correlations():
    """A share c / (c + n) of the covariance is its diagonal alone."""
    x = rng().normal(size=(20, 60)) @ rng(1).normal(size=(60, 60))
    x[:, 7] = 3.0  # a channel that is always the same
    found = covariances(fit_mixture(x, 1, rng()))[0]
    expected = np.cov(x.T, bias=True)
    apart = ~np.eye(60, dtype=bool)
    np.testing.assert_allclose(found[apart], expected[apart] * 20 / 80, atol=1e-6 * expected.max())
    np.testing.assert_allclose(np.diagonal(found), np.diagonal(expected), atol=1e-5 * expected.max())
    assert np.linalg.eigvalsh(found).min() > 0


def test_equal_samples_make_one_component():
    found = fit_mixture(np.ones((9, 2)), 4, rng())
    assert found.weights.tolist() == [1.0] and np.isfinite(found.factors).all()


# ---------------------------------------------------------------- groups and pools


def test_groups_of_classes_and_of_yes_or_no_answers():
    classes = groups_of(torch.tensor([[[0, 2], [1, 2]]]), 3)
    assert classes[0, 2].tolist() == [[0, 1], [0, 1]] and classes.sum(1).unique().tolist() == [1]
    logits = torch.tensor([[[[3.0, -1.0]], [[-2.0, -1.0]]]])
    assert own_groups(logits, True)[0, :, 0].tolist() == [[0, 1], [1, 1], [1, 0], [0, 0]]
    assert own_groups(logits, False)[0, :, 0].tolist() == [[1, 1], [0, 0]]
    assert group_names(multi_label()) == ("rim no", "core no", "nucleus no", "rim yes", "core yes", "nucleus yes")
    assert group_names(victims.textured()) == ("background", "left", "right")


@pytest.mark.parametrize("coarse", [1, 2])
def test_pools_are_means_over_masks_cell_by_cell(coarse):
    """Also of a layer at half the resolution, where a voxel counts as far as its mask covers it, and in padding."""
    draw = torch.Generator().manual_seed(0)
    inner, size = (6, 8), (8, 8)  # 1 voxel of padding before, 1 after, along the first axis
    masks = (torch.rand(2, 3, *inner, generator=draw) < 0.5).float()
    features = torch.randn(2, 5, 8 // coarse, 8 // coarse, generator=draw)
    means, voxels = Pool(masks, size, 2)(features)
    assert means.shape == (2, 3, 4, 5) and voxels.shape == (2, 3, 4)
    padded = np.zeros((2, 3, *size))
    padded[:, :, 1:7] = masks
    fine = features.repeat_interleave(coarse, 2).repeat_interleave(coarse, 3).numpy()
    for n, g, cell in np.ndindex(2, 3, 4):
        box = np.s_[4 * (cell // 2) : 4 * (cell // 2) + 4, 4 * (cell % 2) : 4 * (cell % 2) + 4]
        mask = padded[n, g][box]
        assert float(voxels[n, g, cell]) == pytest.approx(mask.sum(), rel=1e-5)
        expected = (fine[n][:, *box] * mask).sum((1, 2)) / mask.sum()
        np.testing.assert_allclose(means[n, g, cell], expected, rtol=1e-4, atol=1e-6)


def test_windows_are_cut_out_of_maps_slice_by_slice_too():
    grid = torch.arange(2 * 6 * 5 * 3).view(1, 2, 6, 5, 3)
    flat = cut(grid, [Place(2, (slice(1, 4), slice(0, 2))), Place(0, (slice(1, 4), slice(0, 2)))])
    assert torch.equal(flat[0], grid[0, :, 1:4, 0:2, 2]) and torch.equal(flat[1], grid[0, :, 1:4, 0:2, 0])
    solid = cut(grid, [Place(0, (slice(1, 4), slice(0, 2), slice(1, 3)))])
    assert torch.equal(solid, grid[:, :, 1:4, 0:2, 1:3])


# ---------------------------------------------------------------- fitting


def test_what_is_fitted_are_the_pooled_features_of_the_prediction():
    """Five slices of one window each: one Gaussian's mean is the mean over slices and cells."""
    image, victim = victims.random_scan((12, 12, 5)), victims.textured(2)
    found = fit_features(victim, [image], components=1, passes=1)
    x = victim.normalise(torch.from_numpy(image.data)).movedim(-1, 0)
    with torch.no_grad():
        hidden, labels = victim.network[0](x), victim.network(x).argmax(1)
    for group in range(3):
        pooled = []
        for s, i, j in np.ndindex(5, 2, 2):
            box = np.s_[6 * i : 6 * i + 6, 6 * j : 6 * j + 6]
            mask = labels[s][box] == group
            if mask.sum() >= 8:
                pooled.append(hidden[s][:, *box][:, mask].mean(1).numpy())
        if len(pooled) >= 12:
            np.testing.assert_allclose(found.mixtures["0", group].means[0], np.mean(pooled, 0), atol=1e-5)
            assert found.facts["samples"][found.groups[group]] == len(pooled)
        else:
            assert ("0", group) not in found.mixtures
    assert found.layers == ("0",)  # the last convolution is the prediction
    assert (found.victim, found.sha256, found.window) == (victim.name, victim.sha256, (12, 12))


def test_the_seed_makes_the_mixtures_and_every_scan_counts():
    image, victim = victims.random_scan((16, 14, 13)), victims.textured()
    one, two, other = (fit_features(victim, [image], passes=3, seed=seed) for seed in (1, 1, 2))
    both = fit_features(victim, [image, victims.random_scan((16, 14, 13), seed=5)], passes=3, seed=1)
    for key, mixture in one.mixtures.items():
        np.testing.assert_array_equal(mixture.means, two.mixtures[key].means)
    assert any(m.means.shape != other.mixtures[k].means.shape or (m.means != other.mixtures[k].means).any()
               for k, m in one.mixtures.items())  # fmt: skip
    assert both.facts["samples"]["left"] > one.facts["samples"]["left"] and both.facts["scans"] == 2


@pytest.mark.parametrize("make, dims", [(victims.textured, 3), (multi_label, 2), (multi_label, 3)])
def test_classes_and_answers_have_mixtures_of_their_own(make, dims):
    victim = make(dims)
    found = fit_features(victim, [victims.random_scan((14, 13, 12))], passes=2)
    assert {group for _, group in found.mixtures} == set(range(6 if make is multi_label else 3))


def test_layers_are_the_convolutions_up_to_512_channels():
    def network(width):
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, width, 1), torch.nn.Conv2d(width, 4, 1), torch.nn.Tanh(), torch.nn.Conv2d(4, 3, 1)
        )

    assert convolutions(victims.textured(2, network=network(512))) == ("0", "1", "3")
    assert convolutions(victims.textured(2, network=network(513))) == ("1", "3")
    found = fit_features(victims.textured(2, network=network(2)), [victims.random_scan((16, 16, 5))], layers=["2"])
    assert found.layers == ("2",)


class Tokens(torch.nn.Module):
    """A layer whose output is no feature map."""

    def __init__(self):
        super().__init__()
        self.tokens, self.conv = torch.nn.Flatten(2), torch.nn.Conv2d(1, 3, 1)

    def forward(self, x):
        return self.conv(x) + self.tokens(x).mean()


@pytest.mark.parametrize(
    "changes, settings, words",
    [
        ({"network": victims.Thresholds([0.0, 50.0])}, {}, "textured has no convolutions of at most 512 channels"),
        ({"network": torch.nn.Conv2d(1, 3, 1)}, {"layers": ()}, "has a single convolution, its prediction"),
        ({}, {"layers": ["9"]}, "no layer '9'; it has 0, 1, 2"),
        ({"network": Tokens()}, {"layers": ["tokens"]}, "'tokens' gives .* no feature map of its windows"),
        ({}, {"passes": 1, "scans": [(9, 8)]}, "too little of each class to fit anything; give more scans"),
    ],
)
def test_what_can_not_be_fitted_is_refused_in_words(changes, settings, words):
    shapes = settings.pop("scans", [(16, 16, 3)])
    with pytest.raises(InputError, match=words):
        fit_features(
            victims.textured(2, **changes), [victims.random_scan(s, affine=np.eye(4)) for s in shapes], **settings
        )


# ---------------------------------------------------------------- the file


def test_a_file_gives_back_what_was_fitted(tmp_path):
    made = fit_features(multi_label(), [victims.random_scan()], passes=2)
    made.write(tmp_path / "f.safetensors")
    read = Features.read(tmp_path / "f.safetensors")
    for name in ("victim", "sha256", "window", "cells", "groups", "facts"):
        assert getattr(read, name) == getattr(made, name)
    assert read.mixtures.keys() == made.mixtures.keys()
    for key, mixture in made.mixtures.items():
        for name, array in vars(mixture).items():
            np.testing.assert_array_equal(getattr(read.mixtures[key], name), array.astype(np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


def test_other_files_are_refused_in_words(tmp_path):
    made = fit_features(victims.textured(), [victims.random_scan()], passes=2)
    good = tmp_path / "good.safetensors"
    made.write(good)
    with pytest.raises(InputError, match=r"There is no file '.*nowhere'; fit the features"):
        Features.read(tmp_path / "nowhere")
    damaged = tmp_path / "damaged.safetensors"
    for content in (b"", b"something else", good.read_bytes()[:-40]):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="holds no features, or is damaged"):
            Features.read(damaged)
    for name, value in (("factors", np.nan), ("weights", -1.0), ("means", np.inf)):
        key = next(iter(made.mixtures))
        array = np.array(vars(made.mixtures[key])[name])
        array[...] = value
        mixture = Mixture(**{**vars(made.mixtures[key]), name: array})
        Features(**{**vars(made), "mixtures": {key: mixture}}).write(damaged)
        with pytest.raises(InputError, match="damaged"):
            Features.read(damaged)
