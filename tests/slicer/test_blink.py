"""Blinking: the picture before is the left one exactly, text swaps with it, and everything comes back."""

import bundles
import numpy as np
import pytest
from PerturboxLib import blink as blinking
from PerturboxLib import scene as results_scene
from PerturboxLib.views import Viewer


@pytest.fixture
def viewer(scene, slicer_app):
    found = Viewer(slicer_app.layoutManager())
    yield found
    found.leave()


@pytest.fixture
def blink(viewer):
    made = blinking.Blink(viewer)
    made.timer.setInterval(10**6)  # the test turns the pages
    yield made
    made.stop()


def state(viewer):
    nodes = viewer.nodes
    found = {}
    for name in viewer.names:
        composite = viewer.widget(name).sliceLogic().GetSliceCompositeNode()
        volumes = composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()
        found[name] = (*volumes, composite.GetForegroundOpacity(), tuple(viewer.looks.annotations[name].lines))
    for role in ("clean", "adversarial", "difference"):
        shown = getattr(nodes, role).GetDisplayNode()
        found[role] = (bool(shown.GetVisibility()), tuple(shown.GetViewNodeIDs() or ()), shown.GetOpacity2DFill())
    line = results_scene.segments.beforeLine(nodes.clean)
    found["line"] = (bool(line.GetVisibility()), tuple(line.GetViewNodeIDs() or ()))
    return found


def test_twice_a_second_and_never_more_than_three_flashes():
    assert 1000 / (2 * blinking.INTERVAL_MS) == 2.0


def test_the_timer_turns_the_pages(viewer, wait_until):
    node, _, _ = bundles.add()
    viewer.show(node)
    blink, seen = blinking.Blink(viewer), []
    blink.start()

    def both():
        seen.append(blink.phase)
        return {"before", "after"} <= set(seen)

    wait_until(both, 5)
    blink.stop()
    assert not blink.timer.active and not blink.running


def test_text_and_outline_swap_with_the_picture(viewer, blink):
    node, volume, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    viewer.show(node, "compare")
    right = viewer.widget("After").sliceLogic().GetSliceCompositeNode()
    after = viewer.looks.viewIds["After"]
    blink.start()
    for _ in range(2):
        assert (
            right.GetBackgroundVolumeID() == volume.GetID() and right.GetForegroundVolumeID() == nodes.perturbed.GetID()
        )
        assert right.GetForegroundOpacity() == 0 and viewer.looks.annotations["After"].lines[0].startswith("BEFORE")
        assert "SYNTHETIC" not in " ".join(viewer.looks.annotations["After"].lines)
        assert nodes.clean.GetDisplayNode().IsDisplayableInView(after)
        assert not nodes.adversarial.GetDisplayNode().GetVisibility()
        blink.flip()
        assert right.GetForegroundOpacity() == 1 and "SYNTHETIC" in viewer.looks.annotations["After"].lines[0]
        assert nodes.adversarial.GetDisplayNode().IsDisplayableInView(after)
        assert not nodes.clean.GetDisplayNode().IsDisplayableInView(after)
        blink.flip()


@pytest.mark.parametrize("mode", ["compare", "difference", "heat"])
@pytest.mark.parametrize("flips", [0, 1])
def test_stopping_restores_everything(viewer, blink, mode, flips):
    node, _, _ = bundles.add()
    viewer.show(node, mode)
    before = state(viewer)
    blink.start()
    assert blink.running and state(viewer) != before
    for _ in range(flips):
        blink.flip()
    blink.stop()
    assert state(viewer) == before and not blink.running
    blink.flip()  # a late timer does nothing
    assert state(viewer) == before


def test_it_ends_where_mode_or_result_change_and_where_the_views_are_left(viewer, blink):
    node, _, _ = bundles.add()
    viewer.show(node, "compare")
    blink.start()
    viewer.show(node, "heat")
    assert not blink.running and not blink.timer.active
    blink.start()
    viewer.leave()
    assert not blink.running
    blink.start()  # nothing is shown
    assert not blink.running
    viewer.show(node, "fourUp")
    blink.start()  # several planes
    assert not blink.running


def test_the_pictures_are_those_of_the_two_panes(viewer, blink, rendering, slicer_app):
    node, _, _ = bundles.add("oblique")
    viewer.show(node, "compare")
    viewer.setWindow("soft")
    viewer.setLabelStyle("fill")  # no line of before in the right pane
    left, right = (viewer.widget(name).sliceView() for name in viewer.names)
    for view in (left, right):
        view.setFixedSize(400, 300)
    slicer_app.processEvents()
    viewer.show(node, "compare")
    panes = left.array(), right.array()
    assert panes[0].shape == panes[1].shape and not np.array_equal(*panes)
    blink.start()
    assert np.array_equal(right.array(), panes[0])
    blink.flip()
    assert np.array_equal(right.array(), panes[1])
    blink.stop()
    assert np.array_equal(right.array(), panes[1])
    for view in (left, right):
        view.setMinimumSize(0, 0)
        view.setMaximumSize(16777215, 16777215)
