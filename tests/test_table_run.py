"""A run on the reader's table: what it decides, what it keeps, what it answers new rows with."""

import csv
import gc
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from strategies import error_line
from table_makers import Vectors, draw_table, tiny_bert, tiny_resnet, write_csv
from torch import Tensor

from mmlib.data import frozen
from mmlib.data.features import Features, extract
from mmlib.data.table import Row, Table, read_table
from mmlib.errors import UserError
from mmlib.evaluation.report import report_of
from mmlib.tasks import cross_validation, table_model
from mmlib.tasks.cross_validation import CrossValidation, digest_of, predict_table, train_table
from mmlib.tasks.table import TableTask, balanced_weights
from mmlib.tasks.table_model import TableModel, probabilities
from mmlib.tasks.table_recipe import TableRecipe
from mmlib.training.checkpoint import read_checkpoint, save_checkpoint
from mmlib.training.config import TrainingConfig
from mmlib.training.interrupts import Interrupted
from mmlib.training.run_folder import read_log


@pytest.fixture(scope="module", autouse=True)
def imported_objects_are_no_garbage():
    """`fit` collects garbage at its end, which takes a second for what torch has imported."""
    gc.freeze()
    yield
    gc.unfreeze()


# ---------------------------------------------------------------- the loss and the model


def test_class_weights_make_rare_classes_count_as_much_as_frequent_ones():
    target = torch.tensor([0, 0, 0, 1, 2, 2])
    weights = balanced_weights(target, 3)
    assert weights.tolist() == pytest.approx([6 / 9, 6 / 3, 6 / 6])
    assert weights[target].sum() == pytest.approx(6.0)
    per_class = [float(weights[target][target == c].sum()) for c in range(3)]
    assert per_class == pytest.approx([2.0, 2.0, 2.0])
    assert torch.isfinite(balanced_weights(target, 4)).all()  # a class that no row has


THREE = ("text", "image", "sensors")


def columns_of(names: Sequence[str] = THREE) -> dict[str, Vectors]:
    return {name: Vectors(width) for width, name in enumerate(names, start=2)}


def rows_of(number: int, names: Sequence[str] = THREE, seed: int = 0) -> list[Row]:
    """Rows of one to three moments a modality; A or B is the sign of the last number there."""
    random = torch.Generator().manual_seed(seed)
    rows = []
    for n in range(number):
        inputs = {}
        for width, name in enumerate(names, start=2):
            moments = int(torch.randint(1, 4, (), generator=random))
            inputs[name] = torch.randn(moments, width, generator=random).tolist()
        last = sum(x[-1] for x in inputs[names[-1]])
        rows.append(Row(n + 2, inputs, "A" if last > 0 else "B", f"group {n // 2}"))
    return rows


def task_of(names: Sequence[str] = THREE, seed: int = 0, **changes) -> TableTask:
    settings = dict(d=16, heads=2, layers=1, fusion="merged", dropout=0.0)
    weight = changes.pop("class_weight", torch.ones(2))
    settings |= changes
    return TableTask.new(columns_of(names), **settings, class_weight=weight, seed=seed)


def test_the_loss_is_the_weighted_sum_over_the_weights(tmp_path):
    rows = rows_of(6)
    task = task_of(class_weight=torch.tensor([0.5, 3.0])).eval()
    features = extract(columns_of(), rows, tmp_path)
    tokens = features.tokens(torch.arange(6), THREE)
    batch = {f"value.{m}": t.value for m, t in tokens.items()}
    batch |= {f"mask.{m}": t.mask for m, t in tokens.items()}
    label = torch.tensor([0, 1, 1, 0, 0, 1])
    total, count = (x.detach() for x in task({**batch, "label": label})["label"])
    logits, weights = task.logits(batch).detach(), [0.5, 3, 3, 0.5, 0.5, 3]
    by_hand = [
        w * float(-z.log_softmax(-1)[y]) for z, y, w in zip(logits, label, weights, strict=True)
    ]
    assert float(total) == pytest.approx(sum(by_hand), rel=1e-5) and count == 10.5
    assert task.counts({"label": label})["label"] == count
    mean = F.cross_entropy(task.logits(batch).detach(), label, task.class_weight)
    assert float(total / count) == pytest.approx(float(mean), rel=1e-5)


@pytest.mark.parametrize("fusion", ["merged", "bilinear", "late"])
def test_a_missing_modality_has_no_influence_and_padding_neither(tmp_path, fusion):
    """A row without pictures is as one of a batch that is not shown any."""
    rows = rows_of(8)
    rows += [replace(rows[0], inputs={k: v for k, v in rows[0].inputs.items() if k != "image"})]
    features = extract(columns_of(), rows, tmp_path)
    task = task_of(fusion=fusion)
    answer = partial(probabilities, task, features)
    everything = torch.arange(9)
    together = answer(everything, THREE)
    alone = torch.cat([answer(everything[i : i + 1], THREE) for i in range(9)])
    assert torch.allclose(together, alone, atol=1e-5)
    shown = answer(everything, ("text", "sensors"))
    assert torch.allclose(shown[8], together[8], atol=1e-5)
    assert torch.allclose(shown[0], together[8], atol=1e-5)
    assert not torch.allclose(shown[:8], together[:8], atol=1e-3)
    no_text = answer(everything, ("image",))
    assert no_text.shape == (9, 2) and not torch.allclose(no_text, together, atol=1e-3)


def test_what_is_trained_is_all_that_a_task_holds(encoders):
    task = TableTask.new(
        table_model.load_columns(recipe_of(Path("t.csv"), encoders)), 32, 2, 1, "merged", 0.0,
        torch.ones(2), seed=0,
    )  # fmt: skip
    assert not any("backbone" in name or "absent" in name for name in task.state_dict())
    assert all(p.requires_grad for p in task.parameters())
    assert {"model.encoders.text.proj.weight", "model.encoders.image.row"} <= set(task.state_dict())


def test_the_seed_draws_the_weights_and_leaves_the_callers_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = task_of(seed=0), task_of(seed=0), task_of(seed=1)
    assert torch.equal(torch.rand(2), expected)
    name = "model.encoders.text.proj.weight"
    weights = [task.state_dict()[name] for task in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# ---------------------------------------------------------------- one fold, by names


def validation_of(rows: list[Row], folder: Path, names: Sequence[str] = THREE, **changes):
    features = extract(columns_of(names), rows, folder / "features")
    target = torch.tensor(["AB".index(row.label) for row in rows])
    settings = dict(d=16, heads=2, layers=1, fusion="merged", dropout=0.0)
    settings |= changes.pop("model", {})

    def new_task(weight: Tensor, seed: int) -> TableTask:
        return TableTask.new(columns_of(names), **settings, class_weight=weight, seed=seed)

    made = CrossValidation(
        features, target, names, new_task, lambda steps: TrainingConfig(steps, 1e-2, 0.0, 2),
        epochs=2, batch_size=8, seed=0, out=folder, identity={"run": "test"},
    )  # fmt: skip
    return replace(made, **changes)


def test_a_third_modality_is_trained_controlled_and_reported_by_its_name(tmp_path):
    """The label is in the sensors alone, and nothing of mmlib was told of sensors."""
    rows = rows_of(80)
    run = validation_of(rows, tmp_path, epochs=15, batch_size=20)
    tests = [torch.arange(0, 40), torch.arange(40, 80)]
    outcomes = [run.fold(n, tests[1 - n], test) for n, test in enumerate(tests)]
    table = Table(Path("t.csv"), THREE, tuple(rows))
    report = report_of(table, run.target, tests, outcomes)
    for name in ("all", "only_sensors", "without_text", "without_image"):
        assert {**report["controls"], "all": report["balanced_accuracy"]}[name]["mean"] > 0.8, name
    for name in ("only_text", "only_image", "without_sensors", "exchanged_sensors", "majority"):
        assert report["controls"][name]["mean"] < 0.75, name
    exchanged = {name: report["controls"][f"exchanged_{name}"]["mean"] for name in THREE}
    assert exchanged["sensors"] + 0.15 < min(exchanged["text"], exchanged["image"])
    assert "text, picture and sensors together gain" in report["sentence"]
    assert "sensors adds +" in report["sentence"]
    assert report["missing"] == {"text": 0, "image": 0, "sensors": 0}


def spied(run: CrossValidation, monkeypatch) -> list[tuple]:
    """Each answer asked of a model of `run`: (rows, shown, exchanged); nothing is trained."""
    asked: list[tuple] = []

    def answer(self, task, rows, shown, exchanged=None):
        asked.append((rows, tuple(shown), exchanged))
        return rows * 0

    monkeypatch.setattr(CrossValidation, "answer", answer)
    monkeypatch.setattr(CrossValidation, "fit", lambda *given: None)
    monkeypatch.setattr(CrossValidation, "probe", lambda self, shown, rows, test: test * 0)
    return asked


def test_the_controls_exchange_each_modality_in_turn_among_all_test_rows(tmp_path, monkeypatch):
    rows = rows_of(80)
    rows[50:60] = [replace(row, inputs=rows[50].inputs) for row in rows[50:60]]  # ten alike
    run = validation_of(rows, tmp_path)
    asked = spied(run, monkeypatch)
    test = torch.arange(40, 80)
    outcome = run.fold(0, torch.arange(40), test)
    exchanges = [(shown, more) for _, shown, more in asked if more]
    assert all(torch.equal(rows, test) for rows, _, _ in asked)
    assert [tuple(more) for _, more in exchanges] == [(name,) for name in THREE]
    assert {f"exchanged_{name}" for name in THREE} <= set(outcome)
    orders = []
    for shown, more in exchanges:
        ((name, others),) = more.items()
        assert shown == THREE and torch.equal(others.sort().values, test)
        index = run.features.streams[name].index
        assert (index[others] != index[test]).all()
        label = run.target
        assert 10 < int((label[others] != label[test]).sum()) < 30  # whatever the labels
        orders.append(others.tolist())
    assert orders[0] != orders[1] != orders[2]
    again = spied(run, monkeypatch)
    replace(run, out=tmp_path / "b").fold(1, torch.arange(40), test)
    (other,) = [more for _, _, more in again if more and "text" in more]
    assert other["text"].tolist() != orders[0]  # each fold has its own


def test_each_model_is_given_the_weights_of_its_own_training_rows(tmp_path):
    rows = rows_of(40)
    run = validation_of(rows, tmp_path, epochs=1)
    given = []
    real = run.new_task

    def new_task(weight, seed):
        given.append((weight, seed))
        return real(weight, seed)

    run = replace(run, new_task=new_task)
    train = torch.arange(10, 40)
    run.fold(0, train, torch.arange(10))
    run.fold(1, torch.arange(30), torch.arange(30, 40))
    assert len(given) == 14
    assert all(torch.equal(w, balanced_weights(run.target[train], 2)) for w, _ in given[:7])
    assert torch.equal(given[7][0], balanced_weights(run.target[:30], 2))
    assert len({seed for _, seed in given[:7]}) == 1  # the same start for all that are compared
    assert given[0][1] != given[7][1]


def test_no_score_depends_on_the_labels_of_the_rows_it_is_computed_on(tmp_path):
    """The labels of the test rows are exchanged: no prediction for them may change."""
    rows, test = rows_of(40), torch.arange(30, 40)
    run = validation_of(rows, tmp_path / "a")
    swapped = run.target.clone()
    swapped[test] = 1 - swapped[test]
    other = replace(run, target=swapped, out=tmp_path / "b")
    first, second = (v.fold(0, torch.arange(30), test) for v in (run, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_most_frequent_label_is_that_of_the_training_rows(tmp_path, monkeypatch):
    run = validation_of(rows_of(20), tmp_path)
    run = replace(run, target=torch.tensor([0] * 7 + [1] * 13))
    spied(run, monkeypatch)
    outcome = run.fold(0, torch.arange(10), torch.arange(10, 20))
    assert outcome["majority"].tolist() == [0] * 10


def test_the_probe_reads_what_is_shown_of_the_training_rows(tmp_path):
    run = validation_of(rows_of(200), tmp_path)
    train, test = torch.arange(150), torch.arange(150, 200)
    right = {
        name: float((run.probe(shown, train, test) == run.target[test]).double().mean())
        for name, shown in (("sensors", ("sensors",)), ("others", ("text", "image")))
    }
    assert right["sensors"] > 0.85 and right["others"] < 0.7
    swapped = run.target.clone()
    swapped[test] = 1 - swapped[test]
    other = replace(run, target=swapped).probe(("sensors",), train, test)
    assert torch.equal(other, run.probe(("sensors",), train, test))


def test_the_probe_weighs_classes_alike(tmp_path):
    """Of features that say nothing the rare class is as likely an answer as the frequent one."""
    run = validation_of(rows_of(400), tmp_path)
    target = (torch.arange(400) % 10 == 0).long()
    train, test = torch.arange(300), torch.arange(300, 400)
    answers = replace(run, target=target).probe(("text",), train, test)
    assert answers.double().mean() > 0.2


def test_a_model_is_trained_for_the_epochs_on_its_rows_with_what_it_is_shown(tmp_path, monkeypatch):
    seen = []
    real = TableTask.forward

    def forward(self, batch):
        seen.append(batch)
        return real(self, batch)

    monkeypatch.setattr(TableTask, "forward", forward)
    run = validation_of(rows_of(40), tmp_path, epochs=3)
    run.fit("fold-0", "without_image", torch.arange(20), seed=1)
    assert [len(batch["label"]) for batch in seen] == [8, 8, 4] * 3
    assert set(seen[0]) == {
        "value.text", "mask.text", "value.sensors", "mask.sensors", "label"
    }  # fmt: skip
    log = read_log(tmp_path / "fold-0" / "without_image" / "log.jsonl")
    assert [entry["step"] for entry in log] == list(range(1, 10))


def test_answers_are_those_of_evaluation_mode(tmp_path):
    """With dropout a model in training mode answers the same row differently each time."""
    rows = rows_of(40)
    run = validation_of(rows, tmp_path, model={"dropout": 0.9})
    task = run.fit("final", "all", torch.arange(40), seed=1)
    task.train()
    first, second = (probabilities(task, run.features, torch.arange(40), THREE) for _ in range(2))
    assert torch.equal(first, second) and task.training


def test_answers_come_for_every_batch_of_rows(tmp_path):
    rows = rows_of(300)
    features, task = extract(columns_of(), rows, tmp_path), task_of()
    found = probabilities(task, features, torch.arange(300), THREE)
    last = probabilities(task, features, torch.arange(256, 300), THREE)
    assert found.shape == (300, 2) and torch.allclose(found[256:], last, atol=1e-6)


# ---------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoders")
    tiny_bert(folder / "text")
    tiny_resnet(folder / "image")
    return {"text_encoder": str(folder / "text"), "image_encoder": str(folder / "image")}


def recipe_of(data: Path, encoders: dict[str, str], **changes) -> TableRecipe:
    """A recipe of seconds: tiny encoders of random weights, 32-pixel pictures.

    The bilinear fusion is the one that learns an exclusive or in the fewest steps.
    """
    settings = dict(
        image_size=32, text_length=16, d=32, heads=2, epochs=10, batch_size=16,
        learning_rate=1e-2, dropout=0.0, folds=3, fusion="bilinear",
    )  # fmt: skip
    return TableRecipe(
        str(data), "image", "text", "label", "group", **{**encoders, **settings, **changes}
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoders):
    """A run where the label needs picture and text together: (recipe, folder, report)."""
    folder = tmp_path_factory.mktemp("both")
    recipe = recipe_of(draw_table(folder, 120, "both"), encoders)
    return recipe, folder / "run", train_table(recipe, folder / "run")


@pytest.fixture
def quick(tmp_path, encoders):
    """A recipe of two folds and one epoch on forty rows."""
    return recipe_of(draw_table(tmp_path, 40, "both"), encoders, folds=2, epochs=1)


def test_where_the_label_needs_both_the_report_says_that_fusion_helps(trained):
    _, _, report = trained
    assert report["sentence"].startswith("Fusion helps")
    assert report["balanced_accuracy"]["mean"] > 0.9
    for name in (
        "only_image", "only_text", "exchanged_image", "exchanged_text", "probe_all", "majority"
    ):  # fmt: skip
        assert report["controls"][name]["mean"] < 0.75, name
        assert report["gain_over"][name]["mean"] > 0.2, name


def test_where_the_picture_has_the_label_the_report_does_not_say_so(tmp_path, encoders):
    recipe = recipe_of(draw_table(tmp_path, 60, "picture"), encoders, epochs=6)
    report = train_table(recipe, tmp_path / "run")
    assert report["controls"]["only_image"]["mean"] > 0.9
    assert report["controls"]["only_text"]["mean"] < 0.75
    assert report["sentence"].startswith("Fusion does not help by an amount we can tell")


def test_the_run_folder_holds_what_is_promised(trained):
    recipe, run, report = trained
    assert json.loads((run / "report.json").read_text("utf8")) == report
    saved = TableRecipe.from_json(json.loads((run / "recipe.json").read_text("utf8")))
    assert saved == recipe and TableRecipe.from_json(saved.to_json()) == saved
    steps = {"fold-0": 5 * 10, "final": 8 * 10}
    for stage, number in steps.items():
        log = read_log(run / stage / "all" / "log.jsonl")
        assert [entry["step"] for entry in log] == list(range(1, number + 1))
        assert all(math.isfinite(entry["loss"]) for entry in log)
        assert log[-1]["lr"] < 1e-4 < max(entry["lr"] for entry in log) == pytest.approx(1e-2)
    assert {p.parent.name for p in run.glob("**/model.safetensors")} == {"best"}
    tensors, _, state = read_checkpoint(run / "best")
    assert state["classes"] == ["A", "B"] and set(state["columns"]) == {"text", "image"}
    assert any(name.endswith("factors.text.weight") for name in tensors)
    assert not any("backbone" in name or "training." in name for name in tensors)
    assert {"mean", "low", "high"} <= set(report["accuracy"])
    (warning,) = report["warnings"]  # day and night are in every group
    assert warning.startswith("120 of 120 rows have texts")
    assert report["by_class"]["A"]["rows"] + report["by_class"]["B"]["rows"] == 120
    assert report["rows"] == 120 and report["groups"] == 60
    assert report["unusable"] == [] and report["cut"] == {"text": 0, "image": 0}


def test_a_run_that_was_cut_off_goes_on_and_ends_the_same(tmp_path, encoders, monkeypatch):
    data = draw_table(tmp_path, 40, "both")
    recipe = recipe_of(data, encoders, folds=2, epochs=2, dropout=0.3, fusion="merged")
    whole, run, fits = tmp_path / "whole", tmp_path / "run", []
    report = train_table(recipe, whole)
    real = cross_validation.fit

    def interrupted(task, data, config, out, *given, **more):
        fits.append((out.parent.name, out.name))
        if len(fits) == 5:
            raise KeyboardInterrupt
        return real(task, data, config, out, *given, **more)

    monkeypatch.setattr(cross_validation, "fit", interrupted)
    with pytest.raises(Interrupted, match=f"mmlib train --resume {run}"):
        train_table(recipe, run)
    assert fits[-1] == ("fold-1", "only_image") and not (run / "report.json").exists()

    def never(*_):
        raise AssertionError("features were computed again")

    with monkeypatch.context() as patch:  # the blank picture is computed each time
        patch.setattr(frozen, "picture_array", never)
        again = train_table(recipe, run)
    assert fits[5] == ("fold-1", "all")  # fold 0 was kept
    assert {**again, "seconds": 0} == {**report, "seconds": 0}
    first, second = (read_checkpoint(folder / "best")[0] for folder in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for stage in ("fold-0/all", "fold-1/all", "final/all"):
        logs = [(folder / stage / "log.jsonl").read_text() for folder in (whole, run)]
        assert logs[0] == logs[1]  # nothing twice


def test_ctrl_c_within_a_model_names_the_run_and_not_the_model(quick, tmp_path, monkeypatch):
    def stopped(*given, **more):
        raise Interrupted("stopped; go on with: mmlib train --resume fold-0/all")

    monkeypatch.setattr(cross_validation, "fit", stopped)
    with pytest.raises(Interrupted) as error:
        train_table(quick, tmp_path / "run")
    assert str(error.value).endswith(f"mmlib train --resume {tmp_path / 'run'}")


def test_a_finished_run_is_not_trained_again(trained, monkeypatch):
    recipe, run, report = trained
    monkeypatch.setattr(CrossValidation, "fit", None)
    before = (run / "best" / "model.safetensors").stat().st_mtime_ns
    assert train_table(recipe, run) == report
    assert (run / "best" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda rows: [*rows, ["1.png", "day", "A", "new"]], "1 new or changed (row 42) and 0"),
        (lambda rows: rows[:-1], "0 new or changed and 1 gone"),
        (lambda rows: [rows[0], *rows[:0:-1]], "another order"),
        (
            lambda rows: [*rows[:2], [*rows[2][:1], "blue", *rows[2][2:]], *rows[3:]],
            "1 new or changed (row 3) and 1 gone",
        ),
    ],
)
def test_a_table_that_has_changed_is_told_and_nothing_is_overwritten(
    quick, tmp_path, change, part
):
    run = tmp_path / "run"
    train_table(quick, run)
    files = {path: path.read_bytes() for path in run.glob("**/*") if path.is_file()}
    with open(quick.data, encoding="utf8", newline="") as stream:
        rows = list(csv.reader(stream))
    write_csv(Path(quick.data), change(rows))
    with pytest.raises(UserError) as error:
        train_table(quick, run)
    error_line(error, part, "--out", str(run))
    assert files == {path: path.read_bytes() for path in run.glob("**/*") if path.is_file()}


def test_a_picture_whose_bytes_changed_is_a_changed_row(quick, tmp_path):
    table = read_table(quick.data, quick.inputs, "label", "group")
    before = digest_of(table)
    shutil.copy(tmp_path / "1.png", tmp_path / "0.png")
    assert digest_of(read_table(quick.data, quick.inputs, "label", "group")) != before


def test_a_folder_of_another_recipe_is_refused(trained):
    recipe, run, _ = trained
    with pytest.raises(UserError) as error:
        train_table(replace(recipe, seed=1), run)
    error_line(error, "another seed", "--out")


def test_the_seed_decides_and_another_seed_differs(quick, tmp_path):
    found = [
        train_table(replace(quick, seed=seed), tmp_path / name)
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    ]
    weights = [load_file(tmp_path / name / "best" / "model.safetensors") for name in "abc"]
    assert found[0]["folds"] == found[1]["folds"]
    name = "model.head.weight"
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])


def test_folds_keep_groups_only_where_a_group_column_is_named(quick, tmp_path, monkeypatch):
    given = []

    def caught(labels, groups, folds, seed):
        given.append((groups, folds, seed))
        raise UserError("enough")

    monkeypatch.setattr(cross_validation, "split", caught)
    for recipe in (quick, replace(quick, group_column=None, seed=4)):
        with pytest.raises(UserError, match="enough"):
            train_table(recipe, tmp_path / "run")
    assert given[0] == ([f"group g{i // 2}" for i in range(40)], 2, 0)
    assert given[1] == (None, 2, 4)


def test_without_a_group_column_the_report_warns_of_the_random_split(quick, tmp_path):
    with open(quick.data, encoding="utf8", newline="") as stream:
        table = list(csv.reader(stream))
    table[1][0] = table[2][0]  # one picture in two rows, which are two groups now
    write_csv(Path(quick.data), table)
    (tmp_path / "3.png").unlink()
    report = train_table(replace(quick, group_column=None), tmp_path / "run")
    first, second = report["warnings"]
    assert "--group-column" in first and "2 of 39 rows have pictures" in second
    # a row that cannot be used is left out, and told
    assert report["rows"] == 39 and report["missing"] == {"image": 0, "text": 0}
    assert [problem["row"] for problem in report["unusable"]] == [5]
    assert "3.png" in report["unusable"][0]["reason"]


def test_a_loss_that_is_not_finite_stops_the_run(quick, tmp_path):
    with pytest.raises(UserError) as error:
        train_table(replace(quick, learning_rate=1e30, epochs=3), tmp_path / "run")
    error_line(error, "a finite")


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"folds": 1}, "folds of 2"), ({"epochs": 0}, "epochs"), ({"batch_size": 0}, "batch_size"),
        ({"layers": 0}, "layers"), ({"layers": -1}, "layers"), ({"d": 0}, "d of 1"),
        ({"heads": 0}, "heads"), ({"heads": 3, "d": 32}, "divide the width d = 32"),
        ({"text_length": 0}, "text_length"), ({"text_length": 2}, "text_length"),
        ({"image_size": 0}, "image_size"), ({"image_size": 31}, "image_size"),
        ({"seed": -1}, "seed"), ({"dropout": 1.5}, "dropout"), ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"), ({"learning_rate": math.inf}, "learning_rate"),
        ({"learning_rate": 0.0}, "learning_rate"), ({"learning_rate": math.nan}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"), ({"weight_decay": math.inf}, "weight_decay"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_trained_is_refused(changes, part):
    with pytest.raises(UserError) as error:
        TableRecipe("t.csv", "image", "text", "label", **changes)
    error_line(error, part)


@pytest.mark.parametrize("changes", [{"fusion": "magic"}, {"text_length": 17}])
def test_what_only_the_model_can_refuse_leaves_no_folder(quick, tmp_path, changes):
    """A recipe.json that stays behind would refuse the corrected command."""
    with pytest.raises(UserError) as error:
        train_table(replace(quick, **changes), tmp_path / "run")
    error_line(error, str(next(iter(changes.values()))))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"preset": "small"}, "preset"), ({"folds": "2"}, "folds as int, got '2'"),
        ({"dropout": None}, "dropout as float"), ({"d": 32.5}, "d as int"),
        ({"data": ["t.csv"]}, "data as str"), ({"seed": True}, "seed as int"),
        ({"kind": "scenes"}, "kind table"), ({"group_column": 3}, "group_column"),
    ],
)  # fmt: skip
def test_a_recipe_file_with_other_fields_or_types_is_refused(changes, part):
    values = TableRecipe("t.csv", "image", "text", "label").to_json()
    with pytest.raises(UserError) as error:
        TableRecipe.from_json({**values, **changes})
    error_line(error, part)


def test_a_recipe_needs_its_columns():
    with pytest.raises(UserError) as error:
        TableRecipe.from_json({"kind": "table", "data": "t.csv"})
    error_line(error, "image_column")


# ---------------------------------------------------------------- answers for new rows


def test_new_rows_are_answered_and_problems_listed_in_their_place(trained, tmp_path):
    recipe, run, _ = trained
    known = read_table(recipe.data, recipe.inputs, "label", "group").rows[:6]
    rows = [(str(row.inputs["image"]), row.inputs["text"]) for row in known]
    path = write_csv(
        tmp_path / "new.csv",
        [("image", "text"), *rows[:3], ("no.png", "day"), *rows[3:], ("", "day")],
    )
    answers = predict_table(run, path)
    assert [answer["row"] for answer in answers] == list(range(2, 10))
    assert "no.png" in answers[3]["problem"]
    assert [a["label"] for a in answers[:3] + answers[4:7]] == [row.label for row in known]
    assert all(0.5 <= a["probability"] <= 1 for a in answers if "label" in a)
    assert not any("given" in answer for answer in answers)


def test_labels_of_new_rows_are_set_beside_the_answers_and_may_be_empty(trained, tmp_path):
    _, run, _ = trained
    path = write_csv(
        tmp_path / "new.csv", [("image", "text", "label"), ("", "day", "B"), ("", "day", "")]
    )
    first, second = predict_table(run, path)
    assert first["given"] == "B" and "given" not in second and "label" in second
    assert first["probability"] == second["probability"]


def test_unknown_labels_are_listed_with_their_rows(trained, tmp_path):
    _, run, _ = trained
    rows = [("", "day", label) for label in ("A", "quince", "B", "None")]
    path = write_csv(tmp_path / "new.csv", [("image", "text", "label"), *rows])
    with pytest.raises(UserError) as error:
        predict_table(run, path)
    error_line(error, "A, B", "row 3: label 'quince'; row 5: label 'None'")


def test_a_table_of_unusable_rows_alone_has_no_answers(trained, tmp_path):
    _, run, _ = trained
    path = write_csv(tmp_path / "new.csv", [("image", "text"), ("no.png", "day")])
    (answer,) = predict_table(run, path)
    assert set(answer) == {"row", "problem"}


def test_a_checkpoint_is_read_for_weights_and_for_notes_in_one_place(trained, monkeypatch):
    recipe, run, _ = trained
    model = TableModel.load(run)
    assert model.recipe == recipe and model.classes == ["A", "B"]
    rows = read_table(recipe.data, recipe.inputs, "label", "group").rows
    one, all_ = model.predict(rows[:1]), model.predict(rows)
    assert one == all_[:1] and len(all_) == len(rows)  # what stands beside a row does not matter


def copy_of(run: Path, folder: Path) -> Path:
    shutil.copytree(run / "best", folder / "run" / "best")
    return folder / "run" / "best" / "model.safetensors"


def test_every_trained_tensor_must_be_there(trained, tmp_path):
    """Else answers would come from weights drawn from the seed."""
    _, run, _ = trained
    tensors, recipe, state = read_checkpoint(run / "best")
    notes = {"recipe": json.dumps(recipe), "state": json.dumps(state)}
    path = copy_of(run, tmp_path)
    for lacking in ("model.head.weight", "model.encoders.image.row", "model.modality.weight"):
        save_file({n: x for n, x in tensors.items() if n != lacking}, path, notes)
        with pytest.raises(UserError) as error:
            TableModel.load(tmp_path / "run")
        error_line(error, lacking)
    save_file({}, path, notes)
    with pytest.raises(UserError):
        TableModel.load(tmp_path / "run")


def test_a_run_asks_for_the_networks_it_was_trained_with(trained, tmp_path):
    recipe, run, _ = trained
    model = TableModel.load(run)
    _, _, state = read_checkpoint(run / "best")
    path = copy_of(run, tmp_path)
    for name in ("text", "image"):
        other = {**state, "columns": {**state["columns"], name: "0"}}
        save_checkpoint(path.parent, model.task, (), recipe.to_json(), other)
        with pytest.raises(UserError) as error:
            TableModel.load(tmp_path / "run")
        error_line(error, "other weights", "train again")


@pytest.mark.parametrize(
    "state",
    [
        {}, {"classes": "AB", "columns": {}}, {"classes": [1, 2], "columns": {}},
        {"classes": ["A", "B"], "columns": []}, {"classes": ["A"], "columns": {}},
    ],
)  # fmt: skip
def test_a_checkpoint_with_other_notes_is_one_line(trained, tmp_path, state):
    recipe, run, _ = trained
    tensors, _, _ = read_checkpoint(run / "best")
    notes = {"recipe": json.dumps(recipe.to_json()), "state": json.dumps(state)}
    save_file(tensors, copy_of(run, tmp_path), notes)
    with pytest.raises(UserError) as error:
        TableModel.load(tmp_path / "run")
    error_line(error, "the labels of a run on a table")


def test_a_damaged_fold_and_a_damaged_list_of_rows_do_no_harm(quick, tmp_path, monkeypatch):
    """Whole files of the wrong content, as a copy gone wrong leaves them."""
    run = tmp_path / "run"
    report = train_table(quick, run)
    (run / "report.json").unlink()
    for path in (run / "folds").glob("*"):
        save_file({"other": torch.zeros(2)}, path)
    for folder in ("fold-0", "fold-1", "final"):
        shutil.rmtree(run / folder)
    again = train_table(quick, run)
    assert {**again, "seconds": 0} == {**report, "seconds": 0}
    (run / "table.json").write_text("[]")
    with pytest.raises(UserError) as error:
        train_table(quick, run)
    error_line(error, "table.json")


def test_features_of_the_run_have_all_modalities(trained):
    recipe, run, _ = trained
    rows = read_table(recipe.data, recipe.inputs, "label", "group").rows
    found: Features = extract(TableModel.load(run).columns, rows, run / "features")
    assert set(found.streams) == {"text", "image"}
