"""Features of a table: computed once each, kept by content, and batches made of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from strategies import error_line
from table_makers import Vectors, tiny_bert, tiny_resnet
from torch import nn

from mmlib.data.cache import SHARD, cached, cached_rows, digest
from mmlib.data.features import ABSENT, Features, Stream, extract
from mmlib.data.frozen import FrozenPicture, FrozenText, fingerprint
from mmlib.data.table import Row
from mmlib.data.table_batches import TableBatches, batch_of
from mmlib.encoders.pretrained import load_image, load_text
from mmlib.errors import UserError
from mmlib.tokens import Tokens

# ---------------------------------------------------------------- the cache


def numbered(asked: list[list[int]], keys: Sequence[str]):
    """A `compute` that notes the keys it is asked for; the tensor of "k7" is 7."""

    def compute(places: list[int]) -> list[torch.Tensor]:
        asked.append([int(keys[i][1:]) for i in places])
        return [torch.tensor([float(keys[i][1:])]) for i in places]

    return compute


@given(st.lists(st.integers(0, 200), min_size=1), st.lists(st.integers(0, 200), min_size=1))
def test_only_what_is_new_is_computed_whatever_stands_beside_it(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("cache")
    for numbers, known in ((first, set()), (second, set(first)), (second, {*first, *second})):
        asked: list[list[int]] = []
        keys = [f"k{n}" for n in numbers]
        found = cached_rows(folder, keys, numbered(asked, keys))
        assert [int(x) for x in found] == numbers
        computed = [n for part in asked for n in part]
        assert sorted(computed) == sorted(set(numbers) - known)
        assert all(len(part) <= SHARD for part in asked)


def test_a_damaged_shard_is_computed_again_and_the_others_are_kept(tmp_path):
    keys = [f"k{n}" for n in range(SHARD + 10)]
    cached_rows(tmp_path, keys, numbered([], keys))
    path = max(tmp_path.glob("*.safetensors"), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:100])
    asked: list[list[int]] = []
    found = cached_rows(tmp_path, keys, numbered(asked, keys))
    assert [int(x) for x in found] == list(range(SHARD + 10))
    assert [len(part) for part in asked] == [SHARD]


def test_a_foreign_file_among_the_shards_does_no_harm(tmp_path):
    save_file({"weights": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert [int(x) for x in cached_rows(tmp_path, ["k5"], numbered([], ["k5"]))] == [5]


def test_what_was_computed_under_a_key_is_kept_and_what_does_not_fit_is_not(tmp_path):
    calls = []

    def compute(value: float):
        calls.append(value)
        return {"x": torch.tensor([value])}

    key = ["a", "b"]
    assert cached(tmp_path, key, lambda: compute(1.0))["x"] == 1
    assert cached(tmp_path, key, lambda: compute(2.0))["x"] == 1
    assert cached(tmp_path, ["ab"], lambda: compute(3.0))["x"] == 3
    assert cached(tmp_path, ["a", "bb"], lambda: compute(4.0))["x"] == 4
    (path,) = [p for p in tmp_path.glob("*") if b"\x00\x00\x80?" in p.read_bytes()]  # 1.0
    path.write_bytes(path.read_bytes()[:-1])
    assert cached(tmp_path, key, lambda: compute(5.0))["x"] == 5
    assert cached(tmp_path, key, lambda: compute(6.0), lambda found: "y" in found)["x"] == 6
    assert calls == [1, 3, 4, 5, 6]


def test_the_parts_of_a_key_are_kept_apart():
    lists = [("a", "b"), ("ab",), ("a\0b",), ("a", "b", ""), ("", "a", "b"), ("a1:b",)]
    assert len({digest(*parts) for parts in lists}) == len(lists)


# ---------------------------------------------------------------- what a network gives


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    tiny_bert(folder / "text")
    tiny_resnet(folder / "image")
    text, tokenizer = load_text(folder / "text")
    return text, tokenizer, load_image(folder / "image")


@pytest.fixture
def text(networks) -> FrozenText:
    return FrozenText(networks[0], networks[1], 8)


@pytest.fixture
def image(networks) -> FrozenPicture:
    return FrozenPicture(networks[2], 32)


def rows_of(*inputs: dict, digests: Sequence[dict] = ()) -> list[Row]:
    return [
        Row(n, given, "A", f"g{n}", digests[n] if digests else {})
        for n, given in enumerate(inputs)
    ]


def worded(*texts: str) -> list[Row]:
    return rows_of(*[{"text": t} if t else {} for t in texts])


def test_a_text_has_the_features_that_it_has_alone(text, tmp_path):
    """No neighbor pads it; a batch changes nothing but the rounding."""
    texts = ["red", "red day", "blue night red", "day " * 20, "", "red day blue"]
    stream = extract({"text": text}, worded(*texts), tmp_path).streams["text"]
    for number, words in enumerate(texts):
        tokens = stream.tokens(stream.index[number : number + 1])
        alone = text.features([words]).float()
        if not words:
            alone = alone[:, :1]
        assert tokens.mask.all() and tokens.value.shape == alone.shape
        assert torch.allclose(tokens.value, alone, atol=2e-3)
    together = stream.tokens(stream.index)
    assert together.mask.sum(1).tolist() == [3, 4, 5, 8, 1, 5]


def test_one_added_text_is_all_that_is_computed(text, tmp_path, monkeypatch):
    texts = [" ".join(["red", "day", "blue", "night"][i % 4] for i in range(n)) for n in (1, 2, 5)]
    before = extract({"text": text}, worded(*texts), tmp_path)
    asked = []
    real = text.features
    monkeypatch.setattr(text, "features", lambda inputs: asked.append(list(inputs)) or real(inputs))
    after = extract({"text": text}, worded("night", *texts), tmp_path)
    assert asked == [["night"], [""]]  # the empty text is not kept
    old, new = before.streams["text"], after.streams["text"]
    kept = new.tokens(new.index[1:]).value
    assert torch.equal(old.tokens(old.index).value, kept)


def test_long_texts_are_cut_at_their_end_and_counted(text, tmp_path):
    long = "red day blue night red day " + "blue " * 20
    found = extract({"text": text}, worded("red day", long), tmp_path)
    assert found.cut == {"text": 1}
    beginning = text.features(["red day blue night red day"])  # six words and two marks
    stream = found.streams["text"]
    assert torch.allclose(stream.value[2].float(), beginning[0].float(), atol=2e-3)
    end = text.features(["blue " * 6])
    assert not torch.allclose(stream.value[2].float(), end[0].float(), atol=1e-1)


def test_a_tokenizer_that_cuts_at_the_beginning_is_set_right(networks):
    bert, tokenizer, _ = networks
    tokenizer.truncation_side = "left"
    column = FrozenText(bert, tokenizer, 4)
    assert torch.equal(column.features(["red day blue night"]), column.features(["red day"]))


def test_more_word_pieces_than_positions_are_refused(networks):
    with pytest.raises(UserError) as error:
        FrozenText(networks[0], networks[1], 17)
    error_line(error, "at most 16", "17")


@pytest.fixture
def painted(tmp_path) -> list[Row]:
    inputs, digests = [], []
    for number, color in enumerate(("red", "blue", "red")):
        Image.new("RGB", (40, 40), color).save(tmp_path / f"{number}.png")
        inputs.append({"image": tmp_path / f"{number}.png"})
        digests.append({"image": color})
    return rows_of(*inputs, {}, digests=[*digests, {}])


def test_pictures_of_the_same_bytes_share_an_entry_and_none_is_absent(image, painted, tmp_path):
    stream = extract({"image": image}, painted, tmp_path).streams["image"]
    assert stream.index.tolist() == [1, 2, 1, ABSENT] and len(stream.value) == 3
    tokens = stream.tokens(stream.index)
    assert tokens.mask.all(1).tolist() == [True, True, True, False]
    assert not tokens.mask[3].any()
    assert torch.allclose(tokens.value[1], image.features([painted[1].inputs["image"]])[0].float())
    # a batch of absent pictures has the whole grid: a projection counts its cells
    assert stream.tokens(torch.tensor([ABSENT])).value.shape == tokens.value[:1].shape


def test_features_are_kept_by_all_that_decides_them(networks, painted, tmp_path):
    """Another size, another length, another network: nothing of the old files may come back."""
    bert, tokenizer, resnet = networks
    folder = tmp_path / "cache"
    rows = [replace(row, inputs={**row.inputs, "text": "red day blue"}) for row in painted]

    bias, kernel = bert.embeddings.LayerNorm.bias, resnet.network[0].weight

    def found(length: int, size: int, change: float = 0.0) -> Features:
        before = [x.detach().clone() for x in (bias, kernel)]
        with torch.no_grad():
            bias.add_(change)
            kernel.add_(change)
            columns = {
                "text": FrozenText(bert, tokenizer, length), "image": FrozenPicture(resnet, size)
            }  # fmt: skip
            result = extract(columns, rows, folder)
            bias.copy_(before[0])
            kernel.copy_(before[1])
        return result

    first, longer, larger, other = found(4, 32), found(5, 32), found(4, 64), found(4, 32, 0.5)
    again = found(4, 32)
    for name in ("text", "image"):
        # the first entry is what stands for a missing input, and is never kept
        kept, same, changed = (f.streams[name].value[1:] for f in (first, again, other))
        assert torch.equal(kept, same) and not torch.equal(kept, changed)
    assert first.streams["text"].value.shape[1] + 1 == longer.streams["text"].value.shape[1]
    assert larger.streams["image"].value.shape[1] == 4 > first.streams["image"].value.shape[1]
    plain = [FrozenPicture(resnet, size).key() for size in (32, 64)]
    assert plain[0] != plain[1]


def test_pictures_of_two_sizes_with_one_grid_are_not_confused(networks, painted, tmp_path):
    """A 40-pixel and a 64-pixel picture both give 2 × 2 cells."""
    found = [
        extract({"image": FrozenPicture(networks[2], size)}, painted, tmp_path).streams["image"]
        for size in (40, 64)
    ]
    assert found[0].value.shape == found[1].value.shape
    assert not torch.equal(found[0].value, found[1].value)


def test_a_fingerprint_is_of_names_and_bytes():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    assert fingerprint(first) != fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(nn.Sequential(first)) != fingerprint(first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_fingerprint_is_the_same_on_a_gpu():
    net = nn.Linear(2, 2)
    assert fingerprint(net) == fingerprint(net.cuda())


# ---------------------------------------------------------------- batches


def random_features(rows: int = 4) -> Features:
    g = torch.Generator().manual_seed(0)
    texts = [torch.randn(n, 16, generator=g).half() for n in (2, 5, 3)]
    pictures = [torch.randn(6, 8, generator=g).half() for _ in range(3)]
    first = Tokens.all_visible(torch.randn(1, 1, 16, generator=g).half())
    blank = Tokens.all_visible(torch.zeros(1, 6, 8).half()).absent()
    index = [1, 2, 3, ABSENT][:rows]
    return Features(
        {"image": Stream.of(blank, pictures, index), "text": Stream.of(first, texts, index)}, {}
    )


def test_pooled_features_are_means_over_what_is_there():
    features = random_features()
    pooled = features.pooled(["image", "text"])
    image, text = features.streams["image"], features.streams["text"]
    assert pooled.shape == (4, 8 + 16) and not pooled[3, :8].any()
    assert torch.allclose(pooled[1, :8], image.value[2].float().mean(0), atol=1e-5)
    assert torch.allclose(pooled[0, 8:], text.value[1, :2].float().mean(0), atol=1e-5)
    assert torch.equal(features.pooled(["text"]), pooled[:, 8:])


def test_a_batch_holds_what_is_shown_and_exchanges_what_is_named():
    features, rows = random_features(), torch.tensor([0, 2])
    batch = batch_of(features, rows, ["text"])
    assert set(batch) == {"value.text", "mask.text"}
    both = batch_of(features, rows, ["image", "text"], {"image": torch.tensor([1, 3])})
    assert torch.equal(both["value.text"], batch["value.text"])
    assert torch.equal(both["value.image"][0], features.streams["image"].value[2].float())
    assert both["mask.image"].any(1).tolist() == [True, False]


def test_an_epoch_is_each_row_once_in_an_order_of_its_own():
    features = random_features()
    streams = {"text": replace(features.streams["text"], index=torch.arange(10) % 4)}
    target = torch.arange(10)
    rows = torch.tensor([1, 3, 4, 5, 7, 8, 9])
    data = TableBatches(Features(streams, {}), target, rows, ("text",), 3, seed=5)
    assert data.steps(2) == 6
    labels = [data.batch(step)["label"].tolist() for step in range(6)]
    assert [len(x) for x in labels] == [3, 3, 1, 3, 3, 1]
    first, second = sum(labels[:3], []), sum(labels[3:], [])
    assert sorted(first) == sorted(second) == rows.tolist() and first != second
    assert data.batch(4)["label"].tolist() == labels[4]  # whenever it is asked for
    other = replace(data, seed=6)
    assert sum((other.batch(step)["label"].tolist() for step in range(3)), []) != first
    batch = data.batch(0)
    expected = streams["text"].tokens(streams["text"].index[batch["label"]])
    assert torch.equal(batch["value.text"], expected.value)


def test_a_new_modality_is_extracted_without_a_word_about_it(tmp_path):
    column = Vectors(2, limit=3)
    rows = rows_of(
        {"sensors": [[1.0, 2.0]]}, {}, {"sensors": [[1.0, 2.0], [3.0, 4.0]]},
        {"sensors": [[0.0, 0.0]] * 5},
    )  # fmt: skip
    found = extract({"sensors": column}, rows, Path(tmp_path))
    stream = found.streams["sensors"]
    assert found.cut == {"sensors": 1} and stream.length[stream.index].tolist() == [1, 1, 2, 3]
    assert found.pooled(["sensors"]).tolist() == [[1, 2], [0, 0], [2, 3], [0, 0]]
