"""The whole story on a CT: connect, pick, attack at 10 HU, step through the slices, save a report.

On the real abdominal CT where it is at hand, else on the demo's phantom. PERTURBOX_PICTURES names a folder into which
the pictures of the tutorial are drawn on the way.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import slicer
from driving import Driver
from harness.server import server_python

EPS, STEPS = 10, 10


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Path:
    """The real CT, or the phantom that `perturbox demo` attacks."""
    data = Path(os.environ.get("PERTURBOX_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    real = data / "ct_abdomen" / "example_ct.nii.gz"
    if real.exists():
        return real
    folder = tmp_path_factory.mktemp("phantom")
    make = (
        f"from pathlib import Path; from perturbox.job.demo import write_case; print(write_case(Path({str(folder)!r})))"
    )
    done = subprocess.run([server_python(), "-c", make], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture
def picture(rendering, slicer_app):
    """picture(name) draws what the main window shows, where pictures are wanted; returns it always."""
    folder = os.environ.get("PERTURBOX_PICTURES")

    def draw(name: str, shown=None) -> np.ndarray:
        slicer_app.processEvents()
        seen = rendering.grab(shown) if shown is not None else rendering.desktop(1600, 1060)
        if folder:
            rendering.save(seen, Path(folder) / f"{name}.png")
        return seen

    return draw


def test_the_whole_story(load_module, wait_until, server, ct, picture, dialogs, tmp_path):
    from PerturboxLib import scene

    volume = slicer.util.loadVolume(str(ct))
    before = slicer.util.arrayFromVolume(volume).copy()
    panel = Driver(load_module(), wait_until)
    ui, look = panel.ui, panel.widget.look

    # connect, pick
    picture("slicer-start")
    panel.connect(server)
    panel.choose(volume)
    assert ui.modelComboBox.currentText.startswith("ct-organs (7 structures)") and ui.attackButton.enabled
    assert ui.preflightLabel.text.startswith("✓ CT in HU")

    # attack at 10 HU, progress seen
    ui.epsSlider.value = EPS
    panel.set_form(steps=STEPS)
    ui.attackButton.click()
    wait_until(lambda: len(panel.session.trace) >= 5, 300, "five steps")
    assert f"of {STEPS}" in ui.progressBar.format and "Stop keeps the best" in ui.liveLabel.text
    assert not ui.traceContainer.isHidden()
    picture("slicer-attacking", panel.widget.parent)
    panel.wait_for_end(600)
    assert not panel.trouble, panel.trouble

    # result nodes: geometry, names, notice
    nodes = scene.Nodes(panel.parameters.result)
    result = nodes.result
    assert nodes.perturbed.GetName() == f"PERTURBED {volume.GetName()}"
    assert nodes.perturbed.GetAttribute("notice") == "ADVERSARIAL - NOT FOR CLINICAL USE"
    for node in (nodes.perturbed, nodes.perturbation):
        assert np.array_equal(ijk_to_ras(node), ijk_to_ras(volume))
    assert np.array_equal(slicer.util.arrayFromVolume(volume), before), "the scan is as it was"
    change = slicer.util.arrayFromVolume(nodes.perturbation)
    assert np.abs(change).max() == EPS
    assert np.array_equal(slicer.util.arrayFromVolume(nodes.perturbed) - before, change)
    own = nodes.clean.GetSegmentation()
    names = [own.GetNthSegment(n).GetName() for n in range(own.GetNumberOfSegments())]
    assert names == ["Liver", "Spleen", "Kidney", "Bone", "Muscle", "Gut", "Lung"][: len(names)] and len(names) >= 6
    assert ui.verdictLabel.text.startswith(f"A change of at most {EPS} HU (") and panel.widget.result.rows[0].broken

    # worst slice reached, next and previous
    assert look.viewer.index() == result.worst([result.spokenOf()])
    panel.widget.result.select(panel.widget.result.rows[0].name)
    chosen = [panel.widget.result.rows[0].name]
    assert panel.widget.result.selected() == chosen and look.viewer.index() == result.worst(chosen)
    picture("slicer-compare")
    at = look.viewer.index()
    ui.nextChangedButton.click()
    assert look.viewer.index() == (result.nextChanged(at, chosen) or at)
    ui.prevChangedButton.click()
    assert look.viewer.index() == at

    # a click on the chart jumps
    plot = slicer.app.layoutManager().plotWidget(0).plotView()
    series = next(s for s in nodes.all("series") if s.GetYColumnName() == chosen[0])
    dice = result.series(chosen[0])
    other = next(k for k in result.changed(chosen) if k != at and 0.2 < dice[k] < 0.8)
    plot.click_point(series, other)
    assert look.viewer.index() == other
    ui.worstButton.click()

    # blink toggles, and leaves things as they were
    shown = look.viewer.afterView()
    still = picture("blink-after", look.viewer.widget(shown).sliceView())
    ui.blinkButton.click()
    blinked = picture("blink-before", look.viewer.widget(shown).sliceView())
    assert look.blink.running and not np.array_equal(still, blinked)
    ui.blinkButton.click()
    assert not look.blink.running
    assert np.array_equal(picture("blink-after", look.viewer.widget(shown).sliceView()), still)

    # the other modes
    for mode, button in (("difference", ui.differenceButton), ("heat", ui.heatButton), ("four-up", ui.fourUpButton)):
        button.click()
        assert picture(f"slicer-{mode}").std() > 5
    ui.compareButton.click()

    # report saved
    target = tmp_path / "report.html"
    dialogs.answer(str(target))
    ui.reportButton.click()
    page = target.read_text(encoding="utf-8")
    assert page == nodes.report and "ADVERSARIAL" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert panel.trouble == f"Saved: {target}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_certificate_of_the_real_ct(load_module, wait_until, server, real_ct, picture):
    """The numbers are those of docs/certify.md, which the command line gave."""
    from PerturboxLib.certificates import Certificate

    volume = slicer.util.loadVolume(str(real_ct))
    panel = Driver(load_module(), wait_until)
    panel.connect(server)
    panel.choose(volume)
    panel.ui.certifyButton.click()
    panel.wait_for_end(3000)
    assert not panel.trouble, panel.trouble
    found = Certificate(panel.parameters.result)
    shares = {name: round(100 * row["same"], 1) for name, row in found.record["structures"].items()}
    assert shares == {
        "gut": 81.5, "kidney": 82.8, "muscle": 85.3, "bone": 86.1, "liver": 90.2, "spleen": 91.4, "lung": 96.4,
    }  # fmt: skip
    assert panel.ui.verdictLabel.text == found.said["headline"]
    assert picture("slicer-certified").std() > 5


def ijk_to_ras(node) -> np.ndarray:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)
