"""A language model learns to see: its model, its two tasks, and what of it is kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.data.scenes.texts import WORDS_OF_BLOCKS, TextProcessor, block_words
from mmlib.encoders import GridEncoder, scale_pixels
from mmlib.encoders.blocks import BlockEncoder
from mmlib.losses import IGNORE, label_weight
from mmlib.models.language import add_lora, load_language
from mmlib.models.multimodal_lm import MultimodalLM
from mmlib.tasks.language_recipe import LanguageRecipe
from mmlib.tasks.small import load_small
from mmlib.training.seeds import derive_seed
from mmlib.training.task import Task

EMPTY_WEIGHT = 0.1  # most blocks are empty


def build(recipe: LanguageRecipe, lora: bool = True) -> tuple[MultimodalLM, TextProcessor]:
    """The model of a recipe, its projector and LoRA drawn from its seed, and what writes for it.

    Raises UserError where the weights of the language model are not to be found.
    """
    language, tokenizer = load_language(recipe.language)
    return assemble(language, tokenizer, recipe, lora)


def assemble(
    language: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: LanguageRecipe,
    lora: bool = True,
) -> tuple[MultimodalLM, TextProcessor]:  # fmt: skip
    """As `build`, of a language model that is at hand; it is frozen."""
    torch.manual_seed(derive_seed(recipe.seed))
    grid = load_small().model.encoders["image"]
    assert isinstance(grid, GridEncoder)
    table = language.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    encoder = BlockEncoder(grid, table.embedding_dim)
    language.requires_grad_(False)
    if lora:
        add_lora(language, recipe.rank)
    model = MultimodalLM(language, {"image": encoder})
    return model, TextProcessor(tokenizer, model.placeholders["image"], encoder.length)


class PartlyFrozenTask(Task):
    """A task of which only what is trained is saved: what is frozen comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_only_trained)
        self.register_load_state_dict_post_hook(_lacks_only_frozen)


def _only_trained(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    trained = {prefix + name for name, p in module.named_parameters() if p.requires_grad}
    for name in [n for n in state if n.startswith(prefix) and n not in trained]:
        del state[name]


def _lacks_only_frozen(module: nn.Module, keys: object) -> None:
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    missing = keys.missing_keys  # type: ignore[attr-defined]
    missing[:] = [name for name in missing if name in trained]


class LanguageTask(PartlyFrozenTask):
    """−log p of the answers and captions, given the picture and the text before them."""

    def __init__(self, model: MultimodalLM):
        super().__init__()
        self.model = model

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The answer tokens of a batch of `TextBatches`."""
        target = batch["ids"].masked_fill(~batch["answer"], IGNORE)
        return {"answer": label_weight(target.flatten())}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """{"answer": (sum, count)} of a batch of `TextBatches`."""
        pictures = scale_pixels(batch["pictures"], channels_last=True)
        return {
            "answer": self.model.answer_loss(
                batch["ids"], batch["mask"], batch["answer"], {"image": pictures}
            )
        }


class BlockTask(PartlyFrozenTask):
    """The projector without the language model: its tokens near the words of their block.

    The loss is the squared distance to `block_words`, in units of the words' own mean square.
    """

    words: Tensor

    def __init__(self, encoder: BlockEncoder, model: MultimodalLM, processor: TextProcessor):
        super().__init__()
        self.encoder = encoder
        table = model.language.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        ids = [processor.ids(f" {word}")[-1] for word in WORDS_OF_BLOCKS]
        self.register_buffer("words", table.weight.detach()[ids].clone(), persistent=False)

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weight of the blocks' tokens of a batch of `BlockBatches`."""
        return {"blocks": self._weights(batch)[1].sum()}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """{"blocks": (sum, count)} of a batch of `BlockBatches`."""
        target, weight = self._weights(batch)
        tokens = self.encoder(scale_pixels(batch["pictures"], channels_last=True)).value
        distance = (tokens.view_as(target) - target).square().mean((-1, -2))
        unit = self.words.square().mean()
        return {"blocks": ((distance / unit * weight).sum(), weight.sum())}

    def _weights(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the tokens should be [P, 16, 2, d] and how much each block weighs [P, 16]."""
        embedding = dict(zip(WORDS_OF_BLOCKS, self.words, strict=True))
        target, there = block_words(embedding, batch["cells"])
        return target, torch.where(there, 1.0, EMPTY_WEIGHT)
