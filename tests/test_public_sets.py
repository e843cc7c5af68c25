"""What every public set with a record keeps to: no network, controls, a fingerprint."""

import json
import urllib.error
from pathlib import Path

import pytest
from public_sets import copy, needs_weights
from strategies import error_line

from mmlib.data import archive as datasets
from mmlib.data import emoji, pomology
from mmlib.errors import UserError
from mmlib.evaluation.report import sentence
from tools import record as records
from tools.tables import TOLERANCE

RESULTS = Path(__file__).resolve().parents[1] / "book" / "results"
SETS = {"pomology": pomology, "emoji": emoji}
ROWS = {"pomology": 4109, "emoji": 1636}


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("timed out")])
@pytest.mark.parametrize("name", SETS)
def test_without_a_network_one_line_says_what_to_do(tmp_path, monkeypatch, name, error):
    def urlopen(address: str, timeout: float) -> None:
        raise error

    monkeypatch.delenv("MMLIB_DATA", raising=False)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError) as raised:
        SETS[name].write(tmp_path / "out")
    error_line(raised, SETS[name].ADDRESS, "MMLIB_DATA", f"{name}.zip")


@pytest.fixture(params=SETS)
def record(request) -> dict:
    return json.loads((RESULTS / f"{request.param}.json").read_text("utf8"))


def test_a_record_has_its_controls_and_its_sentence_follows_from_its_folds(request, record):
    name = request.node.callspec.params["record"]
    folds = record["folds"]["balanced_accuracy"]
    assert record["sentence"] == sentence(folds, record["modalities"])
    assert record["rows"] == ROWS[name]
    assert len(folds["all"]) == record["recipe"]["folds"] == 5
    for control in ("only_image", "only_text", "exchanged_image", "majority", "probe_all"):
        assert record["controls"][control]["mean"] == pytest.approx(sum(folds[control]) / 5)


@needs_weights
def test_the_first_losses_of_a_record_come_again(request, record, tmp_path):
    name = request.node.callspec.params["record"]
    if not copy(name).is_file():
        pytest.skip(f"MMLIB_DATA names no {name}.zip")
    found = records.load(name).first_losses(tmp_path)["losses"]
    # another processor rounds otherwise; the tolerance says what that makes of a loss
    assert found == pytest.approx(record["first_losses"], rel=TOLERANCE)
