"""A model of four channels: rows made from its description, several files sent, its result on the first channel."""

from pathlib import Path

import numpy as np
import pytest
import scans
from driving import Driver
from harness.server import start_server

MR = Path(__file__).resolve().parents[1] / "core" / "mr.py"


@pytest.fixture(scope="module")
def four_server(tmp_path_factory):
    running = start_server(tmp_path_factory.mktemp("four-server"), victims=[f"{MR}:four"])
    yield running
    running.stop()


def sequences() -> list:
    """Four volumes of one phantom on one grid, whose values lie in ranges of their own."""
    import slicer

    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in scans.SHAPE), indexing="ij")
    around, rng, made = np.sqrt(sum(p**2 for p in places)), np.random.default_rng(0), []
    for level, ring, core in ((40, 20, 60), (300, 250, 100), (900, -300, 700), (400, 300, -200)):
        values = 2 * level + level * (around < 0.95) + ring * (around < 0.7) + core * (around < 0.45)
        noisy = np.rint(values + rng.normal(0, 0.03 * level, values.shape)).astype(np.int16)
        made.append(slicer.util.addVolumeFromArray(noisy, scans.GRIDS["oblique"], f"sequence {len(made)}"))
    return made


@pytest.fixture
def ready(load_module, wait_until, four_server, scene):
    panel = Driver(load_module(), wait_until)
    panel.volumes = sequences()
    panel.connect(four_server)
    panel.choose(panel.volumes[0])
    return panel


def captions(panel) -> list:
    layout = panel.ui.channelsContainer.layout()
    import qt

    return [layout.itemAt(row, qt.QFormLayout.LabelRole).widget().text for row in range(layout.rowCount())]


def test_a_model_of_one_channel_has_no_further_rows(load_module, wait_until, tiny_server, scene):
    panel = Driver(load_module(), wait_until)
    panel.connect(tiny_server)
    assert panel.widget.input.channels.selectors == [] and panel.ui.channelsContainer.isHidden()
    assert panel.ui.inputVolumeCaption.text == "Scan"


def test_the_rows_are_those_of_the_models_description(ready):
    assert ready.ui.inputVolumeCaption.text == "T1"
    assert captions(ready) == ["T1 with contrast", "T2", "FLAIR"]
    assert "HU" not in ready.ui.epsSlider.suffix and ready.ui.epsUnitComboBox.itemText(0) == "intensity units"


def test_a_channel_that_is_missing_or_elsewhere_is_said_before_anything_is_sent(ready):
    import slicer

    ready.ui.attackButton.click()
    assert "A channel of the scan is missing" in ready.trouble
    odd = slicer.util.addVolumeFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4), scans.GRIDS["oblique"], "odd")
    for selector, node in zip(ready.widget.input.channels.selectors, [*ready.volumes[1:3], odd], strict=True):
        selector.setCurrentNode(node)
    ready.ui.attackButton.click()
    assert "sequence 0 and odd don't lie on the same voxels" in ready.trouble


def test_an_attack_sends_all_and_shows_the_first(ready):
    import slicer
    from PerturboxLib import scene

    for selector, node in zip(ready.widget.input.channels.selectors, ready.volumes[1:], strict=True):
        selector.setCurrentNode(node)
    ready.set_form(steps=2)
    ready.ui.epsUnitComboBox.currentIndex = 2
    ready.ui.epsSlider.value = 2
    nodes = scene.Nodes(ready.attack())
    record = nodes.result.record
    assert len(record["budget"]["channels"]) == 4 and record["budget"]["unit"] == "percent"
    for row, volume in zip(record["budget"]["channels"], ready.volumes, strict=True):
        low, high = np.percentile(slicer.util.arrayFromVolume(volume), [1, 99])
        assert row["eps"] == pytest.approx(0.02 * (high - low))
    change = slicer.util.arrayFromVolume(nodes.perturbation)
    assert np.abs(change).max() == record["budget"]["channels"][0]["linf"] > 0
