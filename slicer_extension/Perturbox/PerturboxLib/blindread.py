"""A blind read: which of two pictures of a slice was altered? Shuffled, without labels, scored with an interval."""

import math
import random
from dataclasses import dataclass

import qt
import slicer
from slicer.i18n import tr as _

from .mistakes import told
from .results import Result
from .scene import Nodes
from .trouble import Trouble

QUESTIONS = 10
Z95 = 1.959964


@dataclass(frozen=True)
class Question:
    """A slice (0-based), and whether the left one of its two pictures is the altered one."""

    index: int
    left: bool


class Quiz:
    """Questions in a random order and the answers so far; the same seed gives the same questions."""

    def __init__(self, slices: list[int], count: int = QUESTIONS, seed: int | None = None):
        chance = random.Random(seed)
        chosen = chance.sample(slices, min(count, len(slices)))
        self.questions = [Question(index, chance.random() < 0.5) for index in chosen]
        self.answers: list[bool] = []

    @property
    def question(self) -> Question | None:
        """The one that is to be answered; None when all are."""
        return self.questions[len(self.answers)] if len(self.answers) < len(self.questions) else None

    def answer(self, left: bool) -> bool:
        """Take in what the reader thinks and say whether it is right."""
        right = self.question.left == left
        self.answers.append(right)
        return right

    def score(self) -> str:
        """How many were right, with the 95 % interval of that share, against guessing."""
        asked, right = len(self.answers), sum(self.answers)
        if not asked:
            return _("No slice was judged.")
        low, high = wilson(right, asked)
        share = _("{right:.0f} %, 95 % interval {low:.0f}–{high:.0f} %").format(
            right=100 * right / asked, low=100 * low, high=100 * high
        )
        if low > 0.5:
            told = _("The change can be seen better than by guessing.")
        elif high < 0.5:
            told = _("Wrong more often than by guessing: the change misleads.")
        else:
            told = _("This can't be told from guessing (50 %).")
        return _("{right} of {asked} right ({share}). {told}").format(right=right, asked=asked, share=share, told=told)


def wilson(right: int, asked: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share, within [0, 1]; asked must be above 0."""
    share = right / asked
    middle = share + z * z / (2 * asked)
    spread = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    scale = 1 + z * z / asked
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return 0.0 if right == 0 else low, 1.0 if right == asked else high


def slicesToAsk(result: Result) -> list[int]:
    """The slices where the outlines changed; where too few did, every slice that holds a structure."""
    changed = result.changed()
    if len(changed) >= QUESTIONS:
        return changed
    held = (result.along.before + result.along.after).sum(1) > 0
    return [int(index) for index in held.nonzero()[0]] or list(range(result.slices))


class BlindRead:
    """Asks a quiz in the views of a viewer and a small window beside them; `finish` puts the views back."""

    def __init__(self, resultNode, viewer, seed: int | None = None):
        self.viewer, self.node = viewer, resultNode
        if viewer.nodes is None or viewer.nodes.node != resultNode:
            raise Trouble(
                "not-shown", _("This result is not shown in the views."), _("Show it, then begin the blind read.")
            )
        self.mode, self.index = viewer.mode, viewer.index()
        if viewer.mode != "compare":
            viewer.show(resultNode, "compare")
        self.quiz = Quiz(slicesToAsk(Nodes(resultNode).result), seed=seed)
        self.over = False
        self._window()
        viewer.onChange(self.abort)
        self._ask()

    @told
    def answer(self, left: bool) -> None:
        """The reader says that the left, or the right, picture is the altered one."""
        if self.over:
            return
        right = self.quiz.answer(left)
        self.said.text = _("Right.") if right else _("Wrong.")
        self._ask() if self.quiz.question else self.finish()

    @told
    def finish(self) -> None:
        """Show the views as they were, and the score."""
        if self.over:
            return
        self._end()
        if self.mode != "compare":
            self.viewer.show(self.node, self.mode)
        self.viewer.jump(self.index)
        self.asked.text = self.quiz.score()
        self.said.text = ""
        for button in (self.leftButton, self.rightButton):
            button.visible = False
        self.endButton.text = _("Close")

    @told
    def abort(self) -> None:
        """Something else is to be shown: end without a score."""
        if not self.over:
            self._end()
            self.dialog.hide()

    def _end(self) -> None:
        self.over = True
        self.viewer.setBlind(None)

    def _ask(self) -> None:
        question = self.quiz.question
        self.viewer.setBlind(question.left)
        self.viewer.jump(question.index)
        self.asked.text = _("Slice {number} of {count}: which one is altered?").format(
            number=len(self.quiz.answers) + 1, count=len(self.quiz.questions)
        )

    def _window(self) -> None:
        self.dialog = qt.QDialog(slicer.util.mainWindow())
        self.dialog.setWindowTitle(_("Blind read"))
        rows = qt.QVBoxLayout(self.dialog)
        self.asked, self.said = qt.QLabel(), qt.QLabel()
        self.asked.setWordWrap(True)
        buttons = qt.QHBoxLayout()
        self.leftButton, self.rightButton = qt.QPushButton("Left"), qt.QPushButton("Right")
        self.endButton = qt.QPushButton(_("Score"))
        for button in (self.leftButton, self.rightButton, self.endButton):
            buttons.addWidget(button)
        for part in (self.asked, self.said):
            rows.addWidget(part)
        rows.addLayout(buttons)
        self.leftButton.connect("clicked(bool)", lambda _: self.answer(True))
        self.rightButton.connect("clicked(bool)", lambda _: self.answer(False))
        self.endButton.connect("clicked(bool)", lambda _: self._close())
        self.dialog.connect("rejected()", self.finish)
        self.dialog.show()

    @told
    def _close(self) -> None:
        """The first press shows the score, the next one closes the window."""
        if self.over:
            self.dialog.hide()
        else:
            self.finish()


_running: list[BlindRead] = []


def ask(resultNode, viewer) -> BlindRead:
    """Begin a blind read of a result in its viewer; an earlier one ends. Raises Trouble where it isn't shown."""
    for earlier in _running:
        earlier.abort()
        earlier.dialog.hide()
    _running[:] = [BlindRead(resultNode, viewer)]
    return _running[0]
