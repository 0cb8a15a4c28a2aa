"""Park's frequency defence: where the scan's spectrum is unusual, a small network takes noise out of it.

    g(x) = R(x) if d(s(x)) > threshold, else x

s is the spectrum of the scan's blocks (the frequency converter, see `spectrum`), d the Mahalanobis distance from clean
scans' spectra (the detector), R a network that was trained to take N(0, sigma) out of clean scans (the reformer, see
`reformer`). The switch has no gradient: an attack takes every scan for flagged, or none; R's own gradient is exact.

Park et al. 2020, arXiv 2009.11090, of which only the abstract was read: it names the three parts and not what they are,
so all three are ours. Training a reformer on noise is after Meng & Chen 2017, arXiv 1705.09064.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perturbox.attacks.settings import Param
from perturbox.defenses import defense
from perturbox.defenses.filters import IDENTITY
from perturbox.defenses.reformer import Reformer, reformed
from perturbox.defenses.spectrum import Usual, length, spectrum
from perturbox.model.defended import Defense, StandIn
from perturbox.types import InputError
from perturbox.zoo.models import FILTERS

SHIPPED = FILTERS / "park-ct.safetensors"
SCHEMA, TOLD = "perturbox-park/1", "park"
LARGEST = 1 << 22  # bytes of a file; one has less than a tenth of it
TRAIN = "make weights with `python -m perturbox.defenses.training`."


@dataclass(frozen=True, eq=False)
class Trained:
    """What was learned from clean scans of one unit. sigma: of the noise that the reformer takes out, in that unit;
    weights: the reformer's; usual: of the spectra of 2D and 3D scans, those there were; facts: how it was made."""

    unit: str
    sigma: float
    weights: Mapping[str, Tensor]
    usual: Mapping[int, Usual]
    facts: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def flags(self, x: Tensor, threshold: float | None = None) -> Tensor:
        """bool "b c": which channels of scans "b c *s" have a spectrum further from usual ones than a threshold, its
        own if none is given. Raises InputError for scans of other dimensions than those it has learned from."""
        dims = x.dim() - 2
        if dims not in self.usual:
            known = " and ".join(f"{one}D" for one in self.usual)
            raise InputError(
                f"The weights of park have learned from {known} scans only and this one is {dims}D; {TRAIN}"
            )
        spectra, any_ = spectrum(x, self.sigma)
        known = self.usual[dims]
        far = known.distance(spectra) > (known.threshold if threshold is None else threshold)
        return (far & any_).reshape(x.shape[:2])

    def reform(self, x: Tensor, spacing: tuple[float, ...]) -> Tensor:
        """Scans without what the network takes for noise."""
        return reformed(x, spacing, self.weights, self.sigma)

    def write(self, path: Path) -> None:
        """Write to `path`: safetensors, tensors and words only; the network as float16."""
        tensors = {f"net|{name}": weight.detach().half().contiguous() for name, weight in self.weights.items()}
        for dims, one in self.usual.items():
            tensors |= {f"{dims}|mean": one.mean, f"{dims}|covariance": one.covariance}
            tensors[f"{dims}|threshold"] = torch.tensor(one.threshold, dtype=torch.float64)
        told = {"schema": SCHEMA, "unit": self.unit, "sigma": self.sigma, "facts": dict(self.facts)}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            save_file(tensors, part, metadata={TOLD: json.dumps(told)})
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> "Trained":
        """Read what `write` wrote; raises InputError where the file is missing, damaged or something else."""
        if not path.is_file():
            raise InputError(f"There are no weights '{path}' of park; {TRAIN}")
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError
            with safe_open(path, framework="pt") as file:
                told = json.loads((file.metadata() or {})[TOLD])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
            return _made(told, tensors, hashlib.sha256(path.read_bytes()).hexdigest())
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
            raise InputError(f"'{path}' holds no weights of park, or is damaged; {TRAIN}") from None


def _made(told: Mapping[str, Any], tensors: dict[str, Tensor], sha256: str) -> Trained:
    """What a file holds, checked; raises ValueError, TypeError or KeyError where it is something else."""
    unit, sigma, facts = told["unit"], float(told["sigma"]), told["facts"]
    if told["schema"] != SCHEMA or not isinstance(unit, str) or not unit.isprintable() or not isinstance(facts, dict):
        raise ValueError
    if not isfinite(sigma) or sigma <= 0 or not all(torch.isfinite(one).all() for one in tensors.values()):
        raise ValueError
    shapes = {f"net|{name}": one.shape for name, one in Reformer().state_dict().items()}
    found = [dims for dims in (2, 3) if f"{dims}|mean" in tensors]
    for dims in found:
        size = length(dims)
        shapes |= {f"{dims}|mean": (size,), f"{dims}|covariance": (size, size), f"{dims}|threshold": ()}
    there = {name: tuple(one.shape) for name, one in tensors.items()}
    if not found or there != {name: tuple(shape) for name, shape in shapes.items()}:
        raise ValueError
    usual = {}
    for dims in found:
        mean, covariance, threshold = (tensors[f"{dims}|{part}"] for part in ("mean", "covariance", "threshold"))
        if covariance.dtype != torch.float64 or not torch.equal(covariance, covariance.T):
            raise ValueError
        if torch.linalg.cholesky_ex(covariance).info:  # no covariance at all
            raise ValueError
        usual[dims] = Usual(mean.double(), covariance, float(threshold))
    weights = {name[4:]: one.float() for name, one in tensors.items() if name.startswith("net|")}
    return Trained(unit, sigma, weights, usual, facts, sha256)


@defense(
    title="Park's frequency detector and reformer",
    paper="after Park et al. 2020, arXiv 2009.11090 (abstract)",
    inverse="always reformed: the network's gradient, once more for each slice; never flagged: nothing",
    deviations=(
        "only the paper's abstract was read, which names a frequency converter, a detector and a reformer and not what "
        "they are: all three are ours",
        "converter: log|DCT| of blocks of 8 voxels along each axis, their mean by distance from the block's own mean",
        "detector: Mahalanobis distance from clean scans' spectra; it passes 95 % of clean scans like those it is of",
        "reformer: a residual U-Net of 10,969 weights, trained to take Gaussian noise out of clean scans",
        "the shipped weights are of phantom CTs of 3 mm: scans of patients may all be flagged, and are then reformed",
        "3D: the network goes slice by slice, so that a whole scan fits in memory",
    ),
)
def park(
    weights: Annotated[
        str | None, Param("File of other weights, made by `python -m perturbox.defenses.training`", local=True)
    ] = None,
    threshold: Annotated[
        float | None,
        Param(
            "Distance from which a scan is reformed; that of the weights if not given, 0 for every scan",
            minimum=0,
            maximum=1e6,
        ),
    ] = None,
) -> Defense:
    """Takes noise out of scans whose spectrum is unusual."""
    path = SHIPPED if weights is None else Path(weights).absolute()
    trained = Trained.read(path)

    def reform(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        return trained.reform(x, spacing)

    def switched(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        flagged = trained.flags(x, threshold)
        if not flagged.any():
            return x
        return torch.where(flagged[(..., *[None] * (x.dim() - 2))], trained.reform(x, spacing), x)

    return Defense(
        "",
        switched,
        (StandIn("always reformed", reform), StandIn("never flagged", IDENTITY.twin)),
        settings={"weights": None if weights is None else str(path), "threshold": threshold},
        files={"weights": trained.sha256},
        unit=trained.unit,
    )
