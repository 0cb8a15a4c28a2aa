"""A scan's certificate: every voxel that counts is tested, and what is found lies on the scan's own grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from perturbox.certificates.sampling import UNDECIDED, Copies, Count, Stop, choose, vote
from perturbox.certificates.statistics import LEAST, MOST_VOTES, p_values, radius, votes_for, votes_needed
from perturbox.certificates.tree import Tree, tree_of
from perturbox.defaults import ALPHA, CHOOSERS, CORRECTIONS, TAU
from perturbox.model.victim import Victim
from perturbox.types import Effort, InputError, Volume

LEAST_ALPHA = 1e-100  # shared by a billion voxels it is still far from what a float can't hold


@dataclass(frozen=True)
class Question:
    """What is to be certified.

    sigma: of the noise, in the scan's unit; tau: the share of noisy copies that a certified answer has more than;
    alpha: the chance that any certified voxel is wrong in that; n0, n: copies that choose the answers, and that vote;
    n None: as many as it takes. correction: of `defaults.CORRECTIONS`. adaptive: groups of structures count as answers
    too; groups: which, those of `tree.GROUPS` where there are none.
    """

    sigma: float
    tau: float = TAU
    alpha: float = ALPHA
    n0: int = CHOOSERS
    n: int | None = None
    correction: str = CORRECTIONS[0]
    adaptive: bool = False
    groups: Mapping[str, Sequence[str]] | None = None
    seed: int = 0

    @property
    def radius(self) -> float:
        """In the scan's unit, as an L2 norm over all of its values."""
        return radius(self.sigma, self.tau)

    @property
    def gap(self) -> float | None:
        """By how large a share of the first copies an answer must lead: of two answers, one with a share of tau leads
        by as much. None where only classes are answers."""
        return 2 * self.tau - 1 if self.adaptive else None

    def checked(self, tests: int) -> "Question":
        """The same with its number of votes for so many voxels; raises InputError for what can't be asked."""
        if not 0 < self.sigma < math.inf:
            raise InputError(f"sigma must be a number above 0, not {self.sigma:g}; it is in the scan's unit, HU on CT.")
        if not 0.5 < self.tau < 1:
            raise InputError(f"tau must lie between 0.5 and 1, not {self.tau:g}: at 0.5 the radius is 0.")
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must lie between 0 and 1, not {self.alpha:g}; 0.001 is usual.")
        if self.alpha < LEAST_ALPHA:
            raise InputError(f"alpha {self.alpha:g} is too small to compute with; take {LEAST_ALPHA:g} or more.")
        if self.correction not in CORRECTIONS:
            raise InputError(f"Unknown correction '{self.correction}'; choose {' or '.join(CORRECTIONS)}.")
        if self.groups and not self.adaptive:
            raise InputError("Groups of structures are answers of the adaptive certificate only; ask for it too.")
        if self.seed < 0:
            raise InputError(f"The seed must be 0 or more, not {self.seed}.")
        n = votes_for(tests, self.tau, self.alpha, self.n)
        for name, count in (("n0", self.n0), ("n", n)):
            if not 1 <= count <= MOST_VOTES:
                raise InputError(f"{name} must lie between 1 and {MOST_VOTES}, not {count}.")
        return replace(self, n=n)


@dataclass(frozen=True, eq=False)
class Certified:
    """What was found of the voxels that count, "m" in the order of the scan's.

    question: as it was asked, n being the votes that were taken; chosen: the node each was tested for, UNDECIDED where
    it wasn't tested; votes: how many of n gave it; least: from how many votes on an answer is certified; tests: how
    many voxels were tested; where: bool "*s", None for all; stopped: whether fewer votes were taken than asked for.
    """

    question: Question
    tree: Tree
    chosen: np.ndarray
    votes: np.ndarray
    least: int
    tests: int
    where: np.ndarray | None
    shape: tuple[int, ...]
    stopped: bool

    @property
    def certified(self) -> np.ndarray:
        """bool "m"."""
        return (self.chosen != UNDECIDED) & (self.votes >= self.least)

    @property
    def answers(self) -> np.ndarray:
        """ "m": the node of each certified voxel, UNDECIDED where it abstains."""
        return np.where(self.certified, self.chosen, UNDECIDED)

    def on_grid(self, values: np.ndarray, outside: int = 0) -> np.ndarray:
        """Values "m" as "*s", with `outside` where no voxel counts."""
        if self.where is None:
            return values.reshape(self.shape)
        grid = np.full(self.shape, outside, values.dtype)
        grid[self.where] = values
        return grid

    @property
    def names(self) -> dict[str, int]:
        """Every value of `map` by its name: the model's own labels, then what only a certificate says."""
        tree = self.tree
        names = dict(zip(tree.names, tree.values.tolist(), strict=True))
        more = ["abstained", *(node.name for node in tree.groups), *([] if self.where is None else ["not tested"])]
        return names | {name: value for value, name in enumerate(more, int(tree.values.max()) + 1)}

    @property
    def map(self) -> np.ndarray:
        """Label map "*s": the model's own label where a class is certified, values above these for a group, for voxels
        that abstain and for those that weren't to be tested (`names`)."""
        names = self.names
        table = np.array([*(names[node.name] for node in self.tree.nodes), names["abstained"]], np.int32)
        return self.on_grid(table[self.answers], names.get("not tested", 0))


def certify(
    victim: Victim,
    image: Volume,
    question: Question,
    where: np.ndarray | None = None,
    effort: Effort | None = None,
    count: Count = lambda text, done, total: None,
    stop: Stop = lambda: False,
) -> Certified:
    """Certify the smoothed model on one scan; where: bool "*s", the only voxels to test. count, stop: as in `sampling`.

    The function that is smoothed is the model's whole inference, from the scan's own grid to labels on it, clean-up
    included. Raises InputError for a question that can't be asked, where the model's scores aren't finite, and where it
    is stopped before anything could be certified.
    """
    tests = int(where.sum()) if where is not None else int(np.prod(image.shape))
    question = question.checked(tests)
    asked = question.n
    assert asked is not None
    tree = tree_of(victim.labels, question.adaptive, question.groups)
    copies = Copies(victim, image, tree, question.sigma, question.seed, where, effort or Effort())
    n0, every = question.n0, question.n0 + asked
    chosen = choose(copies, n0, question.gap, lambda what, done, _: count(what, done, every), stop)
    # Only what is tested shares in alpha; which voxels these are depends on none of the votes.
    tests = int((chosen != UNDECIDED).sum())
    votes, n = vote(copies, chosen, n0, asked, lambda what, done, _: count(what, n0 + done, every), stop)
    needed = votes_needed(tests, question.tau, question.alpha)
    if n < needed:
        raise InputError(
            f"Stopped after {n} of {asked} votes; fewer than {needed} certify nothing, so nothing was written."
        )
    tested = np.bincount(votes[chosen != UNDECIDED], minlength=n + 1)
    least = LEAST[question.correction](p_values(n, question.tau), tested, question.alpha)
    return Certified(replace(question, n=n), tree, chosen, votes, least, tests, where, image.shape, n < asked)
