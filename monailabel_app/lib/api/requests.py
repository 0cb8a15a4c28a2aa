"""What a client may ask for, checked whole before anything is queued: a `Submission` (JSON) becomes an `Order`.

Whatever can be known without reading the scan is refused here, with the sentence that the command line would give.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lib.api.schema import MOST_EPS, MOST_SEED, MOST_STEPS, Offer
from perturbox.attacks import recipes
from perturbox.attacks.goals import Goal
from perturbox.certificates.smoothed import Question
from perturbox.certificates.statistics import MOST_VOTES
from perturbox.certificates.tree import tree_of
from perturbox.defaults import ALPHA, CHOOSERS, MAX_EPS, TAU
from perturbox.defenses import chain_of
from perturbox.errors import InputError, did_you_mean
from perturbox.job.execute import Job
from perturbox.jobs import Order
from perturbox.judge.units import check_unit
from perturbox.load import check_device
from perturbox.model.defended import MOST as MOST_DEFENSES
from perturbox.model.defended import require_unit

Model = TypeVar("Model", bound=BaseModel)
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Value = bool | int | float | Annotated[str, StringConstraints(max_length=200)] | None
# Which fields mean something for a kind; the rest, if sent, would be ignored in silence.
ALWAYS = {"kind", "image", "session", "victim", "device", "force"}
CERTIFYING = ("sigma", "tau", "alpha", "n0", "n", "correction", "adaptive", "groups")
CLIMBING = ALWAYS | {"attack", "eps_unit", "norm", "steps", "goal", "target", "settings", "seed", "surrogate"}
MEANT = {
    "segment": ALWAYS | {"defense"},
    "attack": CLIMBING | {"eps", "label", "label_map", "defense", "detector"},
    "margin": CLIMBING | {"max_eps", "defense"},
    "certify": ALWAYS | {"seed", *CERTIFYING},
    "detect": ALWAYS | {"detector"},
}

BESIDE = {"attack": {"label", "roi"}, "certify": {"roi"}}  # files that may come with the scan


class Submission(BaseModel):
    """The body of POST /perturbox/jobs, or its part `request` where files come along."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {"kind": "segment", "image": "liver_17"},
                {
                    "kind": "attack",
                    "image": "liver_17",
                    "attack": recipes.DEFAULT,
                    "eps": 4,
                    "steps": 20,
                    "target": ["liver"],
                },
                {"kind": "margin", "image": "liver_17", "max_eps": 16, "steps": 10},
                {"kind": "certify", "image": "liver_17", "sigma": 20},
                {"kind": "detect", "image": "liver_17", "detector": ["NAME"]},
            ]
        },
    )

    kind: Literal["segment", "attack", "margin", "certify", "detect"] = Field(
        "attack", description="What to do with the scan."
    )
    image: Word | None = Field(None, description="Id of an image in the datastore; else session, or the file `image`.")
    session: Word | None = Field(None, description="Id of a session made by PUT /session/.")
    victim: Word | None = Field(None, description="Name of a served model; the server's default if left out.")
    attack: Word = Field(recipes.DEFAULT, description="Name of an attack, as in GET /perturbox/schema.")
    eps: float | None = Field(
        None,
        ge=0,
        le=MOST_EPS,
        description="Largest change. Left out: 4 in the scan's unit (HU), or none for attacks with their own budget.",
    )
    eps_unit: Literal["native", "sigma", "percent"] = Field(
        "native",
        description="What eps and max_eps are in: the scan's own unit, its noise, or percent of its 1-99 % range.",
    )
    norm: Literal["linf", "l2", "l0"] = Field("linf", description="How the size of a change is measured.")
    steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="Steps; the attack's own default if left out, half of it for a margin."
    )
    goal: Word = Field("change", description="change, vanish, grow or become=STRUCTURE.")
    target: list[Word] = Field([], max_length=200, description="Structures to attack; all that are found if empty.")
    label: Word | None = Field(None, description="Tag of the image's label in the datastore that is the reference.")
    label_map: Annotated[str, StringConstraints(max_length=10_000)] | None = Field(
        None, description="Which values of the label are which structure, e.g. liver=5,bone=25+26."
    )
    settings: dict[Word, Value] = Field({}, max_length=100, description="The attack's own settings.")
    surrogate: list[Word] = Field(
        [],
        max_length=8,
        description="Served models to craft the attack on; the victim is then only asked for predictions.",
    )
    defense: list[Word] = Field(
        [],
        description="Filters before the victim, the first nearest to the scan, as in bit-depth:bits=3.",
        json_schema_extra={"maxItems": MOST_DEFENSES},  # the core refuses more, in words of its own
    )
    seed: int = Field(0, ge=0, le=MOST_SEED, description="The same seed gives the same files.")
    device: Word | None = Field(None, description="cpu, cuda or cuda:N; the server's own if left out.")
    force: bool = Field(
        False,
        description="Go on though the values don't look like Hounsfield units, or it would not fit in memory.",
    )
    max_eps: float | None = Field(
        None, gt=0, le=MOST_EPS, description="Largest change a margin tries; left out: 32 in the scan's unit."
    )
    detector: list[Word] = Field(
        [],
        max_length=8,
        description="Detectors of the victim, as in GET /perturbox/schema; of an attack they see both scans.",
    )
    sigma: float | None = Field(
        None, gt=0, le=MOST_EPS, description="A certificate's noise: its standard deviation in the scan's unit (HU)."
    )
    tau: float = Field(TAU, gt=0.5, lt=1, description="Share of noisy copies that must agree.")
    alpha: float = Field(ALPHA, gt=0, lt=1, description="Chance that any certified voxel at all is wrong in that.")
    n0: int = Field(CHOOSERS, ge=1, le=MOST_VOTES, description="Noisy copies that choose each voxel's answer.")
    n: int | None = Field(
        None, ge=1, le=MOST_VOTES, description="Other copies that vote on it; as many as it takes if left out."
    )
    correction: Literal["holm", "bonferroni"] = Field("holm", description="How the tests of many voxels are corrected.")
    adaptive: bool = Field(False, description="Answer with a group of structures where single ones are too close.")
    groups: dict[Word, Annotated[list[Word], Field(max_length=200)]] = Field(
        {}, max_length=100, description="Groups for an adaptive certificate, each with the structures it holds."
    )

    def sent(self) -> set[str]:
        """Fields that ask for something: those sent with another value than none."""
        return {name for name in self.model_fields_set if getattr(self, name) is not None}

    def question(self) -> Question | None:
        """What a certificate is asked for; None of another kind. Raises InputError where no sigma is given."""
        if self.kind != "certify":
            return None
        if self.sigma is None:
            raise InputError("A certificate needs 'sigma', the noise in the scan's unit; on CT 20 is a start.")
        asked = {name: getattr(self, name) for name in CERTIFYING}
        return Question(**asked | {"groups": self.groups or None}, seed=self.seed)


class Cancel(BaseModel):
    """The body of POST /perturbox/jobs/{id}/cancel."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"keep": True}]})

    keep: bool = Field(False, description="Stop climbing, then measure and keep the best so far.")


@dataclass(frozen=True)
class Files:
    """The local files of one submission; name: what the client calls the scan."""

    image: Path
    name: str
    label: Path | None = None
    roi: Path | None = None
    label_map: str | None = None
    """How to read the label, where it came with names of its own."""


def parse(document: bytes | str) -> Submission:
    """The submission in a JSON text. Raises InputError with one sentence about the first thing that is wrong."""
    return parse_as(Submission, document)


def parse_as(model: type[Model], document: bytes | str) -> Model:
    try:
        return model.model_validate_json(document)
    except ValidationError as error:
        raise InputError(sentence(error.errors(include_url=False, include_context=False), model)) from None


def sentence(errors: list[Any], model: type[BaseModel]) -> str:
    """The first of pydantic's errors in words."""
    first = errors[0]
    kind, path, said = first["type"], [str(part) for part in first["loc"]], str(first["msg"])
    field = path[0] if path else ""
    if kind == "json_invalid":
        return f"The request isn't JSON ({said.removeprefix('Invalid JSON: ')}); send one JSON object."
    if not path:
        return 'The request must be one JSON object, such as {"kind": "segment", "image": "ID"}.'
    if kind == "extra_forbidden":
        hint = did_you_mean(field, model.model_fields, f"there are {', '.join(model.model_fields)}.")
        return f"There is no field '{field[:80]}'; {hint}"
    said = said.removeprefix("Input should be ").removeprefix("String should have ").removeprefix("List should have ")
    return f"The field '{field}' must be {said}, not {short(first['input'])}."


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def require_one_source(submission: Submission, uploaded: bool) -> None:
    """Raises InputError unless exactly one of image id, session id and uploaded file names the scan."""
    given = [name for name in ("image", "session") if getattr(submission, name) is not None]
    if len(given) + uploaded != 1:
        raise InputError(
            "The scan must be named in exactly one way: the id `image`, the id `session`, or a file `image`; "
            f"this request has {len(given) + uploaded}."
        )


def check(submission: Submission, offer: Offer) -> Job:
    """The job without its files; raises InputError for whatever can't work with any scan."""
    kind = submission.kind
    for field in sorted(submission.sent() - MEANT[kind]):
        hint = "; give max_eps" if (kind, field) == ("margin", "eps") else ""
        raise InputError(f"The field '{field}' means nothing for kind '{kind}'; leave it out{hint}.")
    victim = submission.victim or offer.default
    spec = offer.spec(victim)
    device = submission.device or offer.device
    check_device(device)
    require_unit(chain_of(submission.defense, offer.visible(victim), victim, local=False), offer.unit(victim), victim)
    defense = tuple(submission.defense)
    plain = Job(image="", victim=spec, device=device, force=submission.force, defense=defense)
    if kind == "segment":
        return plain
    if submission.detector and submission.defense:
        raise InputError("A detector looks at a model without defences before it; leave 'detector' or 'defense' out.")
    if kind == "detect":
        if not submission.detector:
            raise InputError("A detection needs 'detector', a list of names as GET /perturbox/schema has them.")
        return plain
    if (question := submission.question()) is not None:
        replace(question, n=None).checked(tests=1)  # how many votes it takes is known with the scan
        tree_of(offer.victims[victim].described["labels"], question.adaptive, question.groups)
        return replace(plain, seed=submission.seed)
    recipe = recipes.get(submission.attack)
    steps = submission.steps or (recipe.margin_steps if kind == "margin" else recipe.steps)
    structures = offer.structures(victim)
    if kind == "margin" and (submission.norm != "linf" or submission.goal != "change"):
        raise InputError("A margin is a limit on the largest change (norm linf) for the goal change; leave both out.")
    given = submission.max_eps if kind == "margin" else submission.eps
    check_unit(submission.eps_unit, given, submission.norm, "max_eps" if kind == "margin" else "eps")
    eps = given or MAX_EPS if kind == "margin" else recipe.limit(given)
    if submission.norm == "l0" and eps is not None and eps > 1:
        raise InputError(f"With norm l0, eps is a fraction of voxels between 0 and 1, not {eps:g}.")
    recipe.build(eps, submission.norm, steps, submission.settings)
    Goal.parse(submission.goal, submission.target, structures)
    if submission.label_map is not None:
        check_label_map(submission.label_map, structures)
    return Job(
        image="",
        victim=spec,
        attack=recipe.name,
        eps=submission.eps,
        eps_unit=submission.eps_unit,
        norm=submission.norm,
        steps=steps,
        goal=submission.goal,
        target=tuple(dict.fromkeys(submission.target)),
        label_map=submission.label_map,
        settings=dict(submission.settings),
        seed=submission.seed,
        device=device,
        force=submission.force,
        surrogate=tuple(offer.spec(name) for name in dict.fromkeys(submission.surrogate)),
        defense=defense,
    )


def check_label_map(text: str, structures: dict[str, int]) -> None:
    """Raises InputError unless `text` reads like liver=5,bone=25+26 with the victim's structures."""
    for part in text.split(","):
        name, _, values = part.partition("=")
        if not re.fullmatch(r"\d{1,9}(\+\d{1,9})*", values, re.ASCII):
            raise InputError(f"{short(part)} in label_map isn't understood; write liver=5,bone=25+26.")
        if name not in structures:
            raise InputError(
                f"label_map names {short(name)}, which the model doesn't know; it has {', '.join(structures)}."
            )


def check_files(submission: Submission, uploaded: set[str]) -> None:
    """Raises InputError where the files that came along don't fit what is asked for."""
    kind = submission.kind
    for odd in sorted((uploaded & {"label", "roi"}) - BESIDE.get(kind, set())):
        raise InputError(f"The file '{odd}' means nothing for kind '{kind}'; leave it out.")
    if "label" in uploaded and submission.label is not None:
        raise InputError("The reference is named twice, by a tag and by a file; send one of them.")
    if submission.label is not None and submission.image is None:
        raise InputError("The field 'label' is a tag of a datastore image; send the label as a file with this scan.")
    if submission.label_map is not None and submission.label is None and "label" not in uploaded:
        raise InputError("label_map says how to read a label; send a label too, or leave both out.")


def check_channels(count: int, victim: str, offer: Offer) -> None:
    """Raises InputError where as many files of a scan came along as the model can't read; one may hold all."""
    reads = int(offer.victims[victim].described.get("channels", 1))
    if count > 1 and count != reads:
        raise InputError(
            f"{count} files of one scan came along and {victim} reads {reads} channel{'s' * (reads != 1)}; "
            "send one file for each, in the model's order."
        )


def order(submission: Submission, job: Job, files: Files, detectors: Mapping[str, str] | None = None) -> Order:
    """What goes into the queue; detectors: the files of those that are asked for, by name."""
    job = replace(
        job,
        image=str(files.image),
        label=None if files.label is None else str(files.label),
        roi=None if files.roi is None else str(files.roi),
        label_map=job.label_map or files.label_map,
    )
    return Order(
        submission.kind,
        job,
        max_eps=submission.max_eps or MAX_EPS,
        name=files.name,
        client="job API",
        question=submission.question(),
        detectors=detectors or {},
    )
