"""Networks that answer yes or no for each channel: regions in regions, judged as one label map, climbed per answer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import victims
from attacking import attacked, multi_label

from perturbox.attacks.goals import Goal
from perturbox.attacks.objectives import LOSSES, Voxels
from perturbox.attacks.on_scan import channels_of
from perturbox.job.estimate import estimate_attack
from perturbox.job.execute import Job, prepare

REGIONS = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)


@pytest.fixture
def voxels():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1, 3, 4, 5, generator=generator).double()
    labels = torch.randint(4, (1, 4, 5), generator=generator)
    return Voxels(logits, labels, (torch.rand(1, 4, 5, generator=generator) < 0.6).double(), REGIONS)


def test_each_answer_is_a_bernoulli_of_its_own(voxels):
    y = REGIONS[voxels.labels].movedim(-1, 1).double()
    assert torch.equal(voxels.targets, y)
    bce = F.binary_cross_entropy_with_logits(voxels.logits, y, reduction="none")
    torch.testing.assert_close(voxels.cross_entropy, bce)
    p = voxels.logits.sigmoid()
    torch.testing.assert_close(voxels.right, torch.where(y > 0, p, 1 - p))
    assert torch.equal(voxels.correct, (2 * y - 1) * voxels.logits > 0)
    torch.testing.assert_close(voxels.margin, -(2 * y - 1) * voxels.logits)


def test_losses_average_over_answers_and_dice_over_channels(voxels):
    arguments = (voxels.logits, voxels.labels, voxels.weight)
    y, w, p = voxels.targets, voxels.weight[:, None], voxels.logits.sigmoid()
    ce = (voxels.cross_entropy * w).sum() / (3 * w.sum())
    assert float(LOSSES["ce"](*arguments, (0, 2), False, REGIONS)) == pytest.approx(float(ce), rel=1e-12)
    dices = [(2 * (p * y * w)[:, c].sum() + 1e-3) / ((p * w)[:, c].sum() + (y * w)[:, c].sum() + 1e-3) for c in (0, 2)]
    expected = 1 - sum(dices) / 2
    assert float(LOSSES["dice"](*arguments, (0, 2), False, REGIONS)) == pytest.approx(float(expected), rel=1e-12)
    margin = (voxels.margin.clamp(max=2.0) * w).sum() / (3 * w.sum())
    assert float(LOSSES["margin"](*arguments, (0, 2), False, REGIONS)) == pytest.approx(float(margin), rel=1e-12)


def test_one_class_says_the_same_through_both_eyes():
    """A voxel is wrong where the answer is; two classes by softmax are one by sigmoid of the difference."""
    logits = torch.randn(1, 2, 6, 5, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.randint(2, (1, 6, 5), generator=torch.Generator().manual_seed(2))
    weight = torch.ones(1, 6, 5).double()
    difference = logits[:, 1:] - logits[:, :1]
    table = torch.tensor([[0], [1]], dtype=torch.bool)
    for name in LOSSES:
        chosen = float(LOSSES[name](logits, labels, weight, (1,)))
        answered = float(LOSSES[name](difference, labels, weight, (0,), False, table))
        assert chosen == pytest.approx(answered, rel=1e-9), name


def test_regions_are_painted_one_over_the_other():
    victim = multi_label(2)
    logits = torch.tensor([[1, 1, 1, -1, -1], [-1, 1, 1, 1, -1], [-1, -1, 1, -1, 1]]).float().view(1, 3, 5, 1)
    assert victim.decide(logits).flatten().tolist() == [1, 2, 3, 2, 3]
    assert torch.equal(victim.membership(), REGIONS)
    assert victims.textured().membership() is None
    bound = victim.on(victims.random_scan((5, 1), affine=np.eye(4)))
    assert bound.grid.argmax_to_native(logits[0], [1, 2, 3]).flatten().tolist() == [1, 2, 3, 2, 3]


@pytest.mark.parametrize("spacing", [None, (3.0, 3.0, 3.0)])
def test_ordinary_inference_paints_too_and_the_live_score_agrees(spacing):
    image, victim = victims.random_scan((14, 12, 10)), multi_label(spacing=spacing)
    found = victim.predict(image)
    assert set(np.unique(found)) == {0, 1, 2, 3} and found.dtype == np.uint8
    if spacing is None:
        with torch.no_grad():
            live = victim.decide(victim.on(image)(torch.from_numpy(image.data)[None]))
        assert np.array_equal(live[0].numpy(), found)


def test_a_label_is_left_by_its_innermost_channel_and_reached_by_all_that_hold_it():
    away = {values: channels_of(values, REGIONS, False) for values in ((3,), (2,), (1,), (1, 3), (1, 2, 3), (0,))}
    assert away == {(3,): (2,), (2,): (1,), (1,): (0,), (1, 3): (0, 2), (1, 2, 3): (0, 1, 2), (0,): ()}
    targeted = {values: channels_of(values, REGIONS, True) for values in ((3,), (2,), (1,), (0,))}
    assert targeted == {(3,): (0, 1, 2), (2,): (0, 1), (1,): (0,), (0,): ()}


class Shells(torch.nn.Module):
    """Yes above 20, above 60, above 100 HU."""

    def forward(self, x):
        return torch.cat([0.1 * (x - limit) for limit in (20.5, 60.5, 100.5)], 1) + 0 * x


@pytest.mark.parametrize(
    "goal, target, eps, expected",
    [
        ("vanish", "nucleus", 10.0, 0.05),
        ("become=core", "nucleus", 10.0, 0.05),
        ("vanish", "rim", 9.0, 1.0),
        ("grow", "rim", 25.0, 0.4),
    ],
)
def test_goals_are_reached_on_shells_whose_limits_are_known(goal, target, eps, expected):
    """Rim at 30, core at 70, nucleus at 110 HU: 10 above its limit each; what is around needs 21 to become rim."""
    shape = (12, 12, 10)
    data = np.zeros(shape, np.float32)
    for radius, value in ((0.4, 30.0), (0.3, 70.0), (0.2, 110.0)):
        data[victims.ball(shape, radius)] = value
    data[0, 0, 0], data[-1, -1, -1] = -900.0, 900.0
    image = victims.organ_scan(shape).with_data(data[None])
    victim = multi_label(network=Shells(), normalise=lambda x: x)
    aim = Goal.parse(goal, (target,), victim.labels)
    outcome = attacked(image, victim, "bim", eps, steps=8, goal=aim)
    if expected == 1.0:
        assert outcome.best.score == 1.0 and not outcome.delta.any()
    else:
        assert outcome.trace[0].score == 1.0 and outcome.best.score <= expected


def test_the_time_of_an_attack_is_estimated_by_channels_and_not_by_labels():
    victim = multi_label()
    assert len(victim.regions) != len(victim.labels)
    found = estimate_attack(prepare(Job("", steps=2), image=victims.random_scan(), victim=victim))
    assert found.windows == 2 and 0 < found.seconds < 60 and found.bytes > 0
