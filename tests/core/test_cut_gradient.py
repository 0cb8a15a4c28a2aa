"""A victim whose gradient is cut is refused before the first step, unless told otherwise, by the part that cuts it."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
import unusable
import victims
from test_margins import job_on, three_tissues
from unusable import Layers, layered, nested

from perturbox.cli import main
from perturbox.job.execute import run_job
from perturbox.job.inputs import Listener, prepare
from perturbox.judge.victim import replanned
from perturbox.model import gradient
from perturbox.model.gradient import cut_in, require_gradient
from perturbox.model.pipeline import Pipeline
from perturbox.model.pipeline.intensity import Affine, Range, Truncate
from perturbox.model.pipeline.space import Crop
from perturbox.model.pipeline.step import Pointwise, Step
from perturbox.model.victim import as_input
from perturbox.types import InputError


@dataclasses.dataclass(frozen=True)
class Rounded(Step):
    name: ClassVar[str] = "rounded-in-a-test"

    def plan(self, frame, x):
        return Pointwise(frame, "opaque", "rounded to whole numbers", torch.round)


@dataclasses.dataclass(frozen=True)
class ByNumpy(Step):
    name: ClassVar[str] = "numpy-in-a-test"

    def plan(self, frame, x):
        return Pointwise(frame, "opaque", "by NumPy", lambda v: torch.from_numpy(v.detach().numpy() * 1.0))


def piped(*steps: Step):
    return layered(Layers(), pipeline=Pipeline(steps))


def found(victim, image=None):
    image = image or three_tissues()
    return cut_in(victim.on(image), as_input(image, victim.device))


@pytest.mark.parametrize(
    "victim, where",
    [
        (layered(Layers(unusable.rounding)), "its network"),
        (layered(Layers(unusable.rounding), 2), "its network"),
        (nested(unusable.Regions(unusable.rounding)), "its network"),
        (layered(Layers(), normalise=unusable.rounding), "its normalisation"),
        (piped(Affine(0.0, 1.0), Rounded()), "its step 'rounded-in-a-test' (rounded to whole numbers)"),
        (piped(ByNumpy(), Affine(0.0, 1.0)), "its step 'numpy-in-a-test' (by NumPy)"),
    ],
    ids=["3D", "slice by slice", "multi-label", "normalise", "a step", "a step without a graph"],
)
def test_the_part_that_cuts_is_named(victim, where):
    assert found(victim) == where
    with pytest.raises(InputError, match="--allow-cut-gradient") as refusal:
        require_gradient(victim, three_tissues())
    assert f"cut in {where}: " in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "victim",
    [
        layered(Layers()),
        layered(Layers(), 2),
        piped(Range(-200, 400)),
        piped(Truncate()),  # the identity's gradient stands in
        layered(Layers(after=unusable.times_ten_thousand)),
        layered(Layers(lambda x: 0 * x)),  # no change of the scan changes its scores: nothing is hidden
    ],
)
def test_others_pass(victim):
    assert found(victim) is None
    require_gradient(victim, three_tissues())


def test_a_model_is_asked_once_a_grid(monkeypatch):
    asked = []
    monkeypatch.setattr(gradient, "cut_in", lambda *given: asked.append(given) and None)
    victim, image = layered(Layers()), three_tissues()
    for _ in range(3):
        require_gradient(victim, image)
    require_gradient(victim, victims.random_scan((9, 9, 9)))
    require_gradient(layered(Layers()), image)
    assert len(asked) == 3


def test_one_window_of_many_is_asked():
    """The cost: of a scan of many windows the gradient of one."""
    calls = []
    network = Layers(lambda x: calls.append(tuple(x.shape)) or x)
    victim, image = layered(network), victims.random_scan((60, 60, 60))
    assert found(victim, image) is None
    windows = sum(shape[0] for shape in calls)
    calls.clear()
    victim.on(image)(as_input(image, victim.device))
    assert windows == 1 < sum(shape[0] for shape in calls)


def test_attacks_and_margins_refuse_it_before_anything_is_written(tmp_path, capsys):
    job = dataclasses.replace(job_on(three_tissues(), tmp_path, "layers"), victim=f"{unusable.__file__}:flat")
    with pytest.raises(InputError, match="cut in its network"):
        run_job(job, tmp_path / "R")
    assert not (tmp_path / "R").exists()
    common = [job.image, "--victim", job.victim, "--force", "--out", str(tmp_path / "new")]
    for command in ("attack", "margin"):
        assert main([command, *common]) == 2
        assert "cut in its network" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("changes", [{"attack": "square"}, {"allow_cut_gradient": True}, {"surrogate": "plain"}])
def test_what_goes_on_all_the_same(tmp_path, changes):
    if "surrogate" in changes:
        changes = {"surrogate": (f"{unusable.__file__}:plain",)}
    job = dataclasses.replace(job_on(three_tissues(), tmp_path, "layers"), victim=f"{unusable.__file__}:flat")
    assert prepare(dataclasses.replace(job, **changes)).victim.name == "layers"


def test_a_crop_that_moves_with_the_change_is_said():
    clean = three_tissues()
    clean.data[:, :2] = -1000.0
    victim = piped(Crop(above=-500.0))
    saved = clean.with_data(clean.data.copy())
    assert replanned(victim, clean, saved) is None
    saved.data[:, 1, 3, 3] = 0.0
    said = replanned(victim, clean, saved)
    shape = np.array(clean.shape)
    sizes = [" × ".join(map(str, shape - (cut, 0, 0))) for cut in (1, 2)]
    assert said is not None and "the step 'crop' of layers" in said
    assert said.index(sizes[0]) < said.index(sizes[1])
    assert replanned(layered(Layers()), clean, saved) is None


def test_the_check_is_announced_before_the_model_computes(tmp_path):
    """A server gives up scans that are read for too long: a slow model's seconds are not the file's."""
    said, at_first = [], []
    victim = layered(Layers())
    victim.network.register_forward_pre_hook(lambda *_: at_first.append(said[-1:]))
    prepare(job_on(three_tissues(), tmp_path, "layers"), victim=victim, listener=Listener(said.append))
    assert at_first[0] == ["Looking whether a gradient reaches the scan"] == said
