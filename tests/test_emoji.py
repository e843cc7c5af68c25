"""Emoji: the right rows, the right drawing by each artist, families that are not divided."""

import hashlib
import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import public_sets
import pytest
from PIL import Image
from public_sets import Answer, copy, read
from strategies import error_line

from mmlib.data import archive as datasets
from mmlib.data import emoji
from mmlib.data.folds import split
from mmlib.data.pictures import read_picture
from mmlib.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "book" / "results" / "emoji.json"
COPY = copy("emoji")
needs_copy = public_sets.needs_copy("emoji")


def sides(rows: list[dict[str, str]], column: str | None, folds: int) -> list[tuple[set, set]]:
    """The families of the training rows and of the test rows of each fold."""
    labels = [row["group"] for row in rows]
    groups = [row[column] for row in rows] if column else None
    return [
        ({rows[i]["family"] for i in train}, {rows[i]["family"] for i in test})
        for train, test in split(labels, groups, folds, 0)
    ]


# ---------------------------------------------------------------- the compact copy


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, list[dict[str, str]]]:
    out = tmp_path_factory.mktemp("emoji")
    return out, read(emoji.write(out))


@needs_copy
def test_the_table_has_the_rows_that_were_counted(written):
    _, rows = written
    counts = Counter(row["group"] for row in rows)
    assert len(rows) == 1636 == len({row["name"] for row in rows})
    assert len(counts) == 8 and len({row["subgroup"] for row in rows}) == 95
    assert counts.most_common(1) == [("People & Body", 386)] and counts["Activities"] == 85
    assert not any(row["name"].startswith("flag:") for row in rows)
    assert all(all(row.values()) for row in rows), "no cell is empty"


@needs_copy
@pytest.mark.parametrize("name, channel", [("red heart", 0), ("green heart", 1), ("blue book", 2)])
def test_each_drawing_is_that_of_its_row(written, name, channel):
    """A name with a color: both artists draw it mostly in that color."""
    out, rows = written
    (row,) = [row for row in rows if row["name"] == name]
    for column in emoji.SHEETS:
        picture = np.asarray(Image.open(out / row[column]), dtype=float)
        assert picture.shape == (64, 64, 4)
        assert picture[picture[..., 3] > 128][:, :3].mean(0).argmax() == channel
    assert (out / row["image"]).read_bytes() != (out / row["twemoji"]).read_bytes()


@needs_copy
def test_one_drawing_is_never_in_two_families(written):
    out, rows = written
    families: dict[bytes, set[str]] = {}
    for row in rows:
        for column in emoji.SHEETS:
            families.setdefault((out / row[column]).read_bytes(), set()).add(row["family"])
    assert all(len(found) == 1 for found in families.values())
    assert len(families) < 2 * len(rows), "some drawings do come twice"


@needs_copy
@pytest.mark.parametrize("column", ["subgroup", "family"])
def test_a_family_stays_on_one_side_of_a_fold(written, column):
    """By subgroup all but those that the source itself has in two subgroups."""
    rows = written[1]
    subgroups = {(row["family"], row["subgroup"]) for row in rows}
    twice = {name for name, n in Counter(name for name, _ in subgroups).items() if n > 1}
    assert twice == {"People & Body", "People & Body family", "Symbols button"}
    for train, test in sides(rows, column, 5):
        assert train and test and train & test <= (twice if column == "subgroup" else set())
    at_random = [len(train & test) / len(test) for train, test in sides(rows, None, 5)]
    assert min(at_random) > 0.1, "at random it would not"


@needs_copy
def test_credit_and_licenses_go_with_the_pictures(written):
    text = (written[0] / "CREDIT.txt").read_text(encoding="utf-8")
    for part in ("Noto Emoji", "Apache License 2.0", "Twemoji", "CC BY 4.0", "Cal Henderson"):
        assert part in text
    assert "Miles Johnson" in text


# ---------------------------------------------------------------- a small archive that a test makes

PEOPLE, TRAVEL = "People & Body", "Travel & Places"
# code in the list of drawings, code in the list of names, name, group, subgroup
ITEMS = [
    ("1F3C3", "1F3C3", "person running", PEOPLE, "person-activity"),
    ("1F3C3-200D-2642-FE0F", "1F3C3-200D-2642-FE0F", "man running", PEOPLE, "person-activity"),
    ("1F44D", "1F44D", "thumbs up", PEOPLE, "hands"),
    ("1F550", "1F550", "one o’clock", TRAVEL, "time"),
    ("1F55C", "1F55C", "one-thirty", TRAVEL, "time"),
    ("2708-FE0F", "2708", "airplane", TRAVEL, "transport-air"),
    ("1F1EF-1F1F5", "1F1EF-1F1F5", "flag: Japan", "Flags", "country-flag"),
    ("1F3FB", "1F3FB", "light skin tone", "Component", "skin-tone"),
]
COLORS = [(30 * k, 200 - 20 * k, 100) for k in range(9)]


def sheet(shift: int) -> bytes:
    """Three by three tiles of one color each, numbered by column, on a black ground."""
    picture = Image.new("RGB", (198, 198))
    for number in range(9):
        x, y = 66 * (number // 3) + 1, 66 * (number % 3) + 1
        picture.paste(COLORS[(number + shift) % 9], (x, y, x + 64, y + 64))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def files(monkeypatch) -> dict[str, bytes]:
    """The files of eight emoji, of which the flag and the skin tone are left out."""
    drawings = [
        {
            "unified": code, "image": f"{code.lower()}.png", "sheet_x": k // 3, "sheet_y": k % 3,
            "category": group, "subcategory": subgroup, "sort_order": len(ITEMS) - k,
        }
        for k, (code, _, _, group, subgroup) in enumerate(ITEMS)
    ]  # fmt: skip
    names = [{"hexcode": code, "label": name, "tags": ["a", "b"]} for _, code, name, *_ in ITEMS]
    del names[0]["tags"]  # some have no keywords
    made = {
        emoji.ITEMS: json.dumps(drawings).encode(),
        emoji.NAMES: json.dumps(names).encode(),
        emoji.SHEETS["image"]: sheet(0),
        emoji.SHEETS["twemoji"]: sheet(1),
        **dict.fromkeys(emoji.LICENSES, b"MIT"),
    }
    for path in emoji.SHA256:
        monkeypatch.setitem(emoji.SHA256, path, hashlib.sha256(made[path]).hexdigest())
    return made


@pytest.fixture
def archive(files, tmp_path, monkeypatch) -> Path:
    """MMLIB_DATA with an emoji.zip of these files."""
    path = tmp_path / "emoji.zip"
    pack(path, files)
    monkeypatch.setenv("MMLIB_DATA", str(tmp_path))
    return path


def pack(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)


def test_rows_have_both_drawings_and_come_in_the_order_of_the_charts(archive, tmp_path):
    out = tmp_path / "out"
    rows = read(emoji.write(out))
    assert list(rows[0]) == list(emoji.COLUMNS)
    assert [row["name"] for row in rows] == [name for _, _, name, *_ in ITEMS[5::-1]]
    for number, row in enumerate(reversed(rows)):
        assert read_picture(out / row["image"]).getcolors() == [(4096, COLORS[number])]
        assert read_picture(out / row["twemoji"]).getcolors() == [(4096, COLORS[number + 1])]
    assert rows[0]["keywords"] == "a, b" and rows[-1]["keywords"] == ""
    assert (rows[0]["group"], rows[0]["subgroup"]) == (TRAVEL, "transport-air")
    assert "MIT" in (out / "CREDIT.txt").read_text()


@pytest.mark.parametrize("column", ["subgroup", "family"])
def test_a_small_table_is_not_divided_within_a_family(archive, tmp_path, column):
    rows = read(emoji.write(tmp_path / "out"))
    assert len({row["family"] for row in rows}) == 4
    for train, test in sides(rows, column, 2):
        assert train and test and not train & test


@pytest.mark.parametrize(
    "names",
    [
        ("person running", "woman running: facing right", "man running"),
        ("one o’clock", "twelve-thirty"),
        ("keycap: #", "keycap: 10"),
        ("red heart", "blue heart"),
        ("man farmer", "farmer"),
        ("kiss: woman, man", "kiss"),
        ("up-left arrow", "down arrow"),
    ],
)
def test_near_duplicates_are_a_family(names):
    assert len({emoji.family("a", name) for name in names}) == 1
    assert emoji.family("a", names[0]) != emoji.family("b", names[0])


def test_others_are_no_family():
    names = ["red apple", "red car", "alarm clock", "two o’clock", "woman cook", "person running"]
    assert len({emoji.family("a", name) for name in names}) == len(names)


def test_a_source_that_has_changed_is_refused(archive, files, tmp_path):
    for path in emoji.SHA256:
        pack(archive, {**files, path: files[path] + b" "})
        with pytest.raises(UserError) as error:
            emoji.write(tmp_path / "out")
        error_line(error, path, "report it")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_lacks_a_file_is_refused(archive, files, tmp_path):
    pack(archive, {name: content for name, content in files.items() if name != emoji.NAMES})
    with pytest.raises(UserError) as error:
        emoji.write(tmp_path / "out")
    error_line(error, emoji.NAMES, "no such file")


def test_an_emoji_without_a_name_is_named(archive, files, tmp_path, monkeypatch):
    names = json.dumps(json.loads(files[emoji.NAMES])[1:]).encode()
    monkeypatch.setitem(emoji.SHA256, emoji.NAMES, hashlib.sha256(names).hexdigest())
    pack(archive, {**files, emoji.NAMES: names})
    with pytest.raises(UserError) as error:
        emoji.write(tmp_path / "out")
    error_line(error, "a name for 1F3C3", "report it")
    assert not (tmp_path / "out").exists()


def test_without_a_copy_each_file_is_read_from_its_public_address(files, tmp_path, monkeypatch):
    asked = []

    def urlopen(address: str, timeout: float) -> Answer:
        asked.append(address)
        return Answer(files[address.removeprefix(emoji.ADDRESS)])

    monkeypatch.delenv("MMLIB_DATA", raising=False)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", urlopen)
    assert len(read(emoji.write(tmp_path / "out"))) == 6
    assert asked == [emoji.ADDRESS + path for path in files]
    assert all("@1" in address for address in asked), "a version that does not change"


# ---------------------------------------------------------------- the record


@pytest.fixture(scope="module")
def record() -> dict:
    if not RECORD.is_file():
        pytest.skip("no record yet: make record NAME=emoji")
    return json.loads(RECORD.read_text("utf8"))


def test_the_record_of_folds_by_subgroup_is_the_record(record):
    assert record["groups"] == 95
    found = record["divided_again"]["subgroup"]
    assert found["picture_and_name"] == record["metrics"]["balanced_accuracy"]
    assert found["gain_over_name"] == record["gain_over"]["only_text"]


def test_the_cases_of_the_record_are_all_rows_and_give_its_scores(record):
    """Counted by who is right, and by group: the same rows are right."""
    cases = {name: record["cases"][name] for name in ("both", "picture", "name", "neither")}
    rows = {name: case["rows"] for name, case in cases.items()}
    assert sum(rows.values()) == record["rows"]
    together = sum(case["rows"] * case["together"] for case in cases.values())
    found = {"only_image": rows["both"] + rows["picture"], "only_text": rows["both"] + rows["name"]}
    for name, right in {"all": together, **found}.items():
        by_class = sum(score["rows"] * score[name] for score in record["by_class"].values())
        assert right == pytest.approx(by_class)
    only = round(cases["neither"]["rows"] * cases["neither"]["together"])
    assert len(record["cases"]["right_only_together"]) == only
