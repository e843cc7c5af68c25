"""Generation: chapter 08. The document's `predict`, and a text written word by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.errors import expected
from mmlib.evaluation.inference import evaluating
from mmlib.models.multimodal_lm import DecodingCache, MultimodalLM


def predict(model: nn.Module, *inputs: Any) -> Tensor:
    """The most probable class of each sample, [B]; the document's `predict`.

    inputs are the model's own, and go to its device: text_input {"input_ids": [B, L],
    "attention_mask": [B, L]} and image_input [P, 3, size, size] in the document's order, or
    {modality: input} and {modality: present} by name. The modes of the model's modules are left as
    they came. Source: the document, sec. 4.
    """
    first = next(iter(model.parameters()), None)
    device = torch.device("cpu") if first is None else first.device
    with evaluating(model):
        return model(*_to(inputs, device)).argmax(dim=-1)


def generate(
    model: MultimodalLM, prompts: Sequence[Sequence[int]],
    inputs: Mapping[str, Any] | None = None, present: Mapping[str, Tensor] | None = None, *,
    max_new_tokens: int = 32, stop: Sequence[Sequence[int]] = (), temperature: float = 0.0,
    top_k: int = 0, top_p: float = 1.0, generator: torch.Generator | None = None,
    cache: bool = True,
) -> list[list[int]]:  # fmt: skip
    """What the model writes after each of B prompts of token ids, of whatever lengths: B lists.

    A text ends after `max_new_tokens`, or before the first of the token sequences in `stop`, which
    is not returned. temperature 0 takes the most probable token (greedy); above it one is drawn
    from `next_distribution`, with `generator` where one is given. inputs and present are those of
    `MultimodalLM.states`. Without `cache` all is read again for each token: the same text, slower.

    Raises UserError for an empty prompt and for figures with which nothing can be drawn.
    Source: Holtzman et al. (2020) for top-p; Fan et al. (2018) for top-k.
    """
    _check_sampling(prompts, max_new_tokens, temperature, top_k, top_p)
    device = next(model.parameters()).device
    ids, mask = pad_left(prompts)
    ids, mask = ids.to(device), mask.to(device)
    inputs, present = _to(inputs or {}, device), _to(present or {}, device)
    written: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    past = DecodingCache() if cache else None
    with evaluating(model):
        new, new_mask = ids, mask
        for _ in range(max_new_tokens):
            if past is not None and past.begun:
                states = model.states(new, new_mask, cache=past)
            else:
                states = model.states(new, new_mask, inputs, present, past)
            # padding stands on the left, so the last state of each row is that of its last token
            logits = model.head(states[:, -1])
            if temperature == 0:
                word = logits.argmax(-1)
            else:
                p = next_distribution(logits, temperature, top_k, top_p)
                word = torch.multinomial(p, 1, generator=generator)[:, 0]
            for row, token in enumerate(word.tolist()):
                if not ended[row]:
                    written[row].append(token)
                    ended[row] = _cut_at_stop(written[row], stop)
            if all(ended):
                break
            more = torch.ones_like(mask[:, :1])
            ids, mask = torch.cat([ids, word[:, None]], 1), torch.cat([mask, more], 1)
            new, new_mask = (ids, mask) if past is None else (word[:, None], more)
    return written


def next_distribution(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """The probabilities [B, V] that a token is drawn from, of logits [B, V].

    softmax(logits / temperature), of which the top_k most probable are kept (0: all), and of these
    the fewest that have top_p together; what is left is scaled to 1. Ties with the k-th are kept.
    Source: Fan et al. (2018); Holtzman et al. (2020).
    """
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    p = logits.softmax(-1)
    if top_p < 1:
        ranked, order = p.sort(-1, descending=True)
        # a token stays where those before it have less than top_p: the first always does
        ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= top_p, 0)
        p = torch.zeros_like(p).scatter(-1, order, ranked)
    return p / p.sum(-1, keepdim=True)


def pad_left(rows: Sequence[Sequence[int]], padding: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids of B rows as ids [B, L] and mask [B, L], padding on the left: all end together."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([[padding] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[False] * (length - len(row)) + [True] * len(row) for row in rows])
    return ids, mask


def _cut_at_stop(written: list[int], stop: Sequence[Sequence[int]]) -> bool:
    """Whether a text ends with one of `stop`, which is then taken off."""
    for end in stop:
        if end and written[-len(end) :] == list(end):
            del written[-len(end) :]
            return True
    return False


def _check_sampling(
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> None:
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise expected("prompts of one token or more", "an empty one", "begin with a start token")
    for name, value, good in (
        ("max_new_tokens of 1 or more", max_new_tokens, max_new_tokens >= 1),
        ("a temperature of 0 or more", temperature, 0 <= temperature < float("inf")),
        ("top_k of 0 (all) or more", top_k, top_k >= 0),
        ("top_p above 0, at most 1", top_p, 0 < top_p <= 1),
    ):
        if not good:
            usual = "usual are temperature 0.7 (0: greedy), top_k 50, top_p 0.9"
            raise expected(name, value, usual)


def _to(x: Any, device: torch.device) -> Any:
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, Mapping):
        return {name: _to(value, device) for name, value in x.items()}
    return tuple(_to(value, device) for value in x) if isinstance(x, tuple) else x
