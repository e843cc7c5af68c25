"""The table of planted faults is current, and five are planted here (`make mutants`: all)."""

import json

import pytest

from tools.mutants import RESULT, ROOT, Mutant, load, survivors

MUTANTS = load()
QUICK = [mutant for mutant in MUTANTS if mutant.quick]

every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)


def test_the_published_table_lists_these_faults_and_tests():
    assert json.loads(RESULT.read_text("utf-8")) == [mutant.row() for mutant in MUTANTS]


def test_there_are_fifty_faults_and_no_two_alike():
    assert len({mutant.fault for mutant in MUTANTS}) == len(MUTANTS) >= 50
    assert len({(mutant.file, mutant.find, mutant.replace) for mutant in MUTANTS}) == len(MUTANTS)
    assert all("\n" not in mutant.fault for mutant in MUTANTS)


@every_mutant
def test_the_place_of_the_fault_still_exists(mutant: Mutant):
    source = (ROOT / mutant.file).read_text("utf-8")
    planted = mutant.planted(source)
    assert planted != source
    compile(planted, mutant.file, "exec")  # a fault that does not run would be found by any test


@every_mutant
def test_the_named_test_exists(mutant: Mutant):
    file, name = mutant.test.split("::")
    assert f"def {name.split('[')[0]}(" in (ROOT / file).read_text("utf-8")


@pytest.fixture(scope="module")
def outcome() -> dict[str, bool]:
    return dict(zip((mutant.fault for mutant in QUICK), survivors(QUICK), strict=True))


@pytest.mark.parametrize("fault", [mutant.fault for mutant in QUICK])
def test_a_planted_fault_is_found(outcome: dict[str, bool], fault: str):
    assert not outcome[fault]


def test_five_are_planted():
    assert len(QUICK) == 5


def test_a_fault_whose_place_is_gone_is_named():
    mutant = Mutant("a fault", "mmlib/tokens.py", "no such line", "", "")
    with pytest.raises(ValueError, match="expected .* got it 0 times; "):
        mutant.planted("some source")
