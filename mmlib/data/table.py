"""The reader's own table: a CSV with a column of picture files, one of texts, one of labels.

Cells are text and stay text: "None" and "NA" are words. An empty picture or text cell is a modality
that is missing in that row, and the row is kept. What cannot be used (a picture that is broken, a
label that is empty) is a `Problem` with the number of its row as a spreadsheet shows it; all are
found before anything is trained.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from mmlib.errors import UserError, expected

# Above this share of unusable rows the column or the folder is wrong, not the pictures.
MAX_UNUSABLE = 0.2
SHOWN = 10


@dataclass(frozen=True)
class Row:
    """One row of a table.

    `number` counts from the header, which is row 1; `picture` is None and `text` "" where missing.
    `group` names what must not be divided between training and test; a row whose group cell is
    empty is a group of its own. `digest` is the SHA-256 of the picture's bytes, "" without one.
    """

    number: int
    picture: Path | None
    text: str
    label: str
    group: str
    digest: str = ""


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used, and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Table:
    """The usable rows of a CSV and the problems of the others."""

    path: Path
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]

    @property
    def classes(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted({row.label for row in self.rows})


def read_table(
    path: str | Path,
    image_column: str,
    text_column: str,
    label_column: str | None = None,
    group_column: str | None = None,
    labels_needed: bool = True,
) -> Table:
    """Reads a CSV (UTF-8, with or without a byte-order mark; quoted line breaks are kept).

    Pictures are paths relative to the CSV's folder, or absolute; each is opened and decoded here.
    Without a label column labels are ""; with one, an empty label makes a row unusable unless
    `labels_needed` is False (new rows, to be predicted). Rows without any content are passed over.

    Raises UserError where the file is missing, empty, not UTF-8, or lacks a column (all that are
    lacking are named). Rows that cannot be used are listed in `problems`, never dropped unsaid.
    """
    path = Path(path)
    header, records = _records(path)
    wanted = [c for c in (image_column, text_column, label_column, group_column) if c is not None]
    missing = [column for column in dict.fromkeys(wanted) if column not in header]
    if missing:
        remedy = "name existing columns" if len(header) > 1 else "separate the columns by commas"
        raise expected(
            f"columns {_names(missing)} in {path.name}", f"columns {_names(header)}", remedy
        )
    rows, problems = [], []
    for number, cells in enumerate(
        tqdm(records, desc="reading", unit="row", disable=None), start=2
    ):
        if not any(cells):
            continue
        if len(cells) != len(header):
            problems.append(Problem(number, f"{len(cells)} cells under {len(header)} columns"))
            continue
        cell = dict(zip(header, cells, strict=True))
        group = cell[group_column].strip() if group_column else ""
        row = Row(
            number=number,
            picture=path.parent / cell[image_column].strip()
            if cell[image_column].strip()
            else None,
            text=cell[text_column].strip(),
            label=cell[label_column].strip() if label_column else "",
            group=f"group {group}" if group else f"row {number}",
        )
        unlabelled = label_column is not None and labels_needed and not row.label
        reason = "no label" if unlabelled else _unusable(row)
        if reason:
            problems.append(Problem(number, reason))
        else:
            rows.append(row if row.picture is None else replace(row, digest=_digest(row.picture)))
    return Table(path, tuple(rows), tuple(problems))


def columns(path: str | Path) -> list[str]:
    """The names of a CSV's columns; raises UserError as `read_table` does."""
    return _records(Path(path))[0]


def _records(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows, as lists of cells; empty ones at the end are left out."""
    if not path.is_file():
        raise expected("a CSV file", f"no file {path}", "check the path")
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            records = list(csv.reader(stream, strict=True))
    except UnicodeDecodeError as error:
        raise expected(
            f"{path.name} in UTF-8", f"byte {error.start} that is not", "save it as CSV UTF-8"
        ) from None
    except csv.Error as error:
        raise expected(
            f"{path.name} as CSV", str(error), "quote cells that hold quotes or line breaks"
        ) from None
    while records and not any(records[-1]):
        records.pop()
    if len(records) < 2:
        raise expected(
            f"a header and rows in {path.name}",
            f"{len(records)} rows",
            "write the columns' names first",
        )
    header = [name.strip() for name in records[0]]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise expected(
            f"each column once in {path.name}",
            f"{_names(twice)} more than once",
            "rename one of them",
        )
    return header, records[1:]


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _unusable(row: Row) -> str:
    """Why a row cannot be used, in one phrase; empty where it can."""
    if row.picture is None:
        return "" if row.text else "neither picture nor text"
    try:
        read_picture(row.picture)
    except UserError as error:
        return str(error)
    return ""


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_picture(path: Path, side: int = 64) -> Image.Image:
    """A picture as a person sees it on white paper: RGB, upright.

    A JPEG may be decoded smaller than its file, but not below `side` pixels.
    Transparency is laid on white, 16-bit grey is scaled to 8 bits, CMYK and palettes are converted,
    the EXIF orientation is applied; of an animation the first frame is taken.

    Raises UserError, naming the file, where it is missing, broken, or has so many pixels that
    decoding it could exhaust the memory (Pillow's limit).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                picture.draft(None, (2 * side, 2 * side))  # a JPEG is decoded no larger than needed
                return _on_white(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; reduce it"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a picture") from None
    except Exception as error:  # a broken file can raise nearly anything in a decoder
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{path} is broken ({reason})") from None


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would cut it off at 255
        grey = np.asarray(picture).astype(np.float64)
        top = 255 if picture.mode == "I" and grey.max(initial=0) <= 255 else 65535
        return Image.fromarray((grey.clip(0, top) * (255 / top)).round().astype(np.uint8)).convert(
            "RGB"
        )
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(
            "RGB"
        )
    return picture.convert("RGB")


def picture_array(path: Path, side: int) -> np.ndarray:
    """The whole picture as uint8 [3, side, side]: nothing is cropped, the proportions may change.

    Raises UserError as `read_picture` does.
    """
    square = read_picture(path, side).resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def describe(problems: Sequence[Problem]) -> str:
    """The first few problems in one line, with the number of the others."""
    shown = "; ".join(f"row {problem.row}: {problem.reason}" for problem in problems[:SHOWN])
    return shown + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")


def check_trainable(table: Table, folds: int) -> None:
    """Raises UserError where a table cannot be learned from.

    That is: more than a fifth of the rows unusable (the column or the folder is wrong then), fewer
    than two classes, or a class in fewer groups than there are folds, so that some fold could not
    test it, or not without having seen its group.
    """
    total = len(table.rows) + len(table.problems)
    if len(table.problems) > MAX_UNUSABLE * total:
        raise expected(
            f"at most {MAX_UNUSABLE:.0%} of the rows unusable in {table.path.name}",
            f"{len(table.problems)} of {total} ({describe(table.problems)})",
            "check the column and that paths are relative to the CSV",
        )
    if len(table.classes) < 2:
        raise expected(
            "at least two different labels",
            _names(table.classes) or "none",
            "check the label column",
        )
    groups: dict[str, set[str]] = defaultdict(set)
    for row in table.rows:
        groups[row.label].add(row.group)
    few = {label: len(groups[label]) for label in table.classes if len(groups[label]) < folds}
    if few:
        listed = ", ".join(f"'{label}' in {count}" for label, count in few.items())
        raise expected(
            f"each label in at least {folds} rows or groups",
            listed,
            "merge or drop it, or use fewer folds",
        )


def leaks(table: Table) -> dict[str, int]:
    """What a split by group would let through: rows whose picture or text is in another group too.

    Counted as {"pictures": byte-identical pictures, "texts": identical texts}; both are rows.
    """
    counts = {}
    for name, key in (
        ("pictures", lambda row: row.digest),
        ("texts", lambda row: row.text.casefold()),
    ):
        groups = defaultdict(set)
        for row in table.rows:
            groups[key(row)].add(row.group)
        counts[name] = sum(1 for row in table.rows if key(row) and len(groups[key(row)]) > 1)
    return counts


def unknown_labels(table: Table, classes: Sequence[str]) -> list[Problem]:
    """The rows whose label a model with these classes does not know; an empty label is none."""
    return [
        Problem(row.number, f"label '{row.label}'")
        for row in table.rows
        if row.label and row.label not in classes
    ]
