"""HFC: any attack that climbs a loss, held to features that look like clean ones in every layer, so that detectors in
feature space are passed.

    J = J_base - lambda * sum over layers of mean (L_k^T (phi - mu_k))^2

phi: features pooled inside the voxels of a class aimed at, or given now where none is; (mu_k, L_k): the most probable
component, without gradient, of a Gaussian mixture of that class's features on clean scans, L_k the Cholesky factor of
its precision. Yao et al. 2020, arXiv 2012.09501; 2023, arXiv 2312.01679.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Model, Objective, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.features import Features
from perturbox.attacks.on_scan import Answered, buffers_of, queries_of
from perturbox.attacks.recipes import Param, Settings, recipe
from perturbox.attacks.recipes.added import (
    Base,
    BaseSettings,
    Fitted,
    absolute,
    base_words,
    built_base,
    with_objectives,
)
from perturbox.model.pooling import cut, groups_of, require_maps
from perturbox.model.sliding import Inside
from perturbox.model.victim import Victim
from perturbox.model.windows import Place
from perturbox.types import InputError, Volume


def fitted_features(path: str | None) -> Fitted[Features]:
    """The features of clean scans."""
    return Fitted(
        path,
        Features.read,
        "hfc needs features of clean scans; make them with `perturbox fit-features SCAN … --victim MODEL --out FILE` "
        "and give --set features=FILE.",
    )


def require_own(clean: Fitted[Features], victim: Victim) -> None:
    """Raises InputError where the features are not this victim's."""
    found = clean.value
    if not victim.is_the_one(found.sha256):
        raise InputError(
            f"The features in '{clean.path}' were fitted on other weights ({found.victim}) than those of "
            f"{victim.name}; fit them on this model."
        )
    modules = dict(victim.network.named_modules())
    missing = [layer for layer in found.layers if layer not in modules]
    if missing or found.window != victim.window.size:
        what = f"the layer '{missing[0]}'" if missing else f"windows of {found.window} voxels"
        raise InputError(f"The features in '{clean.path}' are of {what}, which {victim.name} lacks; fit them again.")


@dataclass(frozen=True, eq=False)
class Camouflaged:
    """The objective J: a base objective minus the distance of the features from clean ones."""

    base: Objective
    clean: Fitted[Features]
    weight: float

    @property
    def queries(self) -> int:
        return queries_of(self.base)

    @property
    def buffers(self) -> int:
        return buffers_of(self.base)

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        if not self.weight:
            return self.base(model, x, task, progress)
        logits, distance = self.look(model, x, task)
        return self.base(Answered(model, x, logits), x, task, progress) - self.weight * distance

    def look(self, model: Model, x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
        """(logits, sum over layers of the mean over windows, cells and classes of mean (L_k^T (phi - mu_k))^2)."""
        features = self.clean.value
        if "region" not in task.memory:
            task.memory["region"] = region(model, task)
        held, labels, counts = task.memory["region"], task.labels[:, None], {}

        def distance(maps: dict[str, Tensor], places: list[Place], prediction: Tensor) -> Tensor:
            require_maps(maps, prediction)
            masks = groups_of(aimed(prediction.detach(), cut(labels, places)[:, 0], task), prediction.shape[1])
            inside = cut(held, places)
            masks = masks * (inside if inside.shape[1] == 1 else torch.cat([inside, inside], 1))
            first = (places[0].image, *(side.start for side in places[0].box))
            total, counts[first] = features.distance(maps, masks)  # once more when windows are recomputed
            return total

        logits, total = model.look_inside(x, Inside(features.layers, distance))
        return logits, len(features.layers) * total / max(1, sum(counts.values()))


def aimed(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """What each voxel is to look like: the label to be reached, or, where labels are only to be left, what the model
    says now.

    logits "n k *p", labels "n *p"; classes "n *p", or yes-or-no answers "n k *p" of a multi-label network.
    """
    if task.regions is not None:
        return task.regions[labels].movedim(-1, 1) if task.targeted else logits > 0
    return labels if task.targeted else logits.argmax(1)


def region(model: Model, task: Task) -> Tensor:
    """bool "b a *g": what is to change. All that the loss counts; where labels are to be reached, only the answers that
    are others on the clean scan."""
    within = (task.weight > 0)[:, None]
    if not task.targeted:
        return within
    assert task.clean is not None
    with torch.no_grad():
        logits = model(task.clean)
    if task.regions is None:
        return within & (logits.argmax(1) != task.labels)[:, None]
    return within & ((logits > 0) != task.regions[task.labels].movedim(-1, 1))


def resolve(settings: Settings) -> Settings:
    """The base attack's settings with its defaults, and the file by its absolute path."""
    return {"base_settings": base_words("hfc", settings), "features": absolute(settings["features"])}


def check(victim: Victim, image: Volume, settings: Settings) -> None:
    """As the base attack does; raises InputError where the features are not this victim's."""
    built_base("hfc", settings).check(victim, image)
    require_own(fitted_features(settings["features"]), victim)


@recipe(
    title="HFC",
    paper="Yao et al. 2020, arXiv 2012.09501; 2023, arXiv 2312.01679",
    norms=("linf", "l2"),
    cost="as the base attack; where labels are to be reached 1 forward more per restart",
    deviations=(
        "features are pooled inside the voxels that are to change, class by class, in each cell of each window",
        "where labels are only to be left, no class is aimed at: each voxel is to look like the class it is given now",
        "the base attack keeps its own step size, by default PGD's on soft Dice + cross-entropy",
        "covariances are drawn towards their diagonal where there are few samples",
    ),
    family="loss",
    check=check,
    resolve=resolve,
)
def hfc(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    base: Base = "pgd",
    base_settings: BaseSettings = "",
    features: Annotated[
        str | None,
        Param(
            "File of the model's features on clean scans, made by `perturbox fit-features`", local=True, required=True
        ),
    ] = None,
    feature_weight: Annotated[float, Param("Weight lambda of the distance from clean features", minimum=0)] = 1.0,
) -> Attack:
    """An attack whose features look clean."""
    clean = fitted_features(features)
    built = built_base("hfc", {"base": base, "base_settings": base_settings, "eps": eps, "norm": norm, "steps": steps})
    return with_objectives(built.attack, lambda objective: Camouflaged(objective, clean, feature_weight))
