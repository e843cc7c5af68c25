"""The reader's own table: what is read, what is refused, and how it is divided into folds."""

import errno
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from strategies import error_line
from table_makers import write_csv

from mmlib.data.folds import split
from mmlib.data.pictures import picture_array, read_picture
from mmlib.data.table import (
    Problem,
    Row,
    Table,
    check_trainable,
    columns,
    describe,
    leaks,
    read_table,
)
from mmlib.errors import UserError

INPUTS = {"image": "image", "text": "text"}

# ---------------------------------------------------------------- reading a CSV


def picture(folder: Path, name: str = "a.png", color: str = "red", size: int = 8) -> str:
    Image.new("RGB", (size, size), color).save(folder / name)
    return name


def table_of(folder: Path, *rows: tuple[str, str, str]) -> Table:
    path = write_csv(folder / "t.csv", [("image", "text", "label"), *rows])
    return read_table(path, INPUTS, "label")


def test_none_na_and_empty_texts_are_kept(tmp_path):
    name = picture(tmp_path)
    texts = ["None", "NA", "nan", "null", ""]
    table = table_of(tmp_path, *[(name, text, "NA") for text in texts])
    assert [row.inputs.get("text", "") for row in table.rows] == texts
    assert table.classes == ["NA"] and table.problems == ()


def test_row_numbers_are_those_of_a_spreadsheet(tmp_path):
    name = picture(tmp_path)
    (tmp_path / "t.csv").write_bytes(
        b"\xef\xbb\xbfimage,text,label\r\n"
        + f'{name},"two\r\nlines, one cell",A\r\n'.encode()
        + f",,\r\n\r\n{name},last,B\r\n\r\n".encode()
    )
    table = read_table(tmp_path / "t.csv", INPUTS, "label")
    assert [(row.number, row.inputs["text"]) for row in table.rows] == [
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
    assert [row.inputs.get("image") for row in table.rows] == [tmp_path / "sub/a.png"] * 2 + [None]
    assert table.rows[0].digests == table.rows[1].digests != {} == table.rows[2].digests


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
    table = read_table(path, INPUTS, "label")
    assert table.problems == (Problem(2, "4 cells under 3 columns"),) and len(table.rows) == 1


def test_every_column_that_is_lacking_is_named(tmp_path):
    path = write_csv(tmp_path / "t.csv", [("image", "words"), ("a.png", "x")])
    with pytest.raises(UserError) as error:
        read_table(path, INPUTS, "label", "shop")
    error_line(error, "'text', 'label', 'shop'", "'image', 'words'")


def test_a_csv_with_semicolons_is_recognized(tmp_path):
    (tmp_path / "t.csv").write_text("image;text;label\na.png;x;A\n")
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.csv", INPUTS, "label")
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
        read_table(tmp_path / "t.csv", INPUTS, "label")
    error_line(error, "t.csv", part)


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.csv", INPUTS, "label")
    error_line(error, "no file", "t.csv")


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\ufeff"), max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_what_a_csv_writer_writes_is_read_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("csv")
    rows = [*rows, ("last", "A")]
    path = write_csv(
        folder / "t.csv", [("image", "text", "label"), *[("", t, label) for t, label in rows]]
    )
    table = read_table(path, INPUTS, "label")
    kept = [(t.strip(), label.strip()) for t, label in rows if t.strip() and label.strip()]
    assert [(row.inputs["text"], row.label) for row in table.rows] == kept
    empty = sum(not t.strip() and not label.strip() for t, label in rows)
    assert len(table.rows) + len(table.problems) == len(rows) - empty


# ---------------------------------------------------------------- pictures of every kind


def center(path: Path) -> tuple[int, ...]:
    image = read_picture(path)
    assert image.mode == "RGB"
    return image.getpixel((image.width // 2, image.height // 2))


def near(found: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return all(abs(f - w) <= 3 for f, w in zip(found, want, strict=True))


def test_transparency_is_laid_on_white(tmp_path):
    for mode, color in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))):
        Image.new(mode, (8, 8), color).save(tmp_path / "t.png")
        assert center(tmp_path / "t.png") == (255, 255, 255)
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(tmp_path / "half.png")
    assert near(center(tmp_path / "half.png"), (255, 127, 127))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    assert center(tmp_path / "p.png") == (0, 0, 255)
    palette.save(tmp_path / "p.gif", transparency=1)
    assert center(tmp_path / "p.gif") == (255, 255, 255)


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red, green, blue = center(tmp_path / "c.jpg")
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("level", [0, 100, 255, 30000, 65535])
def test_sixteen_bit_gray_keeps_its_level(tmp_path, level):
    Image.fromarray(np.full((8, 8), level, np.uint16)).save(tmp_path / "g.png")
    assert near(center(tmp_path / "g.png"), (round(level / 257),) * 3)


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
    rows = [Row(i, {"text": text}, label, group) for i, (label, group) in enumerate(cells, start=2)]
    return Table(Path("t.csv"), ("image", "text"), tuple(rows))


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
    contents = [
        ("p1", "Elberta", "g1"), ("p2", "elberta", "g2"), ("p1", "", "g3"), ("", "", "g4"),
        ("p3", "King", "g5"), ("p3", "King", "g5"),
    ]  # fmt: skip
    rows = []
    for number, (digest, text, group) in enumerate(contents, start=2):
        inputs = {"image": Path(f"{number}.png")} if digest else {}
        digests = {"image": digest} if digest else {}
        rows.append(Row(number, inputs | ({"text": text} if text else {}), "A", group, digests))
    table = Table(Path("t"), ("image", "text"), tuple(rows))
    assert leaks(table) == {"image": 2, "text": 2}


def test_a_row_whose_group_cell_is_empty_is_a_group_of_its_own(tmp_path):
    cells = [("x", "A", "g"), ("x", "A", ""), ("x", "B", ""), ("x", "B", " "), ("x", "B", "g")]
    path = write_csv(tmp_path / "t.csv", [("text", "label", "shop"), *cells])
    groups = [row.group for row in read_table(path, {"text": "text"}, "label", "shop").rows]
    assert len(set(groups)) == 4 and groups[0] == groups[4]


def test_a_group_that_is_called_like_a_row_is_not_that_row(tmp_path):
    cells = [("x", "A", ""), ("x", "A", "row 2"), ("x", "B", "2")]
    path = write_csv(tmp_path / "t.csv", [("text", "label", "shop"), *cells])
    groups = [row.group for row in read_table(path, {"text": "text"}, "label", "shop").rows]
    assert len(set(groups)) == 3


def test_a_header_of_one_column_is_told_by_its_name(tmp_path):
    """No comma is lacking: the other column is."""
    path = write_csv(tmp_path / "t.csv", [["words"], ["a"], ["b"]])
    with pytest.raises(UserError) as error:
        read_table(path, {"text": "text"}, "label")
    error_line(error, "'text', 'label'", "'words'", "name existing columns")
    assert "commas" not in str(error.value)


@pytest.mark.parametrize("first", ["", ",,", " , ,"])
def test_blank_lines_before_the_header_are_passed_over_and_counted(tmp_path, first):
    (tmp_path / "t.csv").write_text(f"{first}\ntext,label,x\none,A,1\n")
    (row,) = read_table(tmp_path / "t.csv", {"text": "text"}, "label").rows
    assert row.number == 3 and row.inputs == {"text": "one"}
    assert columns(tmp_path / "t.csv") == ["text", "label", "x"]


def refused(number: int):
    """An `open` that fails as the system does."""

    def fail(*given, **more):
        raise OSError(number, "refused")  # Python gives the subclass that belongs to the number

    return fail


@pytest.mark.parametrize(
    ("number", "part"),
    [(errno.EACCES, "permission"), (errno.ENOENT, "no file"), (errno.EISDIR, "the folder")],
)
def test_a_csv_that_cannot_be_opened_says_why(tmp_path, monkeypatch, number, part):
    monkeypatch.setattr("builtins.open", refused(number))
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.csv", {"text": "text"})
    monkeypatch.undo()
    error_line(error, part, "t.csv")


def test_a_picture_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    name = picture(tmp_path)
    monkeypatch.setattr(Image, "open", refused(errno.EACCES))
    (problem,) = table_of(tmp_path, (name, "x", "A")).problems
    assert "may not be read" in problem.reason


# ---------------------------------------------------------------- folds


def test_folds_of_the_smallest_table_that_scikit_learn_divides_wrongly():
    labels, groups = list("001011"), list("011223")
    found = split(labels, groups, 3, 0)
    for train, test in found:
        assert {labels[i] for i in train} == {labels[i] for i in test} == {"0", "1"}
    assert sorted(i for _, test in found for i in test) == list(range(6))


@st.composite
def grouped(draw):
    """Labels and groups of a table that passes `check_trainable` for three folds."""
    groups = draw(st.lists(st.integers(0, 9), min_size=9, max_size=30))
    favorite = draw(st.lists(st.integers(0, 2), min_size=10, max_size=10))
    odd = draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups)))
    labels = [
        str((favorite[group] + moved) % 3) for group, moved in zip(groups, odd, strict=True)
    ]
    where = defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        where[label].add(group)
    assume(len(where) > 1 and min(map(len, where.values())) >= 3)
    return labels, [f"g{group}" for group in groups]


@given(grouped(), st.integers(0, 2**40))
def test_each_fold_has_each_label_on_both_sides_or_the_table_is_refused(table, seed):
    labels, groups = table
    try:
        found = split(labels, groups, 3, seed)
    except UserError as error:
        assert "a fold without '" in str(error) and "fewer folds" in str(error)
        return
    for train, test in found:
        assert {labels[i] for i in train} == {labels[i] for i in test} == set(labels)
        assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert sorted(i for _, test in found for i in test) == list(range(len(labels)))


def test_labels_that_always_go_together_cannot_be_divided():
    """Six rows of B lie in three groups, and one of these holds every A but two."""
    labels = ["A"] * 3 + ["B"] * 3
    groups = ["g0", "g1", "g2", "g0", "g0", "g0"]
    with pytest.raises(UserError) as error:
        split(labels, groups, 3, 0)
    error_line(error, "a fold without 'B'", "fewer folds")


def test_folds_are_those_of_the_seed():
    labels, groups = list("ab") * 30, [f"g{i // 3}" for i in range(60)]
    first, again, other = (split(labels, groups, 5, seed) for seed in (0, 0, 1))
    assert all((a[1] == b[1]).all() for a, b in zip(first, again, strict=True))
    assert any(list(a[1]) != list(b[1]) for a, b in zip(first, other, strict=True))


def test_without_groups_rows_are_divided_at_will():
    labels = list("ab") * 10
    found = split(labels, None, 5, 0)
    assert all([labels[i] for i in test].count("a") == 2 for _, test in found)
