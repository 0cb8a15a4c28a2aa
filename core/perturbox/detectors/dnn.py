"""DNN: small networks that learned attacked scans by the features of each layer."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from perturbox.detectors.method import Layout, Method, Parts, learner, shown, standard, table, vector
from perturbox.detectors.seen import Sample

HIDDEN = 16


class Dnn(Method):
    """A network of one hidden layer per layer of the victim, their mean. One of the detectors that HFC was tried on:
    Yao et al. 2020, arXiv 2012.09501."""

    title = "Small neural network"
    paper = "one of the detectors of Yao et al. 2020, arXiv 2012.09501"
    deviations = (
        "features of all classes that the model finds side by side, standardised; a class it doesn't find is as the "
        "mean",
        "the paper's code doesn't show its layers; here 16 hidden units with tanh, fitted by L-BFGS with a weight "
        "penalty of 0.01",
        "the mean of the networks' log odds is the score",
    )
    supervised, two_sided = True, False

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        every, parts = [*clean, *attacked], {}
        y = np.repeat([0, 1], [len(clean), len(attacked)])
        kind = learner("neural_network", "MLPClassifier")
        for layer in clean[0].features:
            means, scales = standard(table(clean, layer), shown(clean))
            x = vector(table(every, layer), shown(every), means, scales).cpu().numpy()
            network = kind((HIDDEN,), activation="tanh", solver="lbfgs", alpha=1e-2, max_iter=300, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a fit that isn't at its end yet is a fit
                network.fit(x, y)
            (first, last), (inner, outer) = network.coefs_, network.intercepts_
            found = {"means": means, "scales": scales}
            arrays = {"first": first, "inner": inner, "last": last[:, 0], "outer": outer[0]}
            found |= {name: torch.tensor(array, dtype=torch.float64) for name, array in arrays.items()}
            parts |= {f"{layer}|{name}": part for name, part in found.items()}
        return parts

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        odds = []
        for layer, features in sample.features.items():
            means, scales, first, inner, last, outer = (
                parts[f"{layer}|{name}"] for name in ("means", "scales", "first", "inner", "last", "outer")
            )
            x = vector(features, sample.present, means, scales)
            odds.append(torch.tanh(x @ first + inner) @ last + outer)
        return torch.stack(odds).mean()

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        shapes: dict[str, tuple[int | str, ...]] = {}
        for layer, channels in layout.layers.items():
            size = (layout.groups, channels)
            own = {"means": size, "scales": size, "first": (layout.groups * channels, HIDDEN), "inner": (HIDDEN,)}
            own |= {"last": (HIDDEN,), "outer": ()}
            shapes |= {f"{layer}|{name}": shape for name, shape in own.items()}
        return shapes

    def require(self, parts: Parts) -> None:
        if not all((part > 0).all() for name, part in parts.items() if name.endswith("|scales")):
            raise ValueError
