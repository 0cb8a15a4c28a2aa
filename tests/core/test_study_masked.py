"""Models that only look sturdy, in a study end to end: one that rounds the scan, one that answers by chance, and their
honest twin, whose attacks break the first."""

from pathlib import Path

import pytest
import tiny

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
import pandas as pd

from perturbox.judge.verdicts import BROKEN
from perturbox.studies.run import run_study

TWINS = f"""\
import sys; sys.path.insert(0, {str(Path(tiny.__file__).parent)!r})
import dataclasses, torch, tiny

class Rounded(tiny.Ranges):
    "In steps of 30 HU, as a defence that takes bits away: no gradient reaches the scan."
    def __init__(self, dims):
        super().__init__(dims)
        self.register_buffer("levels", torch.tensor(20.0))
    def forward(self, x):
        return super().forward(torch.round(x * self.levels) / self.levels)

class Restless(tiny.Ranges):
    "With dropout that stays on, or nearly."
    def __init__(self, dims):
        super().__init__(dims)
        self.register_buffer("size", torch.tensor(0.2))
    def forward(self, x):
        scores = super().forward(x)
        return scores + self.size * torch.randn_like(scores)

def rounded(device):
    return dataclasses.replace(tiny.volume(device), name="rounded", network=Rounded(3).to(device))

def restless(device):
    return dataclasses.replace(tiny.volume(device), name="restless", network=Restless(3).to(device))
"""
STUDY = f"""\
schema: perturbox-study/1
name: twins
kind: transfer
models:
  plain: {{victim: "{tiny.__file__}:volume"}}
  rounded: {{victim: "twins.py:rounded"}}
  restless: {{victim: "twins.py:restless"}}
cases:
  images: "scan*.nii.gz"
attacks:
  - {{name: pgd, steps: 10}}
eps: {{values: [40]}}
target: [liver]
keep_worst: 0
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    place = tmp_path_factory.mktemp("masked")
    (place / "twins.py").write_text(TWINS)
    (place / "study.yaml").write_text(STUDY)
    for seed in range(2):
        tiny.write_scan(place / f"scan{seed}.nii.gz", seed=seed)
    return run_study(place / "study.yaml", place / "out")


@pytest.fixture(scope="module")
def liver(done):
    rows = pd.read_parquet(done.out / "results.parquet")
    return rows[rows["structure"] == "liver"].set_index(["surrogate", "target"]).sort_index()


def loud(done):
    return {(finding.rule, finding.sentence) for finding in done.findings if finding.level == "loud"}


def test_a_rounded_model_is_caught_although_it_holds(done, liver):
    own = liver.loc[("rounded", "rounded")]
    assert (own["linf"] == 0).all() and (own["dice"] == 1).all()
    assert set(own["verdict"]) == {"not-tested"}
    (said,) = [sentence for rule, sentence in loud(done) if rule == "untouched"]
    assert said.startswith("pgd changed nothing in 2 attack(s) on rounded")


def test_what_was_made_for_its_plain_twin_breaks_it(done, liver):
    across = liver.loc[("plain", "rounded")]
    assert (across["dice"] < 0.5).all() and set(across["verdict"]) <= set(BROKEN)
    assert any(rule == "transfer-beats-own" and "Dice of rounded" in said for rule, said in loud(done))


def test_a_model_that_answers_by_chance_is_caught(done, liver):
    assert set(liver.loc[("restless", "restless")]["repeats"]) == {False}
    (said,) = [sentence for rule, sentence in loud(done) if rule == "randomised"]
    assert said.startswith("restless answers the same scan twice differently in 2 case(s)")


def test_no_loud_check_objects_to_the_honest_twin(done, liver):
    assert (liver.loc[("plain", "plain")]["dice"] < 0.5).all()
    assert liver.loc[("plain", "plain")]["repeats"].all()
    assert not [said for _, said in loud(done) if "on plain" in said or "of plain" in said or said.startswith("plain")]
