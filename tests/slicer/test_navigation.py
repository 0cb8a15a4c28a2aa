"""Jumps: to slices that changed, for the chosen structures, never onto an empty one."""

import bundles
import pytest
from PerturboxLib import scene as results_scene
from PerturboxLib.navigation import Navigation, caption
from PerturboxLib.views import Viewer


@pytest.fixture
def viewer(scene, slicer_app):
    found = Viewer(slicer_app.layoutManager())
    yield found
    found.leave()


@pytest.mark.parametrize("grid", ["axial", "oblique", "sagittal"])
def test_next_and_previous_walk_the_changed_slices_and_stop_at_the_ends(viewer, grid):
    node, _, _ = bundles.add(grid)
    viewer.show(node)
    move = Navigation(viewer)
    viewer.jump(0)
    assert [move.next(["spleen"]) for _ in range(5)] == [3, 4, 7, 8, None] and viewer.index() == 8
    assert [move.previous(["spleen"]) for _ in range(4)] == [7, 4, 3, None] and viewer.index() == 3
    assert move.next(["kidney_left"]) == 4 and move.worst(["liver"]) in (3, 4) and viewer.index() in (3, 4)


def test_there_is_nothing_to_go_to_in_an_absent_structure(viewer):
    node, _, _ = bundles.add()
    viewer.show(node)
    viewer.jump(6)
    move = Navigation(viewer)
    assert (move.next(["aorta"]), move.previous(["aorta"]), move.worst(["aorta"])) == (None, None, None)
    assert viewer.index() == 6
    viewer.leave()
    assert move.worst() is None


def test_a_jump_lands_where_the_structure_is(viewer):
    node, _, _ = bundles.add()
    clean, after = bundles.maps()
    viewer.show(node)
    move = Navigation(viewer)
    for name, value in bundles.LABELS.items():
        if value and (clean == value).any():
            index = move.worst([name])
            assert (clean[index] == value).any() or (after[index] == value).any()


def test_a_caption_says_what_happens_there(scene):
    node, _, _ = bundles.add("anisotropic")
    result = results_scene.Nodes(node).result
    result.voxelMl = 1.0  # as if a voxel were a millilitre
    # slice 4 of 10: 15 voxels of the spleen became liver
    assert caption(result, 3) == "Axial 4 of 10: 15 ml differ. Spleen 15 ml lost, liver 15 ml added."
    # slice 8: 18 voxels of the spleen became background
    assert caption(result, 7) == "Axial 8 of 10: 18 ml differ. Spleen 18 ml lost."
    assert caption(result, 9) == "Axial 10 of 10: 0.0 ml differ."
