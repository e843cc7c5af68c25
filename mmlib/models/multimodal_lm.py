"""A causal language model that reads other modalities as tokens: chapters 08, 10, 16."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from mmlib.attention import attention_mask
from mmlib.errors import expected
from mmlib.losses import IGNORE, masked_lm


class DecodingCache:
    """What a model has read so far of B texts: begins empty, one a batch of texts.

    past holds the keys and values of each layer; beside them stand who may see which token (mask
    and block numbers [B, L], see `attention_mask`) and where the next word of each text stands.
    """

    def __init__(self) -> None:
        self.past = DynamicCache()
        self._read: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def begun(self) -> bool:
        """Whether anything was read."""
        return self._read is not None

    def append(
        self, mask: Tensor, block: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mask and block numbers of all tokens [B, L_k], numbers and places of the new [B, L].

        mask, block and place are those of the new tokens by themselves.
        """
        seen, numbers = mask, block
        if self._read is not None:
            before, earlier, next_place = self._read
            block, place = block + before.shape[1], place + next_place
            seen, numbers = torch.cat([before, mask], 1), torch.cat([earlier, block], 1)
        self._read = seen, numbers, place[:, -1:] + 1
        return seen, numbers, block, place


class MultimodalLM(nn.Module):
    """Any causal language model of transformers, with encoders whose tokens stand in its text.

    encoders {modality: encoder}: `encoder(inputs, present)` returns Tokens [P, L_m, d], d the width
    of the language model. Where a picture is to be read, the text holds L_m times the id
    `placeholders["image"]`, which is no word of the vocabulary: it can be asked for by no text, and
    never be written. A text may hold any number of pictures, or none.

    With `prefix` the tokens of one picture see each other; without, each sees those before it, as
    words do. Two pictures side by side count as one there.

    Raises UserError for a language model without a head over its words.
    Source: Liu et al. (2023), LLaVA, for the tokens in the text; Beyer et al. (2024), PaliGemma,
    for the prefix.
    """

    words: int

    def __init__(
        self, language: PreTrainedModel, encoders: Mapping[str, nn.Module], prefix: bool = False
    ):
        super().__init__()
        head = language.get_output_embeddings()
        if head is None:
            raise expected(
                "a causal language model with a head over its words", type(language).__name__,
                "load it with AutoModelForCausalLM",
            )  # fmt: skip
        self.language, self.prefix = language, prefix
        self.encoders = nn.ModuleDict(encoders)
        # the newer name in transformers, and the older one
        takes = signature(language.base_model.forward).parameters
        self._cache_name = "cache" if "cache" in takes else "past_key_values"
        table = language.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        self.words = int(table.num_embeddings)
        self.placeholders = {name: self.words + number for number, name in enumerate(encoders)}

    def forward(
        self, ids: Tensor, mask: Tensor | None = None, inputs: Mapping[str, Any] | None = None,
        present: Mapping[str, Tensor] | None = None, cache: DecodingCache | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits [B, L, V] about the token after each of ids [B, L]; see `states`."""
        return self.head(self.states(ids, mask, inputs, present, cache))

    def head(self, states: Tensor) -> Tensor:
        """Logits [..., V] of states [..., d]."""
        return self.language.get_output_embeddings()(states)

    def answer_loss(
        self, ids: Tensor, mask: Tensor, answer: Tensor, inputs: Mapping[str, Any] | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """−log p(y | x_t, x_i; θ), eq. (5.6), and the number of answer tokens.

        ids, mask and answer are [B, L]; answer is True at the tokens of y. It equals `prefix_lm` of
        the logits; the head is computed at the answers alone.

        Raises UserError as `states`, and where a text begins with its answer.
        """
        if answer.dtype != torch.bool or answer.shape != ids.shape or answer[:, 0].any():
            raise expected(
                f"a boolean answer {list(ids.shape)} that begins after the first token",
                f"{answer.dtype} {list(answer.shape)}", "mark the tokens of the answer with True",
            )  # fmt: skip
        states = self.states(ids, mask, inputs, present)
        target = ids.masked_fill(~answer, IGNORE)
        # the state at n − 1 is about token n; the shift happens here and nowhere else
        return masked_lm(states[:, :-1], self.head, target[:, 1:])

    def states(
        self, ids: Tensor, mask: Tensor | None = None, inputs: Mapping[str, Any] | None = None,
        present: Mapping[str, Tensor] | None = None, cache: DecodingCache | None = None,
    ) -> Tensor:  # fmt: skip
        """The language model's last hidden states [B, L, d] of ids [B, L].

        mask [B, L] is False at padding, on either side. inputs {modality: what its encoder reads}
        in the order in which the texts, one after the other, hold their placeholders; present
        {modality: [P]} is False where one of them is missing. With a `cache` the ids go on from
        what it holds, and are added to it.

        Raises UserError where placeholders and inputs do not fit, or a picture would be cut in two.
        """
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        x, visible = self._embed(ids, mask, inputs or {}, present or {})
        block = self._block_numbers(ids)
        # places count what is no padding; a picture that is missing keeps its places
        place = (mask.cumsum(1) - 1).clamp(min=0)
        asking, seen = block, visible
        if cache is not None:
            seen, block, asking, place = cache.append(visible, block, place)
        allowed = attention_mask(seen, block, asking)
        # added to the scores: what one may not see gets the least number, which all models take
        bias = torch.zeros_like(allowed, dtype=x.dtype)
        bias = bias.masked_fill(~allowed, torch.finfo(x.dtype).min)
        past = {} if cache is None else {self._cache_name: cache.past}
        out = self.language.base_model(
            inputs_embeds=x, attention_mask=bias, position_ids=place,
            use_cache=cache is not None, **past,
        )  # fmt: skip
        return out.last_hidden_state

    def _embed(
        self, ids: Tensor, mask: Tensor, inputs: Mapping[str, Any], present: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Words and encoders' tokens in their places, x [B, L, d], and what may be seen [B, L]."""
        if ids.shape != mask.shape or ids.dim() != 2:
            raise expected(
                "ids and mask of one shape [B, L]", f"{list(ids.shape)} and {list(mask.shape)}",
                "pad the texts to one length",
            )  # fmt: skip
        if unknown := sorted((set(inputs) | set(present)) - set(self.placeholders)):
            raise expected(
                f"inputs of {', '.join(self.placeholders) or 'no modality'}", ", ".join(unknown),
                "check the names",
            )  # fmt: skip
        embed = self.language.get_input_embeddings()
        x = embed(ids.masked_fill(ids >= self.words, 0))
        visible = mask
        for name, placeholder in self.placeholders.items():
            here = (ids == placeholder) & mask
            if name not in inputs:
                if here.any():
                    raise expected(
                        f"inputs of {name} for {int(here.sum())} placeholders", "none",
                        f"pass inputs={{'{name}': …}}",
                    )  # fmt: skip
                continue
            tokens = self.encoders[name](inputs[name], present.get(name))
            _check_placeholders(name, here, *tokens.mask.shape)
            x = x.masked_scatter(here[..., None], tokens.visible().to(x.dtype))
            visible = visible.masked_scatter(here, tokens.mask)
        return x, visible

    def _block_numbers(self, ids: Tensor) -> Tensor:
        """Who may see whom, [B, L]: 0, 1, 2, …; with `prefix` one number for a whole picture."""
        order = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        if not self.prefix:
            return order
        inside = ids >= self.words
        begins = ~inside | ~F.pad(inside[:, :-1], (1, 0))
        return torch.where(begins, order, 0).cummax(1).values


def _check_placeholders(name: str, here: Tensor, pieces: int, each: int) -> None:
    """Raises UserError where the placeholders [B, L] are not whole pieces of `each` tokens."""
    a_text = here.sum(1)
    if int(a_text.sum()) != pieces * each or (a_text % each).any():
        wrong = next((int(n) for n in a_text if n % each), int(a_text.sum()))
        raise expected(
            f"{each} placeholders for each of the {pieces} inputs of {name}", wrong,
            "write the placeholder as often as the encoder gives tokens",
        )  # fmt: skip
