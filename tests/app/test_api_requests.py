"""What may be asked for: bodies become orders; whatever can't work is refused with a sentence before it is queued."""

import json
from pathlib import Path
from types import SimpleNamespace

import inside  # noqa: F401
import jsonschema
import pytest

from lib.api import requests, schema
from lib.api.schema import Offer
from perturbox.attacks import recipes
from perturbox.defenses import chain_of, offered
from perturbox.jobs import Refused
from perturbox.types import InputError

TINY = {
    "name": "tiny",
    "title": "Tiny",
    "labels": {"background": 0, "liver": 1, "bone": 2},
    "spacing_mm": None,
    "window": [16, 16, 16],
    "unit": "HU",
    "dims": 3,
    "licence": "none",
    "intensity_window": [-250.0, 350.0],
}
OFFER = Offer(
    {"tiny": SimpleNamespace(spec="/models/tiny.py:volume", described=TINY, detectors={})},
    "cpu",
    {"upload_bytes": 1000},
)
BLIND = {**TINY, "name": "blind", "title": "Blind", "unit": "intensity", "intensity_window": None}
WITH_BLIND = Offer(
    {**OFFER.victims, "blind": SimpleNamespace(spec="/models/blind.py:volume", described=BLIND, detectors={})}, "cpu"
)


def checked(**body):
    submission = requests.parse(json.dumps(body))
    return submission, requests.check(submission, OFFER)


def test_an_attack_is_filled_in_with_the_command_lines_defaults():
    _, job = checked(image="scan")
    assert (job.victim, job.attack, job.eps) == ("/models/tiny.py:volume", "annealed", None)
    assert (job.norm, job.steps) == ("linf", 20)
    assert (job.goal, job.target, job.seed, job.device, job.force) == ("change", (), 0, "cpu", False)


def test_a_margin_takes_ten_steps_a_trial_unless_told():
    assert checked(kind="margin", image="scan")[1].steps == 10
    assert checked(kind="margin", image="scan", steps=3)[1].steps == 3


def test_every_field_arrives():
    body = {
        "kind": "attack",
        "image": "scan",
        "victim": "tiny",
        "attack": "pgd",
        "eps": 2,
        "norm": "l2",
        "steps": 7,
        "goal": "become=bone",
        "target": ["liver", "liver"],
        "label": "final",
        "label_map": "liver=5,bone=25+26",
        "settings": {"loss": "ce", "restarts": 2, "random_start": False, "alpha": 0.5},
        "seed": 3,
        "device": "cpu",
        "force": True,
    }
    submission, job = checked(**body)
    order = requests.order(submission, job, requests.Files(Path("/a/scan.nii.gz"), "scan", Path("/a/label.nii.gz")))
    assert (order.kind, order.name, order.client) == ("attack", "scan", "job API")
    assert (order.job.image, order.job.label, order.job.roi) == ("/a/scan.nii.gz", "/a/label.nii.gz", None)
    assert (job.eps, job.norm, job.steps, job.goal, job.target) == (2.0, "l2", 7, "become=bone", ("liver",))
    assert (job.label_map, job.settings, job.seed, job.force) == (body["label_map"], body["settings"], 3, True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"image": "a", "step": 4}', "There is no field 'step'; did you mean 'steps'?"),
        ('{"image": "a", "zzz": 4}', "There is no field 'zzz'; there are kind, image"),
        ("", "isn't JSON"),
        ("{", "isn't JSON"),
        ("[]", "must be one JSON object"),
        ("null", "must be one JSON object"),
        ('{"image": "a", "eps": NaN}', "The field 'eps' must be a finite number, not nan"),
        ('{"image": "a", "eps": Infinity}', "The field 'eps' must be a finite number, not inf"),
        ('{"image": "a", "eps": -1}', "The field 'eps' must be greater than or equal to 0, not -1"),
        ('{"image": "a", "eps": 1e9}', "The field 'eps' must be less than or equal to 100000"),
        ('{"image": "a", "eps": "4"}', "The field 'eps' must be a valid number, not '4'"),
        ('{"image": "a", "steps": 0}', "The field 'steps' must be greater than or equal to 1"),
        ('{"image": "a", "steps": 1.5}', "The field 'steps' must be a valid integer"),
        ('{"image": "a", "steps": true}', "The field 'steps' must be a valid integer, not True"),
        ('{"image": "a", "seed": -1}', "The field 'seed'"),
        ('{"image": "a", "norm": "l3"}', "The field 'norm' must be 'linf', 'l2' or 'l0', not 'l3'"),
        (
            '{"image": "a", "kind": "train"}',
            "The field 'kind' must be 'segment', 'attack', 'margin', 'certify' or 'detect'",
        ),
        ('{"image": "a", "target": "liver"}', "The field 'target' must be a valid array"),
        ('{"image": "a", "target": [1]}', "The field 'target' must be a valid string"),
        ('{"image": "", "kind": "segment"}', "The field 'image' must be"),
        ('{"image": "a", "settings": {"loss": [1]}}', "The field 'settings' must be"),
        ('{"image": "a", "force": "yes"}', "The field 'force' must be a valid boolean"),
        ('{"image": "a", "victim": "huge"}', "This server has no victim 'huge'; it serves tiny."),
        ('{"image": "a", "victim": "/models/tiny.py:volume"}', "This server has no victim"),
        ('{"image": "a", "victim": "evil.py:run"}', "This server has no victim 'evil.py:run'"),
        ('{"image": "a", "attack": "pdg"}', "Unknown attack 'pdg'; did you mean 'pdpgd' or 'pgd'?"),
        ('{"image": "a", "goal": "explode"}', "Unknown goal 'explode'"),
        ('{"image": "a", "goal": "vanish"}', "The goal 'vanish' needs"),
        ('{"image": "a", "goal": "become=bone", "target": ["bone"]}', "A structure can't become itself"),
        ('{"image": "a", "target": ["livver"]}', "no structure 'livver'; did you mean 'liver'?"),
        ('{"image": "a", "settings": {"los": "ce"}}', "annealed has no setting 'los'; did you mean 'loss'?"),
        ('{"image": "a", "settings": {"restarts": 0}}', "The setting 'restarts' must be between 1 and 1000"),
        ('{"image": "a", "settings": {"loss": "none"}}', "The setting 'loss' is one of"),
        ('{"image": "a", "attack": "pgd", "norm": "l0"}', "With norm l0, eps is a fraction of voxels"),
        ('{"image": "a", "attack": "pgd", "norm": "l0", "eps": 0.1}', "pgd works with norm linf or l2, not 'l0'"),
        ('{"image": "a", "device": "tpu"}', "Unknown device 'tpu'; use cpu or cuda."),
        ('{"image": "a", "device": "cuda:99"}', "This machine has no device 'cuda:99'"),
        ('{"image": "a", "max_eps": 8}', "The field 'max_eps' means nothing for kind 'attack'"),
        ('{"image": "a", "kind": "segment", "eps": 8}', "The field 'eps' means nothing for kind 'segment'"),
        ('{"image": "a", "kind": "margin", "eps": 8}', "leave it out; give max_eps"),
        ('{"image": "a", "kind": "margin", "norm": "l2"}', "A margin is a limit on the largest change"),
        ('{"image": "a", "kind": "margin", "max_eps": 0}', "The field 'max_eps' must be greater than 0"),
        ('{"image": "a", "eps": 2, "eps_unit": "sd"}', "The field 'eps_unit' must be 'native', 'sigma' or 'percent'"),
        ('{"image": "a", "eps_unit": "sigma"}', "The limit's unit is sigma, but there is no limit; give eps too."),
        ('{"image": "a", "kind": "margin", "eps_unit": "percent"}', "there is no limit; give max_eps too."),
        ('{"image": "a", "kind": "segment", "eps_unit": "sigma"}', "'eps_unit' means nothing for kind 'segment'"),
        ('{"image": "a", "label": "final", "label_map": "liver"}', "'liver' in label_map isn't understood"),
        ('{"image": "a", "label": "final", "label_map": "liver=x"}', "'liver=x' in label_map isn't understood"),
        ('{"image": "a", "label": "final", "label_map": "gut=3"}', "label_map names 'gut'"),
        ('{"image": "a", "defense": "median"}', "The field 'defense' must be a valid array, not 'median'."),
        ('{"image": "a", "defense": {"name": "median"}}', "The field 'defense' must be a valid array"),
        ('{"image": "a", "defense": null}', "The field 'defense' must be a valid array, not None."),
        ('{"image": "a", "defense": [{"median": 3}]}', "The field 'defense' must be a valid string"),
        ('{"image": "a", "defense": [NaN]}', "The field 'defense' must be a valid string, not nan"),
        ('{"image": "a", "defense": ["zebra"]}', "Unknown defence 'zebra'; there are aegis, bit-depth, dct, gaussian"),
        ('{"image": "a", "defense": [""]}', "The field 'defense' must be at least 1 character"),
        (f'{{"image": "a", "defense": ["{"m" * 300}"]}}', "The field 'defense' must be at most 200 characters"),
        ('{"image": "a", "defense": ["median\\n\\nX"]}', "The name of a defence holds characters that none has"),
        (
            json.dumps({"image": "a", "defense": ["median"] * 10_000}),
            "At most 4 defences can stand before a model, not 10000; leave some out.",
        ),
        ('{"image": "a", "defense": ["gaussian:sigma=nan"]}', "'sigma' needs a value of type float, not 'nan'"),
        ('{"image": "a", "defense": ["dct:step=1e308"]}', "The setting 'step' must be between 0.001 and 1000000.0"),
        ('{"image": "a", "defense": ["tv:iterations=99999"]}', "'iterations' must be between 1 and 500, not 99999"),
        (
            '{"image": "a", "defense": ["smoothing:copies=1000", "smoothing:copies=1000"]}',
            "These defences together draw 1000000 noisy copies for each prediction, and 1000 are the most",
        ),
        ('{"image": "a", "victim": "blind", "defense": ["lgs"]}', "blind doesn't say which range of values it tells"),
    ],
)
def test_bad_requests_are_refused_with_a_sentence(body, said):
    with pytest.raises(InputError) as refused:
        requests.check(requests.parse(body), WITH_BLIND if "blind" in body else OFFER)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "uploaded", "said"),
    [
        ({}, set(), "exactly one way: the id `image`, the id `session`, or a file `image`; this request has 0"),
        ({"image": "a", "session": "b"}, set(), "this request has 2"),
        ({"image": "a"}, {"image"}, "this request has 2"),
        ({"image": "a", "label": "final"}, {"label"}, "The reference is named twice"),
        ({"label": "final"}, {"image"}, "is a tag of a datastore image"),
        ({"image": "a", "label_map": "liver=1"}, set(), "label_map says how to read a label"),
        ({"kind": "segment"}, {"image", "roi"}, "The file 'roi' means nothing for kind 'segment'"),
        ({"kind": "margin"}, {"image", "label"}, "The file 'label' means nothing for kind 'margin'"),
    ],
)
def test_sources_that_contradict_each_other_are_refused(body, uploaded, said):
    submission = requests.parse(json.dumps(body))
    with pytest.raises(InputError) as refused:
        requests.require_one_source(submission, "image" in uploaded)
        requests.check_files(submission, uploaded)
    assert said in str(refused.value)


def test_the_schema_names_every_pair_and_never_a_path():
    document = OFFER.document()
    assert document["api"] == "1.0"
    # Those that need files of the server's own machine are not for its clients.
    offered = {name for name, recipe in recipes.discover().items() if recipe.remote}
    assert set(recipes.discover()) - offered == {"evade", "hfc", "uap"}
    assert set(document["models"]) == {"tiny"} | {f"tiny-{name}" for name in offered}
    assert {each["name"] for each in document["attacks"]} == offered
    assert document["victims"] == [TINY]
    assert document["limits"]["upload_bytes"] == 1000
    assert "/models" not in json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("attack", [recipe.name for recipe in recipes.offered() if recipe.remote])
def test_a_form_built_from_the_schema_makes_a_request_that_is_accepted(attack):
    """The defaults of a form satisfy its schema, and what bears x-in "settings" goes there."""
    form = OFFER.document()["models"][f"tiny-{attack}"]["config_schema"]
    jsonschema.Draft202012Validator.check_schema(form)
    values = {name: field["default"] for name, field in form["properties"].items()}
    jsonschema.validate(values, form)
    settings = {name for name, field in form["properties"].items() if field.get("x-in") == "settings"}
    assert settings == {entry["name"] for entry in recipes.get(attack).parameters if not entry["local"]}
    body = {name: value for name, value in values.items() if name not in settings}
    body |= {"image": "a", "attack": attack, "settings": {name: values[name] for name in settings}}
    if body["norm"] == "l0":
        body["eps"] = 0.5
    _, job = checked(**body)
    assert (job.attack, dict(job.settings)) == (attack, body["settings"])


@pytest.mark.parametrize(
    ("defense", "victim"),
    [(one.name, unit) for one in offered() for unit in ("tiny", "blind") if one.unit is None or unit == "tiny"],
)
def test_a_form_of_a_defence_makes_a_request_that_is_accepted(defense, victim):
    """Where the model names no range its ends are all that a form must ask for."""
    form = WITH_BLIND.document()["models"][victim]["defenses"][defense]
    jsonschema.Draft202012Validator.check_schema(form)
    fields = form["properties"]
    ranged = {"low", "high"} & fields.keys()
    assert set(form["required"]) == (ranged if victim == "blind" else set())
    values = {name: field["default"] for name, field in fields.items() if "default" in field}
    values |= {name: {"low": -3.5, "high": 9.0}[name] for name in form["required"]}
    jsonschema.validate(values, form)
    assert all(field["title"] and field["description"] and "x-in" not in field for field in fields.values())
    unit = WITH_BLIND.victims[victim].described["unit"]
    assert {field.get("x-unit") for field in fields.values()} <= {unit, "voxels", "cycles/mm", None}
    values = {name: value for name, value in values.items() if value is not None}  # as Slicer leaves them out
    spec = ":".join([defense, *(f"{name}={value}" for name, value in values.items())])
    job = requests.check(requests.parse(json.dumps({"image": "a", "victim": victim, "defense": [spec]})), WITH_BLIND)
    assert job.defense == (spec,)
    (built,) = chain_of(job.defense, WITH_BLIND.visible(victim), victim)
    assert {name: value for name, value in built.settings.items() if value is not None} == values


def test_a_defence_of_another_unit_is_neither_offered_nor_taken_and_files_are_the_servers_own():
    models = WITH_BLIND.document()["models"]
    assert "park" in models["tiny"]["defenses"] and "park" not in models["blind"]["defenses"]
    assert set(models["tiny"]["defenses"]["park"]["properties"]) == {"threshold"}
    for defense, victim, said in (
        ("park", "blind", "'park' was made for scans in HU and blind reads them in intensity"),
        ("park:weights=/a.safetensors", "tiny", "'weights' names files of this machine and can't be set from another."),
    ):
        with pytest.raises(InputError, match=said):
            requests.check(
                requests.parse(json.dumps({"image": "a", "victim": victim, "defense": [defense]})), WITH_BLIND
            )


def test_a_defences_fields_say_how_to_show_them():
    models = WITH_BLIND.document()["models"]
    fields = models["tiny"]["defenses"]["bit-depth"]["properties"]
    assert fields["bits"] == {
        "type": "integer", "title": "Bits", "description": "Bits that are kept", "default": 3, "minimum": 1,
        "maximum": 12, "x-order": 0,
    }  # fmt: skip
    assert (fields["low"]["default"], fields["high"]["default"], fields["low"]["x-unit"]) == (-250.0, 350.0, "HU")
    assert models["tiny"]["defenses"]["gaussian"]["properties"]["sigma"]["x-unit"] == "voxels"
    blind = models["blind"]["defenses"]["smoothing"]["properties"]
    assert blind["sigma"]["x-unit"] == "intensity" and "intensity" not in blind["copies"].get("x-unit", "")
    assert "defenses" not in models["tiny-pgd"]


def test_a_limit_keeps_its_unit_until_the_scan_is_read():
    assert (job := checked(image="a", eps=2, eps_unit="sigma")[1]).eps_unit == "sigma" and job.eps == 2
    submission, job = checked(image="a", kind="margin", max_eps=3, eps_unit="percent")
    order = requests.order(submission, job, requests.Files(Path("a"), "a"))
    assert (order.max_eps, order.job.eps_unit) == (3, "percent")
    assert checked(image="a", kind="margin")[1].eps_unit == "native"


def test_a_model_of_mr_never_asks_for_hu():
    """Recipes state their settings in HU, which stands for the unit of the model's scans."""
    tiny = dict(OFFER.victims["tiny"].described)
    fields = schema.config_schema(recipes.get("pgd"), tiny | {"unit": "intensity"})["properties"]
    assert fields["eps"]["x-unit"] == fields["alpha"]["x-unit"] == "intensity"
    assert fields["eps_unit"]["enum"] == ["native", "sigma", "percent"]


def test_a_forms_fields_say_how_to_show_them():
    fields = OFFER.document()["models"]["tiny-pgd"]["config_schema"]["properties"]
    assert fields["eps"] | {"x-unit": "HU", "x-level": "basic", "x-order": 0} == fields["eps"]
    assert fields["target"]["items"]["enum"] == ["liver", "bone"]
    assert fields["goal"]["enum"] == ["change", "vanish", "grow", "become=liver", "become=bone"]
    assert fields["restarts"] | {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1} == fields["restarts"]
    assert fields["alpha"] | {"type": ["number", "null"], "default": None, "x-unit": "HU"} == fields["alpha"]
    assert sorted(field["x-order"] for field in fields.values()) == list(range(len(fields)))
    assert all(field["title"] and field["description"] for field in fields.values())


@pytest.mark.parametrize(
    ("sent", "to_do"),
    [(None, None), ("1", None), ("1.0", None), (" 1.7 ", None), ("2", "server"), ("0.9", "client"), ("x", "client")],
)
def test_another_major_version_is_told_which_side_to_update(sent, to_do):
    if to_do is None:
        schema.check_handshake(sent)
        return
    with pytest.raises(Refused) as refused:
        schema.check_handshake(sent)
    assert refused.value.status == 409
    assert refused.value.problem.what_to_do == f"Update the {to_do}."
