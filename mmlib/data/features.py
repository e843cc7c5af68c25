"""Frozen features: each input goes through its backbone once, and is kept on disk.

A frozen backbone gives the same features in every epoch and every fold, so they are computed once
and cached in the run folder, keyed one by one by the content that they were computed from: after an
interruption, or with rows added, only what is new is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mmlib.data.cache import cached_rows
from mmlib.data.frozen import FrozenColumn
from mmlib.data.table import Row, word
from mmlib.tokens import Tokens

ABSENT = 0  # the entry of a stream that stands for an input that is not there


@dataclass(frozen=True)
class Stream:
    """The features of one modality for N rows.

    value [1 + U, L, width] (half precision) and mask [1 + U, L] of U different inputs, length
    [1 + U] of which are tokens and not padding at the end; index [N] says which belongs to a row.
    Entry ABSENT is what stands for a missing input, so a missing modality is an index and nothing
    else needs to know of it.
    """

    value: Tensor
    mask: Tensor
    length: Tensor
    index: Tensor

    @classmethod
    def of(cls, absent: Tokens, values: Sequence[Tensor], index: Sequence[int]) -> Stream:
        """The absent entry [1, L, width] and one [L, width] for each input, padded at the end."""
        parts = [(absent.value[0], absent.mask[0])]
        parts += [(value, torch.ones(len(value), dtype=torch.bool)) for value in values]
        length = torch.tensor([len(value) for value, _ in parts])
        longest = int(length.max())
        return cls(
            torch.stack([F.pad(value, (0, 0, 0, longest - len(value))) for value, _ in parts]),
            torch.stack([F.pad(mask, (0, longest - len(mask))) for _, mask in parts]),
            length,
            torch.tensor(index, dtype=torch.long),
        )

    def tokens(self, entries: Tensor) -> Tokens:
        """Entries [B] of the stream as Tokens [B, L, width], no longer than the longest of them."""
        longest = int(self.length[entries].max())
        return Tokens(self.value[entries, :longest].float(), self.mask[entries, :longest])


@dataclass(frozen=True)
class Features:
    """The features of N rows, a `Stream` a modality; `cut` counts the inputs that were shortened.

    Which modalities there are is known by the names alone.
    """

    streams: Mapping[str, Stream]
    cut: Mapping[str, int]

    def tokens(
        self, rows: Tensor, shown: Iterable[str], exchanged: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tokens]:
        """{modality: Tokens [B, L, width]} of these rows [B], for the modalities that are shown.

        exchanged {modality: rows [B]} names other rows from which a modality is taken instead.
        """
        taken = exchanged or {}
        return {
            name: self.streams[name].tokens(self.streams[name].index[taken.get(name, rows)])
            for name in shown
        }

    def pooled(self, shown: Sequence[str]) -> Tensor:
        """Mean of each shown modality's tokens side by side [N, Σ width]; zeros where missing."""
        return torch.cat([self._means[name] for name in shown], 1)

    @cached_property
    def _means(self) -> dict[str, Tensor]:
        means = {}
        for name, stream in self.streams.items():
            entries = torch.arange(len(stream.value)).split(512)
            means[name] = torch.cat([stream.tokens(e).mean() for e in entries])[stream.index]
        return means


def extract(columns: Mapping[str, FrozenColumn], rows: Sequence[Row], folder: Path) -> Features:
    """The features of these rows, a stream a column; what `folder` holds is not computed again."""
    found = {name: _stream(name, column, rows, folder) for name, column in columns.items()}
    return Features(
        {name: stream for name, (stream, _) in found.items()},
        {name: cut for name, (_, cut) in found.items()},
    )


def _stream(
    name: str, column: FrozenColumn, rows: Sequence[Row], folder: Path
) -> tuple[Stream, int]:
    """One modality's features, and how many inputs were cut."""
    inputs = {row.content(name): row.inputs[name] for row in rows if name in row.inputs}
    sized = dict(zip(inputs, column.sizes(list(inputs.values())), strict=True)) if inputs else {}
    contents = sorted(inputs, key=lambda content: (sized[content], content))
    key = column.key()
    with tqdm(total=len(inputs), desc=word(name, many=True), unit="row", disable=None) as bar:

        def compute(places: list[int]) -> list[Tensor]:
            """One batch for each number of tokens, so that nothing is padded."""
            found: list[Tensor] = []
            for _, group in groupby(places, key=lambda i: sized[contents[i]][0]):
                found += column.features([inputs[contents[i]] for i in group])
            bar.update(len(places))
            return found

        keys = ["\0".join([*key, content]) for content in contents]
        values = dict(zip(contents, cached_rows(folder, keys, compute), strict=True))
    entry = {content: number for number, content in enumerate(inputs, start=1)}
    index = [entry[row.content(name)] if name in row.inputs else ABSENT for row in rows]
    stream = Stream.of(column.absent(), [values[content] for content in inputs], index)
    return stream, sum(was_cut for _, was_cut in sized.values())
