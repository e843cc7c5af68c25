"""The reader's own table: what is read, what is refused, and what training on it may claim."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from strategies import error_line
from table_makers import draw_table, tiny_bert, tiny_resnet, write_csv

from mmlib.data import features as features_module
from mmlib.data.features import ABSENT, Features, FromFeatures
from mmlib.data.table import (
    Problem,
    Row,
    Table,
    check_trainable,
    describe,
    leaks,
    picture_array,
    read_picture,
    read_table,
)
from mmlib.errors import UserError
from mmlib.evaluation.report import fold_interval, score_interval, sentence
from mmlib.tasks import cross_validation as tabular
from mmlib.tasks.cross_validation import (
    Backbones,
    CrossValidation,
    TableRecipe,
    describe_report,
    predict_table,
    split,
    train_table,
)
from mmlib.training.checkpoint import read_checkpoint
from mmlib.training.fit import Interrupted

# ---------------------------------------------------------------- reading a CSV


def picture(folder: Path, name: str = "a.png", colour: str = "red", size: int = 8) -> str:
    Image.new("RGB", (size, size), colour).save(folder / name)
    return name


def table_of(folder: Path, *rows: tuple[str, str, str]) -> Table:
    path = write_csv(folder / "t.csv", [("image", "text", "label"), *rows])
    return read_table(path, "image", "text", "label")


def test_none_na_and_empty_texts_are_kept(tmp_path):
    name = picture(tmp_path)
    texts = ["None", "NA", "nan", "null", ""]
    table = table_of(tmp_path, *[(name, text, "NA") for text in texts])
    assert [row.text for row in table.rows] == texts
    assert table.classes == ["NA"] and table.problems == ()


def test_row_numbers_are_those_of_a_spreadsheet(tmp_path):
    name = picture(tmp_path)
    (tmp_path / "t.csv").write_bytes(
        b"\xef\xbb\xbfimage,text,label\r\n"
        + f'{name},"two\r\nlines, one cell",A\r\n'.encode()
        + f",,\r\n\r\n{name},last,B\r\n\r\n".encode()
    )
    table = read_table(tmp_path / "t.csv", "image", "text", "label")
    assert [(row.number, row.text) for row in table.rows] == [
        (2, "two\r\nlines, one cell"),
        (5, "last"),
    ]
    assert table.problems == ()


def test_paths_are_relative_to_the_csv_or_absolute_and_may_be_missing(tmp_path):
    (tmp_path / "sub").mkdir()
    picture(tmp_path / "sub")
    table = table_of(
        tmp_path, ("sub/a.png", "x", "A"), (str(tmp_path / "sub/a.png"), "x", "A"), ("", "x", "B")
    )
    assert [row.picture for row in table.rows] == [tmp_path / "sub/a.png"] * 2 + [None]
    assert table.rows[0].digest == table.rows[1].digest != "" and table.rows[2].digest == ""


def test_all_problems_are_listed_at_once_with_their_rows(tmp_path, monkeypatch):
    picture(tmp_path)
    (tmp_path / "words.jpg").write_text("not a picture")
    picture(tmp_path, "cut.png", size=64)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        tmp_path / "cut.png"
    )
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    picture(tmp_path, "large.png", size=12)
    picture(tmp_path, "huge.png", size=30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    # cut.png is 64 × 64, beyond the limit set here, so it is read with its own
    table = table_of(
        tmp_path,
        ("a.png", "x", "A"),
        ("absent.png", "x", "A"),
        ("words.jpg", "x", "A"),
        ("large.png", "x", "A"),
        ("huge.png", "x", "A"),
        ("a.png", "x", ""),
        ("", "", "A"),
        ("a.png", "x", "B"),
    )
    assert [row.number for row in table.rows] == [2, 9]
    found = {problem.row: problem.reason for problem in table.problems}
    expected = {
        3: "no file", 4: "is not a picture", 5: "more than 100 pixels", 6: "more than 100 pixels",
        7: "no label", 8: "neither picture nor text",
    }  # fmt: skip
    assert list(found) == list(expected)
    for row, reason in expected.items():
        assert reason in found[row]
    monkeypatch.undo()
    with pytest.raises(UserError, match="is broken"):
        read_picture(tmp_path / "cut.png")


def test_a_row_with_too_many_cells_is_listed(tmp_path):
    name = picture(tmp_path)
    path = tmp_path / "t.csv"
    path.write_text(f"image,text,label\n{name},a, b,A\n{name},c,A\n")
    table = read_table(path, "image", "text", "label")
    assert table.problems == (Problem(2, "4 cells under 3 columns"),) and len(table.rows) == 1


def test_every_column_that_is_lacking_is_named(tmp_path):
    path = write_csv(tmp_path / "t.csv", [("image", "words"), ("a.png", "x")])
    with pytest.raises(UserError) as error:
        read_table(path, "image", "text", "label", "shop")
    error_line(error, "'text', 'label', 'shop'", "'image', 'words'")


def test_a_csv_with_semicolons_is_recognised(tmp_path):
    (tmp_path / "t.csv").write_text("image;text;label\na.png;x;A\n")
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.csv", "image", "text", "label")
    error_line(error, "'image;text;label'", "commas")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "0 rows"),
        (b"image,text,label\n\n\n", "1 rows"),
        ("image,text,label\na.png,caf\xe9,A\n".encode("latin-1"), "UTF-8"),
        (b"image,text,text,label\na.png,x,y,A\n", "'text' more than once"),
        (b'image,text,label\na.png,"x" y,A\n', "as CSV"),
    ],
)
def test_files_that_are_no_table_are_named(tmp_path, content, part):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.csv", "image", "text", "label")
    error_line(error, "t.csv", part)


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.csv", "image", "text", "label")
    error_line(error, "no file", "t.csv")


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\ufeff"), max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_what_a_csv_writer_writes_is_read_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("csv")
    rows = [*rows, ("last", "A")]
    path = write_csv(
        folder / "t.csv", [("image", "text", "label"), *[("", t, label) for t, label in rows]]
    )
    table = read_table(path, "image", "text", "label")
    kept = [(t.strip(), label.strip()) for t, label in rows if t.strip() and label.strip()]
    assert [(row.text, row.label) for row in table.rows] == kept
    empty = sum(not t and not label for t, label in rows)
    assert len(table.rows) + len(table.problems) == len(rows) - empty


# ---------------------------------------------------------------- pictures of every kind


def centre(path: Path) -> tuple[int, ...]:
    image = read_picture(path)
    assert image.mode == "RGB"
    return image.getpixel((image.width // 2, image.height // 2))


def near(found: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return all(abs(f - w) <= 3 for f, w in zip(found, want, strict=True))


def test_transparency_is_laid_on_white(tmp_path):
    for mode, colour in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))):
        Image.new(mode, (8, 8), colour).save(tmp_path / "t.png")
        assert centre(tmp_path / "t.png") == (255, 255, 255)
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(tmp_path / "half.png")
    assert near(centre(tmp_path / "half.png"), (255, 127, 127))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    assert centre(tmp_path / "p.png") == (0, 0, 255)
    palette.save(tmp_path / "p.gif", transparency=1)
    assert centre(tmp_path / "p.gif") == (255, 255, 255)


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red, green, blue = centre(tmp_path / "c.jpg")
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("level", [0, 100, 255, 30000, 65535])
def test_sixteen_bit_grey_keeps_its_level(tmp_path, level):
    Image.fromarray(np.full((8, 8), level, np.uint16)).save(tmp_path / "g.png")
    assert near(centre(tmp_path / "g.png"), (round(level / 257),) * 3)


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter turn clockwise to see it upright: left becomes top
    image.save(tmp_path / "e.jpg", exif=exif, quality=95)
    upright = read_picture(tmp_path / "e.jpg")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[2] > 200 and upright.getpixel((10, 35))[0] > 200


def test_large_photographs_are_decoded_no_larger_than_needed_and_look_the_same(tmp_path):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((1024, 768))
    smooth.save(tmp_path / "l.jpg", quality=95)
    assert 128 <= read_picture(tmp_path / "l.jpg", 64).height < 768
    small = np.asarray(smooth.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(picture_array(tmp_path / "l.jpg", 64).astype(int) - small).mean() < 3


# ---------------------------------------------------------------- what can be learned from


def rows_of(*cells: tuple[str, str], text: str = "x") -> Table:
    rows = [Row(i, None, text, label, group) for i, (label, group) in enumerate(cells, start=2)]
    return Table(Path("t.csv"), tuple(rows), ())


def test_a_label_in_too_few_groups_is_named_with_its_count():
    table = rows_of(*[("A", f"g{i}") for i in range(5)], *[("B", f"g{i % 2}") for i in range(5)])
    with pytest.raises(UserError) as error:
        check_trainable(table, 5)
    error_line(error, "'B' in 2", "fewer folds")
    check_trainable(table, 2)


def test_one_label_alone_is_refused():
    with pytest.raises(UserError) as error:
        check_trainable(rows_of(("A", "g1"), ("A", "g2")), 2)
    error_line(error, "two different labels", "'A'")


def test_too_many_unusable_rows_stop_the_run():
    table = rows_of(*[("AB"[i % 2], f"g{i}") for i in range(8)])
    check_trainable(replace(table, problems=(Problem(3, "no file x"), Problem(9, "no label"))), 2)
    many = tuple(Problem(row, "no file x") for row in range(10, 40))
    with pytest.raises(UserError) as error:
        check_trainable(replace(table, problems=many), 2)
    error_line(error, "30 of 38", "row 10: no file x", "and 20 more")


def test_describe_counts_what_it_does_not_show():
    problems = [Problem(row, "no label") for row in range(2, 14)]
    assert describe(problems[:2]) == "row 2: no label; row 3: no label"
    assert describe(problems).endswith("row 11: no label; and 2 more")


def test_leaks_count_rows_whose_content_is_in_two_groups():
    rows = [
        Row(2, None, "Elberta", "A", "g1", "p1"), Row(3, None, "elberta", "A", "g2", "p2"),
        Row(4, None, "", "B", "g3", "p1"), Row(5, None, "", "B", "g4", ""),
        Row(6, None, "King", "B", "g5", "p3"), Row(7, None, "King", "B", "g5", "p3"),
    ]  # fmt: skip
    assert leaks(Table(Path("t"), tuple(rows), ())) == {"pictures": 2, "texts": 2}


# ---------------------------------------------------------------- the sentence


def test_fold_intervals_are_those_of_nadeau_and_bengio():
    values = [0.1, 0.3, 0.2, 0.25, 0.15]
    half = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    found = fold_interval(values)
    assert found["mean"] == pytest.approx(0.2)
    assert found["high"] - 0.2 == pytest.approx(half) == pytest.approx(0.2 - found["low"])


def test_scores_stay_between_0_and_1():
    found = score_interval([0.99, 0.6, 1.0])
    assert found["high"] == 1.0 and found["low"] < found["mean"]


def noisy(mean: float, spread: float = 0.01) -> list[float]:
    return [mean + spread * step for step in (-1, 0.5, 0, 1, -0.5)]


@pytest.mark.parametrize(
    ("image", "text", "start", "named"),
    [
        (-0.20, -0.30, "Fusion helps:", ["picture", "text"]),
        (-0.20, 0.00, "Fusion does not help by an amount we can tell:", ["text"]),
        (0.00, -0.30, "Fusion does not help by an amount we can tell:", ["picture"]),
        (0.00, 0.00, "Fusion does not help by an amount we can tell:", ["picture", "text"]),
        (0.20, -0.30, "Fusion hurts:", ["picture"]),
        (0.20, 0.30, "Fusion hurts:", ["picture", "text"]),
    ],
)
def test_the_sentence_follows_the_figures(image, text, start, named):
    both = noisy(0.8)
    # the differences vary from fold to fold, so their intervals have a width
    singles = {
        "the picture alone": [b + d for b, d in zip(both, noisy(image, 0.02), strict=True)],
        "the text alone": [b + d for b, d in zip(both, noisy(text, 0.03), strict=True)],
    }
    line = sentence(both, singles)
    assert line.startswith(start)
    for name in ("picture", "text"):
        shown = f"over the {name} alone" in line
        assert shown == (name in named)
    if image == -0.20:
        assert ("+20.0 points" in line) == ("picture" in named)


def test_hurting_needs_more_evidence_where_two_are_compared():
    both = [0.8] * 5
    spread = [-2.0, -1.0, 0.0, 1.0, 2.0]
    half = stats.t.ppf(0.975, 4) * np.std(spread, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    # a loss whose 95 % interval ends just below 0, and whose 97.5 % interval does not
    worse = [0.8 + 0.01 * (1.05 * half + s) for s in spread]
    assert sentence(both, {"the picture alone": worse}).startswith("Fusion hurts")
    two = sentence(both, {"the picture alone": worse, "the text alone": worse})
    assert two.startswith("Fusion does not help by an amount we can tell")


# ---------------------------------------------------------------- training


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
        side=32, d=32, heads=2, epochs=15, batch_size=16, learning_rate=1e-2, dropout=0.0,
        folds=3, fusion="bilinear",
    )  # fmt: skip
    return TableRecipe(
        str(data), "image", "text", "label", "group", **{**encoders, **settings, **changes}
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoders):
    """A run where the label needs picture and text together: (recipe, folder, report)."""
    folder = tmp_path_factory.mktemp("both")
    recipe = recipe_of(draw_table(folder, 160, "both"), encoders)
    return recipe, folder / "run", train_table(recipe, folder / "run")


def test_where_the_label_needs_both_the_report_says_that_fusion_helps(trained):
    _, _, report = trained
    assert report["sentence"].startswith("Fusion helps")
    assert report["balanced_accuracy"]["mean"] > 0.9
    for name in ("image_only", "text_only", "shuffled", "probe_both", "majority"):
        assert report["controls"][name]["mean"] < 0.75, name
        assert report["gain_over"][name]["mean"] > 0.2, name


def test_where_the_picture_has_the_label_the_report_does_not_say_so(tmp_path, encoders):
    recipe = recipe_of(draw_table(tmp_path, 80, "picture"), encoders, epochs=6)
    report = train_table(recipe, tmp_path / "run")
    assert report["controls"]["image_only"]["mean"] > 0.9
    assert report["controls"]["text_only"]["mean"] < 0.75
    assert report["sentence"].startswith("Fusion does not help by an amount we can tell")


def test_the_run_folder_holds_what_is_promised(trained):
    recipe, run, report = trained
    assert json.loads((run / "report.json").read_text("utf8")) == report
    saved = TableRecipe.from_json((run / "recipe.json").read_text("utf8"))
    assert saved == recipe and TableRecipe.from_json(saved.to_json()) == saved
    log = [json.loads(line) for line in (run / "log.jsonl").read_text("utf8").splitlines()]
    assert len(log) == (recipe.folds * 3 + 1) * recipe.epochs
    assert all(math.isfinite(entry["loss"]) for entry in log)
    for place in ("best", "last"):
        tensors, _, state = read_checkpoint(run / place)
        assert state["classes"] == ["A", "B"]
        assert any(name.endswith("factors.text.weight") for name in tensors)
        assert not any("backbone" in name for name in tensors)
    assert {"mean", "low", "high"} <= set(report["accuracy"])
    (warning,) = report["warnings"]  # day and night are in every group
    assert warning.startswith("160 of 160 rows have texts")
    assert (
        report["by_class"]["A"]["rows"] + report["by_class"]["B"]["rows"] == report["rows"] == 160
    )
    assert report["groups"] == 80 and report["unusable"] == [] and report["texts_cut"] == 0


def test_the_described_report_shows_every_score_and_ends_with_the_sentence(trained):
    _, _, report = trained
    problems = [{"row": 7, "reason": "no file x.png"}]
    lines = describe_report(
        {**report, "unusable": problems, "warnings": ["mind this"]}
    ).splitlines()
    assert lines[-1] == report["sentence"]
    assert "1 rows not used: row 7: no file x.png." in lines and "Warning: mind this." in lines
    for name in ("image_only", "text_only", "shuffled", "majority"):
        score = f"{100 * report['controls'][name]['mean']:.1f}"
        assert any(score in line for line in lines)


def test_a_run_that_was_cut_off_goes_on_and_ends_the_same(tmp_path, encoders, monkeypatch):
    data = draw_table(tmp_path, 40, "both")
    recipe = recipe_of(data, encoders, folds=2, epochs=2, dropout=0.3, fusion="merged")
    whole, run, fits = tmp_path / "whole", tmp_path / "run", []
    report = train_table(recipe, whole)
    real = CrossValidation.fit

    def interrupted(self, stage, shown, rows, seed, stepped):
        fits.append((stage, shown))
        if len(fits) == 5:
            raise KeyboardInterrupt
        return real(self, stage, shown, rows, seed, stepped)

    monkeypatch.setattr(CrossValidation, "fit", interrupted)
    with pytest.raises(Interrupted, match="mmlib train --resume"):
        train_table(recipe, run)
    assert fits[-1] == ("fold 1", "image_only") and not (run / "report.json").exists()

    def never(*_):
        raise AssertionError("features were computed again")

    monkeypatch.setattr(features_module, "picture_array", never)
    again = train_table(recipe, run)
    assert fits[5] == ("fold 1", "both")  # fold 0 was kept
    assert {**again, "seconds": 0} == {**report, "seconds": 0}
    first, second = (read_checkpoint(folder / "best")[0] for folder in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_shard_is_computed_again(trained, tmp_path):
    recipe, run, _ = trained
    rows = read_table(recipe.data, "image", "text", "label", "group").rows[:70]
    backbones = Backbones.load(recipe)
    before = backbones.extract(recipe, rows, tmp_path)
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    after = backbones.extract(recipe, rows, tmp_path)
    assert torch.equal(before.image, after.image) and torch.equal(before.text, after.text)
    assert shard.read_bytes() == content


def test_a_folder_of_another_recipe_is_refused(trained):
    recipe, run, _ = trained
    with pytest.raises(UserError) as error:
        train_table(replace(recipe, seed=1), run)
    error_line(error, "another recipe", "--out")


def test_the_seed_decides_and_another_seed_differs(trained, tmp_path):
    recipe, _, report = trained
    other = train_table(replace(recipe, seed=1, epochs=2), tmp_path / "other")
    assert other["folds"] != report["folds"]


def test_no_score_depends_on_the_labels_of_the_rows_it_is_computed_on(trained):
    """The labels of the test rows are exchanged: no prediction for them may change."""
    recipe, run, _ = trained
    table = read_table(recipe.data, "image", "text", "label", "group")
    backbones = Backbones.load(recipe)
    features = backbones.extract(recipe, table.rows, run / "features")
    target = torch.tensor([table.classes.index(row.label) for row in table.rows])
    train, test = split(table, recipe)[0]
    swapped = target.clone()
    swapped[test] = 1 - target[test]
    how = replace(recipe, epochs=2)
    first, second = (
        CrossValidation(how, backbones, features, t, 2, run / "spare.jsonl").fold(
            0, train, test, lambda: None
        )
        for t in (target, swapped)
    )
    assert set(first) == {
        "both", "image_only", "text_only", "shuffled", "majority",
        "probe_both", "probe_image_only", "probe_text_only",
    }  # fmt: skip
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_group_is_on_one_side_of_every_split_and_every_row_is_tested_once(trained):
    recipe, _, _ = trained
    table = read_table(recipe.data, "image", "text", "label", "group")
    groups = [row.group for row in table.rows]
    tested = []
    for train, test in split(table, recipe):
        assert not {groups[i] for i in train} & {groups[i] for i in test}
        tested += test.tolist()
    assert sorted(tested) == list(range(len(table.rows)))


def test_without_a_group_column_the_report_warns_of_the_random_split(tmp_path, encoders):
    data = draw_table(tmp_path, 40, "picture")
    with open(data, encoding="utf8", newline="") as stream:
        table = list(csv.reader(stream))
    table[1][0] = table[2][0]  # one picture in two rows, which are two groups now
    write_csv(data, table)
    recipe = replace(recipe_of(data, encoders, epochs=1, folds=2), group_column=None)
    warnings = train_table(recipe, tmp_path / "run")["warnings"]
    assert len(warnings) == 2
    assert "--group-column" in warnings[0] and "2 of 40 rows have pictures" in warnings[1]


def test_unusable_rows_are_left_out_and_reported(tmp_path, encoders):
    data = draw_table(tmp_path, 40, "picture")
    (tmp_path / "3.png").unlink()
    report = train_table(recipe_of(data, encoders, epochs=1, folds=2), tmp_path / "run")
    assert report["rows"] == 39
    assert [problem["row"] for problem in report["unusable"]] == [5]
    assert "3.png" in report["unusable"][0]["reason"]


def test_a_loss_that_is_not_finite_stops_the_run(trained, tmp_path):
    recipe, _, _ = trained
    with pytest.raises(UserError) as error:
        train_table(replace(recipe, learning_rate=1e30), tmp_path / "run")
    error_line(error, "a finite loss")


@pytest.mark.parametrize(
    ("changes", "part"),
    [({"folds": 1}, "2 folds"), ({"epochs": 0}, "epochs"), ({"fusion": "magic"}, "magic")],
)
def test_a_recipe_that_cannot_be_trained_is_refused(trained, tmp_path, changes, part):
    recipe, _, _ = trained
    with pytest.raises(UserError) as error:
        train_table(replace(recipe, **changes), tmp_path / "run")
    error_line(error, part)


def test_a_recipe_with_other_fields_is_refused(trained):
    recipe, _, _ = trained
    with pytest.raises(UserError) as error:
        TableRecipe.from_json(json.dumps({**json.loads(recipe.to_json()), "preset": "small"}))
    error_line(error, "preset")
    with pytest.raises(UserError) as error:
        TableRecipe.from_json('{"data": "t.csv"}')
    error_line(error, "a recipe for a table")


# ---------------------------------------------------------------- features and missing modalities


def random_features(rows: int = 4) -> Features:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(5) < torch.tensor([1, 2, 5, 3])[:, None]
    return Features(
        image=torch.randn(4, 6, 512, generator=generator).half(),
        image_index=torch.tensor([1, 2, 3, ABSENT])[:rows],
        text=torch.randn(4, 5, 16, generator=generator).half(),
        text_mask=mask,
        text_index=torch.tensor([1, 2, 3, ABSENT])[:rows],
    )


def test_a_missing_modality_has_no_influence_and_padding_neither(trained):
    recipe, _, _ = trained
    model = FromFeatures(
        Backbones.load(recipe).model(replace(recipe, side=64), 2, 0), random_features()
    )
    model.features = replace(model.features, image=model.features.image[:, :4])
    model.eval()
    texts, pictures = torch.tensor([1, 3]), torch.tensor([1, 2])
    with torch.no_grad():
        both = model(texts, pictures)
        alone = torch.cat([model(t[None], p[None]) for t, p in zip(texts, pictures, strict=True)])
        assert torch.allclose(both, alone, atol=1e-5)
        absent = torch.zeros(2, dtype=torch.long)
        no_picture = model(texts, absent)
        mixed = model(texts, torch.tensor([ABSENT, 2]))
        assert torch.allclose(mixed[0], no_picture[0], atol=1e-5)
        assert torch.allclose(mixed[1], both[1], atol=1e-5)
        assert not torch.allclose(no_picture, both, atol=1e-3)
        no_text = model(absent, pictures)
        model.features.image[ABSENT] = 5.0
        model.features.text[ABSENT, 1:] = 5.0  # the masked part of the empty text
        assert torch.equal(model(texts, absent), no_picture)
        assert torch.equal(model(absent, pictures), no_text)


def test_pooled_features_are_means_over_what_is_there():
    features = random_features()
    pooled = features.pooled(True, True)
    assert pooled.shape == (4, 512 + 16)
    assert not pooled[3, :512].any()
    assert torch.allclose(pooled[1, :512], features.image[2].float().mean(0), atol=1e-5)
    assert torch.allclose(pooled[0, 512:], features.text[1, :2].float().mean(0), atol=1e-5)
    assert torch.equal(features.pooled(False, True), pooled[:, 512:])


def test_long_texts_are_cut_and_counted(trained, tmp_path):
    recipe, _, _ = trained
    rows = [Row(2, None, "red day", "A", "g1"), Row(3, None, "red " * 30, "B", "g2")]
    found = Backbones.load(recipe).extract(replace(recipe, text_length=8), rows, tmp_path)
    assert found.cut == 1 and found.text_mask.sum(1).tolist() == [1, 4, 8]
    assert found.image_index.tolist() == [ABSENT, ABSENT]


# ---------------------------------------------------------------- answers for new rows


def test_new_rows_are_answered_and_problems_listed_in_their_place(trained, tmp_path):
    recipe, run, _ = trained
    known = read_table(recipe.data, "image", "text", "label", "group").rows[:6]
    rows = [(str(row.picture), row.text) for row in known]
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


def test_a_run_asks_for_the_backbones_it_was_trained_with(trained, tmp_path, encoders):
    recipe, run, _ = trained
    copy = tmp_path / "run" / "best"
    copy.mkdir(parents=True)
    path = write_csv(tmp_path / "new.csv", [("image", "text"), ("", "day")])
    tensors, _, state = read_checkpoint(run / "best")
    other = {**state, "backbones": {"text": "0", "image": "0"}}
    model = Backbones.load(recipe).model(recipe, 2, 0)
    tabular.save_model(copy, model, recipe, other)
    with pytest.raises(UserError) as error:
        predict_table(tmp_path / "run", path)
    error_line(error, "other weights", "train again")
