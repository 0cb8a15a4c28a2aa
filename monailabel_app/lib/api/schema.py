"""What this server offers: victims, attacks, and for each pair a JSON Schema from which a client builds its form.

`API` is the version of the whole job API. A client sends the major number it was written for in the header
`Perturbox-API`; another major is refused with the sentence which of the two to update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import perturbox
from perturbox.attacks import recipes
from perturbox.defaults import MAX_EPS, UNITS
from perturbox.defenses import Offer as Defence
from perturbox.defenses import offered
from perturbox.jobs import KINDS, MOST_COPIED, Problem, Refused
from perturbox.types import ADVERSARIAL_NOTICE, InputError

API = "1.0"
HEADER = "Perturbox-API"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DEFAULT_VICTIM = "ct-organs"
MOST_STEPS, MOST_EPS, MOST_SEED = 10_000, 100_000.0, 2**53 - 1
TYPES = {"float": "number", "int": "integer", "bool": "boolean", "str": "string"}


def check_handshake(sent: str | None) -> None:
    """Raises Refused(409) where a client was written for another major version of the job API."""
    if sent is None:
        return
    ours = API.partition(".")[0]
    theirs = sent.strip().partition(".")[0]
    if theirs == ours:
        return
    newer = theirs.isascii() and theirs.isdecimal() and (len(theirs), theirs) > (len(ours), ours)
    detail = f"This server speaks version {API} of the job API and the client asked for '{sent[:20]}'."
    raise Refused(409, Problem("other-version", detail, f"Update the {'server' if newer else 'client'}."))


class Served(Protocol):
    """A victim that the operator serves, as the app loaded it."""

    @property
    def spec(self) -> str: ...
    @property
    def described(self) -> Mapping[str, Any]: ...
    @property
    def detectors(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Offer:
    """What clients can choose from; they name a victim by the name it is served by, never by a file of their own.

    victims: by name, may grow while the server runs. device: where jobs run unless they say otherwise. limits: what a
    client should know before it sends something.
    """

    victims: Mapping[str, Served]
    device: str = "cpu"
    limits: Mapping[str, Any] = field(default_factory=dict)

    @property
    def default(self) -> str:
        return DEFAULT_VICTIM if DEFAULT_VICTIM in self.victims else next(iter(self.victims))

    def spec(self, name: str) -> str:
        """How `load_victim` finds a served victim; raises InputError for any other."""
        if name in self.victims:
            return self.victims[name].spec
        raise InputError(f"This server has no victim '{name[:80]}'; it serves {', '.join(self.victims)}.")

    def name(self, spec: str) -> str:
        """The name under which a spec is served, for answers: a spec may hold a path."""
        return next((name for name, own in self.victims.items() if own.spec == spec), "withdrawn")

    def structures(self, name: str) -> dict[str, int]:
        return {label: value for label, value in self.victims[name].described["labels"].items() if value != 0}

    def visible(self, name: str) -> tuple[float, float] | None:
        """The range of values that a victim tells apart; None where it names none."""
        ends = self.victims[name].described.get("intensity_window")
        return (float(ends[0]), float(ends[1])) if ends else None

    def unit(self, name: str) -> str:
        """Of the scans that a victim reads."""
        return str(self.victims[name].described["unit"])

    def detectors(self, victim: str, names: Sequence[str]) -> dict[str, str]:
        """The files of a victim's detectors by name; raises InputError for a name that is none of these."""
        known = self.victims[victim].detectors
        for name in names:
            if name not in known:
                there = f"it has {', '.join(known)}" if known else "its operator names detectors at the start"
                raise InputError(f"This server has no detector '{name[:80]}' of {victim}; {there}.")
        return {name: known[name].file for name in names}

    def document(self) -> dict[str, Any]:
        """The answer of GET /perturbox/schema."""
        return _document(self, tuple((name, tuple(served.detectors)) for name, served in self.victims.items()))


@lru_cache(maxsize=4)
def _document(offer: Offer, names: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[str, Any]:
    attacks = [attack for attack in recipes.offered() if attack.remote]
    defenses = offered()
    models: dict[str, Any] = {}
    for victim, _ in names:
        described = offer.victims[victim].described
        models[victim] = {
            "kind": "segment",
            "victim": victim,
            "attack": None,
            "config_schema": nothing_to_set(),
            "defenses": {
                one.name: defense_schema(one, described, offer.visible(victim))
                for one in defenses
                if one.unit in (None, offer.unit(victim))
            },
        }
        for attack in attacks:
            models[f"{victim}-{attack.name}"] = {
                "kind": "attack",
                "victim": victim,
                "attack": attack.name,
                "config_schema": config_schema(attack, described),
            }
    first = recipes.get(recipes.DEFAULT)
    steps = {"attack": first.steps, "margin": first.margin_steps}
    return {
        "api": API,
        "perturbox": perturbox.__version__,
        "kinds": list(KINDS),
        "victims": [dict(served.described) for served in offer.victims.values()],
        "attacks": [attack.describe() for attack in attacks],
        "families": recipes.FAMILIES,
        "defenses": [one.describe() for one in defenses],
        "detectors": [dict(one.described) for own in offer.victims.values() for one in own.detectors.values()],
        "models": models,
        "defaults": {"victim": offer.default, "attack": first.name, "steps": steps, "max_eps": MAX_EPS},
        "limits": {**offer.limits, "certify_voxels": MOST_COPIED},
        "device": offer.device,
        "notice": ADVERSARIAL_NOTICE,
    }


def nothing_to_set() -> dict[str, Any]:
    return {"$schema": DIALECT, "type": "object", "properties": {}, "additionalProperties": False}


def config_schema(attack: recipes.Recipe, victim: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of what can be set for one attack on one victim, flat, for a generated form.

    x-unit, x-order and x-level (basic, advanced) are for the form; what bears x-in "settings" goes into the request's
    `settings`, all else into the request itself.
    """
    structures = [name for name, value in victim["labels"].items() if value != 0]
    unit = str(victim["unit"])
    goals = ["change", "vanish", "grow", *(f"become={name}" for name in structures)] if attack.targeted else ["change"]
    fields: dict[str, dict[str, Any]] = {
        "eps": {
            "type": "number",
            "title": "Largest change",
            "description": "Of any voxel for norm linf, root mean square for l2; a share of the voxels for l0.",
            "minimum": 0,
            "maximum": MOST_EPS,
            "default": 4.0,
            "x-unit": unit,
        },
        "eps_unit": {
            "type": "string",
            "enum": list(UNITS),
            "title": "Unit of the largest change",
            "description": "The scan's own unit, its own noise (sigma), or percent of its 1-99 % range.",
            "default": UNITS[0],
        },
        "target": {
            "type": "array",
            "items": {"type": "string", "enum": structures},
            "uniqueItems": True,
            "title": "Structures",
            "description": "What the attack tries to change; all that the model finds if empty.",
            "default": [],
        },
        "steps": {
            "type": "integer",
            "title": "Steps",
            "description": "More steps find more and take longer.",
            "minimum": 1,
            "maximum": MOST_STEPS,
            "default": attack.steps,
        },
        "goal": {
            "type": "string",
            "enum": goals,
            "title": "Goal",
            "description": "What shall happen to the structures; all but 'change' need some to be chosen.",
            "default": "change",
        },
        "norm": {
            "type": "string",
            "enum": list(attack.norms),
            "title": "Norm",
            "description": "How the size of a change is measured.",
            "default": "linf" if "linf" in attack.norms else attack.norms[0],
        },
        "seed": {
            "type": "integer",
            "title": "Seed",
            "description": "The same seed gives the same files.",
            "minimum": 0,
            "maximum": MOST_SEED,
            "default": 0,
        },
    }
    if attack.own is not None:
        said = f"A cap on the change of any voxel, besides the attack's own budget, the setting {attack.own.parameter}."
        fields["eps"] |= {"type": ["number", "null"], "default": None, "title": "Cap", "description": said}
    basic = ("eps", "eps_unit", "target", "steps")
    for entry in attack.parameters:
        if not entry["local"]:
            fields[entry["name"]] = setting_schema(entry, unit)
    for order, (name, entry) in enumerate(fields.items()):
        entry |= {"x-order": order, "x-level": "basic" if name in basic else "advanced"}
    return {
        "$schema": DIALECT,
        "title": f"{attack.title} on {victim['title']}",
        "description": attack.paper,
        "type": "object",
        "properties": fields,
        "additionalProperties": False,
    }


def defense_schema(defense: Defence, victim: Mapping[str, Any], visible: tuple[float, float] | None) -> dict[str, Any]:
    """JSON Schema of a defence's settings before one victim, for a generated form; they are written into the request's
    `defense` as NAME:key=value. Ends of a range that the victim doesn't name (visible: None) are required."""
    entries = [entry for entry in defense.parameters_on(visible) if not entry["local"]]
    fields = {entry["name"]: setting_schema(entry, str(victim["unit"]), "") for entry in entries}
    for order, entry in enumerate(fields.values()):
        entry["x-order"] = order
    return {
        "$schema": DIALECT,
        "title": f"{defense.title} before {victim['title']}",
        "description": defense.paper,
        "type": "object",
        "properties": fields,
        "required": [entry["name"] for entry in entries if entry["required"]],
        "additionalProperties": False,
    }


def setting_schema(entry: Mapping[str, Any], unit: str, place: str = "settings") -> dict[str, Any]:
    """JSON Schema of one parameter of a recipe or a defence; unit: of the model's scans, which these call HU. place:
    the part of the request that it goes into."""
    kind = TYPES[entry["type"]]
    optional = entry["default"] is None and not entry.get("required")
    field: dict[str, Any] = {
        "type": [kind, "null"] if optional else kind,
        "title": entry["name"].replace("_", " ").capitalize(),
        "description": entry["help"],
        "default": entry["default"],
    }
    if place:
        field["x-in"] = place
    if entry.get("required"):
        del field["default"]
    if entry["choices"]:
        field["enum"] = list(entry["choices"]) + ([None] if optional else [])
    if entry["minimum"] is not None:
        field["minimum"] = entry["minimum"]
    if entry["maximum"] is not None:
        field["maximum"] = entry["maximum"]
    if entry["unit"]:
        field["x-unit"] = unit if entry["unit"] == "HU" else entry["unit"]
    return field
