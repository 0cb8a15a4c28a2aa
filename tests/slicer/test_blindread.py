"""The blind read: shuffled without a hint, scored with Wilson's interval, views back as they were."""

import bundles
import pytest
from PerturboxLib import blindread
from PerturboxLib import scene as results_scene
from PerturboxLib.blindread import Quiz, wilson
from PerturboxLib.trouble import Trouble
from PerturboxLib.views import Viewer


@pytest.fixture
def viewer(scene, slicer_app):
    found = Viewer(slicer_app.layoutManager())
    yield found
    found.leave()


# Agresti & Coull 1998's own form of the interval, solved for its two roots: |share - p| = z * sqrt(p (1 - p) / n).
@pytest.mark.parametrize(("right", "asked"), [(0, 10), (1, 10), (5, 10), (7, 10), (10, 10), (52, 100), (1, 1)])
def test_wilsons_interval_solves_its_equation(right, asked):
    low, high = wilson(right, asked)
    share = right / asked
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert (share - bound) ** 2 == pytest.approx(blindread.Z95**2 * bound * (1 - bound) / asked, abs=1e-12)
    assert (low == 0) == (right == 0) and (high == 1) == (right == asked)


def test_wilsons_interval_of_known_numbers():
    assert wilson(7, 10) == pytest.approx((0.3968, 0.8922), abs=5e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)


def test_questions_are_shuffled_and_both_sides_come():
    quizzes = [Quiz(list(range(40)), seed=seed) for seed in range(50)]
    for quiz in quizzes:
        slices = [question.index for question in quiz.questions]
        assert len(slices) == len(set(slices)) == 10 and set(slices) <= set(range(40))
    lefts = sum(question.left for quiz in quizzes for question in quiz.questions)
    assert 200 < lefts < 300  # of 500; four standard deviations are 45
    assert len({tuple(q.index for q in quiz.questions) for quiz in quizzes}) == 50
    again = Quiz(list(range(40)), seed=7)
    assert again.questions == quizzes[7].questions
    assert len(Quiz([1, 2, 3], seed=0).questions) == 3


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (10, 0, "10 of 10 right (100 %, 95 % interval 72–100 %). The change can be seen better than by guessing."),
        (7, 3, "7 of 10 right (70 %, 95 % interval 40–89 %). This can't be told from guessing (50 %)."),
        (0, 10, "0 of 10 right (0 %, 95 % interval 0–28 %). Wrong more often than by guessing: the change misleads."),
        (0, 0, "No slice was judged."),
    ],
)
def test_the_score_claims_no_more_than_the_interval(right, wrong, said):
    quiz = Quiz(list(range(10)), seed=1)
    for good in [True] * right + [False] * wrong:
        assert quiz.answer(quiz.question.left == good) == good
    assert quiz.score() == said and (quiz.question is None) == (right + wrong == 10)


def volumes_of(viewer):
    return [viewer.widget(name).sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID() for name in viewer.names]


def test_nothing_in_the_views_gives_the_answer_away(viewer):
    node, volume, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    viewer.show(node, "compare")
    viewer.jump(2)
    read = blindread.BlindRead(node, viewer, seed=5)
    seen = set()
    while read.quiz.question is not None:
        question = read.quiz.question
        scans = [nodes.perturbed.GetID(), volume.GetID()]
        assert volumes_of(viewer) == (scans if question.left else scans[::-1]) and viewer.index() == question.index
        texts = [viewer.looks.annotations[name].lines for name in viewer.names]
        assert (
            texts[0][0] == "LEFT – one of the two is SYNTHETIC" and texts[1][0] == "RIGHT – one of the two is SYNTHETIC"
        )
        assert texts[0][1:] == texts[1][1:]
        for shown in (nodes.clean, nodes.adversarial):
            assert not shown.GetDisplayNode().GetVisibility()
        assert not results_scene.segments.beforeLine(nodes.clean).GetVisibility()
        seen.add(question.left)
        (read.leftButton if question.left else read.rightButton).click()
    assert seen == {True, False} and read.over
    assert read.asked.text.startswith("9 of 9 right") and viewer.index() == 2
    assert volumes_of(viewer) == [volume.GetID(), nodes.perturbed.GetID()]
    assert viewer.looks.annotations["Before"].lines[0].startswith("BEFORE")
    assert nodes.adversarial.GetDisplayNode().GetVisibility()
    read.endButton.click()
    assert not read.dialog.visible


def test_from_another_mode_it_goes_back_there(viewer):
    node, _, _ = bundles.add()
    viewer.show(node, "difference")
    read = blindread.BlindRead(node, viewer, seed=5)
    assert viewer.mode == "compare"
    read.answer(True)
    read.endButton.click()
    assert viewer.mode == "difference" and "of 1 right" in read.asked.text
    read.endButton.click()


def test_it_ends_without_a_score_where_something_else_is_shown(viewer):
    node, _, _ = bundles.add()
    viewer.show(node, "compare")
    read = blindread.ask(node, viewer)
    viewer.show(node, "heat")
    assert read.over and not read.dialog.visible
    read.answer(True)
    assert read.quiz.answers == []
    viewer.show(node, "compare")
    second, third = blindread.ask(node, viewer), blindread.ask(node, viewer)
    assert second.over and not third.over
    viewer.leave()
    assert third.over
    with pytest.raises(Trouble, match="not shown"):
        blindread.ask(node, viewer)


def test_slices_that_changed_are_asked_first(scene):
    node, _, _ = bundles.add()
    result = results_scene.Nodes(node).result
    assert blindread.slicesToAsk(result) == list(range(9))  # few changed: all that hold a structure
    result.voxelMl = 10.0
    clean, after = bundles.maps()
    assert result.changed() == [k for k in range(10) if (clean[k] != after[k]).any()]
