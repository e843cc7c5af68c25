"""Chapter 08, equation by equation: against loops, brute force, counters and what is listed."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from strategies import error_line, normal
from transformers import LlamaConfig, LlamaForCausalLM

from mmlib.book.exercises.chapter_08 import EXERCISES
from mmlib.book.exercises.chapter_08_turns import (
    CACHE_MISTAKES,
    GREEDY_MISTAKES,
    cached_attention,
    greedy,
    top_p,
)
from mmlib.book.writer import (
    END,
    START,
    THINGS,
    ThingEncoder,
    beam_search,
    caption_batch,
    changes,
    code_of,
    count_words,
    draw_scenes,
    ids_of,
    name_things,
    one_word_off,
    overlap,
    patches,
    quantize,
    see,
    short_caption,
    text_of,
    unpatch,
)
from mmlib.data.scenes.batches import WORD_INDEX
from mmlib.data.scenes.captions import is_true
from mmlib.data.scenes.world import COLOR_NAMES, RELATIONS, SHAPES, SIZES, WORDS
from mmlib.errors import UserError
from mmlib.evaluation.inference import evaluating
from mmlib.generation import generate, next_distribution
from mmlib.models.multimodal_lm import DecodingCache, MultimodalLM

D, LAYERS, HEADS = 16, 2, 2


def writer(prefix=False, layers=LAYERS):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=D, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=HEADS, tie_word_embeddings=True, initializer_range=D**-0.5,
    )  # fmt: skip
    return MultimodalLM(LlamaForCausalLM(config), {"image": ThingEncoder(D)}, prefix).eval()


def prompt(model):
    return [model.placeholders["image"]] * THINGS + [START]


def refused(run):
    """The one line in which it is refused."""
    with pytest.raises(UserError) as error:
        run()
    error_line(error)
    return str(error.value)


def looked(n=1):
    return {"image": normal(7, n, THINGS, 128, dtype=torch.float32)}


# --- equations ------------------------------------------------------------------------------------


def test_8_1_a_texts_probability_is_the_product_of_its_words():
    """All texts of the writer that counts, listed: their products add up to 1."""
    next_word = count_words(["a star", "a star", "a red star", "no star", "a red circle"])
    found: dict[str, float] = {}
    beginnings = [([], 1.0)]
    while beginnings:
        words, p = beginnings.pop()
        for word, q in next_word(words).items():
            if word == "[SEP]":
                found[" ".join(words)] = p * q
            else:
                beginnings.append(([*words, word], p * q))
    assert sum(found.values()) == pytest.approx(1)
    assert found["a star"] == pytest.approx(2 / 5)  # as often as it was read
    assert found["no star"] == pytest.approx(1 / 5)


def test_8_2_overlap_counts_each_word_as_often_as_the_reference_has_it():
    assert overlap("there is a small blue circle", "there is a small red circle") == 5 / 6
    assert overlap("there are two stars", "there is a small red circle") == 1 / 4
    assert overlap("a a a", "a star and a circle") == 2 / 3
    assert overlap("", "a star") == 0


def test_8_3_temperature():
    z = normal(1, 1, 6)
    for T in (0.5, 1.0, 3.0):
        powers = [math.exp(float(s) / T) for s in z[0]]
        assert next_distribution(z, T)[0].tolist() == pytest.approx(
            [p / sum(powers) for p in powers], rel=1e-4
        )


@pytest.mark.parametrize("bound", [0.3, 0.7, 0.95])
def test_8_4_top_p_keeps_the_fewest_words_that_have_the_bound(bound):
    """By brute force over all sets of words."""
    p = normal(2, 6).softmax(-1)
    sets = [s for s in product((0, 1), repeat=6) if float((p * torch.tensor(s)).sum()) >= bound]
    fewest = max(sets, key=lambda s: (-sum(s), float((p * torch.tensor(s)).sum())))
    kept = p * torch.tensor(fewest)
    for found in (next_distribution(p.log()[None], 1.0, 0, bound)[0], top_p(p, bound)):
        assert found.tolist() == pytest.approx((kept / kept.sum()).tolist(), rel=1e-4)


def tokens_read(model, new, cache):
    read = []
    hook = model.language.model.register_forward_hook(
        lambda m, given, out: read.append(out.last_hidden_state.shape[1])
    )
    generate(model, [prompt(model)], looked(), max_new_tokens=new, cache=cache)
    hook.remove()
    return sum(read)


@pytest.mark.parametrize("new", [1, 2, 9])
def test_8_5_tokens_read(new):
    model, first = writer(), THINGS + 1
    assert tokens_read(model, new, False) == new * first + new * (new - 1) // 2
    assert tokens_read(model, new, True) == first + new - 1
    assert EXERCISES["8.3"].right(first, new) == (
        tokens_read(model, new, False), tokens_read(model, new, True),
    )  # fmt: skip


@torch.no_grad()
def test_8_6_numbers_in_the_cache():
    model, cache = writer(), DecodingCache()
    model(torch.tensor([prompt(model) + [5, 6]]), inputs=looked(), cache=cache)
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.past.layers)
    assert kept == 2 * LAYERS * HEADS * (D // HEADS) * (THINGS + 3)


@pytest.mark.parametrize("T", [0.4, 1.0, 2.5])
def test_8_7_entropy_grows_with_the_temperature(T):
    z = normal(3, 7)
    T = torch.tensor(T, dtype=torch.float64, requires_grad=True)
    p = (z / T).softmax(-1)
    (slope,) = torch.autograd.grad(-(p * p.log()).sum(), T)
    p = p.detach()
    variance = sum(float(a) * float(s) ** 2 for a, s in zip(p, z, strict=True)) - (
        sum(float(a) * float(s) for a, s in zip(p, z, strict=True)) ** 2
    )
    assert slope.item() == pytest.approx(variance / T.item() ** 3)
    assert slope > 0


def test_8_8_each_number_goes_to_the_nearest_of_its_levels():
    levels = (3, 5)
    z = normal(4, 40, 2)
    q = quantize(z, levels)
    for row, found in zip(z.tolist(), q.tolist(), strict=True):
        for value, got, steps in zip(row, found, levels, strict=True):
            grid = [2 * n / (steps - 1) - 1 for n in range(steps)]
            assert got == pytest.approx(min(grid, key=lambda g: abs(g - math.tanh(value))))
    assert code_of(torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, -0.5]]), levels).tolist() == [
        0, 14, 6,
    ]  # fmt: skip


def test_the_gradient_of_a_code_passes_the_rounding():
    z = normal(5, 6, 2).requires_grad_()
    quantize(z, (5, 5)).sum().backward()
    assert torch.allclose(z.grad, 1 - z.detach().tanh() ** 2)
    assert "1 levels" in refused(lambda: quantize(z[:, :1], (5, 5)))


def test_patches_are_put_back_where_they_were_cut():
    pictures = normal(6, 2, 64, 64, 3)
    squares = patches(pictures)
    assert squares.shape == (2, 64, 192)
    assert torch.equal(squares[0, 9].view(8, 8, 3), pictures[0, 8:16, 8:16])
    assert torch.equal(unpatch(squares), pictures)


# --- masks ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_mask_of_the_things_reaches_the_words_from_the_second_layer_on():
    for layers in (1, 2):
        causal, prefix = writer(False, layers), writer(True, layers)
        ids = torch.tensor([prompt(causal) + [5, 6]])
        apart = (causal(ids, inputs=looked()) - prefix(ids, inputs=looked())).abs().amax(-1)[0]
        assert (apart[: THINGS - 1] > 1e-3).all()  # the last thing sees all of them either way
        assert bool((apart[THINGS:] > 1e-4).any()) == (layers == 2)


# --- the writer's parts ---------------------------------------------------------------------------


def test_scenes_and_captions():
    scenes = draw_scenes("validation", 30)
    assert scenes == draw_scenes("validation", 30) != draw_scenes("train", 30)
    rng = np.random.default_rng(0)
    said = [short_caption(scene, rng) for scene in scenes for _ in range(5)]
    assert all(
        is_true(s, scene)
        for s, scene in zip(said, [x for x in scenes for _ in range(5)], strict=True)
    )
    words = {word for s in said for word in s.split()}
    assert not words & {w for r in RELATIONS for w in r.split()}
    assert {"and", "are", "is"} <= words


def test_words_and_ids():
    assert text_of(ids_of("a red star")) == "a red star"
    assert ids_of("a red star")[-1] == END
    assert "'pink'" in refused(lambda: ids_of("a pink star"))


@pytest.fixture(scope="module")
def seen():
    scenes = draw_scenes("validation", 60)
    return scenes, *see(scenes)


def test_small_sees_the_things_of_a_scene(seen):
    scenes, things, names = seen
    assert things.shape == (60, THINGS, 128) and names.shape == (60, THINGS, 3)
    right = 0
    for scene, row, words in zip(scenes, things, names, strict=True):
        there = (row != 0).any(-1)
        assert there.tolist() == sorted(there.tolist(), reverse=True)
        wanted = [
            [WORD_INDEX[COLOR_NAMES[t.color]], WORD_INDEX[SHAPES[t.shape]],
             WORD_INDEX[SIZES[t.size]]]
            for t in sorted(scene.things, key=lambda t: t.cell)
        ]  # fmt: skip
        right += words[there].tolist() == wanted
    assert right >= 57


def test_a_things_token_is_near_the_sum_of_its_words(seen):
    _, things, names = seen
    torch.manual_seed(0)
    encoder, embedding = ThingEncoder(D), torch.randn(len(WORDS), D)
    left = name_things(encoder, embedding, things, names)
    there = (things != 0).any(-1)
    with torch.no_grad():
        token = encoder(things)
    assert torch.equal(token.mask, there)
    wanted = embedding[names[there]].sum(1)
    unmet = (token.value[there] - wanted).square().sum()
    spread = (wanted - wanted.mean(0)).square().sum()
    assert float(unmet / spread) == pytest.approx(left, rel=1e-3)
    assert left < 0.3
    assert not encoder(things, torch.zeros(60).bool()).mask.any()


def test_the_loss_is_at_the_words_and_the_end():
    batch = caption_batch(["a star", "a red star"], 99)
    assert batch["ids"][0].tolist() == [99] * THINGS + [START, *ids_of("a star"), 0]
    assert batch["answer"].sum(1).tolist() == [3, 4]
    assert not batch["answer"][:, : THINGS + 1].any()


def test_a_writer_that_counts_ranks_words_by_how_often_they_followed():
    next_word = count_words(["a star", "a star", "a circle"])
    assert list(next_word(["a"]).items()) == [("star", 2 / 3), ("circle", 1 / 3)]
    assert next_word(["of", "nothing"]) == {"[SEP]": 1.0}


def test_a_false_sentence_is_named_by_the_one_word_that_is_wrong():
    star = next(s for s in draw_scenes("train", 2000) if len(s.things) == 1)
    (thing,) = star.things
    size, color, shape = SIZES[thing.size], COLOR_NAMES[thing.color], SHAPES[thing.shape]
    other = SIZES[1 - thing.size]
    color_2, shape_2 = (next(x for x in xs if x != y) for xs, y in
                        ((COLOR_NAMES, color), (SHAPES, shape)))  # fmt: skip
    assert one_word_off(f"there is a {other} {color} {shape}", star) == ["size"]
    assert one_word_off(f"there is a {size} {color_2} {shape}", star) == ["color"]
    assert one_word_off(f"there is a {size} {color} {shape_2}", star) == ["shape"]
    assert one_word_off(f"there is a {other} {color_2} {shape}", star) == []
    assert one_word_off(f"there are two {shape}s", star) == []  # of one there is no number word
    assert one_word_off(f"there are no {shape}s", star) == ["shape"]
    pair = next(s for s in draw_scenes("train", 2000)
                if len(s.things) == 2 and len({t.shape for t in s.things}) == 1)  # fmt: skip
    shape = SHAPES[pair.things[0].shape]
    assert one_word_off(f"there are three {shape}s", pair) == ["number"]
    assert "a caption such as" in refused(lambda: one_word_off("square a", pair))


def test_a_sentence_without_eyes_may_be_true_of_every_picture():
    assert all(is_true("there is an object", s) for s in draw_scenes("validation", 200))


def test_the_product_of_section_8_1():
    """Of the captions that the chapter counts, 0.57 begin with "there is a"."""
    rng = np.random.default_rng(8)
    captions = [short_caption(scene, rng) for scene in draw_scenes("train", 2000)]
    next_word = count_words(captions)
    factors = [next_word([])["there"], next_word(["there"])["is"], next_word(["there", "is"])["a"]]
    assert [round(p, 2) for p in factors] == [0.76, 0.78, 0.95]
    assert round(math.prod(factors), 2) == 0.57
    begin = sum(c.startswith("there is a ") for c in captions) / len(captions)
    assert begin == pytest.approx(math.prod(factors))


def test_the_references_that_section_8_2_leaves_out_name_no_color_but_orange():
    drawn = np.random.default_rng(80)
    for scene in draw_scenes("validation", 200):
        reference, _ = (short_caption(scene, drawn) for _ in range(2))
        false = [s for s in changes(reference) if not is_true(s, scene)]
        named = set(reference.split()) & set(COLOR_NAMES)
        assert bool(false) == bool(named - {"orange"})


def test_a_pair_that_is_kept_out_of_training_is_in_no_caption():
    names = {t.name for scene in draw_scenes("train", 2000) for t in scene.things}
    assert "red square" not in names and {"red star", "blue square"} <= names


def test_a_false_sentence_differs_in_one_color():
    found = list(changes("there is a red star"))
    assert "there is a blue star" in found and "there is a red star" not in found
    assert "there is a orange star" not in found
    assert len(found) == len(COLOR_NAMES) - 2


# --- beam search ----------------------------------------------------------------------------------


def table(texts):
    """Logits of a model over four words, 3 the end, whose answers depend on the last word."""
    p = {(): [0.5, 0.4, 0.05, 0.05], 0: [0.2, 0.35, 0.25, 0.2], 1: [0.0, 0.0, 0.1, 0.9],
         2: [0.0, 0.0, 0.5, 0.5]}  # fmt: skip
    return torch.tensor([p[ids[-1] if ids else ()] for ids in texts]).log()


def log_p(ids):
    return sum(float(table([ids[:n]])[0, word]) for n, word in enumerate(ids))


def test_a_wide_beam_finds_the_most_probable_text_and_a_beam_of_one_is_greedy():
    texts = [list(t) + [3] for n in range(4) for t in product(range(3), repeat=n)]
    best = max(texts, key=log_p)
    found, p = beam_search(table, 500, 6, end=3)
    assert [*found, 3] == best and p == pytest.approx(log_p(best), rel=1e-4)
    ids: list[int] = []
    while not ids or ids[-1] != 3 and len(ids) < 6:
        ids.append(int(table([ids])[0].argmax()))
    narrow, p = beam_search(table, 1, 6, end=3)
    assert narrow == [n for n in ids if n != 3] and narrow != found
    assert "a width of 1" in refused(lambda: beam_search(table, 0))


# --- what the reader writes -----------------------------------------------------------------------


def said(name, answer):
    return EXERCISES[name].judge(answer)


def test_your_turn_8_a_is_the_greedy_of_the_package():
    """The reader's loop around a model of the package writes what `generate` writes."""
    model = writer()
    start, inputs = prompt(model), looked()

    def next_word(words):
        ids = torch.tensor([start + [WORD_INDEX[w] for w in words]])
        with evaluating(model):
            p = model(ids, inputs=inputs)[0, -1].softmax(-1)
        return dict(zip(WORDS, p.tolist(), strict=True))

    written = generate(model, [start], inputs, max_new_tokens=9, stop=[[END]])[0]
    assert greedy(next_word, 9) == [WORDS[n] for n in written]
    assert said("8.A", greedy) == ""


@pytest.mark.parametrize("n", range(len(GREEDY_MISTAKES)))
def test_each_mistake_of_8_a_is_named(n):
    mistake, sentence = GREEDY_MISTAKES[n]
    assert sentence in said("8.A", mistake)


def test_an_endless_loop_of_8_a_is_stopped_and_a_string_is_no_list():
    def endless(next_word, most):
        while True:
            next_word([])

    with pytest.raises(RuntimeError, match="never ends"):
        said("8.A", endless)
    assert "one string" in said("8.A", lambda f, most: " ".join(greedy(f, most)))


def test_your_turn_8_c_is_the_last_row_of_causal_attention():
    Q, K, V = normal(1, 6, 4), normal(2, 6, 4), normal(3, 6, 4)
    kept = torch.zeros(0, 4, dtype=Q.dtype), torch.zeros(0, 4, dtype=Q.dtype)
    for n in range(6):
        h, *kept = cached_attention(Q[n], K[n], V[n], *kept)
        scores = torch.tensor([float(Q[n] @ K[j]) / 2 for j in range(n + 1)], dtype=Q.dtype)
        assert torch.allclose(h, scores.softmax(-1) @ V[: n + 1])
    assert torch.equal(kept[0], K) and torch.equal(kept[1], V)
    assert said("8.C", cached_attention) == ""


@pytest.mark.parametrize("n", range(len(CACHE_MISTAKES)))
def test_each_mistake_of_8_c_is_named(n):
    wrong, sentence = CACHE_MISTAKES[n]
    assert sentence in said("8.C", lambda *case: cached_attention(*case, **wrong))


def test_8_c_says_what_it_was_given():
    assert "Three things" in said("8.C", lambda q, k, v, K, V: (q, K))
    assert "shapes were" in said("8.C", lambda q, k, v, K, V: (q, K, V))


def test_exercise_8_5_is_the_size_of_a_real_cache():
    """SmolLM2-135M's shape with narrow layers in place of its own: the cache does not see them."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=576, intermediate_size=8, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3,
    )  # fmt: skip
    model, cache = MultimodalLM(LlamaForCausalLM(config).eval(), {}), DecodingCache()
    with torch.no_grad():
        model(torch.ones(1, 2, dtype=torch.long), cache=cache)
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.past.layers)
    assert EXERCISES["8.5"].right == pytest.approx(kept / 2 * 1000 * 2 / 1e6)


def test_wrong_figures_are_refused_in_one_line():
    model = writer()
    for wrong in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}):
        line = refused(lambda wrong=wrong: generate(model, [prompt(model)], looked(), **wrong))
        assert "temperature 0.7" in line and "top_k 50" in line and "top_p 0.9" in line
    assert "4 placeholders" in refused(lambda: generate(model, [prompt(model)[1:]], looked()))
