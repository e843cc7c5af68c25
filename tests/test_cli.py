"""The command line: options from the recipes, and each mistake one line with exit code 2."""

import dataclasses
import html
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import import_module
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_language import language, tokenizer
from test_report import report as table_report
from toy import EXECUTION as ON_CPU

import mmlib.tasks.language_run as language_run
import mmlib.tasks.scene_run as scene_run
from mmlib import cli
from mmlib.cli import main
from mmlib.data.scenes import ANSWERS, render, sample_questions
from mmlib.evaluation.report import describe_report
from mmlib.options import leaves
from mmlib.tasks.certified import certify_table
from mmlib.tasks.language_recipe import LanguageRecipe
from mmlib.tasks.recipes import RECIPES
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_report import report
from mmlib.tasks.table_recipe import TableRecipe
from mmlib.training.config import Execution
from mmlib.training.run_folder import RunFolder, read_log

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "--preset tiny --pictures 4 --questions 2 --steps 4 --warmup-steps 1".split()
QUICK = [*RECIPE, "--workers", "0"]
COLUMNS = "--image-column picture --text-column name --label-column kind".split()
TABLE = TableRecipe("a.csv", "b", "c", "d")
WORKS = "mmlib.tasks.cross_validation"  # what trains a table, and asks its model


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
        patch.setattr(scene_run, "report", lambda *given: report(*given, 20))
        assert main(["train", *QUICK, "--out", str(out)]) == 0
    return out


@pytest.fixture
def recipes(monkeypatch):
    """What `train` would train, caught instead: (recipe, folder, execution) of each call."""
    caught: list[tuple] = []

    def catch(recipe, out, execution):
        caught.append((recipe, out, execution))
        score = {"overall": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 8}}
        return {"by_kind": score, "controls": {}, "accuracy": score["overall"]}

    monkeypatch.setattr(scene_run, "train_scenes", catch)
    monkeypatch.setattr(language_run, "train_language", catch)
    table = SimpleNamespace(
        train_table=catch,
        describe_report=lambda result: "the table's report",
        predict_table=lambda run, data: [{"row": 2, "label": "−"}],
    )
    monkeypatch.setitem(sys.modules, WORKS, table)
    return caught


def saved_as(folder: Path, recipe) -> Path:
    """A run folder that holds this recipe alone."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(recipe.to_json()))
    return folder


# --- options --------------------------------------------------------------------------------------


def test_every_field_of_the_recipes_is_an_option_with_its_default(capsys):
    assert leave("train", "--help") == 0
    help_ = " ".join(capsys.readouterr().out.split())
    entries = {part.split(" ")[0]: part for part in help_.split(" --")[1:]}
    for recipe in (*RECIPES.values(), Execution):
        for name, (_, default) in leaves(recipe).items():
            entry = entries[name.replace("_", "-")]
            if default not in (None, dataclasses.MISSING):
                assert f"default {default}" in entry, entry


@pytest.mark.parametrize("kind", RECIPES)
def test_no_two_fields_of_a_run_are_one_option(kind):
    """Not of the recipe, of its nested dataclasses, or of the execution."""

    def names(record):
        for field in dataclasses.fields(record):
            nested = field.default_factory
            yield from names(nested) if dataclasses.is_dataclass(nested) else [field.name]

    found = [*names(RECIPES[kind]), *names(Execution), "out", "resume"]
    assert len(found) == len(set(found))


def test_an_option_of_two_kinds_means_the_same_type():
    for one, other in combinations(map(leaves, RECIPES.values()), 2):
        assert all(one[name][0] == other[name][0] for name in set(one) & set(other))


def test_without_options_the_recipe_is_the_default(recipes):
    assert leave("train") == 0
    assert recipes == [(SceneRecipe(), Path("runs/small"), Execution())]


def test_options_have_the_types_of_their_fields(recipes, tmp_path):
    given = (
        "--preset tiny --seed 7 --objects 2 4 --coordinates false --dense 0.5 --lr 1e-2"
        " --evaluate-every 50 --precision bf16 --reference outermost --workers 3 --device cpu"
    )
    assert leave("train", *given.split(), "--out", tmp_path) == 0
    expected = SceneRecipe(
        preset="tiny", seed=7, objects=(2, 4), coordinates=False, dense=0.5, reference="outermost",
        training=replace(
            SceneRecipe().training, lr=0.01, evaluate_every=50, precision="bf16"
        ),
    )  # fmt: skip
    assert recipes == [(expected, tmp_path, Execution(workers=3, device="cpu"))]


@pytest.mark.parametrize("word, value", [("false", False), ("False", False), ("true", True)])
def test_false_is_false(word, value, recipes):
    """bool("false") would be true."""
    leave("train", "--coordinates", word)
    assert recipes[0][0].coordinates is value


def test_a_table_is_trained_where_there_is_data(recipes, capsys):
    asked = "--seed 3 --dropout 0.1 --checkpoint-every 7".split()
    assert leave("train", "--data", "things.csv", *COLUMNS, *asked) == 0
    expected = TableRecipe("things.csv", "picture", "name", "kind", seed=3, dropout=0.1)
    assert recipes == [(expected, Path("runs/things"), Execution(checkpoint_every=7))]
    assert capsys.readouterr().out.startswith("the table's report\nSaved in runs/things; ")


def test_a_language_model_is_trained_where_one_is_named(recipes):
    assert leave("train", *"--language models/some --rank 4 --block-steps 0 --lr 1e-3".split()) == 0
    expected = LanguageRecipe("models/some", rank=4, block_steps=0)
    expected = replace(expected, training=replace(expected.training, lr=1e-3))
    assert recipes == [(expected, Path("runs/some"), Execution())]


@pytest.mark.parametrize(
    "words",
    [
        ["--folds", 3], ["--seed", 3, *COLUMNS], ["--data", "a.csv", *COLUMNS, "--lr", 1],
        ["--rank", 4], ["--language", "a", "--preset", "tiny"], ["--language", "a", "--folds", 3],
    ],
)  # fmt: skip
def test_an_option_of_the_other_kind_is_not_ignored(words, recipes, capsys):
    assert "expected options of" in mistake(capsys, "train", *words)
    assert recipes == []


def test_a_run_keeps_its_recipe(recipes, tmp_path, capsys):
    saved_as(tmp_path, TABLE)
    for words in (["--seed", 3], ["--lr", 1, "--workers", 0], ["--out", "x"]):
        assert (
            "keeps" in (line := mistake(capsys, "train", "--resume", tmp_path, *words))
            or "stays" in line
        )
    assert recipes == []


def test_a_run_goes_on_with_its_own_recipe(recipes, run, tmp_path):
    """Its kind is the word in recipe.json; how it is executed may change."""
    asked = "--workers 0 --checkpoint-every 5 --device cpu".split()
    assert leave("train", "--resume", run, *asked) == 0
    saved = json.loads((run / "recipe.json").read_text())
    assert recipes == [(SceneRecipe.from_json(saved), run, ON_CPU)]
    assert leave("train", "--resume", saved_as(tmp_path, TABLE)) == 0
    assert recipes[1] == (TABLE, tmp_path, Execution())


def test_the_execution_is_no_part_of_the_recipe(run):
    saved = json.loads((run / "recipe.json").read_text())
    assert saved["kind"] == "scenes"
    assert not {f.name for f in dataclasses.fields(Execution)} & {*saved, *saved["training"]}


def test_suggested_commands_can_be_pasted(recipes, tmp_path, capsys):
    out = tmp_path / "my run; rm -r x"
    assert leave("train", "--out", out) == 0
    assert f"mmlib predict '{out}' --image" in capsys.readouterr().out
    saved_as(out, TABLE)
    assert f"mmlib train --resume '{out}'" in mistake(capsys, "evaluate", out)


def test_of_several_processes_one_prints(recipes, capsys, monkeypatch):
    monkeypatch.setattr("mmlib.training.fit.is_main_process", lambda execution: False)
    assert leave("train") == 0
    assert capsys.readouterr().out == ""


def loaded(*arguments: str) -> set[str]:
    """The modules that a process loads for a command, whatever the command's code."""
    code = (
        "import contextlib, sys, mmlib\nfrom mmlib.cli import main\n"
        "with contextlib.suppress(SystemExit): main(sys.argv[1:])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True)
    assert done.returncode == 0
    return {name.split(".")[0] for name in done.stderr.decode().splitlines()[-1].split()}


@pytest.mark.parametrize("words", ["--help", "train --help", "predict --help", "train --seed -1"])
def test_help_and_mistakes_load_nothing_heavy(words):
    heavy = {"torch", "transformers", "accelerate", "sklearn", "scipy", "torchvision", "pandas"}
    assert "argparse" in (found := loaded(*words.split())) and not found & heavy


def test_importing_the_package_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, mmlib; print(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not {"torch", "transformers", "accelerate", "numpy"} & set(done.stdout.split())


def test_the_command_is_installed():
    """[project.scripts] names a function that exists, and it is this one."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["mmlib"].partition(":")
    assert getattr(import_module(module), name) is main


# --- a run, from training to an answer ------------------------------------------------------------


def test_train_writes_a_run_folder(run):
    assert {p.name for p in run.iterdir()} == {
        ".lock", "best", "last", "log.jsonl", "recipe.json", "report.json",
    }  # fmt: skip
    assert [entry["step"] for entry in read_log(run / "log.jsonl")] == [1, 2, 3, 4]


def test_train_again_and_resume_take_no_further_step(run, capsys, monkeypatch):
    monkeypatch.setattr(scene_run, "report", lambda *given: report(*given, 20))
    before = {p: p.read_bytes() for p in run.rglob("*.safetensors")}
    for arguments in (["--resume", str(run)], [*QUICK, "--out", str(run)]):
        assert leave("train", *arguments) == 0
        out = capsys.readouterr().out
        assert out.endswith(
            f"Saved in {run}; ask it with: mmlib predict {run} --image FILE --text QUESTION\n"
        )
    assert {p: p.read_bytes() for p in run.rglob("*.safetensors")} == before


def test_evaluate_prints_what_the_report_holds_and_the_certificate(run, capsys, tmp_path):
    """The score by kind with the controls beside it, and the overall score with its interval; then
    the same questions as a certificate, which is the page too."""
    page = tmp_path / "page.html"
    assert leave("evaluate", run, "--pictures", 20, "--html", page) == 0
    scores, certificate, said = capsys.readouterr().out.split("\n\n")
    lines = scores.splitlines()
    written = json.loads((run / "report.json").read_text())
    columns = {"both": written["by_kind"], **written["controls"]}
    assert lines[0].split() == ["%", "right", *columns]
    stay = {n: f"{100 * share['mean']:.1f} %" for n, share in written["reference"]["stay"].items()}
    assert lines[-2] == (
        f"References whose answer stays: {stay['present_name']} with the name of another thing, "
        f"{stay['absent_name']} with a name of nothing, {stay['side']} with the other side."
    )
    for line, kind in zip(lines[1:-2], written["by_kind"], strict=True):
        values = [f"{100 * scores[kind]['mean']:.1f}" for scores in columns.values()]
        assert line.split() == [kind, *values]
    score = {name: f"{100 * written['accuracy'][name]:.1f}" for name in ("mean", "low", "high")}
    assert lines[-1] == (
        f"Overall {score['mean']} % [{score['low']}, {score['high']}] on 40 questions about unseen"
        " scenes."
    )
    assert f"text and picture           {score['mean']} [" in certificate
    said, wrote = said.splitlines()
    assert "40 questions in 20 groups" in said and wrote == f"Wrote {page}"
    assert html.escape(said) in page.read_text("utf8")


def test_evaluate_of_a_table_prints_the_report_and_the_certificate(tmp_path, capsys):
    folder, page = saved_as(tmp_path / "run", TABLE), tmp_path / "page.html"
    found = table_report()
    (folder / "report.json").write_text(json.dumps(found))
    assert leave("evaluate", folder, "--html", page) == 0
    out = capsys.readouterr().out
    assert out.startswith(describe_report(found)) and str(certify_table(found)) in out
    assert html.escape(found["sentence"]) in page.read_text("utf8")
    assert "/no/" in mistake(capsys, "evaluate", folder, "--html", "/no/such/page.html")


@pytest.fixture
def picture(tmp_path):
    scene, _ = sample_questions(np.random.default_rng(0))
    path = tmp_path / "scene.png"
    Image.fromarray(render(scene)).save(path)
    return path


def test_predict_answers_a_question(run, picture, capsys):
    assert leave("predict", run, "--image", picture, "--text", "how many objects are there") == 0
    assert capsys.readouterr().out.strip() in ANSWERS


def test_a_language_model_that_sees_is_trained_evaluated_and_asked(
    tmp_path, picture, capsys, monkeypatch
):
    """From the command line, with a language model of bytes in place of a real one."""
    monkeypatch.setattr(
        "mmlib.tasks.language.load_language", lambda name: (language(), tokenizer())
    )
    monkeypatch.setitem(cli.CERTIFIED, "language", 3)
    run = tmp_path / "bytes"
    given = "--block-steps 1 --projector-steps 0 --steps 1 --pictures 2 --questions 2 --rank 2"
    monkeypatch.setattr(language_run, "REPORTED", 3)
    train = ["train", "--language", "bytes", "--out", run, *given.split(), "--workers", 0]
    assert leave(*train) == 0
    out = capsys.readouterr().out
    assert "Captions: 0.0 % true" in out and f"mmlib predict {run} --image" in out
    assert leave("evaluate", run) == 0
    scores, certificate, said = capsys.readouterr().out.split("\n\n")
    assert "shuffled" in scores.splitlines()[0] and "6 questions in 3 groups" in said
    assert "pictures exchanged" in certificate
    for asks in ("how many objects are there", "describe the picture:"):
        assert leave("predict", run, "--image", picture, "--text", asks) == 0
    assert leave("train", "--resume", run) == 0  # nothing is left to train


# --- mistakes: one line, exit code 2 --------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ("", ["train | evaluate | predict | data", "mmlib --help"]),
        ("learn", ["'learn'"]),
        ("train --color red", ["--color red"]),
        ("train --steps many", ["--steps", "'many'", "mmlib train --help"]),
        ("train --coordinates maybe", ["--coordinates", "expected true or false, got maybe"]),
        ("train --objects 3", ["--objects", "2 arguments"]),
        ("evaluate", ["RUN", "mmlib evaluate --help"]),
        ("data pomology", ["--out"]),
        ("data fruit --out x", ["emoji, pomology", "'fruit'"]),
        # an abbreviation could mean another option tomorrow
        ("train --text-l 3", ["--text-l"]),
        # the recipe
        ("train --preset huge", ["tiny, small, base", "'huge'"]),
        ("train --preset base", ["64-pixel"]),
        ("train --fusion sum", ["merged", "'sum'"]),
        ("train --fusion late --grounding 0.5", ["grounding to 0"]),
        ("train --modality sound", ["both or text or image"]),
        ("train --reference farthest", ["nearest or plain or outermost"]),
        ("train --objects 5 9", ["within 1 to 6", "(5, 9)"]),
        ("train --objects 1 3", ["objects for reference"]),
        ("train --pictures 0", ["pictures of 1 or more"]),
        ("train --seed -1", ["seed of 0 or more"]),
        ("train --dropout 1.5", ["dropout", "got 1.5"]),
        ("train --dense -1", ["dense of 0 or more"]),
        ("train --curriculum nan", ["curriculum of 0 or more"]),
        ("train --steps 0", ["steps of 1 or more"]),
        ("train --lr inf", ["lr of 0 or more", "got inf"]),
        ("train --weight-decay -1", ["weight_decay of 0 or more"]),
        ("train --max-grad-norm 0", ["max_grad_norm above 0"]),
        ("train --accumulate 0", ["accumulate of 1 or more"]),
        ("train --accumulate 5", ["accumulate to divide 32 pictures"]),
        ("train --precision fp17", ["no or bf16", "'fp17'"]),
        ("train --workers -1", ["workers of 0 or more"]),
        ("train --device tpu", ["auto or cpu"]),
        # a table
        ("train --data things.csv", ["--image-column for a run on a table", "add --image-column"]),
        ("train --data things.csv --image-column a --text-column b", ["--label-column"]),
        ("train --data CSV --heads 0", ["heads of 1 or more"]),
        ("train --data CSV --heads 3", ["heads that divide", "got 3"]),
        ("train --data CSV --dropout 1.5", ["dropout", "got 1.5"]),
        ("train --data CSV --seed -1", ["seed of 0 or more"]),
        ("train --data CSV --layers 0", ["layers of 1 or more"]),
        ("train --data CSV --learning-rate inf", ["learning_rate", "got inf"]),
        # of the other kind
        ("train --image-column a --seed 3", ["generated world", "got --image-column;", "--data"]),
        ("train --folds 3 --steps 5", ["got --folds;", "add --data FILE.csv"]),
        ("train --data CSV --pictures 3 --lr 1", ["a table only", "got --lr, --pictures;"]),
        ("train --data CSV --reference nearest", ["got --reference;"]),
        ("predict RUN --data things.csv", ["generated world", "got --data;", "leave them out"]),
        ("predict OF_TABLE --data a.csv --text there", ["a run on a table", "got --text;"]),
        ("predict OF_TABLE --image a.png", ["got --image;"]),
        ("predict OF_TABLE", ["--data FILE.csv for a table's model"]),
        ("evaluate OF_TABLE --pictures 20", ["a run on a table", "got --pictures;"]),
        ("evaluate OF_TABLE", ["a finished run with", "mmlib train --resume"]),
        # a run
        ("train --resume NOWHERE", ["a run folder with", "no such file", "--out"]),
        ("train --resume RUN --seed 3", ["with --resume", "got --seed;", "keeps its recipe"]),
        ("train --resume RUN --lr 3 --seed 1", ["got --lr, --seed;"]),
        ("train --resume RUN --workers -1", ["workers of 0 or more"]),
        ("train --resume RUN --out x", ["--resume RUN without --out"]),
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
    of_table = saved_as(tmp_path / "of_table", TABLE)
    csv = ["things.csv", *COLUMNS]
    places = {
        "RUN": [run], "NOWHERE": [tmp_path / "nowhere"], "PICTURE": [picture], "CSV": csv,
        "OF_TABLE": [of_table],
    }  # fmt: skip
    words = [word for given in arguments.split() for word in places.get(given, [given])]
    line = mistake(capsys, *words)
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


@pytest.mark.parametrize(
    "content, part",
    [
        ("{", "a JSON object in"),
        ("[]", "a JSON object in"),
        ("{}", "a run of the kind scenes or table"),
        ('{"kind": "scenes", "speed": 1}', "also speed"),
        ('{"kind": "scenes", "seed": "3"}', "seed as int, got '3'"),
        ('{"kind": "scenes", "objects": 3}', "objects as tuple[int, int], got 3"),
        ('{"kind": "scenes", "training": {"lr": null}}', "lr as float, got None"),
        ('{"kind": "scenes", "training": []}', "training as TrainingConfig, got []"),
        ('{"kind": "table", "data": "a"}', "the field image_column"),
        ('{"kind": "scenes", "preset": "tiny"}', "no such file"),  # and no checkpoint
    ],
)
def test_a_run_folder_that_is_none_is_one_line(content, part, tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(content)
    assert part in mistake(capsys, "evaluate", tmp_path)


@pytest.mark.parametrize("report", ["[]", "{", "{}", '{"scores": 3}', '{"sentence": []}'])
def test_a_tables_report_of_the_wrong_types_is_one_line(report, tmp_path, capsys):
    (saved_as(tmp_path, TABLE) / "report.json").write_text(report)
    mistake(capsys, "evaluate", tmp_path)


def test_after_a_mistake_the_mended_command_is_not_refused(tmp_path, capsys, monkeypatch):
    """Nothing is written before the recipe holds and the model is built."""
    monkeypatch.setattr(scene_run, "report", lambda *given: report(*given, 20))
    for wrong in ("--dropout 1.5", "--seed -1", "--fusion sum", "--objects 1 3", "--device tpu"):
        mistake(capsys, "train", *QUICK, *wrong.split(), "--out", tmp_path / "run")
        assert not (tmp_path / "run").exists(), wrong
    assert leave("train", *QUICK, "--out", tmp_path / "run") == 0


def test_a_run_without_its_checkpoint_is_not_begun_anew(run, tmp_path, capsys):
    """Its log would be wiped: last/ was removed by hand, or not copied."""
    (saved_as(tmp_path, SceneRecipe.from_json(RunFolder(run).read_recipe())))
    log = (run / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(log)
    for words in (["--resume", tmp_path], [*QUICK, "--out", tmp_path]):
        line = mistake(capsys, "train", *words)
        assert "the checkpoint of the run" in line and str(tmp_path / "last") in line
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_a_folder_in_which_another_process_trains_is_one_line(run, capsys):
    hold = (
        "import sys; from mmlib.tasks.recipes import read_recipe, RunFolder\n"
        "with RunFolder(sys.argv[1]).claimed(read_recipe(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    process = subprocess.Popen(
        [sys.executable, "-c", hold, run], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert "another process that trains in it" in mistake(capsys, "train", "--resume", run)
        process.kill()
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    line = mistake(capsys, "train", *QUICK, "--out", tmp_path / "taken")
    assert f"to write a folder to {tmp_path / 'taken'}" in line and "room" not in line


def test_an_error_of_the_system_names_the_path(capsys, monkeypatch):
    """Whatever else cannot be opened; no permission is not told as a missing file."""

    def fail(name):
        raise PermissionError(13, "Permission denied", "secret.csv")

    monkeypatch.setattr(cli, "read_recipe", fail)
    line = mistake(capsys, "predict", "x", "--data", "secret.csv")
    assert "secret.csv, got 'Permission denied'" in line


def test_a_folder_of_another_recipe_is_one_line(run, capsys):
    line = mistake(capsys, "train", *QUICK, "--seed", 5, "--out", run)
    assert "a run with another seed" in line


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
    assert "weights of this SceneTask" in mistake(capsys, "evaluate", tmp_path)


# --- what is printed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding, minus", [("cp1252", b"-"), ("ascii", b"-"), ("utf8", "−".encode())]
)
def test_a_sign_that_the_terminal_does_not_have(encoding, minus, recipes, tmp_path, monkeypatch):
    """A minus keeps its meaning; a path that is not UTF-8 is printed as a code."""
    with (tmp_path / "out").open("w", encoding=encoding) as out:
        monkeypatch.setattr(sys, "stdout", out)
        saved_as(tmp_path / "run", TABLE)
        assert leave("predict", tmp_path / "run", "--data", "a.csv") == 0
        assert leave("train", "--out", os.fsdecode(b"caf\xe9")) == 0
    printed = (tmp_path / "out").read_bytes()
    assert b'"label": "' + minus + b'"' in printed
    assert rb"Saved in caf\udce9; " in printed


def test_a_folder_whose_name_is_not_utf_8_is_one_line(tmp_path, capsys):
    line = mistake(capsys, "train", *QUICK, "--out", tmp_path / os.fsdecode(b"caf\xe9"))
    assert "a folder whose name is UTF-8" in line
    assert r"caf\udce9" in mistake(capsys, "evaluate", tmp_path / os.fsdecode(b"caf\xe9"))


@pytest.mark.parametrize("words", ["train --help", "predict RUN --data a.csv"])
def test_a_pipe_that_was_closed_ends_in_silence(words, tmp_path):
    """`mmlib … | head -1`: no line, no stack trace, the exit code of a closed pipe."""
    saved_as(tmp_path / "run", TABLE)
    code = (
        f"import sys, types; sys.modules['{WORKS}'] = types.SimpleNamespace(\n"
        "    predict_table=lambda *given: [{'row': n} for n in range(100_000)])\n"
        "from mmlib.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    read, write = os.pipe()
    os.close(read)
    arguments = [str(tmp_path / "run") if word == "RUN" else word for word in words.split()]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=write, stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (cli.PIPE_CLOSED, b"")


# The command line, whose report is short.
SCRIPT = """
import sys
import mmlib.tasks.scene_run as scene_run

report = scene_run.report
scene_run.report = lambda *given: report(*given, 1)
from mmlib.cli import main

sys.exit(main(sys.argv[1:]))
"""


def test_on_two_processes_one_reports(tmp_path):
    """As the README says it; the second process says nothing."""
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = "-m torch.distributed.run --standalone --nproc-per-node=2".split()
    command = [tmp_path / "script.py", "train", *QUICK, "--device", "cpu", "--out", tmp_path / "a"]
    done = subprocess.run(
        [sys.executable, *launch, *command], cwd=ROOT, capture_output=True, text=True, timeout=400,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Saved in") == done.stdout.count("Overall") == 1
    assert [entry["step"] for entry in read_log(tmp_path / "a" / "log.jsonl")] == [1, 2, 3, 4]


# --- Ctrl-C, and our own faults -------------------------------------------------------------------


def test_ctrl_c_outside_the_steps_is_one_line(run, capsys, monkeypatch):
    def press(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_run, "report", press)
    assert leave("evaluate", run) == 130
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"mmlib: stopped; [^\n]+--resume\n", err)


def test_a_fault_of_ours_is_not_hidden(run, monkeypatch):
    """Only a user's mistake is one line; what we did wrong keeps its stack trace."""

    def fail(*arguments):
        raise RuntimeError("ours")

    monkeypatch.setattr(scene_run, "report", fail)
    with pytest.raises(RuntimeError, match="ours"):
        cli.main(["evaluate", str(run)])
