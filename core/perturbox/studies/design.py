"""The form of a study file: typed, so that what can't answer its question is refused before anything loads."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from perturbox import corruptions, detectors
from perturbox.attacks import recipes
from perturbox.certificates.smoothed import MOST_VOTES
from perturbox.corruptions import GRADES
from perturbox.defaults import ALPHA, CHOOSERS, TAU
from perturbox.defenses import require_known
from perturbox.errors import InputError

SCHEMA = "perturbox-study/1"
KINDS = {
    "curve": "Dice against the limit, per structure, beside noise of the same size",
    "worst-case": "for each case the worst of several attacks",
    "transfer": "what a change made for one model does to others, and which factor of their training matters",
    "universal": "one change made on some cases, tried on others",
    "non-inferiority": "whether a new version is no more fragile than the old one, by a margin stated beforehand",
    "corruptions": "ordinary changes that a clinic meets, beside an attack: as large as it, and in their own grades",
    "defences": "what defences are worth against attacks that don't know of them, and against those that do",
    "certify": "of which voxels it is proved that no small change alters the answer of the smoothed model",
    "detectors": "whether detectors see attacks, and whether some attacks pass them, at equal success",
}
Kind = Literal[
    "curve", "worst-case", "transfer", "universal", "non-inferiority", "corruptions", "defences", "certify", "detectors"
]
Unit = Literal["native", "sigma", "percent"]
ADAPTIVE, OBLIVIOUS = "adaptive", "oblivious"  # attacks on a defended model, with and without knowledge of its defence
CONFIDENCE = 0.95  # of intervals
HIDING = ("hfc", "evade")  # attacks that add to another what hides it from detectors
FEATURES = "features"  # of clean scans, for an attack to hide among
# Keys that are left out of a study's record where they aren't given.
OF_SOME_KINDS = {"attacks", "eps", "certify", "detectors", "success", "features_on"}
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
    unit: Unit = "native"
    norm: Literal["linf", "l2"] = "linf"

    @field_validator("values")
    @classmethod
    def _different(cls, given: list[float]) -> list[float]:
        return once(given)


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


class Certify(Strict):
    """What is certified. sigma: of the noise, in `unit` as of `eps`; tau: the share of noisy copies that a certified
    answer has more than; alpha: the chance that any certified voxel of a scan is wrong in that; n0, n: copies that
    choose the answers, and that vote, as many as it takes if not given."""

    sigma: Annotated[list[Positive], Field(min_length=1)]
    unit: Unit = "native"
    tau: Annotated[float, Field(gt=0.5, lt=1)] = TAU
    alpha: Annotated[float, Field(gt=0, lt=1)] = ALPHA
    n0: Annotated[int, Field(ge=1, le=MOST_VOTES)] = CHOOSERS
    n: Annotated[int, Field(ge=1, le=MOST_VOTES)] | None = None
    correction: Literal["holm", "bonferroni"] = "holm"

    @field_validator("sigma")
    @classmethod
    def _different(cls, given: list[float]) -> list[float]:
        return once(given)


def once(given: list[Any]) -> list[Any]:
    """The list; raises ValueError where a value stands in it twice."""
    if twice := [value for value in given if given.count(value) > 1]:
        raise ValueError(f"'{twice[0]}' stands there twice")
    return given


class Study(Strict):
    """A study file; docs/studies.md explains every key."""

    schema_: Literal["perturbox-study/1"] = Field(alias="schema")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}$")]
    kind: Kind
    question: str = ""
    models: Annotated[dict[str, Model], Field(min_length=1)]
    cases: Cases
    attacks: Annotated[list[AttackOf], Field(min_length=1)] = []
    eps: Limit = Field(default_factory=lambda: Limit.model_construct(values=[]))
    certify: Certify | None = None
    detectors: list[str] = []
    success: Annotated[float, Field(gt=0, lt=1)] = 0.5
    features_on: list[str] = []
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
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = CONFIDENCE

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

    @field_validator("features_on", mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("detectors")
    @classmethod
    def _methods(cls, given: list[str]) -> list[str]:
        try:
            for name in given:
                detectors.get(name)
        except InputError as error:
            raise ValueError(str(error)) from None
        return once(given)

    @field_validator("seeds", "target", "corruptions", "grades")
    @classmethod
    def _once(cls, given: list[Any]) -> list[Any]:
        return once(given)

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
    def _says_what_its_kind_needs(self) -> "Study":
        given = self.model_fields_set
        if self.kind == "certify":
            if self.certify is None:
                raise ValueError("a certify study needs `certify`, as in certify: {sigma: [10, 20]}")
            if others := [name for name in ("attacks", "eps") if name in given] + ["criterion"] * bool(self.criterion):
                raise ValueError(
                    f"`{others[0]}` belongs to a study that attacks; a certify study proves, see `certify`"
                )
            return self
        if self.certify is not None:
            raise ValueError("`certify` belongs to a study of kind certify")
        if self.kind != "detectors" and (others := [n for n in ("detectors", "success", "features_on") if n in given]):
            raise ValueError(f"`{others[0]}` belongs to a study of kind detectors")
        if missing := [name for name in ("attacks", "eps") if name not in given]:
            raise ValueError(f"'{missing[0]}' is missing")
        return self

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
        if self.kind not in ("corruptions", "detectors") and (self.corruptions or self.grades != list(GRADES)):
            raise ValueError("`corruptions` and `grades` belong to a study of kind corruptions or detectors")
        if self.kind == "detectors":
            self._require_detection()
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

    def _require_detection(self) -> None:
        if not self.detectors:
            raise ValueError("a detectors study needs `detectors`, as in detectors: [mahalanobis, entropy]")
        if self.criterion is not None:
            raise ValueError("`criterion` is of one limit, and a detectors study takes each case's own; leave it out")
        if self.confidence != CONFIDENCE:
            raise ValueError("a detectors study tells 95 % intervals; leave `confidence` out")
        if self.grades != list(GRADES) and not self.corruptions:
            raise ValueError("`grades` are of `corruptions`; name some, or leave `grades` out")
        needing = {attack.called: what for attack in self.attacks if (what := self.fitted_for(attack)) is not None}
        for called, what in needing.items():
            if what != FEATURES and detectors.get(what).supervised:
                raise ValueError(
                    f"{called} is to pass {what}, which learns from attacked scans; fit one with `perturbox "
                    "fit-detector` and give its file, or name one that knows clean scans alone"
                )
        if needing and not self.features_on:
            called, what = next(iter(needing.items()))
            hides = "hides among features of" if what == FEATURES else f"is to pass a detector ({what}) of"
            raise ValueError(
                f"{called} {hides} clean scans; name others than `cases` in `features_on`, or give it a file of your "
                "own"
            )
        if self.features_on and not needing:
            raise ValueError(
                "`features_on` is for hfc without `features` of its own and for evade whose `detector` is one's name, "
                "and no attack here is either"
            )

    def document(self) -> dict[str, Any]:
        """As plain JSON, without what only other kinds ask for: what is written down of a study stays as it was where a
        later version knows of more."""
        return self.model_dump(by_alias=True, exclude=OF_SOME_KINDS - self.model_fields_set)

    def fitted_for(self, attack: AttackOf) -> str | None:
        """What the study fits on clean scans for an attack: FEATURES to hide among, or the detector of that name, which
        is to be passed; None of other attacks and of those that bring a file, and in studies of other kinds."""
        return _fitted_for(attack) if self.kind == "detectors" else None

    def plain_of(self, name: str) -> str | None:
        """The model that a defended one is without its defences; None of a model without any."""
        return _plain_of(self.models, name) if self.models[name].defense else None


def _fitted_for(attack: AttackOf) -> str | None:
    if attack.name == "hfc" and FEATURES not in attack.settings:
        return FEATURES
    passed = attack.settings.get("detector") if attack.name == "evade" else None
    return passed if isinstance(passed, str) and passed in detectors.discover() else None


def _plain_of(models: Mapping[str, Model], name: str) -> str | None:
    victim = models[name].victim
    return next((other for other, model in models.items() if model.victim == victim and not model.defense), None)
