"""The study file: typed YAML, checked before anything loads, refused with the line that is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from perturbox import corruptions
from perturbox.attacks import recipes
from perturbox.corruptions import GRADES
from perturbox.defenses import require_known
from perturbox.errors import InputError, did_you_mean

SCHEMA = "perturbox-study/1"
KINDS = {
    "curve": "Dice against the limit, per structure, beside noise of the same size",
    "worst-case": "for each case the worst of several attacks",
    "transfer": "what a change made for one model does to others, and which factor of their training matters",
    "universal": "one change made on some cases, tried on others",
    "non-inferiority": "whether a new version is no more fragile than the old one, by a margin stated beforehand",
    "corruptions": "ordinary changes that a clinic meets, beside an attack: as large as it, and in their own grades",
    "defences": "what defences are worth against attacks that don't know of them, and against those that do",
}
Kind = Literal["curve", "worst-case", "transfer", "universal", "non-inferiority", "corruptions", "defences"]
ADAPTIVE, OBLIVIOUS = "adaptive", "oblivious"  # attacks on a defended model, with and without knowledge of its defence
Factor = str | int | float | bool
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Grade = Annotated[int, Field(ge=1, le=GRADES[-1])]


class Strict(BaseModel):
    """No unknown keys, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Strict):
    """A model of the study. victim: as --victim takes it; defense: filters before it, as --defense takes them, the
    first nearest to the scan, for `defences`; factors: what its training differs in, for `transfer`; trained_on: a text
    file with the SHA-256 of each training scan, a line each, which are left out of the cases."""

    victim: str
    defense: list[str] = []
    factors: dict[str, Factor] = {}
    trained_on: str | None = None

    @field_validator("defense")
    @classmethod
    def _offered(cls, given: list[str]) -> list[str]:
        """What the model says of them is seen when it is loaded."""
        try:
            require_known(*given)
        except InputError as error:
            raise ValueError(str(error)) from None
        return given


class Cases(Strict):
    """The scans. images: files or patterns such as scans/*.nii.gz; labels: the expert's, with {name} for the scan's
    name without suffix; patient: who a scan is of, {name} or a part of it, {name[:7]}: the unit of the statistics."""

    images: list[str]
    labels: str | None = None
    label_map: str | None = None
    patient: str = "{name}"

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("images"), str):
            return {**given, "images": [given["images"]]}
        return given


class AttackOf(Strict):
    """An attack of `perturbox list attacks`. label: what tables call it, its name if there is none."""

    name: str
    steps: Annotated[int, Field(gt=0)] | None = None
    settings: dict[str, Any] = {}
    label: str | None = None

    @model_validator(mode="after")
    def _known(self) -> "AttackOf":
        try:
            recipes.get(self.name).build(1.0, "linf", self.steps, self.settings, local=True)
        except InputError as error:
            if "norm" not in str(error):
                raise ValueError(str(error)) from None
        return self

    @property
    def called(self) -> str:
        return self.label or self.name


class Limit(Strict):
    """The largest change. unit: native (HU on CT), sigma (of each scan's noise) or percent (of its 1–99 % range)."""

    values: Annotated[list[Positive], Field(min_length=1)]
    unit: Literal["native", "sigma", "percent"] = "native"
    norm: Literal["linf", "l2"] = "linf"


class Gate(Strict):
    """Models that failed to train are struck out: mean clean Dice of each structure must reach this."""

    clean_dice: Annotated[float, Field(ge=0, le=1)] = 0.5


class Criterion(Strict):
    """What is promised before the run: at this limit the lower end of the interval of every structure's mean Dice is at
    least `dice`, whatever the attack."""

    eps: Positive
    dice: Annotated[float, Field(gt=0, le=1)]


class NonInferiority(Strict):
    """new, old: names of models; margin: the fall of Dice by which the new may exceed the old, stated beforehand."""

    new: str
    old: str
    margin: Annotated[float, Field(gt=0, lt=1)]


class Study(Strict):
    """A study file; docs/studies.md explains every key."""

    schema_: Literal["perturbox-study/1"] = Field(alias="schema")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}$")]
    kind: Kind
    question: str = ""
    models: Annotated[dict[str, Model], Field(min_length=1)]
    cases: Cases
    attacks: Annotated[list[AttackOf], Field(min_length=1)]
    eps: Limit
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    threads: Annotated[int, Field(gt=0, le=64)] = 1
    target: list[str] = []
    gate: Gate | None = None
    compare: NonInferiority | None = None
    criterion: Criterion | None = None
    craft_on: list[str] = []
    corruptions: list[str] = []
    grades: list[Grade] = list(GRADES)
    keep_worst: Annotated[int, Field(ge=0, le=20)] = 3
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95

    @field_validator("models")
    @classmethod
    def _beside_their_plain_ones(cls, given: dict[str, Model]) -> dict[str, Model]:
        for name, model in given.items():
            if model.defense and _plain_of(given, name) is None:
                raise ValueError(
                    f"'{name}' stands behind a defence; name '{model.victim}' without one among the models too, for "
                    "what doesn't know of the defence is made for that one"
                )
        return given

    @field_validator("corruptions", "grades")
    @classmethod
    def _once(cls, given: list[Any]) -> list[Any]:
        if twice := [value for value in given if given.count(value) > 1]:
            raise ValueError(f"'{twice[0]}' stands there twice")
        return given

    @field_validator("corruptions")
    @classmethod
    def _of_one_physics(cls, given: list[str]) -> list[str]:
        """Which physics it must be, the models say."""
        try:
            for name in given:
                corruptions.named(name)
        except InputError as error:
            raise ValueError(str(error)) from None
        alone = {kind: next((n for n in given if corruptions.kinds(n) == {kind}), None) for kind in corruptions.SAID}
        if all(alone.values()):
            raise ValueError(f"{alone['ct']} happens to CT and {alone['mr']} to MR; a study is of one of them")
        return given

    @model_validator(mode="after")
    def _can_answer(self) -> "Study":
        names = [attack.called for attack in self.attacks]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two attacks are called '{twice[0]}'; give one of them a `label`")
        if self.kind == "transfer" and len(self.models) < 2:
            raise ValueError("a transfer study needs at least two models")
        if self.kind == "worst-case" and len(self.attacks) < 2:
            raise ValueError("a worst-case study needs at least two attacks to take the worst of")
        if self.kind == "non-inferiority":
            if self.compare is None:
                raise ValueError("a non-inferiority study needs `compare: {new, old, margin}`")
            for name in (self.compare.new, self.compare.old):
                if name not in self.models:
                    raise ValueError(f"`compare` names '{name}', which isn't among the models")
            if self.compare.new == self.compare.old:
                raise ValueError("`compare` names the same model twice")
        elif self.compare is not None:
            raise ValueError("`compare` belongs to a study of kind non-inferiority")
        behind = [name for name, model in self.models.items() if model.defense]
        if self.kind == "defences" and not behind:
            raise ValueError("a defences study needs a model with a `defense`, as in defense: [median]")
        if self.kind != "defences" and behind:
            raise ValueError(
                f"the `defense` of '{behind[0]}' belongs to a study of kind defences, which attacks it with and "
                "without knowledge of it"
            )
        if self.kind != "corruptions" and (self.corruptions or self.grades != list(GRADES)):
            raise ValueError("`corruptions` and `grades` belong to a study of kind corruptions")
        if self.criterion is not None and self.criterion.eps not in self.eps.values:
            raise ValueError(f"`criterion` names the limit {self.criterion.eps:g}, which isn't among `eps.values`")
        if (self.kind == "universal") != bool(self.craft_on):
            raise ValueError("`craft_on` (the scans one change is made on) and the kind universal need each other")
        if self.gate is not None and self.cases.labels is None:
            raise ValueError("`gate` compares with labels; name `labels` under `cases`, or leave the gate out")
        for attack in self.attacks:
            recipe = recipes.get(attack.name)
            if self.eps.norm not in recipe.norms:
                raise ValueError(f"{attack.name} has no norm {self.eps.norm}; it has {', '.join(recipe.norms)}")
            if (recipe.family == "universal") != (self.kind == "universal"):
                raise ValueError(f"{attack.name} and a study of kind {self.kind} don't fit")
        return self

    def plain_of(self, name: str) -> str | None:
        """The model that a defended one is without its defences; None of a model without any."""
        return _plain_of(self.models, name) if self.models[name].defense else None


def _plain_of(models: Mapping[str, Model], name: str) -> str | None:
    victim = models[name].victim
    return next((other for other, model in models.items() if model.victim == victim and not model.defense), None)


def read_study(path: Path) -> Study:
    """The study of a YAML file; relative paths in it start at its folder. Raises InputError with the line."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"'{path}' can't be read ({error.strerror}); name a study file.") from None
    except UnicodeDecodeError:
        raise InputError(f"'{path}' isn't text; name a study file (YAML).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it can't be parsed"
        raise InputError(f"{path}{line}: this isn't YAML ({problem}).") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}, line 1: a study is a list of `key: value`; see docs/studies.md.")
    if twice := _repeated(root):
        raise InputError(f"{path}, line {twice[1]}: the key '{twice[0]}' stands there twice; leave one out.")
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{path}, line {_line(root, first['loc'])}: {_said(first)}.") from None


def _said(error: Any) -> str:
    """What pydantic found, in our words."""
    where = ".".join(str(part) for part in error["loc"] if part != "function-after[_known(), AttackOf]")
    kind, message = error["type"], error["msg"].removeprefix("Value error, ").rstrip(".")
    if kind == "extra_forbidden":
        known = _known(error["loc"])
        hint = did_you_mean(str(error["loc"][-1]), known, f"there are {', '.join(known)}")
        return f"there is no key '{where}'; {hint}".rstrip(".")
    if kind == "missing":
        return f"'{where}' is missing"
    if kind == "value_error":
        return message[:1].lower() + message[1:] if not where else f"'{where}': {message}"
    if kind == "string_pattern_mismatch":
        message = "take letters, digits, spaces, dots, dashes and underscores, at most 80, the first a letter or digit"
    return f"'{where}' can't be {error['input']!r}: {message[:1].lower() + message[1:]}"


def _known(loc: tuple[str | int, ...]) -> list[str]:
    """The keys that may stand beside the unknown one."""
    kinds: dict[str, type[BaseModel]] = {
        "models": Model, "cases": Cases, "attacks": AttackOf, "eps": Limit, "gate": Gate,
        "compare": NonInferiority, "criterion": Criterion,
    }  # fmt: skip
    fields = (kinds.get(str(loc[0]), Study) if len(loc) > 1 else Study).model_fields
    return [field.alias or name for name, field in fields.items()]


def _line(node: Any, loc: tuple[str | int, ...]) -> int:
    """The line of the deepest part of a location that the file has."""
    line = node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _repeated(node: Any) -> tuple[str, int] | None:
    """A key that stands twice in one mapping, which YAML forbids and its parser doesn't tell."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                return key.value, key.start_mark.line + 1
            seen.add(key.value)
            if found := _repeated(value):
                return found
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            if found := _repeated(value):
                return found
    return None
