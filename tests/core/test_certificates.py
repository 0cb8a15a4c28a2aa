"""Certificates hold: exact tests of independent votes, corrected as statsmodels does, on models whose chance to answer
right is known at every voxel."""

import math
import time

import numpy as np
import pytest
import victims
from scipy.stats import binom, binomtest, kstest, norm
from statsmodels.stats.multitest import multipletests
from torch import Tensor, nn

from perturbox.certificates.sampling import UNDECIDED, Copies, choose, leading, vote
from perturbox.certificates.smoothed import Question, certify
from perturbox.certificates.statistics import LEAST, bonferroni, holm, p_values, radius, votes_for, votes_needed
from perturbox.certificates.tree import tree_of
from perturbox.types import Effort, InputError, Volume

SIGMA, TAU = 20.0, 0.75
SHAPE = (8, 8, 6)


def quiet(*told: object) -> None:
    """Nobody listens."""


def never() -> bool:
    return False


def sure(share: float | np.ndarray, shape: tuple[int, ...] = SHAPE, sigma: float = SIGMA) -> Volume:
    """A scan whose voxels lie so far above the organ's threshold of 49.5 that this share of all copies says organ."""
    data = 49.5 + sigma * norm.ppf(np.broadcast_to(share, shape))
    return Volume(data[None].astype(np.float32))


def copies(scan: Volume, sigma: float = SIGMA, seed: int = 0, **changes) -> Copies:
    victim = victims.organ_of(len(scan.shape), **changes)
    return Copies(victim, scan, tree_of(victim.labels), sigma, seed, None, Effort())


def histogram(votes: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(votes.ravel(), minlength=n + 1)


# ---------------------------------------------------------------- p-values and corrections


@pytest.mark.parametrize("n, tau", [(7, 0.75), (100, 0.75), (60, 0.95)])
def test_p_values_are_those_of_the_binomial_test(n, tau):
    expected = [binomtest(count, n, tau, alternative="greater").pvalue for count in range(n + 1)]
    np.testing.assert_allclose(p_values(n, tau), expected, rtol=1e-10)
    sums = [
        math.fsum(math.comb(n, k) * tau**k * (1 - tau) ** (n - k) for k in range(count, n + 1)) for count in (n, n - 2)
    ]
    np.testing.assert_allclose(p_values(n, tau)[[n, n - 2]], sums, rtol=1e-10)


@pytest.mark.parametrize("method, ours", [("holm", holm), ("bonferroni", bonferroni)])
@pytest.mark.parametrize("seed", range(8))
def test_bins_reject_what_statsmodels_rejects_voxel_by_voxel(method, ours, seed):
    rng, n = np.random.default_rng(seed), 40
    share = rng.choice([0.7, 0.9, 0.97, 1.0], 600, p=rng.dirichlet(np.ones(4)))
    votes = rng.binomial(n, share)
    p, alpha = p_values(n, TAU), [0.001, 0.05, 0.5][seed % 3]
    rejected = multipletests(p[votes], alpha, method)[0]
    assert np.array_equal(votes >= ours(p, histogram(votes, n), alpha), rejected)


def test_the_two_corrections_differ_where_they_must():
    """Of 3 tests at alpha 0.05, p-values 0.01, 0.02, 0.04: Bonferroni rejects one, Holm all."""
    p, voxels = np.array([1.0, 0.04, 0.02, 0.01]), np.array([0, 1, 1, 1])
    assert bonferroni(p, voxels, 0.05) == 3 and holm(p, voxels, 0.05) == 1
    assert holm(p, np.array([0, 1, 1, 0]), 0.01) == 4, "nothing"
    assert set(LEAST) == {"holm", "bonferroni"}


def test_eighty_million_voxels_are_a_hundred_bins():
    """68,571,429 unanimous voxels are rejected; the next p-value's limit is alpha over the 11,428,571 that are left."""
    voxels = np.zeros(101, int)
    voxels[100], voxels[3] = 68_571_429, 11_428_571
    started = time.process_time()
    least = holm(p_values(100, TAU), voxels, 0.001)
    assert time.process_time() - started < 1
    assert binom.sf(least - 1, 100, TAU) <= 0.001 / 11_428_571 < binom.sf(least - 2, 100, TAU)


@pytest.mark.parametrize("tests, tau, alpha", [(1, 0.75, 0.05), (1_380_064, 0.75, 0.001), (10**8, 0.95, 1e-4)])
def test_so_many_votes_are_needed_to_certify_anything(tests, tau, alpha):
    n = votes_needed(tests, tau, alpha)
    assert n - 1 < math.log(alpha / tests) / math.log(tau) <= n
    one = np.zeros(n + 1, int)
    one[n] = tests
    assert bonferroni(p_values(n, tau), one, alpha) == n
    assert bonferroni(p_values(n - 1, tau), one[1:], alpha) == n, "one fewer: none, be they unanimous"


def test_votes_are_chosen_or_refused():
    assert votes_for(1_380_064, TAU, 0.001, None) == 100 and votes_for(1_380_064, 0.95, 0.001, None) == 514
    assert votes_for(1_380_064, TAU, 0.001, 74) == 74
    with pytest.raises(InputError, match=r"73 votes can't certify any of 1,380,064 voxels .* give --n 74 or more"):
        votes_for(1_380_064, TAU, 0.001, 73)


@pytest.mark.parametrize("tau", [1 - 1e-3, 1 - 1e-15])
def test_more_votes_than_can_be_counted_are_refused_at_once(tau):
    started = time.process_time()
    with pytest.raises(InputError, match=r"Even 65535 votes that agree certify nothing at tau .* choose a smaller tau"):
        votes_needed(1000, tau, 1e-30)
    assert time.process_time() - started < 0.1


def test_an_alpha_below_what_numbers_hold_is_refused():
    """A p-value of 0 for want of digits would reject anything."""
    with pytest.raises(InputError, match="alpha 1e-120 is too small to compute with; take 1e-100 or more"):
        Question(SIGMA, alpha=1e-120).checked(1000)
    assert Question(SIGMA, alpha=1e-100).checked(10**9).n == math.ceil(1.25 * math.ceil(109 / -math.log10(TAU)))


@pytest.mark.parametrize("tau", [0.6, 0.75, 0.95])
def test_the_radius_is_the_quantile(tau):
    assert norm.cdf(radius(12.0, tau) / 12.0) == pytest.approx(tau, abs=1e-12)
    assert radius(20.0, 0.75) == pytest.approx(13.4898, abs=1e-4)


# ---------------------------------------------------------------- noise and votes


class Seen(nn.Module):
    """Keeps what it is shown; says organ."""

    def __init__(self):
        super().__init__()
        self.shown: list[np.ndarray] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x[0, 0].cpu().numpy().copy())
        return nn.functional.pad(x.new_ones(len(x), 1, *x.shape[2:]), [0, 0] * (x.dim() - 2) + [1, 0])


def test_every_copy_has_noise_of_its_own():
    network, scan = Seen(), sure(0.9, (16, 16, 16))
    made = copies(scan, network=network)
    chosen = choose(made, 4, None, quiet, never)
    vote(made, chosen, 4, 6, quiet, never)
    noise = np.stack([shown - scan.data[0] for shown in network.shown]).reshape(10, -1)
    together = np.corrcoef(noise)
    # Of 4,096 independent pairs of values the correlation has a standard deviation of 1/64.
    assert np.abs(together[np.triu_indices(10, 1)]).max() < 4.5 / 64
    assert kstest(noise.ravel() / SIGMA, "norm").pvalue > 0.001
    again = copies(scan, seed=0).noise(3), copies(scan, seed=1).noise(3)
    np.testing.assert_allclose(again[0].ravel(), noise[3], atol=1e-4)
    assert abs(np.corrcoef(again[0].ravel(), again[1].ravel())[0, 1]) < 4.5 / 64


@pytest.mark.parametrize("channels", [1, 2])
def test_noise_is_in_the_scans_unit_in_every_channel(channels):
    scan = Volume(np.zeros((channels, 20, 20, 20), np.float32))
    noise = Copies(victims.organ(), scan, tree_of({"a": 1}), 7.0, 0, None, Effort()).noise(0)
    assert noise.shape == scan.data.shape and noise.std() == pytest.approx(7.0, rel=0.02)
    assert abs(float(np.corrcoef(noise.reshape(channels, -1))[0, -1] if channels > 1 else 0.0)) < 0.06


def test_a_vote_is_counted_once_and_the_choosers_never_vote():
    """The very counts, recomputed from the copies' values."""
    scan, n0, n = sure(np.linspace(0.3, 0.99, 8 * 8 * 6).reshape(SHAPE)), 5, 30
    made = copies(scan)
    says = np.stack([scan.data[0] + made.noise(number)[0] > 49.5 for number in range(n0 + n)])
    chosen = choose(made, n0, None, quiet, never).reshape(SHAPE)
    assert np.array_equal(chosen, says[:n0].sum(0) > n0 / 2)
    votes, taken = vote(made, chosen.ravel(), n0, n, quiet, never)
    assert taken == n and made.effort.forwards == n0 + n
    assert np.array_equal(votes.reshape(SHAPE), (says[n0:] == chosen).sum(0))


# ---------------------------------------------------------------- false certificates


@pytest.fixture(scope="module")
def at_tau() -> tuple[np.ndarray, int]:
    """Votes "200 64" of 200 runs on 64 voxels, each of which a share of exactly tau of all copies calls organ."""
    made, n0, n = copies(sure(TAU, (40, 40, 8))), 31, 60
    chosen = choose(made, n0, None, quiet, never)
    votes, taken = vote(made, chosen, n0, n, quiet, never)
    assert (chosen == 1).mean() > 0.99 and taken == n
    return votes.reshape(200, 64), n


@pytest.mark.parametrize("correction", LEAST)
@pytest.mark.parametrize("alpha, most", [(0.05, 18), (0.001, 0)])
def test_false_certificates_are_as_rare_as_promised(at_tau, correction, alpha, most):
    """No voxel has more than tau, so each certificate is false; more than 18 of 200 would come by chance of 0.6 %."""
    votes, n = at_tau
    assert 0.005 < binom.sf(18, 200, 0.05) < 0.007
    least = [LEAST[correction](p_values(n, TAU), histogram(run, n), alpha) for run in votes]
    assert sum((run >= at).any() for run, at in zip(votes, least, strict=True)) <= most
    assert votes_needed(64, TAU, alpha) <= n, "a run could have certified"


def test_uncorrected_tests_would_be_false_far_more_often(at_tau):
    """What the corrections are for, and that the test above can fail."""
    votes, n = at_tau
    assert (p_values(n, TAU)[votes] <= 0.05).any(1).sum() > 100


def test_p_values_are_uniform_where_the_share_is_tau(at_tau):
    """With n trials; with n - n0, as in AdaptiveCertify's code, they aren't."""
    votes, n = at_tau
    counts, rng = votes[votes > n / 2], np.random.default_rng(0)  # of which organ was chosen

    def spread(p: np.ndarray, counts: np.ndarray) -> float:
        """The p-value of a uniform law: a test of discrete counts is uniform with the step to the next one filled."""
        below = np.append(p[1:], 0.0)
        return kstest(below[counts] + rng.random(len(counts)) * (p - below)[counts], "uniform").pvalue

    assert spread(p_values(n, TAU), counts) > 0.01
    fewer = np.append(p_values(n - 10, TAU), np.zeros(10))
    assert spread(fewer, counts) < 1e-100


def test_abstentions_are_those_of_a_binomial_test():
    """Written out with SciPy and statsmodels from the copies' values alone; n is 100, not 100 - n0."""
    scan = sure(np.linspace(0.6, 0.9999, 8 * 8 * 6).reshape(SHAPE))
    found = certify(victims.organ(), scan, Question(SIGMA, TAU, 0.05, n0=10, n=100))
    made = copies(scan)
    says = np.stack([scan.data[0] + made.noise(number)[0] > 49.5 for number in range(110)])
    organ = says[:10].sum(0) > 5
    counts = (says[10:] == organ).sum(0).ravel()
    p = [binomtest(int(count), 100, TAU, alternative="greater").pvalue for count in counts]
    rejected = multipletests(p, 0.05, "holm")[0].reshape(SHAPE)
    assert 0.2 < rejected.mean() < 0.9
    assert np.array_equal(found.map, np.where(rejected, organ, 2)) and found.names["abstained"] == 2
    assert found.tests == rejected.size and found.question.n == 100 and not found.stopped


def test_a_certified_voxel_keeps_its_answer_up_to_the_radius():
    """Put whole into one voxel, a change of that norm leaves each certified one its majority; no larger radius could be
    promised, because a voxel with a share of tau is then split evenly."""
    scan = sure(np.linspace(0.6, 0.9999, 8 * 8 * 6).reshape(SHAPE))
    question = Question(SIGMA, TAU, 0.05)
    found = certify(victims.organ(), scan, question)
    above = (scan.data[0] - question.radius - 49.5) / SIGMA
    held = found.map == 1
    assert held.sum() > 50 and norm.cdf(above[held]).min() > 0.5
    assert norm.cdf((sure(TAU).data - question.radius - 49.5) / SIGMA) == pytest.approx(0.5, abs=1e-6)


# ---------------------------------------------------------------- a certificate


def test_a_sure_voxel_is_certified_and_a_doubtful_one_abstains():
    share = np.full(SHAPE, 1 - 1e-9)
    share[2:4] = 0.5
    share[4:] = 1e-9
    found = certify(victims.organ(), sure(share), Question(SIGMA, seed=1))
    assert found.question.n == 100 and found.tests == 384
    assert (found.map[:2] == 1).all() and (found.map[2:4] == 2).all() and (found.map[4:] == 0).all()


def test_a_region_has_fewer_tests():
    scan, where = sure(np.full(SHAPE, 0.999)), np.zeros(SHAPE, bool)
    where[2:5, 3:, 1] = True
    whole, part = (certify(victims.organ(), scan, Question(SIGMA), mask) for mask in (None, where))
    assert part.tests == 15 < whole.tests and part.least <= whole.least
    assert part.names == {"background": 0, "organ": 1, "abstained": 2, "not tested": 3}
    assert (part.map[~where] == 3).all() and np.array_equal(part.votes, whole.votes.reshape(SHAPE)[where])


def test_the_clean_up_is_part_of_what_is_smoothed():
    """A clean-up that takes everything leaves a certified nothing."""
    scan = sure(np.full(SHAPE, 1 - 1e-9))
    victim = victims.organ_of(3, clean_up=lambda labels, voxel_ml: labels * 0)
    assert (certify(victim, scan, Question(SIGMA)).map == 0).all()


def test_a_model_of_slices_and_one_of_pictures_are_certified():
    volume, picture = sure(1 - 1e-9), sure(1 - 1e-9, (9, 7))
    for scan in (volume, picture):
        found = certify(victims.organ_of(2), scan, Question(SIGMA))
        assert found.map.shape == scan.shape and (found.map == 1).all()


def test_a_label_that_the_model_does_not_name_is_no_structure():
    assert tree_of({"liver": 3}).numbers(np.array([0, 1, 3, 7])).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("at, said", [(4, "choose the answers"), (30, "fewer than")])
def test_stopped_too_early_nothing_is_certified(at, said):
    asked = iter(range(1000))
    with pytest.raises(InputError, match=said):
        certify(victims.organ(), sure(0.99), Question(SIGMA), stop=lambda: next(asked) >= at)


def test_stopped_later_the_votes_that_there_are_are_tested():
    asked = iter(range(1000))
    found = certify(victims.organ(), sure(1 - 1e-9), Question(SIGMA, n=200), stop=lambda: next(asked) >= 80)
    assert found.stopped and found.question.n == 70 and (found.votes == 70).all() and (found.map == 1).all()
    assert found.least == holm(p_values(70, TAU), histogram(found.votes, 70), 0.001)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"sigma": 0.0}, "sigma must be a number above 0, not 0"),
        ({"sigma": math.nan}, "sigma must be"),
        ({"tau": 0.5}, "tau must lie between 0.5 and 1, not 0.5"),
        ({"tau": 1.0}, "tau must lie"),
        ({"alpha": 0.0}, "alpha must lie between 0 and 1"),
        ({"n0": 0}, "n0 must lie between 1 and 65535, not 0"),
        ({"n": 20}, "20 votes can't certify any of 384 voxels"),
        ({"n": 70_000}, "n must lie between"),
        ({"correction": "fdr"}, "Unknown correction 'fdr'; choose holm or bonferroni"),
        ({"groups": {"a": ("b", "c")}}, "ask for it too"),
        ({"seed": -1}, "The seed must be 0 or more"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(changes, said):
    with pytest.raises(InputError, match=said):
        certify(victims.organ(), sure(0.9), Question(**{"sigma": SIGMA, **changes}))


# ---------------------------------------------------------------- a tree of structures

ORGANS = {"background": 0, "liver": 1, "bone": 2, "spleen": 5, "gut": 4}


def test_the_tree_of_a_model_with_soft_organs():
    tree = tree_of(ORGANS, adaptive=True)
    assert tree.names == ("background", "liver", "bone", "gut", "spleen") and tree.values.tolist() == [0, 1, 2, 4, 5]
    assert [node.name for node in tree.groups] == ["soft organ", "some structure"]
    assert tree.levels.tolist() == [[0, 1, 2, 3, 4], [0, 5, 2, 5, 5], [0, 6, 6, 6, 6]]
    assert (
        tree.member[5].tolist() == [False, True, False, True, True] and tree.member[6].tolist() == [False] + [True] * 4
    )
    assert len(tree_of(ORGANS).levels) == 1 and tree_of(ORGANS).groups == ()
    assert len(tree_of({"background": 0, "a": 1, "b": 2}, True).levels) == 2
    assert len(tree_of({"background": 0, "a": 1}, True).levels) == 1, "one structure is all there is"


@pytest.mark.parametrize(
    "groups, said",
    [
        ({"x": ("liver", "heart")}, "names 'heart', which the model doesn't know; it has liver, bone, gut, spleen"),
        ({"x": ("liver",)}, "needs two structures"),
        ({"liver": ("bone", "gut")}, "has its meaning already"),
        ({"x": ("liver", "gut"), "y": ("gut", "bone")}, "'gut' is in two groups"),
    ],
)
def test_groups_that_are_no_level_are_refused(groups, said):
    with pytest.raises(InputError, match=said):
        tree_of(ORGANS, True, groups)


def test_the_finest_level_that_leads_clearly_is_taken():
    tree = tree_of(ORGANS, True)
    liver, bone, gut, nothing = 1, 2, 3, 0
    columns = [
        [liver] * 10,
        [liver] * 8 + [gut] * 2,  # leads by 0.6
        [liver] * 7 + [gut] * 3,  # leads by 0.4 only: soft organ, 10 of 10
        [liver] * 5 + [gut] * 3 + [bone] * 2,  # soft organ leads by 0.6
        [liver] * 4 + [gut] * 1 + [bone] * 5,  # some structure, 10 of 10
        [liver] * 5 + [nothing] * 5,  # nothing that says anything
        [nothing] * 10,
    ]
    labels = np.array(columns).T
    assert leading(labels, tree, 0.5).tolist() == [1, 1, 5, 5, 6, UNDECIDED, 0]
    assert leading(labels, tree, None).tolist() == [1, 1, 1, 1, 2, 0, 0], "without a gap the first of the most frequent"


def test_an_adaptive_certificate_gives_the_group_where_structures_are_close():
    """Between two layers, at the threshold of one half each: neither can be certified, both together can."""
    victim = victims.layers()
    scan = Volume(np.full((1, *SHAPE), 74.5, np.float32))
    groups = {"inside": ("soft", "organ")}
    plain = certify(victim, scan, Question(5.0))
    found = certify(victim, scan, Question(5.0, adaptive=True, groups=groups, n0=20))
    assert (plain.map == plain.names["abstained"]).mean() == 1
    grouped = found.map == found.names["inside"]
    assert found.names == {
        "background": 0, "soft": 1, "organ": 2, "bone": 3, "abstained": 4, "inside": 5, "some structure": 6,
    }  # fmt: skip
    # Of 20 fair draws one side leads by more than a half, 16 or more, in 1.2 % of cases; these abstain at their level.
    assert abs(grouped.mean() - (1 - 2 * binom.sf(15, 20, 0.5))) < 4 * math.sqrt(0.0118 / scan.data.size)
    assert (found.votes[grouped.ravel()] == 100).all() and not found.certified[~grouped.ravel()].any()


@pytest.mark.gpu
def test_votes_on_cuda_are_those_on_the_cpu():
    """The same noise, drawn on the CPU, and a model of one comparison per voxel: the counts are equal."""
    import torch

    scan = sure(np.linspace(0.3, 0.999, 8 * 8 * 6).reshape(SHAPE))
    first, second = (
        certify(victims.organ_of(3, torch.device(device)), scan, Question(SIGMA)) for device in ("cpu", "cuda")
    )
    assert np.array_equal(first.map, second.map) and np.abs(first.votes.astype(int) - second.votes).max() <= 1
