"""What a running job shows on stderr: a live bar on a terminal, a few plain lines elsewhere."""

import math
import statistics
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perturbox.cli.stop import Stop

if TYPE_CHECKING:
    from perturbox.attacks.outcome import Step

PLAIN_LINES = 8  # lines per attack where no bar can be drawn, about
SHOWN_AFTER = 3  # steps before the time left means anything
MEDIAN_OF = 5


class Progress:
    """Follows one job: messages, steps with live Dice and time left. Use as a context around the job.

    labels: the victim's structures and values. restarts: of the attack. lines: how many steps to tell of where no bar
    can be drawn. late_refusal: the job may still be refused until it first asks whether to stop; where lines can't be
    taken back, they wait for that, so that a refusal stands alone. Set `afterwards` to the seconds after the attack.
    """

    def __init__(
        self, labels: Mapping[str, int], restarts: int = 1, *, lines: int = PLAIN_LINES, late_refusal: bool = True
    ):
        self.names = {value: name for name, value in labels.items()}
        self.restarts, self.lines, self.afterwards = restarts, lines, 0.0
        self.live = sys.stderr.isatty()
        self.stop = Stop(announce=not self.live)
        self.held: list[str] | None = [] if late_refusal and not self.live else None
        self.durations: list[float] = []
        self.last, self._began = 0.0, time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def listener(self) -> Any:
        """The `job.Listener` that feeds this display."""
        from perturbox.job.execute import Listener

        return Listener(say=self.say, step=self.step, stop=self._asked, count=self.count)

    def __enter__(self) -> "Progress":
        if self.live:
            self._bar, self._task = _live_bar(self.stop)
            self._bar.start()
        self.stop.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
        self.stop.__exit__(kind, error, trace)

    def announce(self, text: str) -> None:
        """A line that stays."""
        if self._bar is None:
            self._line(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def say(self, text: str) -> None:
        """What is being done now."""
        if self._bar is None:
            self._line(text)
        else:
            self._bar.update(self._task, description=text, total=None, completed=0, note="")
        self._began = time.monotonic()

    def step(self, step: "Step") -> None:
        if step.step == 0 and step.restart == 0:  # another attack begins, as in a search for the margin
            self.durations.clear()
            self.last = 0.0
        self.durations.append(step.seconds - self.last)
        self.last = step.seconds
        note = " · ".join(part for part in (self._dice(step), self._left(step)) if part)
        if self._bar is not None:
            total = (step.steps + 1) * self.restarts
            done = (step.steps + 1) * step.restart + step.step + 1
            self._bar.update(self._task, description=self._place(step), total=total, completed=done, note=note)
        elif step.step == step.steps or step.step % math.ceil(step.steps / self.lines) == 0:
            self._line(f"{self._place(step)} · {note}")

    def count(self, what: str, done: int, total: int) -> None:
        """One more of `total` equal parts is done."""
        if done == 1:
            self.durations.clear()
            self.last = self._began
        now = time.monotonic()
        self.durations.append(now - self.last)
        self.last = self._began = now
        rest = (total - done) * statistics.median(self.durations[-MEDIAN_OF:])
        left = f"{about(rest + self.afterwards)} left" if len(self.durations) >= SHOWN_AFTER else ""
        if self._bar is not None:
            self._bar.update(
                self._task, description=f"{what} {done} of {total}", total=total, completed=done, note=left
            )
        elif done == total or done % math.ceil(total / self.lines) == 0:
            self._line(" · ".join(part for part in (f"{what} {done} of {total}", left) if part))

    def _line(self, text: str) -> None:
        if self.held is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.held.append(text)

    def _asked(self) -> bool:
        held, self.held = self.held, None
        for text in held or ():
            self._line(text)
        return self.stop.asked()

    def _place(self, step: "Step") -> str:
        count = f"{step.restart + 1} of {self.restarts}"
        round = f"{step.member} ({count}), " if step.member else f"restart {count}, " if self.restarts > 1 else ""
        return f"{round}step {step.step} of {step.steps}"

    def _dice(self, step: "Step") -> str:
        known = {self.names[value]: dice for value, dice in step.dice.items() if dice is not None}
        if not known:
            return ""
        worst = min(known, key=lambda name: known[name])
        return f"mean Dice {statistics.fmean(known.values()):.2f} · worst {worst} {known[worst]:.2f}"

    def _left(self, step: "Step") -> str:
        if len(self.durations) < SHOWN_AFTER:
            return ""
        rest = (step.steps + 1) * (self.restarts - step.restart) - step.step - 1
        return f"{about(statistics.median(self.durations[-MEDIAN_OF:]) * rest + self.afterwards)} left"


def about(seconds: float) -> str:
    """A guessed time."""
    return "a few seconds" if seconds < 5 else f"about {duration(seconds)}"


def duration(seconds: float) -> str:
    """A time as one says it: to 5 s below ten minutes, to minutes above."""
    if seconds < 5:
        return f"{seconds:.1f} s"
    seconds = 5 * round(seconds / 5)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _live_bar(stop: Stop) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Note(ProgressColumn):
        """Redrawn ten times a second, so Ctrl-C is answered at once though the step goes on."""

        def render(self, task: Any) -> Text:
            return Text("Stopping after this step… (again to abandon)" if stop.requested else task.fields["note"])

    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        Note(),
        console=Console(stderr=True),
        transient=True,
    )
    return bar, bar.add_task("Starting", total=None, note="")
