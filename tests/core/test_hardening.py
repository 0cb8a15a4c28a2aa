"""Training against attacks: every method's batch and loss against what is written out by hand, and that it helps."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import perturbox as px
from perturbox.attacks.spaces.dct import along_blocks, cosine_matrix
from perturbox.hardening import METHODS, Overfitting, divergence, guided_complement_entropy, harden
from perturbox.hardening.training import Hardening, LabelFree, attacking
from perturbox.types import InputError


class Weighted(nn.Module):
    """Scores that are a weighted sum of the voxels, one image a batch."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weights).sum()


def as_it_is(scores: Tensor, y: object) -> Tensor:
    return scores


def classifier(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, classes, 1))


def batch(seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, 8, 8, generator=draws), torch.randint(0, classes, (2, 8, 8), generator=draws)


WEIGHTS = torch.tensor([[[[1.0, -2.0], [0.5, -0.1]]]])
X = torch.tensor([[[[0.0, 10.0], [20.0, 30.0]]]])


def test_steps_as_large_as_the_ball_end_in_its_corner():
    found = harden("pgd", as_it_is, eps=3.0, steps=2, alpha=2.0).perturb(Weighted(WEIGHTS), X, 0)
    assert torch.equal(found, X + 3 * WEIGHTS.sign())


def test_a_batch_can_be_attacked_where_no_gradients_are_kept():
    made = harden("pgd", as_it_is, eps=3.0, steps=2, alpha=2.0)
    with torch.no_grad():
        assert torch.equal(made.perturb(Weighted(WEIGHTS), X, 0), X + 3 * WEIGHTS.sign())


def test_one_fast_step_is_what_its_paper_writes():
    made = harden("fast", as_it_is, eps=4.0, seed=7)
    u = made.uniform(X, 4.0)
    assert u.abs().max() <= 4 and u.unique().numel() == 4
    expected = X + (u + 5.0 * WEIGHTS.sign()).clamp(-4, 4)
    torch.testing.assert_close(made.perturb(Weighted(WEIGHTS), X, 0), expected)


def test_values_stay_where_they_can_be():
    found = harden("pgd", as_it_is, eps=3.0, steps=2, alpha=2.0, valid=(0.0, 29.0)).perturb(Weighted(WEIGHTS), X, 0)
    assert found.flatten().tolist() == [3.0, 7.0, 23.0, 27.0]
    found = harden("pgd", as_it_is, eps=3.0, steps=2, alpha=2.0, valid=(8.5, 40.0)).perturb(Weighted(-WEIGHTS), X, 0)
    assert found.flatten().tolist()[1:] == [13.0, 17.0, 33.0]


def test_prepare_stands_between_the_scan_and_the_network():
    seen = []

    def halved(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x / 2

    loss = harden("pgd", as_it_is, eps=3.0, steps=2, alpha=2.0, prepare=halved)(Weighted(WEIGHTS), X, 0)
    assert torch.equal(seen[-1], X + 3 * WEIGHTS.sign())
    assert loss.item() == pytest.approx(((X + 3 * WEIGHTS.sign()) / 2 * WEIGHTS).sum().item())


def test_eps_grows_over_the_first_calls():
    made, network = harden("pgd", as_it_is, eps=8.0, steps=2, alpha=2.0, ramp=4), Weighted(WEIGHTS)
    sizes = []
    for _ in range(6):
        sizes.append((made.perturb(network, X, 0) - X).abs().max().item())
        made(network, X, 0)
    assert sizes == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_was(method):
    network, (x, y) = classifier().train(), batch()
    network[3].eval()
    network[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    harden(method, F.cross_entropy, eps=0.3).perturb(network, x, y)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network] == [True, True, True, False]
    assert [p.requires_grad for p in network.parameters()] == [True, False, True, True, True, True]
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_same_call_draws_the_same_in_a_resumed_run(method):
    def run(calls: int, made: Hardening, network: nn.Module, optimiser: torch.optim.Optimizer) -> list[float]:
        losses = []
        for _ in range(calls):
            loss = made(network, *batch(made.calls))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses

    def fresh() -> tuple[Hardening, nn.Module, torch.optim.Optimizer]:
        network = classifier(1)
        settings = {"teacher": classifier(2).eval()} if method == "label-free" else {}
        made = harden(method, F.cross_entropy, eps=0.3, ramp=3, seed=5, **settings)
        return made, network, torch.optim.SGD(network.parameters(), 0.1)

    whole = run(4, *fresh())
    made, network, optimiser = fresh()
    first = run(2, made, network, optimiser)
    again = fresh()
    again[0].load_state_dict(made.state_dict())
    again[1].load_state_dict(network.state_dict())
    assert first + run(2, *again) == whole and len(set(whole)) == 4


def test_the_loss_is_that_of_the_perturbed_batch_alone_unless_clean_says_otherwise():
    network, (x, y) = classifier().eval(), batch()
    made = harden("pgd", F.cross_entropy, eps=0.3)
    under = F.cross_entropy(network(made.perturb(network, x, y)), y)
    assert made(network, x, y).item() == under.item() > F.cross_entropy(network(x), y).item()
    mixed = harden("pgd", F.cross_entropy, eps=0.3, clean=0.25)(network, x, y)
    assert mixed.item() == pytest.approx(0.25 * F.cross_entropy(network(x), y).item() + 0.75 * under.item(), rel=1e-6)


def test_free_goes_on_with_the_gradient_of_the_last_backward_pass():
    network, (x, y) = classifier(), batch()
    made, delta = harden("free", F.cross_entropy, eps=0.3, replays=3), torch.zeros_like(x)
    for _ in range(3):
        point = (x + delta).requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(network(point), y), point)
        loss = made(network, x, y)
        assert loss.item() == F.cross_entropy(network(x + delta), y).item()
        loss.backward()
        delta = (delta + 0.3 * slope.sign()).clamp(-0.3, 0.3)
        torch.testing.assert_close(made.perturb(network, x, y), x + delta)
    assert made.replays == 3
    other = torch.zeros(1, 1, 4, 4)
    assert torch.equal(made.perturb(network, other), other), "another shape starts anew"


def test_label_free_is_the_teachers_labels_and_a_divergence():
    network, teacher, (x, _) = classifier(3).eval(), classifier(4).eval(), batch()
    made = harden("label-free", F.cross_entropy, eps=0.3, teacher=teacher, weight=2.0)
    attacked = made.perturb(network, x)
    said, before = teacher(x).argmax(1), network(x).log_softmax(1)
    after = network(attacked).log_softmax(1)
    by_torch = F.kl_div(after, before, log_target=True, reduction="sum") / said.numel()
    assert divergence(before, after).item() == pytest.approx(by_torch.item(), rel=1e-5) and by_torch > 0
    assert made(network, x).item() == pytest.approx((F.cross_entropy(after, said) + 2 * by_torch).item(), rel=1e-5)
    assert (x - attacked).abs().max().item() == pytest.approx(0.3)


def test_label_free_takes_the_network_of_its_first_call_as_teacher():
    network, (x, _) = classifier(3), batch()
    made = LabelFree(F.cross_entropy, eps=0.1)
    made(network, x)
    was = classifier(3).eval()(x).argmax(1)
    with torch.no_grad():
        network.get_parameter("3.weight").neg_()
    assert made.teacher is not None
    found = [network.eval()(x).argmax(1) for network in (made.teacher, network)]
    assert torch.equal(found[0], was) and not torch.equal(found[1], was)


def test_frequency_lies_on_steps_that_follow_the_gradient():
    network, (x, y) = classifier(5).eval(), batch()
    made = harden("frequency", F.cross_entropy, eps=0.5, steps=15)
    attacked = made.perturb(network, x, y)
    matrix = cosine_matrix(8)
    own, found = along_blocks(x, matrix), along_blocks(attacked, matrix)
    # A coefficient is a whole number of its step, and that lies between a quarter of eps and eps.
    assert ((own - found).abs() <= 0.25 + 1e-5).all() and (own - found).abs().max() > 0.1
    scores, under = network(x), network(attacked)
    a, b = along_blocks(scores, matrix), along_blocks(under, matrix)
    expected = F.cross_entropy(scores, y) + F.cross_entropy(under, y) + (a - b).abs().sum() / a.abs().sum()
    assert made(network, x, y).item() == pytest.approx(expected.item(), rel=1e-6)
    coarsest = harden("frequency", F.cross_entropy, eps=0.5, steps=1).perturb(network, x, y)
    assert F.cross_entropy(network(attacked), y) > F.cross_entropy(network(coarsest), y)


@pytest.mark.parametrize("p", [(0.7, 0.2, 0.1), (0.1, 0.6, 0.3), (0.25, 0.25, 0.5)])
def test_guided_complement_entropy_by_hand(p):
    logits = torch.log(torch.tensor(p)).reshape(1, 3, 1, 1)
    for right in range(3):
        q = [v / (1 - p[right]) for i, v in enumerate(p) if i != right]
        expected = p[right] ** (1 / 3) * sum(v * math.log(v) for v in q) / math.log(3)
        found = guided_complement_entropy(logits, torch.tensor([[[right]]]))
        assert found.item() == pytest.approx(expected, abs=1e-6)


def test_guided_complement_entropy_needs_three_classes():
    with pytest.raises(InputError, match="needs at least 3 classes, not 2"):
        guided_complement_entropy(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))


# ---------------------------------------------------------------- overfitting


class Nothing(Hardening):
    """An attack that is none, as one step is for a network that has overfitted to it."""

    def perturb(self, network, x, y=None):
        return x


def test_a_network_that_only_stands_its_own_attack_is_seen():
    network = Weighted(torch.ones(1, 1, 2, 2))

    def score(scores: Tensor, y: Tensor) -> float:
        return float(scores < 1)

    x = torch.zeros(1, 1, 2, 2)
    watch = Overfitting(Nothing(as_it_is, 1.0), score, x, 0)
    assert watch(network) and watch.seen == [(1.0, 0.0)]
    honest = Overfitting(harden("fast", as_it_is, eps=1.0), score, x, 0)
    assert not honest(network) and honest.seen == [(0.0, 0.0)]


def test_a_fall_between_two_looks_is_seen():
    network, limit = Weighted(torch.ones(1, 1, 2, 2)), 100.0

    def score(scores: Tensor, y: Tensor) -> float:
        return 1 - min(1.0, float(scores) / limit)

    watch = Overfitting(harden("fast", as_it_is, eps=1.0), score, torch.zeros(1, 1, 2, 2), 0)
    looks = [watch(network)]
    limit = 10.0
    looks.append(watch(network))
    assert looks == [False, True] and [round(many, 3) for _, many in watch.seen] == [0.96, 0.6]


# ---------------------------------------------------------------- what it is for


@pytest.mark.parametrize("method", ["pgd", "fast", "free"])
def test_a_trained_model_leans_on_what_an_attack_cannot_move(method):
    """Channel 0 says the class loudly with noise, channel 1 in a whisper without: plain training leans on that."""

    def cases(seed: int) -> tuple[Tensor, Tensor]:
        draws = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 2, (64, 4, 4), generator=draws)
        sign = 2.0 * y - 1
        loud, whisper = sign + 0.6 * torch.randn(y.shape, generator=draws), 0.1 * sign
        return torch.stack([loud, whisper], 1), y

    def trained(loss) -> nn.Module:
        torch.manual_seed(0)
        network = nn.Conv2d(2, 2, 1)
        optimiser = torch.optim.Adam(network.parameters(), 0.2)
        for step in range(240):
            optimiser.zero_grad()
            loss(network, *cases(step // 4)).backward()
            optimiser.step()
        return network

    def right(network: nn.Module, eps: float) -> float:
        x, y = cases(1000)
        if eps:
            x = harden("pgd", F.cross_entropy, eps=eps, steps=5).perturb(network, x, y)
        return (network(x).argmax(1) == y).float().mean().item()

    plain = trained(lambda network, x, y: F.cross_entropy(network(x), y))
    hard = trained(harden(method, F.cross_entropy, eps=0.2))
    assert right(plain, 0) > 0.99 and right(plain, 0.2) < 0.7
    assert right(hard, 0.2) > 0.85 and right(hard, 0) > 0.9


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("trades", {}, "Unknown method 'trades'; there are pgd, fast, free, frequency, label-free."),
        ("pgd", {"eps": 0.0}, "eps must be above 0, not 0."),
        ("pgd", {"steps": 0}, "steps must be at least 1, not 0."),
        ("pgd", {"clean": 1.0}, "clean must be from 0 to below 1, not 1."),
        ("pgd", {"ramp": -1}, "ramp must be 0 or more calls, not -1."),
        ("pgd", {"valid": (5.0, 5.0)}, "valid must be (low, high) with low below high, not (5.0, 5.0)."),
        ("free", {"replays": 0}, "replays must be at least 1, not 0."),
        ("pgd", {"step": 3}, "'pgd' has no setting 'step'; it takes prepare, valid, clean, ramp, seed, steps, alpha."),
    ],
)
def test_refusals(method, settings, said):
    with pytest.raises(InputError) as caught:
        px.harden(method, F.cross_entropy, **{"eps": 1.0, **settings})
    assert str(caught.value) == said


def test_a_method_that_needs_labels_says_so():
    with pytest.raises(InputError, match="needs labels; the one that doesn't is 'label-free'"):
        harden("pgd", F.cross_entropy, eps=1.0)(classifier(), batch()[0])


def test_the_mode_comes_back_after_a_mistake():
    network = classifier().train()
    with pytest.raises(ZeroDivisionError), attacking(network):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        raise ZeroDivisionError
    assert network.training and all(p.requires_grad for p in network.parameters())
