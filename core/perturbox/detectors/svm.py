"""SVM: a support vector machine that learned attacked scans by the features of the last hidden layer."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from perturbox.detectors.method import (
    MACHINE,
    Layout,
    Method,
    Parts,
    kernel_sum,
    learner,
    machine,
    shown,
    standard,
    table,
    vector,
)
from perturbox.detectors.seen import Sample


class Svm(Method):
    """Support vectors of pooled features. One of the detectors that HFC was tried on: Yao et al. 2020, arXiv
    2012.09501."""

    title = "Support vector machine"
    paper = "one of the detectors of Yao et al. 2020, arXiv 2012.09501"
    deviations = (
        "features of all classes that the model finds side by side, standardised; a class it doesn't find is as the "
        "mean",
        "the paper's code doesn't show its kernel; here a Gaussian one, scikit-learn's own width and C = 1, both kinds "
        "of scans weighed alike",
        "its decision value is the score, not a probability",
    )
    supervised, two_sided, last_layer = True, False, True

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        (layer,) = clean[0].features
        means, scales = standard(table(clean, layer), shown(clean))
        every = [*clean, *attacked]
        x = vector(table(every, layer), shown(every), means, scales).cpu().numpy()
        y = np.repeat([0, 1], [len(clean), len(attacked)])
        fitted = learner("svm", "SVC")(kernel="rbf", class_weight="balanced").fit(x, y)
        return {"means": means, "scales": scales, **machine(fitted)}

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        (features,) = sample.features.values()
        return kernel_sum(vector(features, sample.present, parts["means"], parts["scales"]), parts)

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        channels = sum(layout.layers.values())
        own: dict[str, tuple[int | str, ...]] = dict.fromkeys(("means", "scales"), (layout.groups, channels))
        return own | MACHINE | {"vectors": ("vectors", layout.groups * channels)}

    def require(self, parts: Parts) -> None:
        if not (parts["scales"] > 0).all() or not parts["gamma"] > 0:
            raise ValueError
