"""Records: how they are made piece by piece, and that the one of `small` is of this code."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmlib.data.scenes import KINDS
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_run import batches
from mmlib.tasks.scenes import SceneTask
from mmlib.training.config import Execution
from mmlib.training.fit import fit
from mmlib.training.run_folder import read_log
from tools import fill_pages, record

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "scenes_small.json"

SOURCE = """
import json
from pathlib import Path

def unit(value):
    def run(folder):
        calls = folder.parent / "calls"
        calls.write_text(calls.read_text() + str(value) if calls.exists() else str(value))
        if (folder.parent / "fail").exists() and value == 2:
            raise RuntimeError("cut off")
        return {"value": value}
    return run

UNITS = {"one": unit(1), "two": unit(2), "three": unit(3)}

def summarize(units):
    return {"sum": sum(values["value"] for values in units.values())}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A tree with one record of three units; the runs/ folder of its units."""
    (tmp_path / "tools" / "records").mkdir(parents=True)
    (tmp_path / "tools" / "records" / "sums.py").write_text(SOURCE)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return tmp_path


def result(root: Path) -> dict:
    return json.loads((root / "book" / "results" / "sums.json").read_text())


def test_a_record_is_the_summary_of_its_units_and_says_how_it_was_made(root):
    record.main("sums", [])
    written = result(root)
    assert written["sum"] == 6
    assert written["command"] == "make record NAME=sums"
    assert written["device"] == "cpu"
    assert written["versions"]["torch"] == torch.__version__
    assert written["seconds"] >= 0 and len(written["date"]) == 10


def test_a_record_that_was_cut_off_goes_on_with_what_is_missing(root, capsys):
    units = root / "runs" / "records" / "sums"
    units.mkdir(parents=True)
    (units / "fail").write_text("")
    with pytest.raises(RuntimeError):
        record.main("sums", [])
    assert not (root / "book").exists()
    (units / "fail").unlink()
    record.main("sums", [])
    assert (units / "calls").read_text() == "1223", "one was finished, two was not"
    assert result(root)["sum"] == 6
    record.main("sums", [])
    assert (units / "calls").read_text() == "1223", "what is finished is not run again"


def test_named_units_alone_are_run_and_the_record_waits_for_the_others(root, capsys):
    record.main("sums", ["three"])
    assert "not yet done: one, two" in capsys.readouterr().out
    assert not (root / "book" / "results" / "sums.json").exists()
    record.main("sums", ["one", "two"])
    assert (root / "runs" / "records" / "sums" / "calls").read_text() == "312"
    assert result(root)["sum"] == 6


def test_a_record_that_is_not_complete_goes_on_on_another_machine(root):
    """What is done travels in book/results/partial, which is gone once the record is there."""
    record.main("sums", ["three", "one"])
    partial = root / "book" / "results" / "partial" / "sums.json"
    assert set(json.loads(partial.read_text())) == {"one", "three"}
    shutil.rmtree(root / "runs")
    record.main("sums", [])
    assert (root / "runs" / "records" / "sums" / "calls").read_text() == "2"
    assert result(root)["sum"] == 6 and not partial.exists()


def test_an_old_record_stays_whole_while_a_new_one_is_written(root, monkeypatch):
    record.main("sums", [])
    old = (root / "book" / "results" / "sums.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        record.main("sums", [])
    assert (root / "book" / "results" / "sums.json").read_bytes() == old
    assert [p.name for p in (root / "book" / "results").iterdir()] == ["sums.json"]


@pytest.mark.parametrize(
    "arguments, line",
    [
        (("products", []), "expected a record of sums, got 'products'; choose one"),
        (("sums", ["four"]), "expected units of one, two, three, got four; choose some"),
        (("../sums", []), "expected a record of sums, got '../sums'; choose one"),
    ],
)
def test_an_unknown_record_or_unit_is_one_line(arguments, line, root):
    with pytest.raises(SystemExit) as left:
        record.main(*arguments)
    assert left.value.code == line


def test_the_records_of_the_book_can_be_loaded():
    """Each defines units to run and a summary; nothing runs on loading."""
    names = [path.stem for path in (record.ROOT / "tools" / "records").glob("[a-z]*.py")]
    for name in names:
        module = record.load(name)
        assert module.UNITS and callable(module.summarize), name
    units = {"seed_0", "seed_4", "text_alone", "image_alone", "best_guess"}
    assert "scenes_small" in names and units <= set(record.load("scenes_small").UNITS)


# --- scenes_small ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> dict:
    return json.loads(RECORD.read_text("utf8"))


def intervals(value: object) -> Iterator[dict]:
    """Every {mean, low, high} within."""
    if isinstance(value, dict):
        if "mean" in value:
            yield value
        for inner in value.values():
            yield from intervals(inner)


def test_the_record_has_what_a_record_must_have(small):
    """Recipe, seeds, data hash, versions, device, seconds, metrics and controls with intervals."""
    recipe, now = SceneRecipe.from_json(small["recipe"]), record.load("scenes_small").RECIPE
    assert recipe == now
    assert small["seeds"] == [0, 1, 2, 3, 4]
    assert len(small["data_sha256"]) == 64
    assert {"python", "torch", "numpy", "transformers", "pillow"} <= set(small["versions"])
    assert small["device"] and small["seconds"] > 0 and small["command"] and small["date"]
    kinds = {"overall", *KINDS}
    assert set(small["metrics"]) == set(small["best_guess"]) == kinds
    assert set(small["best_guess_from_objects"]) == kinds
    assert {"text_only", "image_only", "shuffled"} <= set(small["controls"])
    for name, scores in small["controls_by_kind"].items():
        assert scores["overall"] == small["controls"][name] and set(scores) == kinds
    assert set(small["held_out_combinations"]) <= kinds
    for found in intervals({"a": small["metrics"], "b": small["controls_by_kind"]}):
        assert 0 <= found["mean"] <= 1 and found["low"] <= found["mean"] <= found["high"]
        assert found["n"] == len(small["seeds"])
    assert len(small["curves"]) == len(small["seeds"])


def test_the_record_is_about_this_data(small):
    """The questions and pictures of the test, drawn again, have the hash that was recorded."""
    module = record.load("scenes_small")
    half = {"mean": 0.5}
    stay = {"present_name": half, "absent_name": half, "side": half}
    units = {
        f"seed_{seed}": {
            "recipe": small["recipe"], "seconds": 1.0, "losses": [], "curve": [],
            "report": {
                name: {"overall": half} for name in ("by_kind", "held_out_combinations")
            } | {"controls": {name: {"overall": half} for name in small["controls"]}}
            | {"reference": {"accuracy": half, "accuracy_present_name": half, "stay": stay}},
        }
        for seed in small["seeds"]
    }  # fmt: skip
    units["package"] = {}
    every_kind = {kind: {"mean": 0.5} for kind in ("overall", *KINDS)}
    for name in ("text_alone", "image_alone"):
        units[name] = {"report": {"by_kind": every_kind}}
    units["best_guess"] = {"text": every_kind, "objects": every_kind}
    again = module.summarize(units)
    assert again["data_sha256"] == small["data_sha256"]
    assert set(again) <= set(small)


def test_what_is_claimed_of_small_holds_in_the_record(small):
    """At least 97 % overall and 90 on each kind with every seed, where 99 and 97 were aimed at.

    Nothing without both sides comes near, and a reference reads its name.
    """
    for report in small["reports"].values():
        right = {kind: found["mean"] for kind, found in report["by_kind"].items()}
        assert right["overall"] >= 0.97 and min(right.values()) >= 0.9
        stay = report["reference"]["stay"]
        assert stay["present_name"]["mean"] < 0.1 and stay["absent_name"]["mean"] < 0.5
        assert report["held_out_combinations"]["overall"]["mean"] > 0.94
    for curve in small["curves"].values():  # learned by the step from which the rate falls
        falls = small["recipe"]["training"]["decay_from"] * small["recipe"]["training"]["steps"]
        assert max(at["reference"] for at in curve if at["step"] <= falls) > 0.9
    text, objects = small["best_guess"]["overall"], small["best_guess_from_objects"]["overall"]
    for name in ("text_only", "shuffled"):
        assert small["controls"][name]["mean"] <= text + 0.03
    assert small["controls"]["image_only"]["mean"] <= objects + 0.03
    assert small["trained_alone"]["text_alone"]["overall"]["mean"] <= text + 0.03
    assert small["trained_alone"]["image_alone"]["overall"]["mean"] <= objects + 0.03


def test_the_page_sets_each_score_beside_the_best_guess(small):
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in fill_pages.scenes_tables(small).splitlines()
        if line.startswith("| ")
    ]
    first = rows[2 : 2 + len(KINDS) + 1]
    assert [row[0] for row in first] == ["overall", *KINDS]
    for row in first:
        assert row[1].split()[0] == f"{small['metrics'][row[0]]['mean']:.3f}"
        assert row[-1] == f"{small['best_guess'][row[0]]:.3f}"


# Measured on the first two steps: 2 threads against 1 change a loss by a share of 5e-7, the
# instructions of another processor (ATEN_CPU_CAPABILITY=default with ONEDNN_MAX_CPU_ISA=SSE41
# against AVX2) by 1e-8. Another seed changes the first loss by a share of 4e-2.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def fingerprint() -> tuple[SceneRecipe, list[float]]:
    """Recipe and first losses of seed 0."""
    record_ = json.loads(RECORD.read_text("utf8"))
    return SceneRecipe.from_json(record_["recipe"]), record_["first_losses"]


def test_the_record_is_of_this_code(fingerprint, tmp_path):
    """The losses of the first two steps of seed 0, taken again, are those of the record."""
    recipe, recorded = fingerprint
    task = SceneTask.from_recipe(recipe)
    fit(
        task, batches(recipe), recipe.training, tmp_path, {}, seed=recipe.seed, until=2,
        execution=Execution(workers=0, device="cpu"),
    )  # fmt: skip
    losses = [entry["loss"] for entry in read_log(tmp_path / "log.jsonl")]
    assert losses == pytest.approx(recorded[:2], rel=TOLERANCE)
