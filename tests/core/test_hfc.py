"""HFC: its term by hand and by finite differences, what it is without it, what it refuses, and the command line."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import victims
from attacking import attacked, built, multi_label, prepared, recipe_of, same_bits, with_channels

from perturbox.attacks import recipes
from perturbox.attacks.attack import ascend
from perturbox.attacks.budget import Budget
from perturbox.attacks.features import Features
from perturbox.attacks.fitting import fit_features
from perturbox.attacks.goals import Goal
from perturbox.attacks.mixture import Mixture
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.on_scan import ModelOnScan
from perturbox.attacks.recipes.added import Fitted
from perturbox.attacks.recipes.hfc import Camouflaged
from perturbox.cli import main
from perturbox.model.pooling import Pool, cut, group_names
from perturbox.model.sliding import Inside
from perturbox.types import Case, InputError

LAYERS = ("0", "1")


def given(features: Features) -> Fitted[Features]:
    """Features that come from no file."""
    return Fitted("none", lambda path: features, "")


def some_features(victim, seed=0) -> Features:
    """Mixtures of two components made up for every layer and group; the file would say the same in float32."""
    rng, mixtures = np.random.default_rng(seed), {}
    for layer, group in product(LAYERS, range(len(group_names(victim)))):
        factors = np.stack([np.triu(rng.normal(size=(8, 8))) + 3 * np.eye(8) for _ in range(2)])
        factors[:, range(8), range(8)] = np.abs(factors[:, range(8), range(8)])
        mixtures[layer, group] = Mixture(np.array([0.3, 0.7]), rng.normal(0, 0.5, (2, 8)), factors)
    return Features("made up", victim.sha256, victim.window.size, 2, group_names(victim), mixtures)


def double(make, dims):
    """A victim in double precision."""
    victim = make(dims)
    victim.network.double()
    return victim


def viewed(image, victim, goal="change", memory_budget=None):
    targets = (list(victim.structures)[-1],) if goal != "change" else ()
    goal = Goal.parse(goal, targets, victim.labels)
    bound = victim.on(image, memory_budget=memory_budget)
    reference = np.random.default_rng(4).integers(0, len(victim.labels), image.shape)
    view = ModelOnScan.of(bound, image, reference, goal, Budget.of(Case(image), 6.0, "linf"), torch.Generator())
    view.task.__dict__["clean"] = view.x.double()  # networks here are in double precision
    return view


def by_hand(view, features, x):
    """The term at x, whose only window is the whole picture or volume, in plain torch with loops over all."""
    task, victim = view.task, view.victim.victim
    hidden, logits = {}, None

    def run(point):
        # The window is 12 voxels wide: smaller scans lie in its middle.
        pads = [n for size in reversed(point.shape[2:]) for n in ((12 - size) // 2, 12 - size - (12 - size) // 2)]
        value = torch.nn.functional.pad(victim.normalise(point), pads, mode="replicate")
        for name, layer in victim.network.named_children():
            value = layer(value)
            hidden[name] = value
        inner = tuple(slice((12 - n) // 2, (12 - n) // 2 + n) for n in point.shape[2:])
        return value[(..., *inner)], inner

    clean = run(task.clean)[0]
    logits, inner = run(x)
    logits = logits.detach()
    labels, weight = task.labels[0], task.weight[0]
    groups = len(features.groups)
    masks = torch.zeros(groups, *labels.shape)
    for voxel in np.ndindex(*labels.shape):
        z, z0, y = logits[(0, slice(None), *voxel)], clean[(0, slice(None), *voxel)], int(labels[voxel])
        if weight[voxel] == 0:
            continue
        if task.regions is None:
            aim = y if task.targeted else max(range(len(z)), key=lambda c: float(z[c]))
            masks[(aim, *voxel)] = int(z0.argmax()) != y or not task.targeted
        else:
            for c in range(len(z)):
                yes = bool(task.regions[y, c]) if task.targeted else bool(z[c] > 0)
                masks[(c + len(z) * yes, *voxel)] = bool(z0[c] > 0) != yes or not task.targeted
    whole = torch.zeros(groups, *[12] * labels.dim())
    whole[(slice(None), *inner)] = masks
    terms = []
    for layer, group, cell in product(LAYERS, range(groups), product(range(2), repeat=labels.dim())):
        box = tuple(slice(6 * i, 6 * i + 6) for i in cell)
        mask = whole[group][box]
        if mask.sum() < 8:
            continue
        phi = hidden[layer][0][(slice(None), *box)].flatten(1) @ mask.flatten().to(x) / mask.sum()
        m = features.mixtures[layer, group]
        scores, each = [], []
        for w, mean, factor in zip(m.weights, m.means, m.factors, strict=True):
            y = (phi - torch.from_numpy(mean).to(phi)) @ torch.from_numpy(factor).to(phi)
            scores.append(np.log(w) + np.log(np.diag(factor)).sum() - 0.5 * float(y.detach().square().sum()))
            each.append(y.square().mean())
        terms.append(each[int(np.argmax(scores))])
    return 2 * torch.stack(terms).mean()


# ---------------------------------------------------------------- the term


@pytest.mark.parametrize("goal", ["change", "vanish", "grow"])
@pytest.mark.parametrize("shape", [(12, 12), (9, 11), (12, 9, 8)])
@pytest.mark.parametrize("make", [victims.textured, multi_label])
def test_the_term_and_its_gradient_by_hand(make, shape, goal):
    image = victims.random_scan(shape, **({} if len(shape) == 3 else {"affine": np.eye(4)}))
    victim = double(make, len(shape))
    view, features = viewed(image, victim, goal), some_features(victim)
    x = (view.x + 3 * torch.randn(view.x.shape, generator=torch.Generator().manual_seed(1))).double().requires_grad_()
    _, found = Camouflaged(ascend(LOSSES["ce"]), given(features), 1.0).look(view, x, view.task)
    expected = by_hand(view, features, x)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5) and float(found.detach()) > 0
    slopes = [torch.autograd.grad(value, x)[0] for value in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6 * float(slopes[1].abs().max()))


@pytest.mark.parametrize(
    "dims, shape, make",
    [(2, (17, 14), victims.textured), (3, (15, 12, 14), multi_label), (2, (14, 12, 3), victims.textured)],
)
def test_the_gradient_over_many_windows_is_that_of_finite_differences(dims, shape, make):
    """Two-dimensional, in volumes, and slice by slice; kept graphs and recomputed ones alike."""
    image = victims.random_scan(shape, **({} if len(shape) == 3 else {"affine": np.eye(4)}))
    victim = double(make, dims)
    slopes = []
    for budget in (None, 0):
        view = viewed(image, victim, memory_budget=budget)
        objective = Camouflaged(ascend(LOSSES["ce"]), given(some_features(victim)), 2.0)
        x = view.x.double().requires_grad_()
        slopes.append(torch.autograd.grad(objective(view, x, view.task, 0.0), x)[0])
    assert torch.equal(*slopes)
    rng, step = np.random.default_rng(0), 1e-4
    for _ in range(4):
        voxel = (0, 0, *(int(rng.integers(n)) for n in shape))
        ends = []
        for sign in (1, -1):
            moved = x.detach().clone()
            moved[voxel] += sign * step
            ends.append(float(objective(view, moved, view.task, 0.0).detach()))
        assert float(slopes[0][voxel]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-3, abs=1e-7)


@pytest.mark.parametrize("goal", ["change", "vanish"])
def test_the_objective_is_the_base_minus_the_weighted_term(goal):
    victim = double(victims.textured, 2)
    view = viewed(victims.random_scan((14, 12), affine=np.eye(4)), victim, goal)
    base, x = ascend(LOSSES["dice-ce"]), view.x.double()
    objective = Camouflaged(base, given(some_features(victim)), 0.3)
    logits, term = objective.look(view, x, view.task)
    assert torch.equal(logits, view(x))
    expected = float(base(view, x, view.task, 0.0)) - 0.3 * float(term)
    assert float(objective(view, x, view.task, 0.0)) == pytest.approx(expected, rel=1e-6)


def test_slice_by_slice_the_term_is_the_mean_over_all_slices():
    victim = double(victims.textured, 2)
    volume, features, counted = victims.random_scan((12, 12, 3)), some_features(victim), []

    def distance(maps, masks):
        total, count = Features.distance(features, maps, masks)
        counted.append(count)
        return total, count

    features.__dict__["distance"] = distance
    whole = viewed(volume, victim)
    objective = Camouflaged(ascend(LOSSES["ce"]), given(features), 1.0)
    found = float(objective.look(whole, whole.x.double(), whole.task)[1])
    terms, counts = [], []
    counted.clear()
    for index in range(3):
        flat = viewed(volume.with_data(volume.data[..., index], affine=np.eye(4)), victim)
        flat.task.__dict__["labels"] = whole.task.labels[..., index]
        terms.append(float(objective.look(flat, flat.x.double(), flat.task)[1]))
        counts.append(sum(counted))
        counted.clear()
    assert found == pytest.approx(np.average(terms, weights=counts), rel=1e-5) and len(set(terms)) == 3


def test_the_component_is_chosen_without_gradient():
    """Beside one component that is far nearer the other has no say in the gradient."""
    factors = np.stack([np.eye(8), np.eye(8)])
    near = Mixture(np.array([0.5, 0.5]), np.stack([np.zeros(8), np.full(8, 0.5)]), factors)
    alone = Mixture(np.ones(1), np.zeros((1, 8)), factors[:1])
    x = torch.full((1, 8, 4, 4), 0.1, dtype=torch.float64, requires_grad=True)
    for mixture in (near, alone):
        made = Features("", "", (4, 4), 1, ("a",), {("0", 0): mixture})
        total, count = made.distance({"0": x}, torch.ones(1, 1, 4, 4))
        (slope,) = torch.autograd.grad(total, x)
        assert count == 1 and float(total.detach()) == pytest.approx(0.01)
        torch.testing.assert_close(slope, torch.full_like(x, 2 * 0.1 / 8 / 16))


def test_classes_without_a_mixture_and_specks_are_left_alone():
    made = Features("", "", (4, 4), 1, ("a", "b"), {("0", 0): Mixture(np.ones(1), np.zeros((1, 8)), np.eye(8)[None])})
    masks = torch.zeros(1, 2, 4, 4)
    masks[0, 0, 0], masks[0, 1] = 1, 1  # four voxels of a
    total, count = made.distance({"0": torch.ones(1, 8, 4, 4)}, masks)
    assert (float(total), count) == (0.0, 0)
    masks[0, 0, 1] = 1  # eight
    total, count = made.distance({"0": torch.ones(1, 8, 4, 4)}, masks)
    assert (float(total), count) == (pytest.approx(1.0), 1)


def test_camouflaged_features_are_likelier_than_without():
    """What the term is for, measured by the mixtures' own log-likelihood of what the changed voxels look like."""
    image, victim = victims.random_scan((14, 12, 12), dtype=np.dtype(np.float32)), victims.textured()
    features = fit_features(victim, [image], components=2, passes=3)
    goal = Goal.parse("become=left", ("right",), victim.labels)
    reference = victim.predict(image)
    held = torch.from_numpy(reference == 2)[None, None].float()

    def likelihood(x_adv):
        """Mean over windows and cells."""
        found, bound = [], victim.on(image)

        def look(maps, places, prediction):
            masks = cut(held, places)
            means, voxels = Pool(masks, (12, 12, 12), 2)(maps["0"])
            seen = means[:, 0][voxels[:, 0] >= 8].double().numpy()
            found.extend(features.mixtures["0", 1].log_likelihood(seen))
            return prediction.new_zeros(())

        with torch.no_grad():
            bound.look_inside(bound.prepare(torch.from_numpy(x_adv)[None]), Inside(("0",), look))
        return np.mean(found)

    base = {"goal": goal, "base": "bim", "steps": 6}
    bare, camouflaged = (attacked(image, victim, "hfc", 12.0, feature_weight=w, **base) for w in (0.0, 100.0))
    assert likelihood(camouflaged.x_adv) > likelihood(bare.x_adv) + 1


# ---------------------------------------------------------------- what it is added to


@pytest.mark.parametrize(
    "base, settings",
    [
        ("pgd", {"restarts": 2, "loss": "ce"}),
        ("mi-fgsm", {"decay": 0.5}),
        ("di-fgsm", {"probability": 1.0}),
        ("apgd", {}),
        ("smia", {}),
        ("medis", {"boundary": 6.0, "refine": 1}),
    ],
)
def test_without_its_weight_it_is_the_base_bit_for_bit_and_with_it_it_is_not(base, settings):
    image, victim = victims.random_scan(), victims.textured()
    plain = attacked(image, victim, base, 8.0, steps=3, **settings)
    told = ",".join(f"{key}={value}" for key, value in settings.items())
    same, other = (
        attacked(image, victim, "hfc", 8.0, steps=3, base=base, base_settings=told, feature_weight=weight)
        for weight in (0.0, 5.0)
    )
    assert plain.delta.any() and same_bits(plain.x_adv, same.x_adv)
    assert [step.loss for step in plain.trace] == [step.loss for step in same.trace]
    assert [step.loss for step in other.trace] != [step.loss for step in same.trace]


def test_what_a_transformed_base_looks_at_besides_is_its_own():
    """DI's moved scan and SMIA's point farther along aren't the point whose logits are known."""
    image, victim = victims.random_scan((12, 12, 12)), victims.textured()
    calls = []
    victim.network.register_forward_hook(lambda *_: calls.append(1))
    settings = {"features": prepared("hfc", image, victim)["features"], "reference": victim.predict(image)}
    counts = []
    for base, told in (("bim", ""), ("di-fgsm", "probability=1"), ("smia", "")):
        calls.clear()
        attacked(image, victim, "hfc", 8.0, steps=2, base=base, base_settings=told, **settings)
        counts.append(len(calls))
    assert counts == [3, 6, 5]  # of a single window, in two steps and a last look; SMIA's first step has one term


def test_its_parameters_hold_the_bases_own():
    attack = recipe_of("hfc", 8.0, steps=10, base="mi-fgsm", base_settings="decay=0.5")
    told = attack.parameters["base_settings"]
    assert sorted(told.split(",")) == ["alpha=0.8", "decay=0.5", "loss=dice-ce"]
    assert recipe_of("hfc", 8.0, steps=10, base="mi-fgsm", base_settings=told).parameters == attack.parameters
    assert built("hfc", 8.0, base="fgsm").steps == 1


@pytest.mark.parametrize("kind", ["picture", "slices", "colours", "sequences", "surrogate"])
def test_it_runs_on_every_kind_of_scan(kind):
    flat, extra = {"affine": np.eye(4)}, {}
    if kind == "picture":
        image, victim = victims.random_scan((18, 17), **flat), victims.textured(2)
    elif kind == "slices":
        image, victim = victims.random_scan((18, 17, 3)), victims.textured(2)
    elif kind in ("colours", "sequences"):
        channels, dims, shape = (3, 2, (18, 17)) if kind == "colours" else (2, 3, (12, 11, 9))
        one = [victims.random_scan(shape, seed=c, **(flat if dims == 2 else {})) for c in range(channels)]
        image, victim = one[0].with_data(np.concatenate([v.data for v in one])), with_channels(channels, dims)
    else:
        image, victim = victims.random_scan(), victims.textured()
        model = victims.textured(network=victims.conv_net(3, seed=5))
        extra = {"surrogates": [model.on(image)], **prepared("hfc", image, model)}
    outcome = attacked(image, victim, "hfc", 12.0, steps=2, **extra)
    base = attacked(image, victim, "pgd", 12.0, steps=2, **{k: v for k, v in extra.items() if k == "surrogates"})
    assert outcome.delta.any() and [s.loss for s in outcome.trace] != [s.loss for s in base.trace]


# ---------------------------------------------------------------- what it refuses


def refused(victim, **settings) -> str:
    with pytest.raises(InputError) as refusal:
        recipe_of("hfc", 8.0, **settings).check(victim, victims.random_scan())
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)
    return str(refusal.value)


def test_without_features_of_this_very_model_it_is_refused_in_words(tmp_path):
    image, victim = victims.random_scan(), victims.textured()
    said = refused(victim)
    assert "needs features of clean scans; make them with `perturbox fit-features SCAN" in said
    assert "give --set features=FILE" in said
    own = prepared("hfc", image, victim)
    recipe_of("hfc", 8.0, **own).check(victim, image)
    other = victims.textured(network=victims.conv_net(3, seed=5), name="other")
    assert "were fitted on other weights (textured) than those of other; fit them on this model" in refused(
        other, **own
    )
    made = Features.read(Path(own["features"]))
    for changes, words in (
        (
            {"mixtures": {("encoder", group): m for (_, group), m in made.mixtures.items()}},
            "are of the layer 'encoder'",
        ),
        ({"window": (16, 16, 16)}, "are of windows of (16, 16, 16) voxels"),
    ):
        Features(**{**vars(made), "placed": {}, **changes}).write(tmp_path / "f.safetensors")
        assert words in refused(victim, features=str(tmp_path / "f.safetensors"))
    assert "There is no file" in refused(victim, features=str(tmp_path / "nowhere"))


def test_what_the_base_refuses_is_refused_too():
    assert "dlr needs 3 classes" in refused(victims.organ(), base="apgd", base_settings="loss=dlr", features="nowhere")


@pytest.mark.parametrize(
    "settings, words",
    [
        *[({"base": name}, f"not to {name}") for name in ("nes", "square", "noise", "deepfool", "vafa", "hfc", "asma")],
        ({"base": "pdg"}, "did you mean 'pdpgd' or 'pgd'?"),
        ({"base_settings": "loss"}, "base_settings=loss isn't understood; write name=value,name=value."),
        ({"base_settings": "los=ce"}, "pgd has no setting 'los'; did you mean 'loss'?"),
        ({"base": "bim", "norm": "l2"}, "bim works with norm linf, not 'l2'."),
    ],
)
def test_bases_and_settings_that_do_not_fit_are_refused_in_words(settings, words):
    with pytest.raises(InputError) as refusal:
        built("hfc", 8.0, **settings)
    assert words in str(refusal.value) and str(refusal.value).endswith((".", "?"))


def test_only_the_user_of_this_machine_names_its_files():
    with pytest.raises(InputError, match=r"hfc needs files of the machine it runs on \(features\); run it there"):
        recipes.get("hfc").build(8.0, "linf", 2, {"features": "x.safetensors"})


# ---------------------------------------------------------------- the command line

MODEL = f"{Path(victims.__file__)}:seeded"


@pytest.fixture
def run(capfd):
    """run(*arguments) -> (exit status, stdout, stderr)"""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return (status, *capfd.readouterr())

    return run


def test_from_fitting_to_an_attack_that_replays(run, tmp_path):
    scan, file = tiny.write_scan(tmp_path / "ct.nii.gz", (14, 13, 12)), tmp_path / "clean.safetensors"
    status, out, err = run("fit-features", scan, scan, "--victim", MODEL, "--passes", 2, "--out", file)
    assert status == 0, err
    made = Features.read(file)
    assert made.facts["scans"] == 2 and made.facts["predictions"] == 4 and f"Features: {file}" in out
    for name, count in made.facts["samples"].items():
        assert any(line.split() == [name, str(count)] for line in out.splitlines())
    assert "Scan 2 of 2, prediction 2 of 2" in err
    attack = ["attack", scan, "--victim", MODEL, "--attack", "hfc", "--eps", 10, "--steps", 2]
    status, out, err = run(*attack, "--out", tmp_path / "R")
    assert (status, out) == (2, "") and "`perturbox fit-features SCAN" in err and len(err.splitlines()) == 1
    status, out, err = run(*attack, "--set", f"features={file}", "--out", tmp_path / "R")
    assert status == 0, err
    result = json.loads((tmp_path / "R" / "result.json").read_text())
    assert result["attack"]["parameters"]["features"] == str(file) and result["attack"]["name"] == "hfc"
    status, out, _ = run("replay", tmp_path / "R", "--out", tmp_path / "again", "--trust")
    assert status == 0 and "The result is the recorded one: every voxel, every number and the trace." in out
    # Numbers are recomputed without the features, the attack is not.
    file.unlink()
    assert run("verify", tmp_path / "R", "--trust")[0] == 0
    status, _, err = run("replay", tmp_path / "R", "--out", tmp_path / "third", "--trust")
    assert status == 2 and "There is no file" in err and not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    "given, words",
    [
        (["--out", "f.npz"], "'f.npz' can't hold features; name --out something.safetensors."),
        (["--out", "f.safetensors", "--passes", 0], "--passes 0 must be at least 1."),
        (["--out", "ct.nii.gz/f.safetensors"], "can't be made"),
        (["--out", "f.safetensors", "--layer", "zebra"], "The network has no layer 'zebra'; it has 0, 1, 2."),
    ],
)
def test_fitting_refuses_in_one_line_and_leaves_nothing(run, given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan = tiny.write_scan(tmp_path / "ct.nii.gz", (14, 13, 12))
    status, out, err = run("fit-features", scan, "--victim", MODEL, *given)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1 and words in err
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii.gz"]
