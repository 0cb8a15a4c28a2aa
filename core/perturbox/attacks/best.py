"""What a run remembers: every step it looked at, and the best point among them.

The loss that is climbed never decides what is kept: that is the goal's score of the prediction, or, for attacks that
seek the smallest change, the size of those changes that reach the goal.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb
from perturbox.attacks.budget import Budget
from perturbox.attacks.on_scan import ModelOnScan
from perturbox.attacks.outcome import Member, Rank, Step

UNHARMED = 1.0  # every goal's score of a prediction that is the reference
SLACK = 0.01  # of a score: a margin, so that a live success survives rounding and clean-up of the saved file


class Best:
    """The trace of a run, and its best point by the rule of the whole attack.

    x: the clean scan "b c *s", later the best point; step, climb: where it was found, step None as long as nothing
    counts. enough(step): whether a point has reached the goal.
    """

    def __init__(self, attack: Attack, budget: Budget, x: Tensor, enough: Callable[[Step], bool]):
        self.attack, self.budget, self.enough, self.clean = attack, budget, enough, x
        self.trace: list[Step] = []
        self.step: Step | None = None
        self.x = x
        self.climb: Climb = next(attack.leaves())
        self.rank: Rank = (False, 0.0, 0.0)
        self.members: dict[str, Member] = {}

    @property
    def succeeded(self) -> bool:
        return self.rank[0]

    @property
    def size(self) -> float:
        """Of the best change, where the smallest is sought and one has reached the goal."""
        return -self.rank[1]

    def note(self, now: Step, x_adv: Tensor, climb: Climb, own_limits: bool) -> bool:
        """One more point that may be the answer; whether it reached the goal.

        own_limits: whether the climb's limit is another than the attack's, which the point may then exceed.
        """
        assert now.score is not None
        smallest = self.attack.keep == "smallest"
        size = self.budget.size(x_adv - self.clean) if smallest or now.member is not None else 0.0
        if own_limits and size > self.budget.eps * (1 + 1e-6):
            return False
        succeeded = self.enough(now)
        rank = (succeeded, -size if succeeded and smallest else 0.0, -max(now.score, self.attack.floor))
        if now.member is not None:
            self.members.setdefault(now.member, Member(now.member, now, rank, size)).note(now, rank, size)
        if self._beaten_by(now, rank, climb):
            self.step, self.x, self.climb, self.rank = now, x_adv, climb, rank
        return succeeded

    def _beaten_by(self, now: Step, rank: Rank, climb: Climb) -> bool:
        """Whether a point is better than the best. Of equals the one that climbed its objective highest, because it
        lies deepest beyond the border and so carries over best to other models and to the saved file; the unchanged
        scan above all that do no more, so that an attack that failed leaves the file as it was."""
        if self.step is None:
            return rank[0] or (now.score is not None and now.score < UNHARMED) or now.linf == 0
        if rank != self.rank:
            return rank > self.rank
        same = self.climb.objective is climb.objective  # values of two losses can't be compared
        return same and self.step.linf > 0 and (now.loss or 0.0) > (self.step.loss or 0.0)


def default_rule(attack: Attack, models: Sequence[ModelOnScan]) -> Callable[[Step], bool]:
    """(step) -> whether it has reached the goal: everything is lost (never where a floor makes equals of those), or,
    unless the worst is sought, the goal's threshold is reached, clearly."""
    if attack.keep == "worst":
        return lambda step: step.score is not None and step.score <= 0 and not attack.floor
    goal, clean = models[0].goal, float(np.mean([_clean_score(model) for model in models]))
    limit = goal.threshold * (clean if goal.kind == "change" else 1.0) - SLACK
    return lambda step: step.score is not None and step.score <= limit


def _clean_score(model: ModelOnScan) -> float:
    model.watch(model.x)
    return model.judge()[0]
