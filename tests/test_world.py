"""The record `world`: what can be answered with an input left unread, and what was made of it."""

import json
from pathlib import Path

import pytest

from mmlib.data.scenes import INPUTS, KINDS
from tools.record import load

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def record():
    return json.loads((ROOT / "book" / "results" / "world.json").read_text("utf8"))


@pytest.fixture(scope="module")
def module():
    return load("world")


def test_the_record_holds_every_kind_and_input(record):
    assert set(record["picture_unread"]) == {*KINDS, "overall"}
    assert {kind: tuple(row) for kind, row in record["words_unread"].items()} == INPUTS


def test_name_and_side_of_a_reference_must_be_read(record):
    """At most half without either, by construction; as first made, all without the name."""
    now = record["words_unread"]["reference"]
    assert max(now["name"], now["side"]) < 0.51
    assert record["outermost"]["name"] > 0.99
    for rules in record["rules"]["nearest"].values():
        assert all(share < 0.51 for share in rules.values()), rules
    assert record["rules"]["outermost"]["name"]["outermost on the side"] == 1


def test_larger_grids_are_what_scenes_lack(record):
    for row in record["supply"].values():
        assert row["2 × 2"] > 0.1 and row["3 × 3"] < 0.01 and row["3 × 2"] < 0.05


def test_a_part_of_the_record_is_found_again(record, module):
    """150 pictures: the best rules and the simple ones, within what so few allow."""
    part = module.measured("nearest", 150, 64)
    assert part["references"] > 100
    for unread in ("name", "side"):
        whole = record["words_unread"]["reference"][unread]
        assert abs(part["unread"]["reference"][unread] - whole) < 0.06
        for rule, share in record["rules"]["nearest"][unread].items():
            assert abs(part["rules"][unread][rule] - share) < 0.17, rule
    assert module.supply(20).keys() == record["supply"].keys()


def test_units_make_the_record(module, record):
    """The summary of units that hold the recorded figures is the record."""
    units = {
        "nearest": {"references": record["references"]["nearest"],
                    "text": record["picture_unread"], "unread": record["words_unread"],
                    "rules": record["rules"]["nearest"]},
        "outermost": {"references": record["references"]["outermost"],
                      "text": {"reference": record["outermost"]["picture"]},
                      "unread": {"reference": {k: v for k, v in record["outermost"].items()
                                               if k != "picture"}},
                      "rules": record["rules"]["outermost"]},
        "supply": record["supply"] | {"seconds": 1.0},
    }  # fmt: skip
    assert set(module.UNITS) == set(units)
    made = module.summarize(units)
    assert made == {key: record[key] for key in made}
