"""Detectors: what they see of a scan, each method by another's code or by hand, and the gradient of a score."""

import math

import numpy as np
import pytest
import torch
import victims
from attacking import multi_label
from detecting import GROUPS, OUTPUTS, WIDTHS, fitted, samples, scans, sklearn, with_dropout
from scipy.special import xlogy

from perturbox.detectors import discover, get
from perturbox.detectors.kernel_density import BANDWIDTHS
from perturbox.detectors.method import Layout
from perturbox.detectors.seen import Asked, Masked, look, look_at, moved_by, sureness
from perturbox.model.victim import as_input
from perturbox.types import InputError

LAST = ("b",)


def numbers(found, layer):
    """(features "n g c", present "n g") of samples."""
    features = np.stack([one.features[layer].numpy() for one in found])
    return features, np.stack([one.present.numpy() for one in found])


# ---------------------------------------------------------------- each method


def test_mahalanobis_is_scikit_learns_shrunk_covariance():
    sklearn()
    from sklearn.covariance import LedoitWolf

    clean, (new,) = samples(15), samples(1, seed=9)
    parts = get("mahalanobis").fit(clean, [])
    each = []
    for layer in WIDTHS:
        x, there = numbers(clean, layer)
        means = np.stack([x[there[:, g], g].mean(0) for g in range(GROUPS)])
        left = np.concatenate([x[there[:, g], g] - means[g] for g in range(GROUPS)])
        precision = LedoitWolf(assume_centered=True).fit(left).precision_
        away = (new.features[layer].numpy() - means)[new.present.numpy()]
        each.append(np.mean([d @ precision @ d / WIDTHS[layer] for d in away]))
    assert float(get("mahalanobis").raw(parts, new)) == pytest.approx(math.log(np.mean(each)), abs=1e-6)


def test_kernel_density_is_scikit_learns_with_the_bandwidth_that_predicts_best():
    sklearn()
    from sklearn.neighbors import KernelDensity

    clean, (new,) = samples(14, layers=LAST), samples(1, seed=9, layers=LAST)
    parts = get("kernel-density").fit(clean, [])
    x, there = numbers(clean, "b")
    means = np.stack([x[there[:, g], g].mean(0) for g in range(GROUPS)])
    left = np.concatenate([x[there[:, g], g] - means[g] for g in range(GROUPS)])
    scale = np.sqrt((left**2).mean(0) * 1.0 + 1e-6 * (left**2).mean(0).mean() + 1e-12)
    points = [x[there[:, g], g] / scale for g in range(GROUPS)]

    def left_out(h):
        total = 0.0
        for group in points:
            for i in range(len(group)):
                rest = KernelDensity(bandwidth=h).fit(np.delete(group, i, 0))
                total += rest.score_samples(group[i : i + 1])[0]
        return total

    grid = BANDWIDTHS.tolist()[10:35:4]
    h = float(parts["bandwidth"])
    assert all(left_out(h) >= left_out(other) - 1e-9 for other in grid)
    shown = np.flatnonzero(new.present.numpy())
    densities = [
        KernelDensity(bandwidth=h).fit(points[g]).score_samples(new.features["b"].numpy()[[g]] / scale)[0]
        for g in shown
    ]
    assert float(get("kernel-density").raw(parts, new)) == pytest.approx(-np.mean(densities), abs=1e-6)


def test_lid_by_hand_drops_only_the_scan_itself():
    clean, (new,) = samples(24), samples(1, seed=9)
    parts, method = get("lid").fit(clean, []), get("lid")
    for sample in (new, clean[5]):  # one of the reference itself: a distance of 0
        each = []
        for group in np.flatnonzero(sample.present.numpy()):
            for layer in WIDTHS:
                x, there = numbers(clean, layer)
                r = np.sort(np.linalg.norm(x[there[:, group], group] - sample.features[layer].numpy()[group], axis=1))
                k = there[:, group].sum() // 4
                r = r[r > 0][:k]
                each.append(-1 / np.mean([math.log(one / r[-1]) for one in r]))
        assert float(method.raw(parts, sample)) == pytest.approx(math.log(np.mean(each)), abs=1e-6)


def test_lid_needs_eight_scans_of_a_class():
    with pytest.raises(InputError, match="no class is in 8 of them"):
        get("lid").fit(samples(7), [])
    parts = get("lid").fit(samples(10), [])
    assert parts["known"].tolist() == [1, 1, 0]  # the last class is in seven


def standardised(fitted_on, found, layer):
    """Vectors "n g*c" as the learned detectors get them."""
    (x, there), (y, shown) = numbers(fitted_on, layer), numbers(found, layer)
    means = np.stack([x[there[:, g], g].mean(0) for g in range(GROUPS)])
    variance = np.stack([x[there[:, g], g].var(0) for g in range(GROUPS)])
    scale = np.sqrt(variance + 1e-6 * variance.mean() + 1e-12)
    return ((y - means) / scale * shown[..., None]).reshape(len(y), -1)


def test_svm_is_scikit_learns_decision():
    sklearn()
    from sklearn.svm import SVC

    clean, hit, (new,) = (samples(14, layers=LAST), samples(14, 1, 1.5, LAST), samples(1, 9, layers=LAST))
    parts = get("svm").fit(clean, hit)
    x, y = standardised(clean, [*clean, *hit], "b"), np.repeat([0, 1], 14)
    expected = SVC(class_weight="balanced").fit(x, y).decision_function(standardised(clean, [new], "b"))[0]
    assert float(get("svm").raw(parts, new)) == pytest.approx(expected, abs=1e-6)


def test_dnn_is_the_mean_of_scikit_learns_log_odds():
    sklearn()
    from sklearn.neural_network import MLPClassifier

    clean, hit, (new,) = samples(14), samples(14, 1, 1.5), samples(1, 9)
    parts, odds = get("dnn").fit(clean, hit), []
    for layer in WIDTHS:
        network = MLPClassifier((16,), activation="tanh", solver="lbfgs", alpha=0.01, max_iter=300, random_state=0)
        network.fit(standardised(clean, [*clean, *hit], layer), np.repeat([0, 1], 14))
        no, yes = network.predict_log_proba(standardised(clean, [new], layer))[0]
        odds.append(yes - no)
    assert float(get("dnn").raw(parts, new)) == pytest.approx(np.mean(odds), abs=1e-6)


def test_one_class_is_scikit_learns_decision():
    sklearn()
    from sklearn.svm import OneClassSVM

    clean, (new,) = samples(20), samples(1, 9, 0.5)
    values = np.stack([one.outputs.numpy() for one in clean])
    z = (values - values.mean(0)) / values.std(0)
    expected = (
        OneClassSVM(nu=0.1).fit(z).decision_function((new.outputs.numpy() - values.mean(0))[None] / values.std(0))
    )
    parts = get("one-class").fit(clean, [])
    assert float(get("one-class").raw(parts, new)) == pytest.approx(-expected[0], abs=1e-6)


def test_envelope_is_scikit_learns_and_leaves_out_what_never_varies():
    sklearn()
    from sklearn.covariance import EllipticEnvelope

    clean, (new,) = samples(30), samples(1, 9, 0.5)
    for one in clean:
        one.outputs[4] = 0.0  # a class that no scan shows
    values = np.delete(np.stack([one.outputs.numpy() for one in clean]), 4, 1)
    fitted_ = EllipticEnvelope(random_state=0).fit((values - values.mean(0)) / values.std(0))
    point = (np.delete(new.outputs.numpy(), 4) - values.mean(0)) / values.std(0)
    parts = get("envelope").fit(clean, [])
    found = math.exp(float(get("envelope").raw(parts, new)))
    assert found == pytest.approx(fitted_.mahalanobis(point[None])[0], rel=0.02)  # a millionth of noise was added
    with pytest.raises(InputError, match="at least 12 clean scans beside those held out, not 11"):
        get("envelope").fit(samples(11), [])


def test_the_simple_ones_are_logarithms():
    (one,) = samples(1)
    assert float(get("entropy").raw({}, one)) == pytest.approx(math.log(float(one.outputs[0])))
    assert float(get("bayesian").raw({}, one)) == pytest.approx(math.log(float(one.moved)))


def test_every_method_says_what_it_is_and_gives_the_parts_it_declares():
    found = discover()
    assert list(found) == [
        "bayesian", "dnn", "entropy", "envelope", "kernel-density", "lid", "mahalanobis", "one-class", "shield",
        "svm",
    ]  # fmt: skip
    for name in ("kernel-density", "lid", "entropy", "bayesian"):
        method = found[name]
        kept = LAST if method.last_layer else tuple(WIDTHS)
        parts = method.fit(samples(16, layers=kept), [])
        layout = Layout({layer: WIDTHS[layer] for layer in kept}, GROUPS, OUTPUTS)
        assert set(parts) == set(method.shapes(layout)), name
        assert method.title and method.paper and method.deviations


# ---------------------------------------------------------------- what is seen


@pytest.mark.parametrize("make", [victims.textured, multi_label])
def test_features_are_means_over_each_class_by_hand(make):
    """A scan as large as the window, so that there is one."""
    victim, scan = make(2), victims.random_scan((12, 12), affine=np.eye(4))
    found = look_at(victim, scan, Asked(("0", "1")))
    value = victim.normalise(as_input(scan, victim.device))
    for name, layer in victim.network.named_children():
        value = layer(value)
        if name == "0":
            hidden = value[0].detach().double()
    said = value[0].detach()
    masks = [said.argmax(0) == c for c in range(3)]
    if victim.regions is not None:
        masks = [*(said[c] <= 0 for c in range(3)), *(said[c] > 0 for c in range(3))]
    for group, mask in enumerate(masks):
        assert bool(found.present[group]) == (int(mask.sum()) >= 8)
        if mask.any():
            torch.testing.assert_close(found.features["0"][group], hidden[:, mask].mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("multi", [False, True])
def test_sureness_by_hand(multi):
    logits = torch.randn((1, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    logits[:, 3] -= 20  # what the model never says
    z = logits[0].double().numpy().reshape(4, -1)
    if multi:
        p = 1 / (1 + np.exp(-z))
        entropy = -(xlogy(p, p) + xlogy(1 - p, 1 - p))
        top = np.maximum(p, 1 - p)
        second, said = 1 - top, z > 0
    else:
        p = np.exp(z) / np.exp(z).sum(0)
        entropy, ranked = -xlogy(p, p).sum(0), np.sort(p, 0)
        top, second, said = ranked[-1], ranked[-2], np.arange(4)[:, None] == z.argmax(0)
    inside = [p[c][said[c]].mean() if said[c].any() else 0.0 for c in range(4)]
    expected = [entropy.mean(), (1 - top).mean(), (1 - top + second).mean(), *inside]
    assert expected[-1] == 0.0
    np.testing.assert_allclose(sureness(logits, multi).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_dropout_masks_are_fixed_and_leave_the_mean_as_it_is():
    network = torch.nn.Sequential(torch.nn.Dropout(0.25)).eval()
    ones = torch.ones(2, 64, 16, 16)
    once, again, other = Masked(network, 1)(ones), Masked(network, 1)(ones), Masked(network, 2)(ones)
    assert torch.equal(once, again) and not torch.equal(once, other) and torch.equal(once[0], once[1])
    assert once.unique().tolist() == pytest.approx([0.0, 4 / 3]) and float(once.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(network(ones), ones)  # nothing stays on the network


def test_moved_is_the_variance_over_masks():
    victim, scan = with_dropout(), victims.random_scan((12, 12), affine=np.eye(4))
    x = as_input(scan, victim.device)
    with torch.no_grad():
        answers = [Masked(victim.network, i)(victim.normalise(x)).double().softmax(1).numpy() for i in range(10)]
        found = float(moved_by(victim.on(scan), x, 10))
    assert found == pytest.approx(np.var(answers, axis=0).mean(), rel=1e-5) and found > 0


def test_scores_that_are_no_numbers_are_refused():
    victim = victims.textured(2)
    with torch.no_grad():
        victim.network[2].bias[0] = float("nan")
    with pytest.raises(InputError, match="textured returned NaN"):
        look_at(victim, scans(1)[0], Asked(outputs=True))


# ---------------------------------------------------------------- the gradient of a score


@pytest.mark.parametrize(
    "detector, make",
    [
        ("kernel-density", victims.textured),
        ("lid", multi_label),
        ("entropy", multi_label),
        ("shield", victims.textured),
        ("shield", multi_label),
    ],
)
def test_the_gradient_is_that_of_finite_differences_over_many_windows(detector, make):
    victim, _, found = fitted(detector, victim=make(2))
    victim.network.double()
    scan = victims.random_scan((17, 14), seed=99, affine=np.eye(4))
    bound, x = victim.on(scan), as_input(scan, victim.device).double().requires_grad_()
    value = found.score(bound, x)
    (slope,) = torch.autograd.grad(value, x)
    with torch.no_grad():
        raw = float(found._raw(look(bound, x, found.asked)))
    assert float(value.detach()) == pytest.approx(found.of_raw(raw))
    rng, step = np.random.default_rng(0), 1e-4
    for _ in range(4):
        voxel = (0, 0, int(rng.integers(17)), int(rng.integers(14)))
        ends = []
        for sign in (1, -1):
            moved = x.detach().clone()
            moved[voxel] += sign * step
            ends.append(float(found.score(bound, moved)))
        assert float(slope[voxel]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-3, abs=1e-8)


def test_the_gradient_through_dropout_is_that_of_finite_differences():
    victim, _, found = fitted("bayesian", 10, with_dropout())
    victim.network.double()
    scan = scans(1, (17, 14))[0]
    bound, x = victim.on(scan, memory_budget=0), as_input(scan, victim.device).double().requires_grad_()
    (slope,) = torch.autograd.grad(found.score(bound, x), x)
    voxel, ends = (0, 0, 5, 6), []
    for sign in (1, -1):
        moved = x.detach().clone()
        moved[voxel] += sign * 1e-4
        ends.append(float(found.score(bound, moved)))
    assert float(slope[voxel]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=2e-3)
