"""A language model that reads pictures: placeholders, masks that do not leak, the loss, writing."""

import pytest
import torch
from strategies import normal
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mmlib.errors import UserError
from mmlib.evaluation.inference import evaluating
from mmlib.generation import generate, next_distribution, pad_left
from mmlib.losses import prefix_lm
from mmlib.models.multimodal_lm import DecodingCache, MultimodalLM
from mmlib.tokens import Tokens

V, D, EACH = 40, 16, 3
PICTURE = V


class Three(nn.Module):
    """An encoder of three tokens a picture [P, 4]."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, EACH * D)

    def forward(self, inputs, present=None):
        value = self.map(inputs).unflatten(1, (EACH, D))
        there = torch.ones(len(inputs), dtype=torch.bool) if present is None else present
        return Tokens(value, there[:, None].expand(-1, EACH))


def language(family="llama"):
    torch.manual_seed(0)
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=V, n_embd=D, n_layer=2, n_head=2, n_positions=64)
        ).eval()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V, hidden_size=D, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
            pad_token_id=0, eos_token_id=1, bos_token_id=2,
        )
    ).eval()  # fmt: skip


def model(prefix=False, family="llama"):
    built = MultimodalLM(language(family), {"image": Three()}, prefix)
    with torch.no_grad():  # random models of 16 columns barely listen: let them
        for p in built.parameters():
            if p.dim() > 1:
                p.mul_(8)
    return built.eval()


def text(*words):
    return torch.tensor([words])


def pictures(n):
    return {"image": normal(5, n, 4, dtype=torch.float32)}


WITH_PICTURE = (3, 4, PICTURE, PICTURE, PICTURE, 5, 6, 7)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_text_alone_gives_the_logits_of_the_language_model(family):
    built = model(family=family)
    ids = torch.randint(0, V, (2, 9), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(built(ids), built.language(ids).logits, atol=1e-4)


@torch.no_grad()
def test_pictures_stand_where_their_placeholders_stand():
    """The reference: the embeddings put together by hand and given to the language model."""
    built, inputs = model(), pictures(3)
    rows = torch.tensor(
        [(PICTURE,) * 3 + (1, 2, 3) + (PICTURE,) * 3, (1, 2, 3, 4, 5) + (PICTURE,) * 3 + (6,)]
    )
    x = built.language.model.embed_tokens(rows.clamp(max=V - 1)).clone()
    tokens = built.encoders["image"](inputs["image"]).value
    x[0, :3], x[0, 6:], x[1, 5:8] = tokens
    expected = built.language(inputs_embeds=x).logits
    assert torch.allclose(built(rows, inputs=inputs), expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("prefix", [False, True])
def test_a_later_token_changes_no_earlier_logit_by_a_bit(prefix):
    built, inputs = model(prefix), pictures(1)
    before = built(text(*WITH_PICTURE), inputs=inputs)
    after = built(text(*WITH_PICTURE[:-2], 9, 10), inputs=inputs)
    assert torch.equal(before[:, :-2], after[:, :-2])
    assert not torch.allclose(before[:, -2:], after[:, -2:])


@torch.no_grad()
@pytest.mark.parametrize("prefix", [False, True])
def test_who_sees_whom(prefix):
    """∂state_i/∂x_j is zero exactly where i may not see j: read off the gradient."""
    built, inputs = model(prefix), pictures(1)
    ids = text(*WITH_PICTURE)
    x, _ = built._embed(ids, torch.ones_like(ids).bool(), inputs, {})

    x.requires_grad_(True)
    built._embed = lambda *given: (x, torch.ones_like(ids).bool())
    with torch.enable_grad():
        states = built.states(ids)[0]
        rows = [torch.autograd.grad(s.sum(), x, retain_graph=True)[0][0] for s in states]
    listens = torch.stack(rows).abs().sum(-1) > 0
    order = torch.arange(len(WITH_PICTURE))
    block = torch.tensor([0, 1, 2, 2, 2, 5, 6, 7]) if prefix else order
    assert torch.equal(listens, block[None, :] <= block[:, None])


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("prefix", [False, True])
def test_padding_on_either_side_changes_nothing(side, prefix):
    built, inputs = model(prefix), pictures(1)
    alone = built(text(*WITH_PICTURE), inputs=inputs)
    padding = (9, 9)
    row = (*padding, *WITH_PICTURE) if side == "left" else (*WITH_PICTURE, *padding)
    ids = text(*row)
    mask = torch.ones_like(ids, dtype=torch.bool)
    real = slice(2, None) if side == "left" else slice(None, -2)
    mask[:, :2] = side == "right"
    mask[:, -2:] = side == "left"
    assert torch.allclose(built(ids, mask, inputs)[:, real], alone, atol=1e-4)


@torch.no_grad()
def test_a_missing_picture_is_a_mask_and_its_content_has_no_part():
    built, gone = model(), {"image": torch.tensor([False])}
    one = built(text(*WITH_PICTURE), inputs=pictures(1), present=gone)
    other = built(text(*WITH_PICTURE), inputs={"image": torch.ones(1, 4)}, present=gone)
    assert torch.equal(one[:, 5:], other[:, 5:])
    ids = text(*WITH_PICTURE)
    _, seen = built._embed(ids, torch.ones_like(ids).bool(), pictures(1), gone)
    assert torch.equal(seen, ids != PICTURE)  # zeros that may be seen would still be listened to
    assert not torch.allclose(one[:, 5:], built(text(*WITH_PICTURE), inputs=pictures(1))[:, 5:])


@torch.no_grad()
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_cache_gives_the_logits_of_reading_all_at_once_at_each_position(prefix, family):
    built, inputs = model(prefix, family), pictures(2)
    rows, mask = pad_left([WITH_PICTURE, (8, PICTURE, PICTURE, PICTURE, 4)])
    later = torch.randint(0, V, (2, 6), generator=torch.Generator().manual_seed(3))
    ids = torch.cat([rows, later], 1)
    whole = built(ids, torch.cat([mask, torch.ones(2, 6).bool()], 1), inputs)
    cache = DecodingCache()
    pieces = [built(rows, mask, inputs, cache=cache)]
    pieces += [built(later[:, n : n + 1], cache=cache) for n in range(6)]
    there = torch.cat([mask, torch.ones(2, 6).bool()], 1)
    assert torch.allclose(torch.cat(pieces, 1)[there], whole[there], atol=1e-4)


def test_the_loss_is_that_of_the_logits_at_the_answers():
    built, inputs = model(), pictures(1)
    ids, mask = text(*WITH_PICTURE), torch.ones(1, 8).bool()
    answer = torch.tensor([[False] * 6 + [True] * 2])
    total, count = built.answer_loss(ids, mask, answer, inputs)
    logits = built(ids, mask, inputs)
    by_logits, tokens = prefix_lm(logits, ids.clamp(max=V - 1), answer)
    assert torch.allclose(total, by_logits) and count == tokens == 2


def test_the_head_is_computed_at_the_answers_alone():
    built, seen = model(), []
    built.language.lm_head.register_forward_hook(lambda _, given, out: seen.append(out.shape))
    answer = torch.tensor([[False] * 6 + [True] * 2])
    built.answer_loss(text(*WITH_PICTURE), torch.ones(1, 8).bool(), answer, pictures(1))
    assert seen == [(2, V)]


def test_the_loss_reaches_the_encoder():
    built = model()
    answer = torch.tensor([[False] * 6 + [True] * 2])
    total, _ = built.answer_loss(text(*WITH_PICTURE), torch.ones(1, 8).bool(), answer, pictures(1))
    total.backward()
    assert built.encoders["image"].map.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "row, n, said",
    [
        ((1, PICTURE, PICTURE), 1, "3 placeholders for each of the 1 inputs of image, got 2"),
        (WITH_PICTURE, 2, "3 placeholders for each of the 2 inputs of image, got 3"),
    ],
)
def test_placeholders_that_do_not_fit_are_counted(row, n, said):
    with pytest.raises(UserError, match=said):
        model()(text(*row), inputs=pictures(n))


def test_a_picture_cut_over_two_texts_is_refused():
    rows = torch.tensor([(1, 2, PICTURE, PICTURE), (PICTURE, 3, 4, 5)])
    with pytest.raises(UserError, match="3 placeholders for each of the 1 inputs of image, got 2"):
        model()(rows, inputs=pictures(1))


def test_a_text_that_speaks_of_a_picture_needs_one():
    with pytest.raises(UserError, match="inputs of image for 3 placeholders, got none"):
        model()(text(*WITH_PICTURE))
    with pytest.raises(UserError, match="inputs of image, got sound"):
        model()(text(1, 2), inputs={"sound": torch.ones(1, 4)})


def test_a_model_without_words_is_refused():
    with pytest.raises(UserError, match="a head over its words, got LlamaModel"):
        MultimodalLM(language().model, {})


# --- writing --------------------------------------------------------------------------------------

PROMPTS = ([3, 4, 5], [6], [7, 8, 9, 10, 11])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_greedy_is_that_of_the_library(family):
    built = model(family=family)
    written = generate(built, PROMPTS, max_new_tokens=8)
    for prompt, found in zip(PROMPTS, written, strict=True):
        with evaluating(built):
            theirs = built.language.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(),
                max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        assert found == theirs[0, len(prompt) :].tolist()


def test_greedy_about_pictures_is_that_of_the_library():
    built, inputs = model(), pictures(1)
    ids = text(*WITH_PICTURE)
    with evaluating(built):
        x, mask = built._embed(ids, torch.ones_like(ids).bool(), inputs, {})
        theirs = built.language.generate(
            inputs_embeds=x, attention_mask=mask.long(), max_new_tokens=8, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert generate(built, [list(WITH_PICTURE)], inputs, max_new_tokens=8) == theirs.tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("prefix", [False, True])
def test_batch_or_single_cache_or_none_the_same_is_written(prefix, family):
    built, inputs = model(prefix, family), pictures(2)
    prompts = [list(WITH_PICTURE), [8, PICTURE, PICTURE, PICTURE, 4], [9, 9]]
    together = generate(built, prompts, inputs, max_new_tokens=10)
    assert together == generate(built, prompts, inputs, max_new_tokens=10, cache=False)
    singles = [
        generate(
            built,
            [prompt],
            {"image": inputs["image"][n : n + 1]} if n < 2 else None,
            max_new_tokens=10,
        )
        for n, prompt in enumerate(prompts)
    ]
    assert together == [single[0] for single in singles]
    assert len({tuple(words) for words in together}) > 1  # or little was compared


def test_a_text_ends_before_its_stop_words():
    built = model()
    (whole,) = generate(built, [[3, 4, 5]], max_new_tokens=8)
    end = whole[3:5]
    (cut,) = generate(built, [[3, 4, 5]], max_new_tokens=8, stop=[end])
    first = next(n for n in range(1, 8) if whole[n - 1 : n + 1] == end)
    assert cut == whole[: first - 1]


def test_a_seed_decides_what_is_drawn_and_small_top_p_is_greedy():
    built = model()

    def drawn(seed, **how):
        return generate(
            built,
            [[3, 4, 5]] * 4,
            max_new_tokens=6,
            generator=torch.Generator().manual_seed(seed),
            **how,
        )

    assert drawn(0, temperature=2.0) == drawn(0, temperature=2.0) != drawn(1, temperature=2.0)
    greedy = generate(built, [[3, 4, 5]] * 4, max_new_tokens=6)
    assert drawn(0, temperature=2.0, top_p=1e-6) == drawn(0, temperature=2.0, top_k=1) == greedy


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (5, 1.0), (0, 0.6), (7, 0.8), (V + 5, 0.999)])
def test_the_distribution_is_that_of_the_library(temperature, top_k, top_p):
    logits = normal(1, 6, V, dtype=torch.float32) * 2
    theirs = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    theirs = TopPLogitsWarper(top_p)(None, theirs).softmax(-1)
    found = next_distribution(logits, temperature, top_k, top_p)
    assert torch.allclose(found, theirs, atol=1e-6)
    assert torch.equal(found > 0, theirs > 0)


@pytest.mark.parametrize(
    "how, said",
    [
        ({"temperature": -1.0}, "a temperature of 0 or more, got -1.0"),
        ({"top_p": 0.0}, "top_p above 0, at most 1, got 0.0"),
        ({"top_k": -1}, "top_k of 0"),
        ({"max_new_tokens": 0}, "max_new_tokens of 1 or more"),
    ],
)
def test_figures_with_which_nothing_can_be_drawn(how, said):
    with pytest.raises(UserError, match=said):
        generate(model(), [[1]], **how)
    with pytest.raises(UserError, match="prompts of one token or more"):
        generate(model(), [[1], []])
