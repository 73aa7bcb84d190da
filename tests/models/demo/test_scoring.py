"""The score counts what a caption says of each object, in the truth's order."""

import pytest

from models.demo.world.captions import caption
from models.demo.world.scoring import SHOWN_BY_EVENTS, Score
from models.demo.world.truth import ObjectTruth, SceneTruth

TRUCK = ObjectTruth("truck", "red", "near", "left", "fast")
BALL = ObjectTruth("ball", "blue", "far", None, "standing")


@pytest.mark.parametrize("truth", [SceneTruth((TRUCK,)), SceneTruth((TRUCK, BALL)), SceneTruth((BALL,))])
@pytest.mark.parametrize("wording", range(4))
def test_the_true_caption_has_everything_right(truth: SceneTruth, wording: int) -> None:
    score = Score()
    assert score.add(caption(truth, wording), truth) == 1.0
    assert set(score.by_attribute().values()) == {1.0}


def test_what_stands_is_not_asked_for_its_direction() -> None:
    score = Score()
    score.add(caption(SceneTruth((BALL,))), SceneTruth((BALL,)))
    assert "direction" not in score.by_attribute()


def test_a_wrong_attribute_costs_itself_alone() -> None:
    score = Score()
    said = caption(SceneTruth((ObjectTruth("truck", "green", "near", "left", "fast"),)))
    assert score.add(said, SceneTruth((TRUCK,))) == pytest.approx(4 / 5)
    assert score.share(SHOWN_BY_EVENTS) == 1.0
    assert score.by_attribute()["colour"] == 0.0


def test_an_object_that_is_not_mentioned_has_nothing_right() -> None:
    score = Score()
    assert score.add(caption(SceneTruth((TRUCK,))), SceneTruth((TRUCK, BALL))) == pytest.approx(5 / 9)


def test_an_empty_scene_asks_for_nothing() -> None:
    score = Score()
    assert score.add("Nothing moves.", SceneTruth(())) is None
    assert score.share() is None


def test_confusion_tells_what_was_said_instead() -> None:
    score = Score()
    score.add(caption(SceneTruth((ObjectTruth("car", "red", "near", "left", "fast"),))), SceneTruth((TRUCK,)))
    score.add(caption(SceneTruth((TRUCK,))), SceneTruth((TRUCK, BALL)))
    assert score.confusion("kind") == {"truck": {"car": 1, "truck": 1}, "ball": {"nothing": 1}}
