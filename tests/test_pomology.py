"""The paintings: the right rows, the right picture for each, no answer in the text."""

import csv
import hashlib
import io
import random
import zipfile
from collections import Counter
from pathlib import Path

import public_sets
import pytest
from public_sets import Answer, copy, read
from strategies import error_line

from mmlib.data import archive as datasets
from mmlib.data import pomology
from mmlib.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "book" / "results" / "pomology.json"
COPY = copy("pomology")
needs_copy = public_sets.needs_copy("pomology")


# ---------------------------------------------------------------- the compact copy


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, list[dict[str, str]]]:
    out = tmp_path_factory.mktemp("pomology")
    return out, read(pomology.write(out))


@needs_copy
def test_the_table_has_the_rows_that_were_counted(written):
    _, rows = written
    counts = Counter(row["species"] for row in rows)
    assert len(rows) == 4109 and len(counts) == 12
    assert counts.most_common(2) == [("apples", 960), ("peaches", 959)]
    assert counts["lemons"] == 94
    assert 0 < sum(not row["name"] for row in rows) < 718


@needs_copy
def test_each_picture_is_that_of_its_row(written):
    """Row K of the source, counted from 0, has image-K: its name and species stand beside it."""
    out, rows = written
    with zipfile.ZipFile(COPY) as archive:
        content = archive.read(f"{pomology.FOLDER}/{pomology.LIST}").decode("utf-8")
        source = list(csv.DictReader(io.StringIO(content, newline="")))
        for row in random.Random(0).sample(rows, 50):
            number = int(Path(row["image"]).stem.removeprefix("image-"))
            member = f"{pomology.FOLDER}/data/images/image-{number}.jpg"
            assert (out / row["image"]).read_bytes() == archive.read(member)
            assert source[number]["painting_index"] == str(number + 1)
            latin, _, name = source[number]["fruit"].partition(":")
            assert row["name"] == " ".join(name.split()) and row["name"] != latin
            assert source[number]["subjects"].strip().endswith(row["species"])


@needs_copy
def test_the_latin_name_of_the_species_is_in_no_text(written):
    _, rows = written
    for latin in ("Malus domestica", "Prunus", "Pyrus communis", "Citrus", "Fragaria", "Vitis"):
        assert not any(latin.lower() in row["name"].lower() for row in rows)


@needs_copy
def test_credit_and_license_go_with_the_pictures(written):
    out, _ = written
    text = (out / "CREDIT.txt").read_text(encoding="utf-8")
    assert pomology.CREDIT in text and "Copyright (c) 2018 Jared Wilber" in text


# ---------------------------------------------------------------- a small archive that a test makes

FRUITS = [
    ("Malus domestica: Ben Davis\n", "Malus domestica , apples\n"),
    ("Malus domestica", "Malus domestica , apples\n"),
    ("Malus domestica: King: red", "Malus domestica , apples"),
    ("Prunus persica: Elberta  late\n", "Prunus persica , peaches\n"),
    ("Prunus persica: Crawford", "Prunus persica , peaches\n"),
    ("Citrus limon: Eureka", "Citrus limon , lemons\n"),
]


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """MMLIB_DATA with a pomology.zip of six rows, the last of which is too rare to be kept."""
    listing = io.StringIO(newline="")
    table = csv.writer(listing)
    table.writerow(["", "fruit", "painting_index", "subjects"])
    table.writerows([0, fruit, k + 1, subject] for k, (fruit, subject) in enumerate(FRUITS))
    content = listing.getvalue().encode()
    path = tmp_path / "pomology.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{pomology.FOLDER}/LICENSE", "MIT")
        made.writestr(f"{pomology.FOLDER}/{pomology.LIST}", content)
        for k in range(len(FRUITS)):
            made.writestr(f"{pomology.FOLDER}/data/images/image-{k}.jpg", f"picture {k}")
    monkeypatch.setenv("MMLIB_DATA", str(tmp_path))
    monkeypatch.setattr(pomology, "LIST_SHA256", hashlib.sha256(content).hexdigest())
    return path


def test_names_lose_the_species_and_rows_without_a_name_are_kept(archive, tmp_path):
    rows = read(pomology.write(tmp_path / "out"))
    assert [row["name"] for row in rows] == [
        "Ben Davis",
        "",
        "King: red",
        "Elberta late",
        "Crawford",
        "Eureka",
    ]
    assert [row["species"] for row in rows] == ["apples"] * 3 + ["peaches"] * 2 + ["lemons"]
    assert (tmp_path / "out" / rows[3]["image"]).read_text() == "picture 3"


def test_the_most_frequent_species_are_chosen_and_capped_the_same_way_each_time():
    rows = [{"fruit": fruit, "subjects": subject} for fruit, subject in FRUITS]
    chosen = pomology.select(rows, species=2, cap=2)
    assert [species for _, _, species in chosen] == ["apples"] * 2 + ["peaches"] * 2
    assert chosen == pomology.select(rows, species=2, cap=2)
    assert {number for number, _, _ in chosen} <= {0, 1, 2, 3, 4}
    many = [{"fruit": f"Vitis: {k}", "subjects": "Vitis , grapes"} for k in range(400)]
    kept = [number for number, _, _ in pomology.select(many, cap=200)]
    assert kept == sorted(kept) and 60 < sum(number < 200 for number in kept) < 140


def test_a_source_that_has_changed_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(pomology, "LIST_SHA256", "0" * 64)
    with pytest.raises(UserError) as error:
        pomology.write(tmp_path / "out")
    error_line(error, pomology.LIST, "report it")
    assert not (tmp_path / "out" / "pomology.csv").exists()


def test_an_archive_that_lacks_a_picture_is_refused(archive, tmp_path):
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(tmp_path / "part.zip", "w") as part:
        for name in whole.namelist():
            if not name.endswith("image-3.jpg"):
                part.writestr(name, whole.read(name))
    (tmp_path / "part.zip").replace(archive)
    with pytest.raises(UserError) as error:
        pomology.write(tmp_path / "out")
    error_line(error, "image-3.jpg")
    assert not (tmp_path / "out" / "pomology.csv").exists()


def test_a_copy_is_compared_with_its_digest(archive, tmp_path):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  pomology.zip\n")
    pomology.write(tmp_path / "out")
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(UserError) as error:
        pomology.write(tmp_path / "again")
    error_line(error, "pomology.zip", digest[:12])


@pytest.mark.parametrize("listing", ["{d}  pomology.zip", "{d} *pomology.zip"])
def test_a_list_of_digests_may_name_other_files_with_spaces(archive, tmp_path, listing):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    lines = [f"{'0' * 64}  a file with spaces.zip", "", "# a remark", listing.format(d=digest)]
    (tmp_path / "SHA256SUMS").write_text("\n".join(lines))
    assert pomology.write(tmp_path / "out").is_file()
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  not pomology.zip\n")
    with pytest.raises(UserError) as error:
        pomology.write(tmp_path / "again")
    error_line(error, "pomology.zip", "none")


def test_a_folder_without_the_copy_and_a_file_that_is_no_zip_are_named(archive, tmp_path):
    archive.write_text("not a zip")
    with pytest.raises(UserError) as error:
        pomology.write(tmp_path / "out")
    error_line(error, "a zip of pomology")
    archive.unlink()
    with pytest.raises(UserError) as error:
        pomology.write(tmp_path / "out")
    error_line(error, "MMLIB_DATA", "no file")


def test_without_a_copy_the_public_address_is_read(archive, tmp_path, monkeypatch):
    asked = []

    def urlopen(address: str, timeout: float) -> Answer:
        asked.append(address)
        return Answer(archive.read_bytes())

    monkeypatch.delenv("MMLIB_DATA")
    monkeypatch.setattr(datasets.urllib.request, "urlopen", urlopen)
    assert len(read(pomology.write(tmp_path / "out"))) == len(FRUITS)
    assert asked == [pomology.ADDRESS] and pomology.COMMIT in pomology.ADDRESS
