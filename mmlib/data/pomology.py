"""USDA pomological watercolors: a painting of a fruit, the name of its variety, its species.

The 12 most frequent species, apples capped at 960 (they are half of the collection): 4,109 rows.
The species is dropped from the name, or the text would hold the answer. Rows without a variety
name are kept, with an empty text: a modality that is missing. The same variety was painted up to
62 times, so folds must keep a name together (`--group-column name`).

Source: github.com/jwilber/USDA_Pomological_Watercolors (MIT, Copyright (c) 2018 Jared Wilber);
the paintings are in the public domain in the United States, and the library asks for CREDIT.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from mmlib.data.archive import check_member, open_archive, read_member

COMMIT = "22f8f0b1f2354a9379afe72c9405b090b8b344fe"
ADDRESS = f"https://github.com/jwilber/USDA_Pomological_Watercolors/archive/{COMMIT}.zip"
FOLDER = f"USDA_Pomological_Watercolors-{COMMIT}"
LIST = "data/usda_pomological_watercolors.csv"
LIST_SHA256 = "b5ed25bacb7c6fe70d6d5f8093bd2bcce78eceac1d3ca08e2a2fdffc453d3cb2"
SPECIES = 12
CAP = 960
CREDIT = (
    "U.S. Department of Agriculture Pomological Watercolor Collection. "
    "Rare and Special Collections, National Agricultural Library, Beltsville, MD 20705"
)


def write(out: Path) -> Path:
    """Writes images/, pomology.csv (image, name, species) and CREDIT.txt to `out`; returns the CSV.

    The CSV is written last: where it exists, the pictures do too. From the public address the
    paintings are 127 pixels wide, in the compact copy 64, so scores of the two differ.

    Raises UserError where the source is unreachable, changed or incomplete.
    """
    with open_archive("pomology", ADDRESS) as archive:
        content = read_member("pomology", archive, f"{FOLDER}/{LIST}")
        check_member(LIST, content, LIST_SHA256)
        rows = select(list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))))
        (out / "images").mkdir(parents=True, exist_ok=True)
        for number, _, _ in tqdm(rows, desc="pomology", unit="picture", disable=None):
            member = f"{FOLDER}/data/images/image-{number}.jpg"
            picture = read_member("pomology", archive, member)
            (out / f"images/image-{number}.jpg").write_bytes(picture)
        license = read_member("pomology", archive, f"{FOLDER}/LICENSE").decode("utf-8")
    (out / "CREDIT.txt").write_text(
        f"Paintings: {CREDIT} (public domain).\n\n{license}", encoding="utf-8"
    )
    path = out / "pomology.csv"
    with open(path, "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "name", "species"])
        table.writerows(
            [f"images/image-{number}.jpg", name, species] for number, name, species in rows
        )
    return path


def select(
    rows: list[dict[str, str]], species: int = SPECIES, cap: int = CAP
) -> list[tuple[int, str, str]]:
    """(number of the picture, variety name, species in English) of the chosen rows, in their order.

    Picture K belongs to data row K, counted from 0; the source does not say so. Where a species has
    more than `cap` rows, those whose digest comes first are kept: the same on every machine.
    """
    subjects = [row["subjects"].strip() for row in rows]
    frequent = [subject for subject, _ in Counter(subjects).most_common(species)]
    kept: list[int] = []
    for subject in frequent:
        numbers = [number for number, other in enumerate(subjects) if other == subject]
        kept += sorted(numbers, key=_shuffled)[:cap]
    return [
        (number, _variety(rows[number]["fruit"]), _english(subjects[number]))
        for number in sorted(kept)
    ]


def _shuffled(number: int) -> bytes:
    return hashlib.sha256(f"pomology {number}".encode()).digest()


def _variety(fruit: str) -> str:
    """'Prunus persica: Elberta' gives 'Elberta'; without a colon there is no variety name."""
    return " ".join(fruit.partition(":")[2].split())


def _english(subject: str) -> str:
    """'Prunus persica , peaches' gives 'peaches'."""
    return subject.rpartition(",")[2].strip()
