"""Several models as one: the mean of their probabilities on the scan's grid, its gradient, what can't be joined."""

import dataclasses

import numpy as np
import pytest
import test_bundle
import torch
import unusable
import victims
from test_margins import three_tissues

from perturbox.cli import main
from perturbox.job.estimate import estimate_prediction
from perturbox.job.folder import verify
from perturbox.judge.victim import check_victim
from perturbox.load import load_victim, read_spec
from perturbox.model.ensemble import ensemble_of
from perturbox.model.gradient import require_gradient
from perturbox.model.pipeline import Decision, Pipeline
from perturbox.model.pipeline.space import Crop, Orient, Spacing
from perturbox.model.victim import Victim, as_input
from perturbox.model.windows import Window
from perturbox.types import InputError, Volume

SOFT_FIRST = Decision(({"do": "softmax"}, {"do": "inverse"}, {"do": "argmax"}))


def named(name: str, seed: int, **changes) -> Victim:
    settings = {"labels": {"background": 0, "a": 1, "b": 2}, "window": Window((8, 8, 8), batch=2)}
    return Victim(name, victims.conv_net(3, seed=seed), **(settings | changes))


def scan() -> Volume:
    data = np.random.default_rng(0).normal(0, 1, (1, 13, 12, 11)).astype(np.float32)
    affine = np.array([[0, -1.7, 0, 3], [1.3, 0, 0, 5], [0, 0, 2.6, -7], [0, 0, 0, 1.0]])
    return Volume(data, affine, "intensity", np.dtype(np.float32))


def test_the_mean_is_taken_of_probabilities_on_the_scans_grid():
    """One member resamples by a pipeline, one by the old shorthand, one not at all."""
    piped = named("piped", 0, pipeline=Pipeline((Orient("RAS"), Spacing((2.0, 2.0, 2.0)))), decision=SOFT_FIRST)
    old, plain = named("old", 1, orientation="LPS", spacing=(2.0, 2.0, 2.0)), named("plain", 2)
    joint, image = ensemble_of([piped, old, plain]), scan()
    x = as_input(image, joint.device)
    with torch.no_grad():
        a, b, c = (member.on(image) for member in (piped, old, plain))
        first = a.grid.back(a.judge(x)[0].softmax(0))  # softmax, then the way back, as its decision has it
        second, third = b.grid.back(b.judge(x)[0]).softmax(0), c.judge(x)[0].softmax(0)
        found = joint.on(image)(x)[0].softmax(0)
    expected = (first + second + third) / 3
    assert torch.allclose(found, expected / expected.sum(0), atol=1e-6)
    assert np.array_equal(joint.predict(image), expected.argmax(0).numpy())
    assert len(np.unique(joint.predict(image))) > 1


def test_one_model_twice_is_that_model():
    member, image = named("one", 0, orientation="RAS", spacing=(2.0, 2.0, 2.0)), scan()
    twice = ensemble_of([member, dataclasses.replace(member)])
    back, argmax = {"do": "inverse"}, {"do": "argmax"}
    piped = named("one", 0, pipeline=Pipeline((Orient("RAS"),)), decision=Decision((back, argmax)))
    assert np.array_equal(twice.predict(image), member.predict(image))
    assert np.array_equal(ensemble_of([piped, piped]).predict(image), piped.predict(image))


def test_regions_are_averaged_as_answers():
    regions, image = ((1, 2), (2,)), scan()
    pair = [dataclasses.replace(named("r", s, regions=regions), network=victims.conv_net(3, 2, s)) for s in (3, 4)]
    with torch.no_grad():
        mean = sum(p.on(image).judge(as_input(image, p.device))[0].sigmoid() for p in pair) / 2
    labels = ensemble_of(pair).predict(image)
    assert np.array_equal(labels, np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0)))


def test_where_a_crop_leaves_the_scan_out_a_member_says_background():
    image = scan()
    image.data[:, :4] = -9.0
    cropped = named("cropped", 0, pipeline=Pipeline((Crop(-8.0),)), decision=SOFT_FIRST)
    bound = ensemble_of([cropped, cropped]).on(image)
    with torch.no_grad():
        p = bound(as_input(image, cropped.device))[0].softmax(0)
    assert bool((p[0, :4] > 0.999).all())


def test_its_gradient_is_that_of_the_differences():
    pair = [named("piped", 0, pipeline=Pipeline((Spacing((2.0, 2.0, 2.0)),)), decision=SOFT_FIRST), named("plain", 1)]
    for member in pair:
        member.network.double()
    bound, image = ensemble_of(pair).on(scan()), scan()
    generator = torch.Generator().manual_seed(0)
    x = torch.from_numpy(image.data)[None].double().requires_grad_()
    weight = torch.randn(1, 3, *image.shape, generator=generator, dtype=torch.float64)
    way = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    (slope,) = torch.autograd.grad((bound(x) * weight).sum(), x)
    with torch.no_grad():
        moved = ((bound(x + 1e-2 * way) - bound(x - 1e-2 * way)) * weight).sum() / 2e-2
    assert float((slope * way).sum()) == pytest.approx(float(moved), rel=1e-3)


def test_a_spec_joins_by_plus_and_is_attacked(tmp_path):
    from perturbox import io

    image = three_tissues()
    io.write_volume(tmp_path / "scan.nii.gz", image)
    here = unusable.__file__
    spec = f"{here}:plain+{here}:scaled"
    assert [str(member) for member in read_spec(spec).members] == [f"{here}:plain", f"{here}:scaled"]
    assert str(read_spec(spec)) == spec and str(read_spec(spec).absolute()) == spec and read_spec(spec).runs_code
    joint = load_victim(spec)
    assert joint.name == "layers" and joint.sha256 == load_victim(spec).sha256 != load_victim(f"{here}:plain").sha256
    require_gradient(joint, image)
    assert estimate_prediction(joint, image).windows == 4
    found = check_victim(joint, image)
    assert found["windows"] == 4 and [step["sentence"][:7] for step in found["steps"]] == ["layers:"] * 4
    common = ["--attack", "pgd", "--steps", "3", "--eps", "12", "--force", "--out", str(tmp_path / "R")]
    assert main(["attack", str(tmp_path / "scan.nii.gz"), "--victim", spec, *common]) == 0
    assert verify(tmp_path / "R") == []
    flat = load_victim(f"{here}:plain+{here}:flat")
    with pytest.raises(InputError, match="cut in its network"):
        require_gradient(flat, image)


def test_a_path_with_a_plus_is_one_model(tmp_path):
    folder = test_bundle.make(tmp_path / "spleen+liver")
    assert read_spec(str(folder)).kind == read_spec(f"bundle:{folder}").kind == "bundle"
    assert load_victim(str(folder)).name == "made-here"
    (tmp_path / "c++").mkdir()
    (tmp_path / "c++" / "net.py").write_text("")
    assert read_spec(f"{tmp_path}/c++/net.py:make").kind == "python"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"labels": {"background": 0, "a": 1, "c": 2}}, "as their labels differ"),
        ({"regions": ((1, 2), (2,))}, "as their regions differ"),
        ({"unit": "intensity"}, "as their unit differ"),
        ({"channels": 3}, "as their channels differ"),
        ({"clean_up": lambda labels, ml: labels}, "as their clean-up differ"),
        (
            {"pipeline": Pipeline(), "decision": Decision(({"do": "argmax"}, {"do": "inverse", "mode": "nearest"}))},
            "decides otherwise than by its highest probability",
        ),
    ],
)
def test_what_can_not_be_joined_is_one_sentence(changes, words):
    with pytest.raises(InputError) as refusal:
        ensemble_of([named("one", 0), named("other", 1, **changes)])
    assert words in str(refusal.value) and "\n" not in str(refusal.value)
