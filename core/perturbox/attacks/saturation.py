"""Scores so far apart that a softmax or sigmoid of them has no gradient in float32.

exp(-88) is the last that float32 holds in full, and a loss divides it by the number of voxels: where the chosen answer
leads by more, the gradient of every loss made of probabilities is 0 whatever the network does. Such a model looks
sturdy and isn't. Dividing all scores by one number changes no label, so an attack may do so before its loss (as Carlini
& Wagner 2017, arXiv 1608.04644, did to defensive distillation).
"""

import math

import torch
from torch import Tensor

LEAD = 80.0  # of the chosen answer, in logits, beyond which the others' probabilities vanish
SHARE = 0.02  # of the voxels the loss looks at: where more than this lie closer, they carry a gradient that will do
USUAL = 8.0  # the median lead of a model that is trained as usual
CARRIED = 64.0  # a lead that still leaves a gradient
SAMPLE = 2**16  # voxels looked at


def leads(logits: Tensor, weight: Tensor, multi_label: bool) -> Tensor:
    """By how much the chosen answers lead at a sample of the voxels with weight; logits "1 k *g", weight "1 *g"."""
    places = torch.nonzero(weight.flatten()).flatten()
    places = places[:: max(1, len(places) // SAMPLE)]
    scores = logits.detach()[0].flatten(1)[:, places].double()  # differences of what float32 just holds
    if multi_label or len(scores) < 2:
        return scores.abs().flatten()
    best = scores.topk(2, 0).values
    return best[0] - best[1]


def scale_of(logits: Tensor, weight: Tensor, multi_label: bool) -> float:
    """What to divide scores by: 1 unless nearly all are too far apart. A power of two, so that dividing rounds nothing.

    A sharp model of which some voxels still carry a gradient is left as it is: divided, a soft Dice no longer follows
    the Dice that counts.
    """
    lead = leads(logits, weight, multi_label)
    if not bool(torch.isfinite(lead).all()) or int((lead <= LEAD).sum()) > SHARE * len(lead):
        return 1.0
    ordered = lead.sort().values
    middle, high = (float(ordered[int(share * len(lead))]) for share in (0.5, 0.9))
    return 2.0 ** math.ceil(math.log2(max(middle / USUAL, high / CARRIED)))
