"""HFC: any attack that climbs a loss, held to features that look like clean ones in every layer, so that detectors in
feature space are passed.

    J = J_base - lambda * sum over layers of mean (L_k^T (phi - mu_k))^2

phi: features pooled inside the voxels of a class aimed at, or given now where none is; (mu_k, L_k): the most probable
component, without gradient, of a Gaussian mixture of that class's features on clean scans, L_k the Cholesky factor of
its precision. Yao et al. 2020, arXiv 2012.09501; 2023, arXiv 2312.01679.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack, Objective, Scene
from perturbox.attacks.budget import Norm
from perturbox.attacks.features import Features, cut, groups_of, require_maps
from perturbox.attacks.recipes import Param, recipe
from perturbox.model.sliding import Inside
from perturbox.model.victim import Victim
from perturbox.model.windows import Place
from perturbox.types import InputError, Volume


@dataclass(frozen=True, eq=False)
class Seen:
    """A view whose logits of one point are known already; all else is the view's own."""

    view: Any
    x: Tensor
    logits: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.logits if x is self.x else self.view(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.view, name)


@dataclass(frozen=True, eq=False)
class Clean:
    """The file of fitted features, read when it is needed first; path None: the user gave none."""

    path: str | None

    @cached_property
    def features(self) -> Features:
        """Raises InputError where there is no such file or it is damaged."""
        if self.path is None:
            raise InputError(
                "hfc needs features of clean scans; make them with `perturbox fit-features SCAN … --victim MODEL --out"
                " FILE` and give --set features=FILE."
            )
        return Features.read(Path(self.path))

    def check(self, victim: Victim, image: Volume) -> None:
        """Raises InputError where the features are not this victim's."""
        found = self.features
        if found.sha256 != victim.sha256:
            raise InputError(
                f"The features in '{self.path}' were fitted on other weights ({found.victim}) than those of "
                f"{victim.name}; fit them on this model."
            )
        modules = dict(victim.network.named_modules())
        missing = [layer for layer in found.layers if layer not in modules]
        if missing or found.window != victim.window.size:
            what = f"the layer '{missing[0]}'" if missing else f"windows of {found.window} voxels"
            raise InputError(f"The features in '{self.path}' are of {what}, which {victim.name} lacks; fit them again.")


@dataclass(frozen=True, eq=False)
class Camouflaged:
    """The objective J: a base objective minus the distance of the features from clean ones."""

    base: Objective
    clean: Clean
    weight: float

    def __call__(self, view: Any, x: Tensor, scene: Scene, progress: float) -> Tensor:
        if not self.weight:
            return self.base(view, x, scene, progress)
        logits, distance = self.look(view, x, scene)
        return self.base(Seen(view, x, logits), x, scene, progress) - self.weight * distance

    def look(self, view: Any, x: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """(logits, sum over layers of the mean over windows, cells and classes of mean (L_k^T (phi - mu_k))^2)."""
        features = self.clean.features
        if "region" not in scene.memory:
            scene.memory["region"] = region(view, scene)
        held, labels, counts = scene.memory["region"], scene.labels[:, None], {}

        def distance(maps: dict[str, Tensor], places: list[Place], prediction: Tensor) -> Tensor:
            require_maps(maps, prediction)
            masks = groups_of(aimed(prediction.detach(), cut(labels, places)[:, 0], scene), prediction.shape[1])
            inside = cut(held, places)
            masks = masks * (inside if inside.shape[1] == 1 else torch.cat([inside, inside], 1))
            first = (places[0].image, *(side.start for side in places[0].box))
            total, counts[first] = features.distance(maps, masks)  # once more when windows are recomputed
            return total

        logits, total = view.look_inside(x, Inside(features.layers, distance))
        return logits, len(features.layers) * total / max(1, sum(counts.values()))


def aimed(logits: Tensor, labels: Tensor, scene: Scene) -> Tensor:
    """What each voxel is to look like: the label to be reached, or, where labels are only to be left, what the model
    says now.

    logits "n k *p", labels "n *p"; classes "n *p", or yes-or-no answers "n k *p" of a multi-label network.
    """
    if scene.regions is not None:
        return scene.regions[labels].movedim(-1, 1) if scene.towards else logits > 0
    return labels if scene.towards else logits.argmax(1)


def region(view: Any, scene: Scene) -> Tensor:
    """bool "b a *g": what is to change. All that the loss counts; where labels are to be reached, only the answers that
    are others on the clean scan."""
    within = (scene.weight > 0)[:, None]
    if not scene.towards:
        return within
    with torch.no_grad():
        logits = view(scene.clean)
    if scene.regions is None:
        return within & (logits.argmax(1) != scene.labels)[:, None]
    return within & ((logits > 0) != scene.regions[scene.labels].movedim(-1, 1))


def disguised(attack: Attack, clean: Clean, weight: float) -> Attack:
    """The same attack, or all it is made of, on camouflaged objectives."""
    members = tuple(disguised(member, clean, weight) for member in attack.members)
    return replace(attack, objective=Camouflaged(attack.objective, clean, weight), members=members)


def built_base(name: str, eps: float, norm: Norm, steps: int, settings: str) -> Attack:
    """The attack that is added to. Raises InputError for one that doesn't climb a loss by its gradient at the voxels,
    and for settings it doesn't take."""
    found = recipes.get(name)
    words = [part.partition("=") for part in settings.split(",") if part.strip()]
    if any(not equals for _, equals, _ in words):
        raise InputError(f"base_settings={settings} isn't understood; write name=value,name=value.")
    if found.own is None and found.name not in ("hfc", "asma"):  # asma's steps read the objective as an overlap
        attack = found.build(eps, norm, steps, {key.strip(): value.strip() for key, _, value in words})
        if all(leaf.uses_gradient and leaf.keep == "worst" and leaf.space.voxelwise for leaf in attack.leaves()):
            return attack
    raise InputError(f"hfc adds to attacks that climb a loss by its gradient, such as pgd or mi-fgsm, not to {name}.")


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
)
def hfc(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    base: Annotated[str, Param("Attack it is added to: any that climbs a loss by its gradient")] = "pgd",
    base_settings: Annotated[str, Param("Settings of that attack, as loss=ce,alpha=0.5")] = "",
    features: Annotated[
        str | None,
        Param(
            "File of the model's features on clean scans, made by `perturbox fit-features`", local=True, required=True
        ),
    ] = None,
    feature_weight: Annotated[float, Param("Weight lambda of the distance from clean features", minimum=0)] = 1.0,
) -> Attack:
    """An attack whose features look clean."""
    features = None if features is None else str(Path(features).absolute())
    clean = Clean(features)
    found = built_base(base, eps, norm, steps, base_settings)

    def check(victim: Victim, image: Volume) -> None:
        if found.check is not None:
            found.check(victim, image)
        clean.check(victim, image)

    own = {key: value for key, value in found.parameters.items() if key not in ("eps", "norm", "steps")}
    told = ",".join(f"{key}={value}" for key, value in own.items() if value is not None)
    return replace(
        disguised(found, clean, feature_weight), check=check, parameters={"base_settings": told, "features": features}
    )
