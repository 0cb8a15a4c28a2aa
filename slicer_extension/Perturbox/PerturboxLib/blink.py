"""Before and after in turn in one view, twice a second: a scan that stands still while the outline moves."""

import qt

from .mistakes import told

INTERVAL_MS = 250  # each picture; 2 Hz, below the 3 flashes a second that can harm (WCAG)


class Blink:
    """Alternates the view that shows the perturbed scan. Ends by itself where the mode or the result changes or the
    views are left, and always puts opacities, labels and text back."""

    def __init__(self, viewer):
        self.viewer = viewer
        self.view = ""
        self.phase = "after"
        self.timer = qt.QTimer()
        self.timer.setInterval(INTERVAL_MS)
        self.timer.connect("timeout()", self.flip)
        viewer.onChange(self.stop)

    @property
    def running(self) -> bool:
        return bool(self.view)

    def start(self) -> None:
        """Begin with the picture before; nothing where no result is shown or several planes are."""
        if self.running or self.viewer.nodes is None or self.viewer.mode == "fourUp":
            return
        self.view = self.viewer.afterView()
        self._show("before")
        self.timer.start()

    @told
    def flip(self) -> None:
        """Show the other picture."""
        if self.running:
            self._show("after" if self.phase == "before" else "before")

    @told
    def stop(self) -> None:
        """End it and show what the mode shows."""
        self.timer.stop()
        if self.running:
            view, self.view = self.view, ""
            self.viewer.setPhase(view, None)

    def _show(self, phase: str) -> None:
        self.phase = phase
        self.viewer.setPhase(self.view, phase)
