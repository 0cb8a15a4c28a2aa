"""Names and sentences that readers stumbled over stay out of what the project ships and documents."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("core", "monailabel_app", "slicer_extension", "docs", "README.md", "CONTRIBUTING.md")
# 0001 keeps the names of its time.
FILES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", *PRODUCT], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    if name.endswith((".py", ".md", ".js", ".html", ".ui")) and not name.endswith("0001-layout.md")
]
SENTENCES = (
    "the limit has no ruler", "mend it", "made a mistake (", "where harmless changes leave no better",
    "eps is but an additional cap", "has none such", "none such", "need neither be storable",
    "shall not fail on the saved file", "whether a round ends as soon as", "lets the sum of amount",
    "says a little farther along", "The attack that is added to", "that the pairs tell of",
    "as far out as the budget allows", "tried in vain", "held against the joint", "with the courtesy",
    "never says a word", "when its worker last heard", "for a wish may", "listens to nobody",
    "before it had said all",
)  # fmt: skip
# Of the core: names that said something else than the field does, or nothing.
NAMES = (
    r"class (Scene|View|Own|Surrogate)\b", r"\bown_draw\(", r"\bslope\b(?=[,)=\]])", r"\btowards=",
    r"\bself\.(tops|touched|reached|told|wish|asked)\b", r"\bdef (told|apart|some|climb)\(self\b",
    r"uninfluential_fraction\(", r"NSD_TOLERANCE_MM", r"\bcapped:",
)  # fmt: skip
MODULES = (
    "calls", "chunked", "constraints", "resources", "steps", "ready", "minimal", "figures", "corner", "refusals",
    "ending",
)  # fmt: skip


@pytest.mark.parametrize("sentence", SENTENCES)
def test_no_sentence_makes_a_reader_stumble(sentence):
    assert [path.relative_to(ROOT) for path in FILES if sentence in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("name", NAMES)
def test_names_are_the_fields_terms(name):
    inside = [path for path in FILES if path.is_relative_to(ROOT / "core" / "perturbox" / "attacks")]
    found = [path.relative_to(ROOT) for path in inside if re.search(name, path.read_text(encoding="utf-8"))]
    assert inside and found == []


def test_modules_say_what_they_hold():
    kept = {"refusals": ROOT / "core" / "perturbox" / "cli" / "refusals.py"}  # it holds how a refusal is printed
    assert [path for path in FILES if path.stem in MODULES and path != kept.get(path.stem)] == []
