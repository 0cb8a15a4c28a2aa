"""Certify, clicked against a real server: the certified map beside the segmentation, in the core's words."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import scans
import slicer
from driving import Driver
from harness.server import ROOT


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


@pytest.fixture
def certified(ready):
    """The same after a click on Certify, with groups."""
    ready.ui.adaptiveCheckBox.click()
    return certify(ready)


def certify(panel):
    """Click Certify, of so few copies that it takes a moment."""
    own = panel.widget.attack.certify.request
    panel.widget.attack.certify.request = lambda: {**own(), "n0": 4, "n": 60}
    panel.ui.certifyButton.click()
    assert panel.session.busy, panel.ui.certifyButton.toolTip
    panel.wait_for_end()
    assert not panel.trouble, panel.trouble
    return panel


def shown(panel):
    from PerturboxLib.certificates import Certificate

    return Certificate(panel.parameters.result)


def voxels(node, volume) -> dict[str, np.ndarray]:
    """Mask "k j i" of each segment."""
    ids = node.GetSegmentation().GetSegmentIDs()
    return {one: slicer.util.arrayFromSegmentBinaryLabelmap(node, one, volume) > 0 for one in ids}


def test_before_a_server_is_there_the_button_says_what_is_missing(panel):
    assert not panel.ui.certifyButton.enabled and panel.ui.certifyButton.toolTip == "Connect to a server first"
    assert panel.ui.certifyGroupBox.collapsed and panel.ui.certificateLabel.isHidden()


def test_what_is_asked_for_is_what_the_panel_shows(ready):
    ui = ready.ui
    assert (ui.sigmaSlider.value, ui.sigmaSlider.suffix, ui.sigmaSlider.maximum) == (20.0, " HU", 100.0)
    ask = ready.widget.attack.request
    assert ask("certify", None) == {"kind": "certify", "victim": "tiny", "sigma": 20.0, "adaptive": False}
    ui.sigmaSlider.value = 35
    ui.adaptiveCheckBox.click()
    assert ask("certify", None) == {"kind": "certify", "victim": "tiny", "sigma": 35.0, "adaptive": True}
    assert (ready.parameters.sigma, ready.parameters.adaptive) == (35.0, True)


def test_a_defence_stands_in_the_way_in_words(ready):
    box = ready.ui.defenceComboBox
    box.currentIndex = box.findData("median")
    assert not ready.ui.certifyButton.enabled
    assert ready.ui.certifyButton.toolTip == "A certificate is for the model without a defence; choose none"
    assert ready.ui.attackButton.enabled


def test_an_older_server_certifies_nothing_and_shows_no_row(ready):
    assert not ready.ui.certifyGroupBox.isHidden()
    ready.session.schema["kinds"] = ["segment", "attack", "margin"]
    ready.widget.update()
    assert ready.ui.certifyGroupBox.isHidden()


def test_the_map_has_the_names_colours_and_voxels_of_the_certificate(certified, tiny_server):
    found = shown(certified)
    record, nodes = found.record, found.nodes
    certified_map = nodes.certified.GetSegmentation()
    names = {one: certified_map.GetSegment(one).GetName() for one in certified_map.GetSegmentIDs()}
    assert names == {"liver": "Liver", "bone": "Bone", "some structure": "Some structure", "abstained": "Abstained"}
    colours = (ROOT / "core" / "perturbox" / "report" / "colours.py").read_text(encoding="utf-8")
    assert f'ABSTAINED = "{found.colours["abstained"]}"' in colours
    # On the page a structure has the colour of its place, a group one of those that come after.
    assert list(found.colours) == ["liver", "bone", "some structure", "abstained"]
    for name, colour in found.colours.items():
        assert certified_map.GetSegment(name).GetColor() == pytest.approx(
            [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        )
    masks, clean = voxels(nodes.certified, certified.volume), voxels(nodes.clean, certified.volume)
    assert set(clean) == {"liver", "bone"}
    for name, row in record["structures"].items():
        size = row["predicted_size"] / clean[name].sum()
        assert row["certified_size"] == pytest.approx(size * masks[name].sum())
        assert row["same"] == pytest.approx((masks[name] & clean[name]).sum() / clean[name].sum())
        assert row["abstained"] == pytest.approx((masks["abstained"] & clean[name]).sum() / clean[name].sum())
    assert masks["abstained"].sum() > 50


def test_the_section_says_what_the_core_says(certified):
    ui, found = certified.ui, shown(certified)
    said = found.said
    assert ui.verdictLabel.text == said["headline"] and "smoothed" in said["headline"]
    assert said["scope"].startswith("It certifies the smoothed model, not the model without noise")
    text = ui.certificateLabel.text
    assert said["scope"].replace("'", "&#x27;") in text
    head, rows = said["table"]["head"], said["table"]["rows"]
    for row in rows:
        for title in ("Certified", "Certified as a group", "Abstained"):
            assert f">{row[head.index(title)]}&nbsp;" in text
    assert "Certified as another" not in text and "Certified as another" in ui.certificateLabel.toolTip
    for name, colour in found.colours.items():
        assert f"<span style='color: {colour}'>■</span>&nbsp;{name.capitalize()}" in text
    notes = [line.removeprefix("• ") for line in ui.notesLabel.text.split("\n")]
    assert notes == [*said["certifies"], *said["not"]] and ui.notesGroupBox.title == f"Notes ({len(notes)})"
    assert ui.structureTable.isHidden() and ui.flowLabel.isHidden() and ui.emptyLabel.isHidden()
    assert not ui.resultCollapsibleButton.collapsed and ui.attackCollapsibleButton.collapsed
    assert not ui.lookCollapsibleButton.enabled and not ui.exportFolderButton.enabled and ui.reportButton.enabled


def test_it_stands_beside_the_segmentation_at_the_slice_where_most_abstains(certified):
    from PerturboxLib import layouts

    found, view = shown(certified), certified.widget.look.certificates
    manager = slicer.app.layoutManager()
    assert manager.layout == layouts.CERTIFICATE
    axis, index = found.look
    lost = voxels(found.nodes.certified, certified.volume)["abstained"] & np.any(
        list(voxels(found.nodes.clean, certified.volume).values()), axis=0
    )
    counts = lost.sum(tuple(other for other in range(3) if other != 2 - axis))
    assert view.slice == index == counts.argmax()
    nodes = [slicer.util.getNode(name) for name in ("Segmentation", "Certified")]
    assert [node.GetLayoutLabel() for node in nodes] == ["Segmentation", "Certified"]
    for node, role in zip(nodes, ("clean", "certified"), strict=True):
        display = getattr(found.nodes, role).GetDisplayNode()
        assert display.GetVisibility() and display.GetViewNodeIDs() == (node.GetID(),)
        composite = manager.sliceWidget(node.GetLayoutName()).sliceLogic().GetSliceCompositeNode()
        assert composite.GetBackgroundVolumeID() == certified.volume.GetID()
    display = certified.volume.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == (400, 40), "soft tissue, as on its page"
    said = {name: annotation.lines for name, annotation in view._annotations.items()}
    plane, length = ("Sagittal", "Coronal", "Axial")[axis], scans.SHAPE[::-1][axis]
    place = f"{plane} {index + 1} / {length}"
    assert said == {
        "Segmentation": ["SEGMENTATION – the model without noise", place],
        "Certified": ["CERTIFIED – the smoothed model", place, "orange: it abstains"],
    }


def test_both_views_show_what_their_labels_say(certified, rendering):
    """In the picture of the certified map there is orange, in the other none."""

    def orange(name: str) -> int:
        view = slicer.app.layoutManager().sliceWidget(name).sliceView()
        picture = rendering.grab(view).astype(int)
        red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
        return int(((red - blue > 100) & (red - green > 30)).sum())

    assert orange("Certified") > 500 and orange("Segmentation") == 0


def test_another_result_takes_its_place_and_it_comes_back(certified):
    from PerturboxLib import layouts

    node, manager = certified.parameters.result, slicer.app.layoutManager()
    certified.ui.exampleButton.click()
    assert manager.layout == layouts.COMPARE and certified.widget.look.certificates.certificate is None
    assert not shown_nodes(node).certified.GetDisplayNode().GetVisibility()
    assert not certified.ui.structureTable.isHidden() and certified.ui.certificateLabel.isHidden()
    certified.parameters.result = node
    assert manager.layout == layouts.CERTIFICATE and certified.widget.look.viewer.nodes is None
    assert certified.ui.structureTable.isHidden() and not certified.ui.certificateLabel.isHidden()


def shown_nodes(node):
    from PerturboxLib.scene import Nodes

    return Nodes(node)


def test_leaving_the_module_gives_the_views_back(certified, slicer_app):
    manager = slicer.app.layoutManager()
    slicer.util.mainWindow().moduleSelector().selectModule("")
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    assert not shown(certified).nodes.certified.GetDisplayNode().GetVisibility()


def test_its_page_is_saved_and_it_is_removed_with_all_of_it(certified, dialogs, tmp_path):
    from PerturboxLib import scene

    page = shown(certified).nodes.report
    dialogs.answer(str(tmp_path / "c.html"))
    certified.ui.reportButton.click()
    assert (tmp_path / "c.html").read_text(encoding="utf-8") == page and "<title>" in page
    dialogs.answer(True)
    certified.ui.removeButton.click()
    assert scene.results() == [] and certified.parameters.result is None
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert not slicer.util.getNodesByClass("vtkMRMLTextNode")
    assert certified.volume.GetScene() is not None and certified.ui.certificateLabel.isHidden()


def test_a_region_alone_is_tested_and_the_rest_has_no_segment(ready):
    mask = np.zeros(scans.SHAPE, bool)
    mask[6:12, 6:16, 6:18] = True
    region = scans.add_segmentation(ready.volume, {"here": mask}, "region")
    ready.ui.roiSelector.setCurrentNode(region)
    certify(ready)
    found = shown(ready)
    assert found.record["tests"] == mask.sum() and found.record["radius"]["rms_in_roi"] is not None
    masks = voxels(found.nodes.certified, ready.volume)
    assert "not tested" not in masks and not (masks["liver"] & ~mask).any() and masks["liver"].any()


def test_progress_counts_copies_and_stopping_leaves_nothing_too_early(ready):
    ready.widget.attack.certify.request = lambda: {"sigma": 20.0, "n0": 60_000}
    ready.ui.certifyButton.click()
    ready.wait(lambda: ready.session.job and (ready.session.job["progress"]["step"] or 0) > 5, 60, "five copies")
    assert ready.ui.progressBar.format.startswith("Choosing answers: noisy copy ")
    assert " of 60100 · about " in ready.ui.progressBar.format and ready.ui.progressBar.maximum == 60_100
    ready.ui.stopButton.click()
    ready.wait_for_end()
    assert ready.trouble == "Stopped before there was anything to keep." and ready.parameters.result is None


def test_a_certificate_teaches_nothing_of_the_scans_noise(certified):
    assert json.loads(certified.parameters.noise) == {}


def test_a_script_gets_the_node(tiny_server, load_module):
    load_module()
    volume = scans.add_scan()
    logic = slicer.util.getModuleLogic("Perturbox")
    node = logic.certify(volume, tiny_server.url, sigma=25, n0=2)
    from PerturboxLib.certificates import Certificate, isCertificate

    assert isCertificate(node) and Certificate(node).record["sigma"] == 25.0


def test_a_picture_of_the_panel(certified, rendering):
    """At 1280 × 720, everything of it in the panel's width; drawn where PERTURBOX_PICTURES names a folder."""
    picture = rendering.desktop(1280, 720)
    if folder := os.environ.get("PERTURBOX_PICTURES"):
        rendering.save(picture, Path(folder) / "panel-certified_1280.png")
    label = certified.ui.certificateLabel
    assert label.width > 0 and label.minimumSizeHint.width() <= 340
