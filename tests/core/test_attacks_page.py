"""What the short run of every attack makes of its rows: tables that keep apart what can't be compared, and results that
stay when others are measured again."""

import json
import sys
from pathlib import Path

import pytest

from perturbox.attacks import recipes

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import attacks
import attacks_page
import pages
import store
import strength
import strength_page

OWN = {"parameter": "strength", "value": 0.3, "unit": "", "meaning": "largest logarithm"}


def row(recipe: str, dice: float, eps: float | None = 10.0, case: str = "phantom", **changes) -> dict:
    plain = {
        "case": case, "recipe": recipe, "norm": "linf", "eps": eps, "steps": 5, "date": "2026-01-02", "keep": "worst",
        "unit": "HU", "dice": dice, "reached": False, "linf": 10.0, "rms": 9.0, "cpu_s": 12.0, "forwards": 6.0,
        "backwards": 5.0, "own": None, "control": 0.91,
    }  # fmt: skip
    return {**plain, **changes}


def section(*rows: dict) -> str:
    found = {
        "command": "python -m benchmarks attacks",
        "versions": {"torch": "2"},
        "machine": {"cpu": "a", "load": 0.5},
    }
    return attacks_page.section({**found, "rows": {str(k): r for k, r in enumerate(rows)}})


def table(text: str, heading: str) -> list[str]:
    """The rows below a heading."""
    part = text.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    return [line for line in part.splitlines() if line.startswith("| ")][1:]


def test_what_cannot_be_compared_stands_in_tables_of_its_own():
    text = section(
        row("pgd", 0.5),
        row("pgd", 0.7, 2.0),
        row("pgd", 0.4, case="ct", cpu_s=40.0, control=0.93),
        row("noise", 0.99),
        row("cw", 0.45, 40.0, keep="smallest", norm="l2", reached=True, rms=3.25),
        row("bias-field", 0.3, None, own=OWN, control=0.8, linf=612.4),
        row("kspace", 0.3, None, own=OWN, control=0.8, unit="intensity"),
    )
    assert table(text, "Within eps, linf") == [
        "| **noise** (floor) | 5 |  |  | 0.990 |  | 0.910 | 6 | 5 | 12 |  |",
        "| pgd | 5 |  | 0.700 | 0.500 | 0.400 | 0.930 | 6 | 5 | 12 | 40 |",
    ]
    assert table(text, "The smallest change that halves mean Dice") == [
        "| cw | phantom | l2 | 40 | yes | 0.450 | 0.910 | 10 HU | 3.2 HU | 12 |"
    ]
    assert table(text, "Budgets of their own") == [
        "| bias-field | `strength` = 0.3 | phantom | 0.300 | 0.800 | 612 HU | 9.0 HU | 12 |",
        "| kspace | `strength` = 0.3 | phantom | 0.300 | 0.800 | 10 grey values | 9.0 grey values | 12 |",
    ]
    assert "Within eps, l2" not in text and "Not run" not in text


def test_what_refused_is_named_with_its_reason():
    refused = {"case": "ct", "recipe": "hfc", "norm": "linf", "eps": 10.0, "steps": 5, "date": "2026-01-03"}
    text = section(row("pgd", 0.5), {**refused, "refused": "It needs features."})
    assert text.endswith("Not run:\n\n- hfc: It needs features.\n")
    assert "2026-01-02 to 2026-01-03" in text and "hfc |" not in text


def test_every_recipe_has_cells_and_noise_one_in_every_norm_to_stand_beside_it():
    known = recipes.discover()
    found = attacks.cells(list(known), ["phantom", "ct"])
    assert {cell.recipe for cell in found} == set(known)
    assert len({cell.key for cell in found}) == len(found)
    for cell in found:
        own = known[cell.recipe].own is not None
        assert (cell.eps is None) == own and cell.norm in known[cell.recipe].norms
    assert [cell.eps for cell in found if (cell.case, cell.recipe) == ("phantom", "pgd")] == [10.0, 5.0, 2.0]
    assert [cell.eps for cell in found if (cell.case, cell.recipe) == ("ct", "pgd")] == [10.0, 5.0, 2.0]
    assert [cell.eps for cell in found if cell.recipe == "deepfool"] == [attacks.CAP] * 2
    ball = {cell.norm for cell in found if cell.eps is not None and not attacks.seeks_smallest(cell.recipe)}
    assert {cell.norm for cell in found if cell.recipe == "noise"} >= ball & set(known["noise"].norms)


def test_results_are_stored_as_they_come_and_those_of_others_stay(tmp_path):
    document = tmp_path / "benchmarks.json"
    document.write_text(json.dumps({"cases": {"a": 1}}))
    store.store(document, attacks.PART, "one", row("pgd", 0.5), "first")
    store.store(document, attacks.PART, "two", row("bim", 0.6), "second")
    store.store(document, attacks.PART, "one", row("pgd", 0.4), "third")
    whole = json.loads(document.read_text())
    assert whole["cases"] == {"a": 1} and whole["attacks"]["command"] == "third"
    assert {key: found["dice"] for key, found in store.stored(document, attacks.PART)["rows"].items()} == {
        "one": 0.4,
        "two": 0.6,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.json"]


def test_a_run_goes_on_where_it_was(tmp_path, monkeypatch):
    """Only what has not been measured with as many steps."""
    asked = []
    monkeypatch.setattr(attacks, "REAL_CT", tmp_path / "absent")
    monkeypatch.setattr(attacks, "attack_all", lambda wanted, *rest: asked.append([c.key for c in wanted]) or [])
    document = tmp_path / "benchmarks.json"
    store.store(document, attacks.PART, "phantom fgsm linf 5", row("fgsm", 0.9, 5.0, loss="dice"), "before")
    attacks.main(["fgsm", "--out", str(tmp_path)])
    attacks.main(["fgsm", "--out", str(tmp_path), "--steps", "6"])
    attacks.main(["fgsm", "--out", str(tmp_path), "--again"])
    two, five, ten = (f"phantom fgsm linf {eps}" for eps in (2, 5, 10))
    assert asked == [[ten, two], [ten, five, two], [ten, five, two]]
    assert "| fgsm | 5 | dice | 0.900 | 0.910 | 6 | 5 | 12 |  |" in (tmp_path / "benchmarks.md").read_text(
        encoding="utf-8"
    )


def test_each_attack_gets_the_effort_it_needs_and_the_loss_of_the_others():
    assert attacks.effort_of("pgd", 5) == 5 and attacks.effort_of("square", 5) == recipes.get("square").steps >= 1000
    assert attacks.climbed("apgd") == {"loss": "dice"} == attacks.climbed("nes") and attacks.climbed("segpgd") == {}
    assert attacks.measured(row("pgd", 0.5, loss="dice"), "pgd", 5) and not attacks.measured(row("pgd", 0.5), "pgd", 5)
    assert not attacks.measured(row("square", 0.5, loss="dice"), "square", 5)


def test_what_was_run_with_less_than_it_needs_is_not_shown():
    rows = {"a": row("square", 0.99), "b": row("pgd", 0.5)}
    found = {"command": "c", "versions": {}, "machine": {"cpu": "a", "load": 0.5}, "rows": rows}
    text = attacks_page.section(found, lambda name: attacks.effort_of(name, 5))
    assert "Not run yet with the steps that they need: square." in text
    assert [line.split(" | ")[0] for line in table(text, "Within eps, linf")] == ["| pgd"]


@pytest.mark.parametrize("first", pages.SECTIONS)
def test_sections_keep_their_place_whoever_comes_first(first):
    sections = {heading: f"{heading}\n\nold\n" for heading in pages.SECTIONS}
    page = "# Benchmarks\n\ntext\n"
    for heading in [first, *(other for other in pages.SECTIONS if other != first)]:
        page = pages.with_section(page, sections[heading])
    assert page == "# Benchmarks\n\ntext\n\n" + "\n".join(sections.values())
    newer = pages.with_section(page, f"{first}\n\nnew\n")
    assert newer == page.replace(f"{first}\n\nold", f"{first}\n\nnew")
    assert pages.section_of(newer, first) == f"{first}\n\nnew\n"


def test_the_table_of_strength_takes_means_over_all_scans_and_marks_the_lowest():
    def cell(arm: str, scan: str, steps: int, score: float) -> dict:
        return {"scene": "plain", "scan": scan, "arm": arm, "steps": steps, "score": score, "date": "2026-01-02"}

    rows = [cell("default", "patient-0", 20, 0.2), cell("default", "patient-1", 20, 0.4)]
    rows += [cell("apgd, dice", "patient-0", 20, 0.1)]  # the other patient is missing: no mean
    rows += [cell("apgd, ce", "patient-0", 20, 0.4), cell("apgd, ce", "patient-1", 20, 0.5)]
    found = {"machine": {"cpu": "a"}, "versions": {"torch": "2"}, "rows": {str(n): row for n, row in enumerate(rows)}}
    text = strength_page.section(found, strength.SCENES, list(strength.ARMS))
    assert text.startswith(pages.STRENGTH) and "`hippocampus` on held-out hippocampus scans of 2 patients" in text
    assert [line for line in text.splitlines() if line.startswith("| ")] == [
        "| attack | 20 steps |",
        "| **default** | **0.300** |",
        "| apgd, ce | 0.450 |",
    ]


def test_strength_gives_every_arm_one_start_and_as_many_gradients():
    found = strength.cells(["hardened", "slab-l2"], list(strength.ARMS), [20])
    assert found and len({cell.key for cell in found}) == len(found)
    for cell in found:
        scene, (name, settings) = strength.SCENES[cell.scene], strength.ARMS[cell.arm]
        attack = recipes.get(name).build(scene.eps, scene.norm, cell.steps, settings(scene.eps)).attack
        assert attack.steps == 20 and attack.rounds == 1 and attack.keep == "worst"
    assert {cell.arm for cell in found if cell.scene == "slab-l2"} < set(strength.ARMS)  # without those that lack l2
