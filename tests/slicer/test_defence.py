"""The row "Defence": offered as the server describes it, sent as the server reads it, and a result that never says what
one of the two attacks did alone. Against a real server and folders that the real command line leaves."""

import json
import subprocess

import pytest
import scans
from driving import Driver
from harness.server import ROOT, TINY, server_python
from PerturboxLib import words


@pytest.fixture
def panel(load_module, wait_until):
    return Driver(load_module(), wait_until)


@pytest.fixture
def ready(panel, tiny_server):
    """A panel that is connected, with a scan chosen."""
    panel.volume = scans.add_scan("oblique")
    panel.connect(tiny_server)
    panel.choose(panel.volume)
    return panel


def choose(panel, name: str) -> None:
    box = panel.ui.defenceComboBox
    box.currentIndex = box.findData(name)


def rows(panel) -> dict:
    return panel.widget.input.defence.form.fields


def asked(panel) -> list:
    """What a job would say of the defence; None where it says nothing."""
    return panel.widget.attack.request("segment", None).get("defense")


def test_the_servers_defences_are_offered_and_none_is_chosen(ready):
    ui, box = ready.ui, ready.ui.defenceComboBox
    offered = ready.session.schema["defenses"]
    assert [box.itemText(n) for n in range(box.count)] == ["None", *(each["title"] for each in offered)]
    names = "aegis bit-depth dct gaussian lgs median park smoothing tv"
    assert [each["name"] for each in offered] == names.split()
    assert not box.isHidden() and not ui.defenceCaption.isHidden() and ui.defenceContainer.isHidden()
    assert box.currentText == "None" and asked(ready) is None
    assert ui.marginCheckBox.enabled


def test_settings_are_rows_with_unit_limits_and_help(ready):
    choose(ready, "bit-depth")
    fields = rows(ready)
    assert list(fields) == ["bits", "low", "high"] and not ready.ui.defenceContainer.isHidden()
    bits, low = fields["bits"].widget, fields["low"].widget
    assert (bits.value, bits.minimum, bits.maximum, bits.toolTip) == (3, 1, 12, "Bits that are kept")
    # The ends of the range are those that the model itself tells apart.
    assert (low.value, fields["high"].widget.value, low.suffix) == (-250.0, 350.0, " HU")
    assert asked(ready) == ["bit-depth:bits=3:low=-250.0:high=350.0"]
    choose(ready, "median")
    assert [rows(ready)["size"].widget.itemText(n) for n in range(3)] == ["3", "5", "7"]
    assert asked(ready) == ["median:size=3"]
    choose(ready, "park")
    assert list(rows(ready)) == ["threshold"], "a file of the server's machine is nothing to ask for"
    assert rows(ready)["threshold"].widget.text == "automatic" and asked(ready) == ["park"]
    rows(ready)["threshold"].widget.value = 0.0
    assert asked(ready) == ["park:threshold=0.0"]
    choose(ready, "")
    assert rows(ready) == {} and ready.ui.defenceContainer.isHidden() and asked(ready) is None


def test_what_was_set_comes_back_with_the_defence_and_the_scene(ready):
    choose(ready, "gaussian")
    rows(ready)["sigma"].widget.value = 0.5
    choose(ready, "median")
    choose(ready, "gaussian")
    assert asked(ready) == ["gaussian:sigma=0.5"]
    kept = {"name": "gaussian", "values": {"gaussian": {"sigma": 0.5}}}
    assert json.loads(ready.parameters.defence) == kept
    ready.parameters.defence = json.dumps(kept | {"values": {"gaussian": {"sigma": -3, "gone": 1}}})
    ready.widget.input.defence._built = None
    ready.widget.update()
    assert asked(ready) == ["gaussian:sigma=1.0"], "a value that no longer fits gives way to the server's"


def test_a_model_that_names_no_range_asks_for_both_ends(ready):
    """The server's description of such a model, which tests/app holds to; the model itself here has a range."""
    fields = ready.session.schema["models"]["tiny"]["defenses"]["bit-depth"]
    for name in ("low", "high"):
        del fields["properties"][name]["default"]
        fields["properties"][name]["x-unit"] = "intensity"
    fields["required"] = ["low", "high"]
    choose(ready, "bit-depth")
    low, high = (rows(ready)[name].widget for name in ("low", "high"))
    assert low.text == high.text == "to be given"
    for button in (ready.ui.attackButton, ready.ui.segmentButton):
        assert not button.enabled and button.toolTip == "Low: give a value"
    low.value = -5.0
    assert ready.ui.attackButton.toolTip == "High: give a value" and low.suffix == " intensity"
    high.value = 70.0
    assert ready.ui.attackButton.enabled and asked(ready) == ["bit-depth:bits=3:low=-5.0:high=70.0"]


def test_an_older_server_has_no_such_row(ready):
    choose(ready, "median")
    del ready.session.schema["models"]["tiny"]["defenses"]
    ready.widget.update()
    ui = ready.ui
    assert ui.defenceComboBox.isHidden() and ui.defenceCaption.isHidden() and ui.defenceContainer.isHidden()
    assert asked(ready) is None and ready.ui.attackButton.enabled
    del ready.session.schema["defenses"]
    ready.widget.update()
    assert ui.defenceComboBox.isHidden() and not ready.trouble


def test_an_attack_behind_a_defence_says_what_both_attacks_did(ready):
    from PerturboxLib import scene, sentences, settings

    choose(ready, "gaussian")
    rows(ready)["sigma"].widget.value = 0.7
    before = settings.pace("tiny")
    ready.set_form(steps=3)
    ready.ui.epsSlider.value = 10
    node = ready.attack()
    result = scene.Nodes(node).result
    record = result.record
    assert [one["spec"] for one in record["victim"]["defense"]] == ["gaussian:sigma=0.7"]
    dice = record["summary"]["defense"]
    said = ready.ui.verdictLabel.text
    assert said.endswith(
        f"Behind gaussian:sigma=0.7 mean Dice is {dice['clean']:.2f} without an attack, {dice['oblivious']:.2f} after "
        f"one that doesn't know of it and {dice['adaptive']:.2f} after one that does (stand-in: "
        f"{record['defense']['stand_in']}); without it {dice['undefended']:.2f}."
    )
    each = {row.name: row for row in result.rows()}["liver"]
    cell = " | ".join(
        f"{record['defense']['dice'][which]['liver']:.3f}" for which in ("clean", "oblivious", "adaptive")
    )
    assert f"Behind the defence: clean | oblivious | adaptive {cell}" in sentences.detail(result, each)
    assert "10 HU behind gaussian" in node.GetName()
    assert settings.pace("tiny") == before, "three attacks are no measure of one"


def test_the_breaking_point_is_that_behind_the_defence(ready):
    from PerturboxLib import scene

    choose(ready, "gaussian")
    assert ready.widget.attack.marginRequest()["defense"] == ["gaussian:sigma=1.0"]
    choose(ready, "")
    assert "defense" not in ready.widget.attack.marginRequest()
    choose(ready, "gaussian")
    ready.ui.marginCheckBox.checked = True
    ready.set_form(steps=2)
    ready.ui.epsSlider.value = 12
    node = ready.attack()
    ready.wait(lambda: scene.Nodes(node).result.margin and not ready.session.busy, 120, "the margin")
    assert not ready.trouble and set(scene.Nodes(node).result.margin) == {"liver", "bone"}
    assert all("(without defence " in row.breaksAt for row in scene.Nodes(node).result.rows())


def test_segmenting_passes_the_defence_too(ready):
    import slicer

    choose(ready, "gaussian")
    ready.ui.segmentButton.click()
    ready.wait_for_end()
    assert not ready.trouble
    (made,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert made.GetName().startswith("tiny behind gaussian of ")


def test_a_script_names_defences_as_the_server_reads_them(scene, load_module, tiny_server):
    widget = load_module()
    node = widget.logic.attack(
        scans.add_scan(), tiny_server.url, tiny_server.token, attack="fgsm", eps=10, defense=["median"]
    )
    from PerturboxLib.scene import Nodes

    assert Nodes(node).record["victim"]["defense"][0]["spec"] == "median:size=3"


def test_a_folder_says_it_too(panel, dialogs, tmp_path):
    """By the real command line, without a server."""
    from PerturboxLib import scene

    surroundings = {"PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'tests' / 'core'}", "PATH": "", "HOME": str(tmp_path)}

    def python(*given: str) -> None:
        ran = subprocess.run(
            [str(server_python()), *given], env=surroundings, cwd=tmp_path, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr

    python("-c", "import tiny; tiny.write_scan('case_0.nii.gz')")
    options = ["--victim", TINY, "--defense", "median", "--attack", "fgsm", "--eps", "12"]
    python("-m", "perturbox", "attack", "case_0.nii.gz", *options, "--out", "out")
    dialogs.answer(str(tmp_path / "out"))
    panel.ui.openFolderButton.click()
    assert not panel.trouble
    record = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    dice = {which: f"{value:.2f}" for which, value in record["summary"]["defense"].items()}
    said = panel.ui.verdictLabel.text
    assert said == record["summary"]["headline"]
    start = said.index("Behind median:size=3 mean Dice is ")
    for which in ("clean", "oblivious", "adaptive", "undefended"):
        start = said.index(dice[which], start)
    assert "fgsm" not in said and "behind median" in panel.parameters.result.GetName()
    shown = scene.Nodes(panel.parameters.result).result
    assert shown.headers()[-2] == "Behind the defence: clean | oblivious | adaptive"


# ---------------------------------------------------------------- while it runs


def point(step: int, dice: float, restart: int = 0) -> dict:
    return {"step": step, "restart": restart, "dice": {"liver": dice}}


def test_the_live_line_is_about_the_attack_that_runs_now():
    first = [point(0, 1.0), point(1, 0.5)]
    second = [point(0, 1.0), point(1, 0.95), point(0, 1.0, 1), point(1, 0.93, 1)]
    assert words.latest([]) == [] and words.latest(first) == first
    assert words.latest([*first, *second[:2]]) == second[:2], "an attack before fell below 0.9, this one hasn't"
    assert words.latest(second) == second, "another start belongs to the same attack"
    assert words.several({"request": {"defense": ["median"]}})
    assert not words.several({"request": {}}) and not words.several({})
