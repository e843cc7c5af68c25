"""The command line: options from the recipes, and each mistake one line with exit code 2."""

import dataclasses
import json
import re
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmlib.tasks.cross_validation as tabular
import mmlib.tasks.scenes as scene_task
from mmlib import cli
from mmlib.cli import main
from mmlib.data.scenes import ANSWERS, render, sample_questions
from mmlib.tasks.cross_validation import TableRecipe
from mmlib.tasks.scenes import SceneRecipe, report
from mmlib.training.fit import Optimization, read_log

ROOT = Path(__file__).resolve().parents[1]
QUICK = "--preset tiny --pictures 4 --questions 2 --steps 4 --warmup 1 --workers 0".split()


def leave(*arguments: object) -> int:
    """The exit code of a command, whether it returns or the parser ends it."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as left:
        assert isinstance(left.code, int)
        return left.code


def mistake(capsys, *arguments: object) -> str:
    """Run a command that must fail: one line on standard error, exit code 2, no stack trace."""
    capsys.readouterr()
    code = leave(*arguments)
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"mmlib: [^\n]+; [^\n]+\n", err), err
    return err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of `mmlib train --preset tiny --steps 4 …`, its report on twenty pictures."""
    out = tmp_path_factory.mktemp("cli") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_task, "report", lambda task: report(task, 20))
        assert main(["train", *QUICK, "--out", str(out)]) == 0
    return out


@pytest.fixture
def recipes(monkeypatch):
    """What `train` would train, caught instead: (recipe, folder) of each call."""
    caught: list[tuple] = []

    def catch(recipe, out):
        caught.append((recipe, out))
        score = {"overall": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 8}}
        return {"by_kind": score, "controls": {}, "accuracy": score["overall"]}

    monkeypatch.setattr(scene_task, "train_scenes", catch)
    monkeypatch.setattr(tabular, "train_table", catch)
    monkeypatch.setattr(tabular, "describe_report", lambda result: "the table's report")
    return caught


# --- options --------------------------------------------------------------------------------------


def leaves(recipe: type):
    """(field, default) of a recipe, the steps' among them."""
    for field in dataclasses.fields(recipe):
        if field.name == "optimization":
            yield from leaves(Optimization)
        else:
            yield field.name, field.default


def test_every_field_of_the_recipes_is_an_option_with_its_default(capsys):
    assert leave("train", "--help") == 0
    help_ = " ".join(capsys.readouterr().out.split())
    entries = {part.split(" ")[0]: part for part in help_.split(" --")[1:]}
    for recipe in (SceneRecipe, TableRecipe):
        for name, default in leaves(recipe):
            entry = entries[name.replace("_", "-")]
            if default not in (None, dataclasses.MISSING):
                assert f"default {default})" in entry, entry


def test_without_options_the_recipe_is_the_default(recipes):
    assert leave("train") == 0
    assert recipes == [(SceneRecipe(), Path("runs/small"))]


def test_options_have_the_types_of_their_fields(recipes, tmp_path):
    given = (
        "--preset tiny --seed 7 --objects 2 4 --coordinates false --dense 0.5 --learning-rate 1e-2"
        " --evaluate-every 50 --precision bf16"
    )
    assert leave("train", *given.split(), "--out", tmp_path) == 0
    how = Optimization(learning_rate=0.01, evaluate_every=50, precision="bf16")
    expected = SceneRecipe(
        preset="tiny", seed=7, objects=(2, 4), coordinates=False, dense=0.5, optimization=how
    )
    assert recipes == [(expected, tmp_path)]


@pytest.mark.parametrize("word, value", [("false", False), ("False", False), ("true", True)])
def test_false_is_false(word, value, recipes):
    """bool("false") would be true."""
    leave("train", "--coordinates", word)
    assert recipes[0][0].coordinates is value


def test_a_table_is_trained_where_there_is_data(recipes, capsys):
    columns = "--image-column picture --text-column name --label-column kind".split()
    assert leave("train", "--data", "things.csv", *columns, "--seed", 3, "--dropout", 0.1) == 0
    expected = TableRecipe("things.csv", "picture", "name", "kind", seed=3, dropout=0.1)
    assert recipes == [(expected, Path("runs/things"))]
    assert capsys.readouterr().out.startswith("the table's report\nSaved in runs/things; ")


def test_a_run_goes_on_with_its_own_recipe(recipes, run, tmp_path):
    assert leave("train", "--resume", run) == 0
    saved = json.loads((run / "recipe.json").read_text())
    assert recipes == [(SceneRecipe.from_json(saved), run)]
    table = TableRecipe("a.csv", "b", "c", "d")
    (tmp_path / "recipe.json").write_text(table.to_json())
    assert leave("train", "--resume", tmp_path) == 0
    assert recipes[1] == (table, tmp_path)


def test_the_command_is_installed():
    """[project.scripts] names a function that exists, and it is this one."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["mmlib"].partition(":")
    assert getattr(import_module(module), name) is main


# --- a run, from training to an answer ------------------------------------------------------------


def test_train_writes_a_run_folder(run):
    assert {p.name for p in run.iterdir()} == {
        "best", "last", "log.jsonl", "recipe.json", "report.json",
    }  # fmt: skip
    assert [entry["step"] for entry in read_log(run / "log.jsonl")] == [1, 2, 3, 4]


def test_train_again_and_resume_take_no_further_step(run, capsys, monkeypatch):
    monkeypatch.setattr(scene_task, "report", lambda task: report(task, 20))
    before = {p: p.read_bytes() for p in run.rglob("*.safetensors")}
    for arguments in (["--resume", str(run)], [*QUICK, "--out", str(run)]):
        assert leave("train", *arguments) == 0
        out = capsys.readouterr().out
        assert out.endswith(
            f"Saved in {run}; ask it with: mmlib predict {run} --image FILE --text QUESTION\n"
        )
    assert {p: p.read_bytes() for p in run.rglob("*.safetensors")} == before


def test_evaluate_prints_what_the_report_holds(run, capsys):
    """The score by kind with the controls beside it, and the overall score with its interval."""
    assert leave("evaluate", run, "--pictures", 20) == 0
    lines = capsys.readouterr().out.splitlines()
    written = json.loads((run / "report.json").read_text())
    columns = {"both": written["by_kind"], **written["controls"]}
    assert lines[0].split() == ["%", "right", *columns]
    for line, kind in zip(lines[1:-1], written["by_kind"], strict=True):
        values = [f"{100 * scores[kind]['mean']:.1f}" for scores in columns.values()]
        assert line.split() == [kind, *values]
    score = {name: f"{100 * written['accuracy'][name]:.1f}" for name in ("mean", "low", "high")}
    assert lines[-1] == (
        f"Overall {score['mean']} % [{score['low']}, {score['high']}] on 40 questions about unseen"
        " scenes."
    )


@pytest.fixture
def picture(tmp_path):
    scene, _ = sample_questions(np.random.default_rng(0))
    path = tmp_path / "scene.png"
    Image.fromarray(render(scene)).save(path)
    return path


def test_predict_answers_a_question(run, picture, capsys):
    assert leave("predict", run, "--image", picture, "--text", "how many objects are there") == 0
    assert capsys.readouterr().out.strip() in ANSWERS


# --- mistakes: one line, exit code 2 --------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ("", ["train | evaluate | predict | data", "mmlib --help"]),
        ("learn", ["'learn'"]),
        ("train --colour red", ["--colour red"]),
        ("train --steps many", ["--steps", "'many'", "mmlib train --help"]),
        ("train --coordinates maybe", ["--coordinates", "expected true or false, got maybe"]),
        ("train --objects 3", ["--objects", "2 arguments"]),
        ("evaluate", ["RUN", "mmlib evaluate --help"]),
        ("data pomology", ["--out"]),
        ("data fruit --out x", ["pomology", "'fruit'"]),
        # the recipe
        ("train --preset huge", ["tiny, small, base", "'huge'"]),
        ("train --preset base", ["64-pixel"]),
        ("train --fusion sum", ["merged", "'sum'"]),
        ("train --fusion late", ["grounding to 0"]),
        ("train --modality sound", ["both, text or image"]),
        ("train --objects 5 9", ["within 1 to 6", "(5, 9)"]),
        ("train --pictures 0", ["pictures of 1 or more"]),
        ("train --seed -1", ["seed of 0 or more"]),
        ("train --dropout 1.5", ["dropout", "got 1.5"]),
        ("train --steps 0", ["steps of 1 or more"]),
        ("train --accumulate 0", ["accumulate of 1 or more"]),
        ("train --accumulate 5", ["accumulate to divide 32 pictures"]),
        ("train --precision fp17", ["no or bf16", "'fp17'"]),
        ("train --workers -1", ["workers of 0 or more"]),
        # a table
        ("train --data things.csv", ["--image-column with a table", "name the column"]),
        ("train --data things.csv --image-column a --text-column b", ["--label-column"]),
        # a run
        ("train --resume NOWHERE", ["a run folder with", "no such file", "--out"]),
        ("train --resume RUN --seed 3", ["--resume RUN alone", "got seed"]),
        ("train --resume RUN --learning-rate 3 --seed 1", ["got learning_rate, seed"]),
        ("train --resume RUN --out x", ["--resume RUN alone", "got --out"]),
        ("evaluate NOWHERE", ["a run folder with"]),
        ("predict NOWHERE --image a --text b", ["a run folder with"]),
        ("predict RUN", ["--image FILE and --text QUESTION", "one or neither"]),
        ("predict RUN --image a", ["--image FILE and --text QUESTION"]),
        ("predict RUN --image absent.png --text there", ["absent.png", "No such file"]),
        ("predict RUN --image PICTURE --text pink", ["words of the generated world", "'pink'"]),
        ("evaluate RUN --pictures 0", ["pictures", "got 0"]),
    ],
)
def test_each_mistake_is_one_line(arguments, parts, run, picture, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": run, "NOWHERE": tmp_path / "nowhere", "PICTURE": picture}
    line = mistake(capsys, *(places.get(word, word) for word in arguments.split()))
    for part in parts:
        assert part in line
    assert not (tmp_path / "runs").exists(), "nothing is written"


def test_pictures_that_are_none_are_one_line(run, picture, capsys):
    wrong, broken = picture.with_name("wrong.png"), picture.with_name("broken.png")
    Image.new("RGB", (30, 64)).save(wrong)
    broken.write_bytes(picture.read_bytes()[:100])
    ask = ("--text", "how many objects are there")
    assert "64 × 64 pixels, got 30 × 64" in mistake(capsys, "predict", run, "--image", wrong, *ask)
    assert str(broken) in mistake(capsys, "predict", run, "--image", broken, *ask)


def test_a_run_folder_that_is_none_is_one_line(tmp_path, capsys):
    (tmp_path / "recipe.json").write_text("{")
    assert "a recipe in" in mistake(capsys, "train", "--resume", tmp_path)
    (tmp_path / "recipe.json").write_text("[]")
    assert "a recipe in" in mistake(capsys, "train", "--resume", tmp_path)
    (tmp_path / "recipe.json").write_text('{"speed": 1}')
    assert "got speed" in mistake(capsys, "evaluate", tmp_path)
    (tmp_path / "recipe.json").write_text('{"preset": "tiny"}')
    assert "no such file" in mistake(capsys, "evaluate", tmp_path)


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert "taken" in mistake(capsys, "train", *QUICK, "--out", tmp_path / "taken")


def test_a_folder_of_another_recipe_is_one_line(run, capsys):
    assert "another recipe" in mistake(capsys, "train", *QUICK, "--seed", 5, "--out", run)


def test_a_checkpoint_that_does_not_fit_is_one_line(run, capsys, tmp_path):
    """Cut in half, and of another size than the recipe says."""
    saved = json.loads((run / "recipe.json").read_text())
    (tmp_path / "best").mkdir()
    whole = (run / "best" / "model.safetensors").read_bytes()
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    (tmp_path / "best" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "copy it anew" in mistake(capsys, "evaluate", tmp_path)
    (tmp_path / "best" / "model.safetensors").write_bytes(whole)
    (tmp_path / "recipe.json").write_text(json.dumps(saved | {"preset": "small"}))
    assert "weights of this ModuleDict" in mistake(capsys, "evaluate", tmp_path)


def test_a_tables_run_asks_for_a_table(tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(TableRecipe("a.csv", "b", "c", "d").to_json())
    assert "--data FILE.csv" in mistake(capsys, "predict", tmp_path)
    line = mistake(capsys, "evaluate", tmp_path)
    assert "a finished run" in line and f"mmlib train --resume {tmp_path}" in line


def test_ctrl_c_outside_the_steps_is_one_line(run, capsys, monkeypatch):
    def press(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_task, "report", press)
    assert leave("evaluate", run) == 130
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"mmlib: stopped; [^\n]+--resume\n", err)


def test_a_fault_of_ours_is_not_hidden(run, monkeypatch):
    """Only a user's mistake is one line; what we did wrong keeps its stack trace."""

    def fail(*arguments):
        raise RuntimeError("ours")

    monkeypatch.setattr(scene_task, "report", fail)
    with pytest.raises(RuntimeError, match="ours"):
        cli.main(["evaluate", str(run)])
