"""Half-right rules for a reference: what they pick, and how they show themselves."""

import pytest

from mmlib.data.scenes import Scene, Thing
from mmlib.data.scenes.rules import RULES, fingerprint, follow
from mmlib.data.scenes.stream import held_out_scenes
from mmlib.errors import UserError

# a red circle in the middle; left of it a near blue square and a far green star; right a yellow one
SCENE = Scene(
    (
        Thing(color=0, shape=0, size=0, x=32, y=32), Thing(color=2, shape=1, size=0, x=20, y=30),
        Thing(color=1, shape=3, size=0, x=8, y=34), Thing(color=3, shape=3, size=0, x=40, y=33),
    ),
    235,
)  # fmt: skip
LEFT = "what color is the nearest object left of the red circle"


@pytest.mark.parametrize(
    ("rule", "answers"),
    [
        ("nearest on that side", {"blue": 1.0}),
        ("nearest on any side", {"yellow": 1.0}),
        ("outermost on that side", {"green": 1.0}),
        ("any on that side", {"blue": 0.5, "green": 0.5}),
        ("any but the named", {"blue": 1 / 3, "green": 1 / 3, "yellow": 1 / 3}),
    ],
)
def test_what_a_rule_answers(rule, answers):
    assert follow(rule, SCENE, LEFT) == pytest.approx(answers)


def test_shapes_are_counted_together():
    text = "what shape is the nearest object left of the red circle"
    assert follow("any but the named", SCENE, text) == pytest.approx(
        {"square": 1 / 3, "star": 2 / 3}
    )


@pytest.fixture(scope="module")
def asked():
    drawn = held_out_scenes("validation", 60)
    return [(scene, q.text, q.answer) for scene, qs in drawn for q in qs if q.kind == "reference"]


def test_the_whole_rule_is_the_oracle(asked):
    assert len(asked) > 30
    assert fingerprint("nearest on that side", asked)["right"] == 1


def test_each_half_right_rule_is_right_half_of_the_time_and_shows_what_it_leaves_unread(asked):
    name_unread = fingerprint("outermost on that side", asked)
    side_unread = fingerprint("nearest on any side", asked)
    assert name_unread["other name"] == 1 and name_unread["other side"] < 0.5
    assert side_unread["other side"] == 1 and side_unread["other name"] < 0.6
    for found in (name_unread, side_unread):
        assert 0.35 < found["right"] < 0.6
    assert fingerprint("nearest on that side", asked)["other name"] == 0


def test_mistakes_are_named():
    with pytest.raises(UserError, match="expected a rule of nearest on that side"):
        follow("luck", SCENE, LEFT)
    with pytest.raises(UserError, match="0 in 'what color is the nearest object left of the gray"):
        follow("any on that side", SCENE, LEFT.replace("red circle", "gray square"))
    assert len(RULES) == 5
