"""The reader's own table: a CSV with a column for each modality and one of labels.

Cells are text and stay text: "None" and "NA" are words. An empty cell is a modality that is missing
in that row, and the row is kept. What cannot be used (a picture that is broken, a label that is
empty) is a `Problem` with the number of its row as a spreadsheet shows it; all are found before
anything is trained.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmlib.data.pictures import read_picture
from mmlib.errors import UserError, expected

# Above this share of unusable rows the column or the folder is wrong, not the pictures.
MAX_UNUSABLE = 0.2
LISTED = 10  # problems that a line names
WORDS = {"image": ("picture", "pictures"), "text": ("text", "texts")}


def word(modality: str, many: bool = False) -> str:
    """A modality as a sentence names it: "image" is a picture, others go by their names."""
    return WORDS.get(modality, (modality, modality))[many]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    `number` counts from the header, which is row 1. `inputs` holds what the row has by modality
    ("image": a path, "text": a string); a modality that is missing is not in it. `group` names what
    must not be divided between training and test; a row whose group cell is empty is a group of
    its own. `digests` holds the SHA-256 of an input that is a file.
    """

    number: int
    inputs: Mapping[str, Any]
    label: str
    group: str
    digests: Mapping[str, str] = field(default_factory=dict)

    def content(self, modality: str) -> str:
        """What tells an input from others: a file's SHA-256, else itself; "" where missing."""
        return self.digests.get(modality, str(self.inputs.get(modality, "")))


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used, and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Table:
    """The usable rows of a CSV and the problems of the others; the modalities in their order."""

    path: Path
    modalities: tuple[str, ...]
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def classes(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted({row.label for row in self.rows})


def _picture_cell(cell: str, folder: Path) -> tuple[Path, str]:
    path = folder / cell
    read_picture(path)
    with open(path, "rb") as stream:
        return path, hashlib.file_digest(stream, "sha256").hexdigest()


def _text_cell(cell: str, folder: Path) -> tuple[str, str]:
    return cell, ""


# How a cell of each modality is read: (cell, folder of the CSV) → (input, digest of its file).
CELLS: dict[str, Callable[[str, Path], tuple[Any, str]]] = {
    "image": _picture_cell,
    "text": _text_cell,
}


def read_table(
    path: str | Path,
    inputs: Mapping[str, str],
    label_column: str | None = None,
    group_column: str | None = None,
    labels_needed: bool = True,
) -> Table:
    """Reads a CSV (UTF-8, with or without a byte-order mark; quoted line breaks are kept).

    `inputs` names the column of each modality: {"image": "photo", "text": "title"}. Pictures are
    paths relative to the CSV's folder, or absolute; each is opened and decoded here. Without a
    label column labels are ""; with one, an empty label makes a row unusable unless `labels_needed`
    is False (new rows, to be predicted). Rows without any content are passed over.

    Raises UserError where the file is missing, empty, not UTF-8, or lacks a column (all that are
    lacking are named). Rows that cannot be used are listed in `problems`, never dropped unsaid.
    """
    path = Path(path)
    header, records = _records(path)
    wanted = [*inputs.values(), *(c for c in (label_column, group_column) if c is not None)]
    missing = [column for column in dict.fromkeys(wanted) if column not in header]
    if missing:
        joined = len(header) == 1 and any(mark in header[0] for mark in ";\t|")
        remedy = "separate the columns by commas" if joined else "name existing columns"
        raise expected(
            f"columns {_names(missing)} in {path.name}", f"columns {_names(header)}", remedy
        )
    rows, problems = [], []
    for number, cells in tqdm(records, desc="reading", unit="row", disable=None):
        if len(cells) != len(header):
            problems.append(Problem(number, f"{len(cells)} cells under {len(header)} columns"))
            continue
        cell = dict(zip(header, map(str.strip, cells), strict=True))
        label = cell[label_column] if label_column else ""
        group = cell[group_column] if group_column else ""
        if label_column is not None and labels_needed and not label:
            problems.append(Problem(number, "no label"))
            continue
        try:
            found = {
                modality: CELLS[modality](cell[column], path.parent)
                for modality, column in inputs.items()
                if cell[column]
            }
        except UserError as error:
            problems.append(Problem(number, str(error)))
            continue
        if not found:
            words = " nor ".join(word(modality) for modality in inputs)
            problems.append(Problem(number, f"neither {words}"))
            continue
        rows.append(
            Row(
                number=number,
                inputs={modality: value for modality, (value, _) in found.items()},
                label=label,
                group=f"group {group}" if group else f"row {number}",
                digests={modality: digest for modality, (_, digest) in found.items() if digest},
            )
        )
    return Table(path, tuple(inputs), tuple(rows), tuple(problems))


def columns(path: str | Path) -> list[str]:
    """The names of a CSV's columns; raises UserError as `read_table` does."""
    return _records(Path(path))[0]


def _records(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the cells of each row that has any with its number in the file.

    Rows without any content before the header do not count as one, but are numbered.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            read = [(n, cells) for n, cells in _numbered(csv.reader(stream, strict=True))]
    except UnicodeDecodeError as error:
        raise expected(
            f"{path.name} in UTF-8", f"byte {error.start} that is not", "save it as CSV UTF-8"
        ) from None
    except csv.Error as error:
        raise expected(
            f"{path.name} as CSV", str(error), "quote cells that hold quotes or line breaks"
        ) from None
    except FileNotFoundError:
        raise expected("a CSV file", f"no file {path}", "check the path") from None
    except IsADirectoryError:
        raise expected("a CSV file", f"the folder {path}", "name the file in it") from None
    except PermissionError:
        raise expected(
            f"a CSV file that may be read at {path}", "no permission", "change its permissions"
        ) from None
    if len(read) < 2:
        raise expected(
            f"a header and rows in {path.name}",
            f"{len(read)} rows",
            "write the columns' names first",
        )
    header = [name.strip() for name in read[0][1]]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise expected(
            f"each column once in {path.name}",
            f"{_names(twice)} more than once",
            "rename one of them",
        )
    return header, read[1:]


def _numbered(records: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """The rows with any content, numbered as a spreadsheet does."""
    return ((n, cells) for n, cells in enumerate(records, start=1) if any(map(str.strip, cells)))


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def describe(problems: Sequence[Problem]) -> str:
    """The first few problems in one line, with the number of the others."""
    shown = "; ".join(f"row {problem.row}: {problem.reason}" for problem in problems[:LISTED])
    return shown + (f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else "")


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
    """{modality: rows whose input is in another group too}: what a split by group lets through.

    Pictures are compared by their bytes, words without regard to capitals.
    """
    counts = {}
    for modality in table.modalities:
        contents = [row.content(modality).casefold() for row in table.rows]
        groups = defaultdict(set)
        for content, row in zip(contents, table.rows, strict=True):
            groups[content].add(row.group)
        counts[modality] = sum(1 for c in contents if c and len(groups[c]) > 1)
    return counts


def unknown_labels(table: Table, classes: Sequence[str]) -> list[Problem]:
    """The rows whose label a model with these classes does not know; an empty label is none."""
    return [
        Problem(row.number, f"label '{row.label}'")
        for row in table.rows
        if row.label and row.label not in classes
    ]
