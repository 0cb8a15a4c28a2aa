"""The unmodified panel, clicked, against a real server with a model that answers in milliseconds."""

import itertools
import json

import numpy as np
import pytest
import qt
import scans
from driving import Driver


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


def test_before_a_server_is_there_each_button_says_what_is_missing(panel):
    ui = panel.ui
    assert not ui.attackButton.enabled and ui.attackButton.toolTip == "Connect to a server first"
    assert not ui.stopButton.enabled and not ui.lookCollapsibleButton.enabled and not ui.saveCollapsibleButton.enabled
    assert ui.researchUseLabel.text == "Research use only – not for diagnosis"
    assert ui.exampleButton.enabled


def test_connecting_tells_host_models_and_device_and_folds_the_section(panel, tiny_server):
    panel.connect(tiny_server)
    host = tiny_server.url.removeprefix("http://")
    assert panel.ui.serverStatusLabel.text == f"● Connected – {host}, 1 model, CPU"
    assert panel.ui.serverCollapsibleButton.collapsed and host in panel.ui.serverCollapsibleButton.text
    assert panel.ui.connectButton.text == "Disconnect"
    assert panel.ui.attackButton.toolTip == "Choose a scan first"
    panel.ui.connectButton.click()
    assert panel.ui.serverStatusLabel.text == "○ Not connected" and panel.ui.modelComboBox.count == 0


def test_an_address_without_http_is_understood_and_remembered(panel, tiny_server):
    from PerturboxLib import settings

    panel.begin_to_connect(tiny_server.url.removeprefix("http://"))
    panel.wait(lambda: panel.session.connected)
    assert settings.recentServers()[0] == tiny_server.url


def test_the_scan_in_the_scene_is_chosen_and_looked_at(load_module, wait_until, scene):
    volume = scans.add_scan()
    panel = Driver(load_module(), wait_until)
    assert panel.parameters.inputVolume is volume and panel.ui.inputVolumeSelector.currentNode() is volume
    assert panel.ui.preflightLabel.text.startswith("✓ CT in HU")


def test_models_structures_methods_and_form_come_from_the_server(ready):
    ui = ready.ui
    assert ui.modelComboBox.currentText == "tiny (2 structures)"
    assert [ui.targetComboBox.itemText(n) for n in range(ui.targetComboBox.count)] == ["Liver", "Bone"]
    items = [(box.itemData(n), box.itemText(n)) for box in (ui.methodComboBox,) for n in range(box.count)]
    offered = ready.session.schema["attacks"]
    assert [name for name, _ in items if name] == [
        each["name"] for each in offered
    ] and ready.parameters.attack == "annealed"
    # The few to start with say what for; a line parts them from the rest, and each family from the next.
    said = dict(items)
    assert (
        said["annealed"] == "Annealed ascent – a first look: what does a change of this size do?"
        and said["fgsm"] == "FGSM"
    )
    groups = [list(group) for line, group in itertools.groupby(items, key=lambda item: item[0] is None) if not line]
    family = {each["name"]: "" if each["use"] else each["family"] for each in offered}
    assert [{family[name] for name, _ in group} for group in groups] == [
        {one} for one in dict.fromkeys(family[each["name"]] for each in offered)
    ]
    assert "" in family.values() and len(groups) > 5
    row = ui.methodComboBox.findData("fgsm")
    assert ui.methodComboBox.itemData(row, qt.Qt.ToolTipRole) == "Steps along the gradient"
    assert {"steps", "goal", "norm", "seed", "loss", "alpha", "restarts"} <= set(ready.widget.attack.form.fields)
    assert ui.attackButton.enabled and ui.segmentButton.enabled


def test_an_effort_fills_the_form_and_an_edit_makes_it_custom(ready):
    ui, form = ready.ui, ready.widget.attack.form
    assert ready.parameters.effort == "standard" and form.values()["steps"] == 20
    ui.effortComboBox.currentIndex = 2
    assert (form.values()["steps"], form.values()["restarts"], ready.parameters.effort) == (100, 2, "thorough")
    form.fields["steps"].widget.value = 7
    assert ready.parameters.effort == "custom" and ui.effortComboBox.currentText == "Custom"
    ui.effortComboBox.currentIndex = 0
    assert (form.values()["steps"], form.values()["restarts"]) == (10, 1)


def test_segmenting_gives_a_segmentation_by_the_models_names_and_the_noise(ready):
    import slicer

    ready.ui.segmentButton.click()
    ready.wait_for_end()
    assert not ready.trouble
    made = list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))
    assert len(made) == 1
    own = made[0].GetSegmentation()
    assert [own.GetNthSegment(n).GetName() for n in range(own.GetNumberOfSegments())] == ["Liver", "Bone"]
    liver = slicer.util.arrayFromSegmentBinaryLabelmap(made[0], own.GetNthSegmentID(0), ready.volume)
    assert liver.shape == scans.SHAPE and 300 < liver.sum() < scans.hounsfield().size
    assert "noise not available" in ready.ui.preflightLabel.text, "the liver of this scan is too small to measure it in"
    assert "not available" in ready.ui.epsNoteLabel.text


def attacked(panel, **form):
    panel.set_form(**{"steps": 3, **form})
    panel.ui.epsSlider.value = 10
    return panel.attack()


def test_an_attack_leaves_nodes_that_hold_what_the_server_measured(ready):
    import slicer
    from PerturboxLib import scene

    nodes = scene.Nodes(attacked(ready))
    original = slicer.util.arrayFromVolume(nodes.original)
    perturbed = slicer.util.arrayFromVolume(nodes.perturbed)
    change = slicer.util.arrayFromVolume(nodes.perturbation)
    assert nodes.original is ready.volume and np.array_equal(original, scans.hounsfield())
    assert np.array_equal(perturbed - original, change) and 0 < np.abs(change).max() <= 10
    record = nodes.result.record
    assert np.abs(change).max() == record["budget"]["measured"]["linf"]
    assert ready.widget.result.rows and ready.ui.verdictLabel.text.startswith("A change of at most 10 HU broke")
    for role in ("clean", "adversarial"):
        node = getattr(nodes, role)
        for name, value in (("liver", 1), ("bone", 2)):
            ml = record["metrics"]["clean" if role == "clean" else "adversarial"][name]["volume_ml"]
            if node.GetSegmentation().GetSegment(name) is None:
                assert ml == 0
                continue
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, name, nodes.original)
            assert mask.sum() * 12 / 1000 == pytest.approx(ml), (role, name, value)


def test_progress_and_live_dice_are_seen_while_slicer_stays_usable(ready):
    ui, seen, trace = ready.ui, set(), 0
    ready.set_form(steps=400)
    ready.parameters.eps = 1.0
    ui.attackButton.click()
    ready.wait(lambda: len(ready.session.trace) >= 5, 60)
    assert not ui.attackButton.enabled and ui.stopButton.enabled and not ui.inputVolumeSelector.enabled
    assert not ui.progressBar.isHidden() and "of 400" in ui.progressBar.format
    assert "Stop keeps the best result so far" in ui.liveLabel.text and not ui.traceContainer.isHidden()
    trace = len(ready.session.trace)
    ready.wait(lambda: len(ready.session.trace) > trace, 30, "the trace grows")
    ui.stopButton.click()
    seen.add(ui.stopButton.text)
    ready.wait_for_end(60)
    assert seen == {"Stopping…"} and ui.stopButton.text == "Stop" and ui.progressBar.isHidden()


def test_stopping_keeps_the_best_so_far(ready):
    from PerturboxLib import scene

    ready.set_form(steps=2000)
    ready.parameters.eps = 1.0
    ready.ui.attackButton.click()
    ready.wait(lambda: len(ready.session.trace) >= 3, 60)
    ready.ui.stopButton.click()
    ready.wait_for_end(60)
    record = scene.Nodes(ready.parameters.result).result.record
    assert record["stopped_early"].startswith("stopped at step") and record["stopped_early"].endswith("of 2000")
    assert "Stopped at step" in ready.ui.verdictLabel.text


def test_the_breaking_point_is_found_after_the_attack_and_kept_with_it(ready):
    from PerturboxLib import scene

    ready.ui.marginCheckBox.checked = True
    node = attacked(ready)
    ready.wait(lambda: scene.Nodes(node).result.margin and not ready.session.busy, 120, "the margin")
    liver = next(row for row in ready.widget.result.rows if row.name == "liver")
    assert liver.breaksAt.startswith("≤ ") and float(liver.breaksAt[2:]) <= 10


def test_targets_and_goal_reach_the_server(ready):
    from PerturboxLib import form, scene

    form.checkItems(ready.ui.targetComboBox, [0])
    assert json.loads(ready.parameters.targets) == ["liver"]
    node = attacked(ready, goal="vanish")
    parameters = scene.Nodes(node).result.record["attack"]["parameters"]
    assert (parameters["target"], parameters["goal"], parameters["eps"], parameters["steps"]) == (
        ["liver"],
        "vanish",
        10,
        3,
    )


def test_an_expert_outline_is_the_reference_and_limits_the_targets_to_what_it_has(ready):
    from PerturboxLib import scene

    array = scans.hounsfield()
    expert = scans.add_segmentation(ready.volume, {"LIVER": np.abs(array - 8) < 20})
    ready.ui.referenceSelector.setCurrentNode(expert)
    record = scene.Nodes(attacked(ready)).result.record
    assert record["reference"] == "label" and record["attack"]["parameters"]["target"] == ["liver"]
    assert 0.5 < record["metrics"]["clean"]["liver"]["dice"] < 1
    assert "expert outline" in ready.ui.notesLabel.text


def test_nothing_changes_outside_a_region(ready):
    import slicer
    from PerturboxLib import scene

    where = np.zeros(scans.SHAPE, bool)
    where[4:12, 5:15, 3:14] = True
    region = scans.add_segmentation(ready.volume, {"other": ~where, "where": where}, "regions")
    ready.ui.roiSelector.setCurrentNode(region)
    ready.ui.roiSegmentComboBox.currentIndex = 1
    change = slicer.util.arrayFromVolume(scene.Nodes(attacked(ready)).perturbation)
    assert not change[~where].any() and change[where].any()


def test_the_limit_goes_to_the_server_in_the_unit_that_was_chosen(ready):
    from PerturboxLib import scene

    ui = ready.ui
    assert [ui.epsUnitComboBox.itemText(row) for row in range(3)] == ["HU", "× scan's noise (σ)", "% of scan's range"]
    ready.set_form(steps=2)
    ui.epsUnitComboBox.currentIndex = 2
    assert ui.epsSlider.suffix == " %" and ui.epsSlider.value == 2 and ui.epsSlider.decimals == 1
    ui.epsSlider.value = 1.5
    assert ready.widget.attack.marginRequest() | {"max_eps": 1.5, "eps_unit": "percent"} == (
        ready.widget.attack.marginRequest()
    )
    budget = scene.Nodes(ready.attack()).result.record["budget"]
    low, high = np.percentile(scans.hounsfield(), [1, 99])
    assert (budget["unit_asked"], budget["eps_asked"]) == ("percent", 1.5)
    assert budget["eps"] == pytest.approx(0.015 * (high - low)) and budget["unit"] == "HU"


def test_a_model_of_mr_is_asked_in_its_own_unit(ready):
    """The server's description of the model says which, here that of a CT model made to say otherwise."""
    victim = ready.session.victim(ready.parameters.model)
    victim["unit"] = "intensity"
    ready.widget.update()
    texts = [ready.ui.epsUnitComboBox.itemText(row) for row in range(3)]
    texts += [ready.ui.epsSlider.suffix, ready.ui.epsNoteLabel.text, ready.ui.preflightLabel.text]
    assert texts[0] == "intensity units" and not [text for text in texts if "HU" in text]
    assert ready.ui.epsSlider.maximum == 1000


def test_a_method_with_a_budget_of_its_own_is_not_capped_by_the_slider(ready):
    from PerturboxLib import scene

    ready.ui.methodComboBox.currentIndex = ready.ui.methodComboBox.findData("bias-field")
    assert not ready.ui.epsSlider.enabled and "budget of its own" in ready.ui.epsNoteLabel.text
    assert ready.widget.attack.form.fields["strength"].widget.value == pytest.approx(0.3)
    ready.set_form(steps=2)
    record = scene.Nodes(ready.attack()).result.record
    assert record["attack"]["parameters"]["eps"] is None and record["budget"]["measured"]["linf"] > 4
    ready.ui.methodComboBox.currentIndex = ready.ui.methodComboBox.findData("pgd")
    assert ready.ui.epsSlider.enabled


def test_results_are_kept_side_by_side_and_removed_one_by_one(ready, dialogs):
    import slicer
    from PerturboxLib import scene

    before = slicer.mrmlScene.GetNumberOfNodes()
    first = attacked(ready)
    second = attacked(ready, seed=1)
    assert scene.results() == [first, second] and ready.ui.resultComboBox.currentNode() is second
    for _ in range(2):
        dialogs.answer(True)
        ready.ui.removeButton.click()
    assert scene.results() == [] and ready.parameters.result is None
    left = [slicer.mrmlScene.GetNthNode(n).GetName() for n in range(slicer.mrmlScene.GetNumberOfNodes())]
    assert slicer.mrmlScene.GetNumberOfNodes() <= before + 30, left
    assert not any("PERTURBED" in (name or "") for name in left)


def test_a_scan_under_a_transform_comes_back_under_it(ready):
    import slicer
    from PerturboxLib import scene

    turn = np.eye(4)
    turn[:3, :3] = scans.TURN
    transform = scans.add_transform(ready.volume, turn)
    nodes = scene.Nodes(attacked(ready))
    for node in (nodes.perturbed, nodes.clean, nodes.adversarial):
        assert node.GetParentTransformNode() is transform
    assert np.array_equal(slicer.util.arrayFromVolume(nodes.original), scans.hounsfield())


def test_a_perturbed_scan_is_attacked_only_after_a_question(ready, dialogs):
    from PerturboxLib import scene

    nodes = scene.Nodes(attacked(ready))
    ready.choose(nodes.perturbed)
    assert "synthetic" in ready.ui.preflightLabel.text
    dialogs.answer(False)
    ready.ui.attackButton.click()
    assert not ready.session.busy


def test_the_form_of_a_server_with_a_new_attack_needs_no_change_here(panel, tmp_path):
    """A recipe is added to a copy of the core; the panel shows it with its parameters, and it runs."""
    import shutil

    from harness.server import ROOT, TINY, start_server

    core = tmp_path / "core"
    shutil.copytree(ROOT / "core", core, ignore=shutil.ignore_patterns("__pycache__"))
    (core / "perturbox" / "attacks" / "recipes" / "newest.py").write_text(NEW_RECIPE, encoding="utf-8")
    server = start_server(tmp_path / "server", victims=[TINY], core=core)
    try:
        panel.volume = scans.add_scan()
        panel.connect(server)
        panel.choose(panel.volume)
        ui = panel.ui
        ui.methodComboBox.currentIndex = ui.methodComboBox.findData("newest")
        fields = panel.widget.attack.form.fields
        assert fields["shove"].widget.suffix == " HU" and fields["shove"].widget.value == 1.5
        node = attacked(panel, shove=2.5)
        from PerturboxLib import scene

        told = scene.Nodes(node).result.record["attack"]
        assert told["name"] == "newest" and told["parameters"]["shove"] == 2.5
    finally:
        server.stop()


NEW_RECIPE = '''"""A recipe that a test adds."""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, sign
from perturbox.attacks.spaces.additive import Additive


@recipe(title="Newest", paper="None", norms=("linf",), cost="steps", deviations=())
def newest(
    eps: float, norm: Norm, steps: int, *, shove: Annotated[float, Param("Step size", unit="HU", minimum=0)] = 1.5
) -> Attack:
    """One sentence."""
    return Climb(ascend(LOSSES["ce"]), Additive(), Ascent(chain(sign(), scale(shove))), eps, norm, steps)
'''
