"""What stands between a scan and a network: steps that plan themselves on one scan, and the way back for decisions.

`Pipeline` is a list of steps; `Pipeline.plan(scan)` gives a `Plan`, which takes a scan to the network's grid
(differentiable), and scores, labels and masks from one grid to the other. `Decision` is what follows the network.
"""

from perturbox.model.pipeline.decision import Decision
from perturbox.model.pipeline.intensity import frozen_statistics
from perturbox.model.pipeline.plan import Pipeline, Plan
from perturbox.model.pipeline.step import Bound, Frame, Step, step_from

__all__ = ["Bound", "Decision", "Frame", "Pipeline", "Plan", "Step", "frozen_statistics", "step_from"]
