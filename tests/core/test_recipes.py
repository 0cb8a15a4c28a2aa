"""Recipes are found, described and built from their signatures, and refuse settings in words."""

import dataclasses
import json
import pkgutil
from typing import Annotated, get_args, get_type_hints

import pytest
import victims
from attacking import attacked

from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param
from perturbox.attacks.solvers.ascent import Ascent, chain, sign
from perturbox.attacks.spaces.additive import Additive
from perturbox.types import InputError

NAMES = list(recipes.discover())


def test_every_file_of_the_package_holds_a_recipe():
    files = {module.name for module in pkgutil.iter_modules(recipes.__path__)}
    files.remove("added")  # what those share that add a term to another attack
    homes = {recipe.function.__module__.rpartition(".")[2] for recipe in recipes.discover().values()}
    assert homes == files


@pytest.mark.parametrize("name", NAMES)
def test_names_are_kebab_case_and_lead_back(name):
    recipe = recipes.get(name)
    assert recipe.name == name == name.lower() and "_" not in name
    assert recipe.function.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_annotated_with_its_meaning(name):
    function = recipes.get(name).function
    hints = get_type_hints(function, include_extras=True)
    parameters = recipes.get(name).parameters
    assert set(hints) == {"eps", "norm", "steps", "return"} | {entry["name"] for entry in parameters}
    # result.json keeps these beside a recipe's own.
    assert not {"eps", "norm", "steps", "goal", "target"} & {entry["name"] for entry in parameters}
    for entry in parameters:
        told = get_args(hints[entry["name"]])[1]
        assert isinstance(told, Param) and told.help == entry["help"]
        assert entry["help"] and (entry["help"][0].isupper() or entry["help"][0] == "+")
        assert not entry["help"].endswith(".")
        assert entry["type"] in ("float", "int", "bool", "str")
        if entry["choices"]:
            assert entry["default"] in entry["choices"]


@pytest.mark.parametrize("name", NAMES)
def test_a_description_survives_json(name):
    described = recipes.get(name).describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert set(described) >= {
        "name", "title", "paper", "space", "norm", "dims", "targeted", "access", "family", "own_budget", "cost",
        "parameters", "deviations",
    }  # fmt: skip
    assert described["dims"] in ([2, 3], [3]) and described["access"] in ("white", "black")
    assert described["family"] in get_args(recipes.Family)
    own = described["own_budget"]
    assert own is None or (set(own) == {"parameter", "value", "unit", "meaning"} and own["value"] is not None)
    for entry in described["parameters"]:
        assert set(entry) == {"name", "type", "unit", "default", "minimum", "maximum", "choices", "help", "local"}


def test_what_pgd_says_of_itself():
    entries = {entry["name"]: entry for entry in recipes.get("pgd").parameters}
    assert entries["alpha"] == {
        "name": "alpha",
        "type": "float",
        "unit": "HU",
        "default": None,
        "minimum": 0,
        "maximum": None,
        "choices": None,
        "local": False,
        "help": "Step size; 2.5 eps / steps if not given",
    }
    assert entries["loss"]["choices"] == list(LOSSES) and entries["loss"]["default"] == "dice-ce"
    assert entries["restarts"]["type"] == "int" and entries["restarts"]["minimum"] == 1
    assert entries["random_start"]["type"] == "bool" and entries["random_start"]["default"] is True


@pytest.mark.parametrize("name", NAMES)
def test_parameters_tell_all_a_replay_needs(name):
    recipe = recipes.get(name)
    made = recipe.build(8.0, recipe.norms[0], 20, {}, local=True)
    told, taken = made.parameters, made.attack.steps if isinstance(made.attack, Climb) else 20
    assert json.loads(json.dumps(told)) == told
    assert (told["eps"], told["norm"], told["steps"]) == (8.0, recipe.norms[0], taken)
    settings = {key: value for key, value in told.items() if key not in ("eps", "norm", "steps")}
    again = recipe.build(told["eps"], told["norm"], told["steps"], settings, local=True)
    assert again.parameters == told and again.recipe is recipe


def test_defaults_are_those_of_the_papers():
    assert recipes.get("pgd").build(8.0, "linf", 20, {}).parameters["alpha"] == 1.0
    assert recipes.get("bim").build(8.0, "linf", 20, {}).parameters["alpha"] == 0.4
    assert recipes.get("mi-fgsm").build(8.0, "linf", 20, {}).parameters == {
        "loss": "dice-ce", "alpha": 0.4, "decay": 1.0, "eps": 8.0, "norm": "linf", "steps": 20,
    }  # fmt: skip
    assert recipes.get("fgsm").build(8.0, "linf", 20, {}).attack.steps == 1


def test_settings_are_taken_as_words_or_values():
    pgd = recipes.get("pgd")
    words = pgd.build(8.0, "l2", 5, {"alpha": "0.5", "random_start": "no", "restarts": "3", "loss": "ce"})
    values = pgd.build(8.0, "l2", 5, {"alpha": 0.5, "random_start": False, "restarts": 3, "loss": "ce"})
    assert words.parameters == values.parameters
    assert (words.attack.restarts, words.attack.space) == (3, Additive(random_start=False))
    assert pgd.build(8.0, "linf", 5, {"alpha": None}).parameters["alpha"] == 4.0
    assert pgd.build(8.0, "linf", 5, {"restarts": 3.0}).attack.restarts == 3


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"alhpa": "1"}, "pgd has no setting 'alhpa'; did you mean 'alpha'?"),
        ({"zzz": "1"}, "pgd has no setting 'zzz'; it has loss, alpha, random_start, restarts."),
        ({"steps": "1"}, "pgd has no setting 'steps'"),
        ({"alpha": "much"}, "The setting 'alpha' needs a value of type float, not 'much'."),
        ({"alpha": "nan"}, "needs a value of type float, not 'nan'"),
        ({"alpha": "inf"}, "needs a value of type float, not 'inf'"),
        ({"alpha": -1.0}, "The setting 'alpha' must be at least 0, not -1.0."),
        ({"restarts": "2.5"}, "The setting 'restarts' needs a value of type int, not '2.5'."),
        ({"restarts": 2.5}, "needs a value of type int, not '2.5'"),
        ({"restarts": float("inf")}, "needs a value of type int, not 'inf'"),
        ({"restarts": 0}, "The setting 'restarts' must be between 1 and 1000, not 0."),
        ({"restarts": None}, "needs a value of type int, not 'None'"),
        ({"random_start": "perhaps"}, "The setting 'random_start' needs a value of type bool, not 'perhaps'."),
        ({"loss": "lovasz"}, "The setting 'loss' is one of dice-ce, dice, ce, margin, not 'lovasz'."),
    ],
)
def test_settings_are_refused_in_one_sentence(settings, words):
    with pytest.raises(InputError) as refusal:
        recipes.get("pgd").build(8.0, "linf", 5, settings)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_norms_and_steps_are_refused_in_words():
    with pytest.raises(InputError, match="fgsm works with norm linf, not"):
        recipes.get("fgsm").build(8.0, "l2", 5, {})
    with pytest.raises(InputError, match="pgd works with norm linf or l2"):
        recipes.get("pgd").build(8.0, "l0", 5, {})
    with pytest.raises(InputError, match="steps must be at least 1, not 0"):
        recipes.get("pgd").build(8.0, "linf", 0, {})


@pytest.mark.parametrize(
    "name, words",
    [
        ("pdg", "Unknown attack 'pdg'; did you mean 'pdpgd' or 'pgd'?"),
        ("MI_FGSM", "did you mean 'mi-fgsm' or 'ti-fgsm'?"),
        ("zzz", "Unknown attack 'zzz'; see `perturbox list attacks`."),
    ],
)
def test_unknown_attacks_are_refused_with_a_near_name(name, words):
    with pytest.raises(InputError) as refusal:
        recipes.get(name)
    assert words in str(refusal.value)


def test_a_recipe_is_one_typed_function():
    @recipes.recipe(title="Half", paper="none", norms=("linf",), cost="nothing", deviations=("all of it",))
    def half_of_it(
        eps: float,
        norm: str,
        steps: int,
        *,
        share: Annotated[float, Param("Share of eps", unit="1", minimum=0, maximum=1)] = 0.5,
    ) -> Attack:
        """Less."""
        return Climb(ascend(LOSSES["ce"]), Additive(), Ascent(chain(sign())), share * eps, "linf", steps)

    made = half_of_it.recipe
    assert made.name == "half-of-it"
    found = made.build(8.0, "linf", 2, {"share": "0.25"})
    assert (found.recipe, found.attack.eps) == (made, 2.0)
    assert found.parameters == {"share": 0.25, "eps": 2.0, "norm": "linf", "steps": 2}
    with pytest.raises(InputError, match="between 0 and 1, not"):
        made.build(8.0, "linf", 2, {"share": 2})


def test_points_asked_about_lie_a_share_of_the_limit_away_and_a_kernel_has_a_middle():
    for name in ("nes", "spsa", "bandits"):
        assert recipes.get(name).build(8.0, "linf", 5, {}).parameters["sigma"] == 2.0
        assert recipes.get(name).build(0.02, "l2", 5, {}).parameters["sigma"] == pytest.approx(0.005)
        assert recipes.get(name).build(8.0, "linf", 5, {"sigma": 1}).parameters["sigma"] == 1.0
    with pytest.raises(InputError, match="'kernel' must be odd, not 4"):
        recipes.get("ti-fgsm").build(8.0, "linf", 5, {"kernel": 4})


def test_the_few_to_start_with_come_first_then_each_family_by_name():
    offered = recipes.offered()
    assert sorted(one.name for one in offered) == sorted(recipes.discover())
    first = [one.name for one in offered if one.use]
    assert [one.name for one in offered[: len(first)]] == first
    assert first == ["annealed", "ensemble", "medis", "square", "bias-field", "noise"]
    rest = [(list(recipes.FAMILIES).index(one.family), one.name) for one in offered[len(first) :]]
    assert rest == sorted(rest) and rest[0][1] == "bim"


def test_a_new_loss_for_all_attacks_is_one_entry(monkeypatch):
    """Every `loss` setting takes it and lists it, and it is what is climbed."""
    monkeypatch.setitem(LOSSES, "half", dataclasses.replace(LOSSES["dice"], name="half"))
    image, victim = victims.random_scan(), victims.textured()
    for name in ("pgd", "apgd", "annealed"):
        (entry,) = (one for one in recipes.get(name).describe()["parameters"] if one["name"] == "loss")
        assert {"half", *LOSSES} <= set(entry["choices"])
        new, known = (attacked(image, victim, name, 8.0, steps=2, loss=loss) for loss in ("half", "dice"))
        assert [step.loss for step in new.trace] == [step.loss for step in known.trace]
    with pytest.raises(InputError, match=r"is one of .*half.*, not 'other'"):
        recipes.get("pgd").build(8.0, "linf", 2, {"loss": "other"})
