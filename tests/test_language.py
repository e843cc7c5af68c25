"""A language model learns to see: blocks, texts, LoRA, stages, and what is kept of a run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mmlib.data.plain import QUESTIONS, holds
from mmlib.data.scenes.stream import held_out_scenes
from mmlib.data.scenes.texts import (
    END,
    WORDS_OF_BLOCKS,
    BlockBatches,
    TextBatches,
    block_words,
    blocks_of,
    pixels,
)
from mmlib.data.scenes.world import COLOR_NAMES, COLUMNS, SHAPES, SIZES, cell_targets, render
from mmlib.encoders import scale_pixels
from mmlib.encoders.pretrained import PARTS
from mmlib.errors import UserError
from mmlib.models.language import add_lora, load_language
from mmlib.tasks.language import BlockTask, LanguageTask, assemble
from mmlib.tasks.language_recipe import LanguageRecipe
from mmlib.tasks.language_report import (
    answer_texts,
    caption_truth,
    conversation_score,
    describe,
    generate_texts,
    kept_language,
    report,
)
from mmlib.tasks.language_run import load_language_run, train_language, train_stages
from mmlib.training.checkpoint import read_checkpoint
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.interrupts import Interrupted

SHORT = TrainingConfig(steps=4, lr=1e-3, warmup_steps=1, evaluate_every=2)
RECIPE = LanguageRecipe(
    "a language model of these tests", pictures=2, questions=2, block_pictures=2, rank=2,
    block_steps=4, projector_steps=4, training=SHORT,
)  # fmt: skip
ON_CPU = Execution(workers=0, checkpoint_every=1, device="cpu")


def tokenizer():
    """Each byte a token: no file is needed, and " red" is four of them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(BPE({letter: n for n, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    chat = "{% for m in messages %}{{ m['content'] }}{% endfor %}|"
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=chat)


def language():
    torch.manual_seed(3)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip


def built():
    return assemble(language(), tokenizer(), RECIPE)


# --- texts ----------------------------------------------------------------------------------------


def test_a_conversation_marks_the_answers_and_nothing_else():
    _, processor = built()
    ids, answer = processor.conversation([("how many?", "two"), ("what color?", "red")])
    assert (
        ids[: processor.tokens] == [processor.placeholder] * processor.tokens
        and processor.tokens == 32
    )
    words = processor.tokenizer.decode(ids[processor.tokens :])
    assert words == "how many? two\nwhat color? red\n"
    said = [i for i, a in zip(ids, answer, strict=True) if a]
    assert processor.tokenizer.decode(said) == " two\n red\n"


def test_a_batch_is_the_same_whenever_it_is_asked_for_and_others_differ():
    _, processor = built()
    data = TextBatches(processor, 0, 2, 3, (1, 4))
    first, again, other = data.batch(5), data.batch(5), data.batch(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["ids"].shape != other["ids"].shape or not torch.equal(first["ids"], other["ids"])
    assert not (first["answer"] & ~first["mask"]).any()
    assert BlockBatches(0, 2, (1, 4)).batch(0)["cells"].shape == (2, 64, 3)


def test_the_words_of_blocks_are_those_of_what_lies_in_them():
    """Against a loop over the things of each scene."""
    scenes = [scene for scene, _ in held_out_scenes("validation", 20)]
    cells = torch.from_numpy(np.stack([cell_targets(s).reshape(64, 3) for s in scenes])).long()
    table = torch.randn(len(WORDS_OF_BLOCKS), 5, generator=torch.Generator().manual_seed(0))
    embedding = dict(zip(WORDS_OF_BLOCKS, table, strict=True))
    found, there = block_words(embedding, cells)
    for n, scene in enumerate(scenes):
        for block in range(16):
            top, left = block // 4, block % 4
            things = [
                t for t in scene.things if t.cell // 8 // 2 == top and t.cell % 8 // 2 == left
            ]
            assert bool(there[n, block]) == bool(things)
            if not things:
                assert torch.equal(found[n, block], embedding["empty"].expand(2, -1))
                continue
            first = [
                embedding[COLOR_NAMES[t.color]] + 0.5 * embedding[SIZES[t.size]]
                + 0.5 * embedding[COLUMNS[t.cell % 8]]
                for t in things
            ]  # fmt: skip
            second = [
                embedding[SHAPES[t.shape]] + 0.5 * embedding[str(t.cell // 8 + 1)] for t in things
            ]
            want = torch.stack([torch.stack(x).mean(0) for x in (first, second)])
            assert torch.allclose(found[n, block], want, atol=1e-6)


def test_blocks_put_the_four_cells_of_a_square_side_by_side():
    number = torch.arange(64)[None]
    assert blocks_of(number)[0, 0].tolist() == [0, 1, 8, 9]
    assert blocks_of(number)[0, 5].tolist() == [18, 19, 26, 27]


def test_the_encoder_reads_the_cells_of_the_blocks_it_names():
    model, _ = built()
    encoder = model.encoders["image"]
    drawn = pixels([scene for scene, _ in held_out_scenes("validation", 3)])
    pictures = scale_pixels(drawn, channels_last=True)
    with torch.no_grad():
        cells = encoder.backbone(pictures).value
        blocks = encoder.features(pictures).value
        tokens = encoder(pictures, torch.tensor([True, False, True]))
    want = blocks_of(cells).flatten(2)
    assert torch.allclose(blocks, want) and tokens.value.shape == (3, 32, 32)
    assert tokens.mask.all(1).tolist() == [True, False, True] and not tokens.mask[1].any()


# --- LoRA and weights -----------------------------------------------------------------------------


def test_lora_changes_nothing_at_first_and_is_all_that_is_trained():
    plain, ids = language(), torch.arange(9)[None]
    adapted = language()
    add_lora(adapted, rank=2)
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, adapted(ids).logits)
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    d, k, m = 32, 16, 48  # width, width of the keys, width of the feed-forward part
    a_layer = 2 * (2 * (d + d) + 2 * (d + k) + 3 * (d + m))
    assert sum(p.numel() for p in trained.values()) == 2 * a_layer


def test_a_task_saves_what_it_trains_and_loads_it_again():
    model, _ = built()
    task = LanguageTask(model)
    state = task.state_dict()
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    assert set(state) == trained and not any("embed" in name for name in state)
    changed = {name: x + 1 for name, x in state.items()}
    task.load_state_dict(changed)
    assert all(torch.equal(task.state_dict()[name], x) for name, x in changed.items())
    del changed[sorted(changed)[0]]
    with pytest.raises(RuntimeError, match="Missing"):
        task.load_state_dict(changed)


def test_a_folder_gives_the_model_saved_there(tmp_path):
    saved = language()
    saved.save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    model, words = load_language(tmp_path / "m")
    ids = torch.tensor([words("a red star").input_ids])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, saved(ids).logits)
    assert not model.training


def test_a_folder_without_a_model_is_named_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none"}))
    with pytest.raises(UserError, match="a causal language model with its tokenizer"):
        load_language(tmp_path)


def test_smollm2_comes_from_its_package_and_answers():
    """The real one, from its GGUF file, made floats once: width and head as its card says."""
    model, words = load_language("smollm2-135m-instruct")
    table = model.get_input_embeddings().weight
    assert table.shape == (49152, PARTS["smollm2-135m-instruct"].width)
    assert model.get_output_embeddings().weight.data_ptr() == table.data_ptr()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(134.5e6, rel=1e-3)
    ids = torch.tensor([words("The capital of France is").input_ids])
    with torch.no_grad():
        assert words.decode(model(ids).logits[0, -1].argmax()) == " Paris"


# --- training -------------------------------------------------------------------------------------


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def test_stages_train_what_they_say_and_go_on_where_they_were_cut_off(tmp_path, monkeypatch):
    model, processor = built()
    before = weights(model)
    seconds = train_stages(model, processor, RECIPE, tmp_path / "whole", ON_CPU, validation=2)
    assert set(seconds) == {"blocks", "projector", "whole"}
    after = weights(model)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    of_projector, _, _ = read_checkpoint(tmp_path / "whole/projector/last")
    assert not any(".lora_" in name for name in of_projector)
    log = [json.loads(line) for line in (tmp_path / "whole/whole/log.jsonl").open()]
    assert {"overall", "captions"} <= set(log[-1]["score"])

    # once more, cut off in the last stage by an error in its third batch
    model, processor = built()
    batch = TextBatches.batch
    calls = []

    def fails(self, step):
        calls.append(step)
        if len(calls) == 4 + 3:
            raise Interrupted("cut off")
        return batch(self, step)

    monkeypatch.setattr(TextBatches, "batch", fails)
    with pytest.raises(Interrupted):
        train_stages(model, processor, RECIPE, tmp_path / "cut", ON_CPU, validation=2)
    monkeypatch.setattr(TextBatches, "batch", batch)
    model, processor = built()  # a new process
    train_stages(model, processor, RECIPE, tmp_path / "cut", ON_CPU, validation=2)
    resumed = weights(model)
    assert all(torch.equal(resumed[name], after[name]) for name in after)


def test_a_stopped_run_names_itself_and_not_its_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mmlib.tasks.language.load_language", lambda name: (language(), tokenizer())
    )

    def stopped(self, step):
        raise Interrupted("stopped; go on with: mmlib train --resume blocks")

    monkeypatch.setattr(BlockBatches, "batch", stopped)
    out = tmp_path / "run"
    with pytest.raises(Interrupted) as error:
        train_language(RECIPE, out, ON_CPU)
    assert str(error.value).endswith(f"go on with: mmlib train --resume {out}")
    with pytest.raises(UserError, match="folder for this recipe"):
        train_language(replace(RECIPE, rank=3), out, ON_CPU)


def test_a_run_is_loaded_with_what_it_has_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mmlib.tasks.language.load_language", lambda name: (language(), tokenizer())
    )
    monkeypatch.setattr("mmlib.tasks.language_run.REPORTED", 1)
    short = replace(SHORT, steps=1, evaluate_every=1)
    recipe = replace(RECIPE, block_steps=0, projector_steps=0, training=short)
    result = train_language(recipe, tmp_path, ON_CPU)
    again, model, _ = load_language_run(tmp_path)
    assert again == recipe and result["recipe"] == recipe.to_json()
    learned, _, _ = read_checkpoint(tmp_path / "whole" / "last")
    found = LanguageTask(model).state_dict()
    assert found and not model.training
    assert all(torch.equal(found[name], learned[name]) for name in found)


def test_without_words_the_first_stage_is_left_out(tmp_path):
    model, processor = built()
    seconds = train_stages(
        model, processor, replace(RECIPE, block_steps=0), tmp_path, ON_CPU, validation=2
    )
    assert list(seconds) == ["projector", "whole"] and not (tmp_path / "blocks").exists()


def test_the_first_stage_draws_the_tokens_to_their_words():
    model, processor = built()
    task = BlockTask(model.encoders["image"], model, processor)
    batch = BlockBatches(0, 8, (1, 4)).batch(0)
    optimizer = torch.optim.AdamW(model.encoders["image"].parameters(), 3e-3)
    losses = []
    for _ in range(60):
        total, count = task(batch)["blocks"]
        assert torch.allclose(count, task.counts(batch)["blocks"])
        losses.append((total / count).item())
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


# --- the report -----------------------------------------------------------------------------------


def test_captions_are_true_false_or_no_sentence():
    scene = next(s for s, _ in held_out_scenes("validation", 50) if len(s.things) == 1)
    thing = scene.things[0]
    color, shape = COLOR_NAMES[thing.color], SHAPES[thing.shape]
    wrong = COLOR_NAMES[(thing.color + 1) % 8]
    told = [f"there is a {color} {shape}".replace("a orange", "an orange"), "", "red red"]
    told += [f"there is a {wrong} {shape}".replace("a orange", "an orange")]
    found = caption_truth(told, [scene] * 4)
    assert found == ["true", "no sentence", "no sentence", "false"]


class Says(torch.nn.Module):
    """A model that foretells each token of what it reads, but for those at `wrong` of each text."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def states(self, ids, mask, inputs):
        told = ids.roll(-1, 1)
        told[:, [n - 1 for n in self.wrong]] += 1
        return torch.nn.functional.one_hot(told, 300).float()

    def head(self, states):
        return states


def test_an_answer_is_right_when_all_of_its_tokens_are():
    _, processor = built()
    drawn = held_out_scenes("validation", 6, questions=3)
    scenes = 0
    for wrong in ((), (70,), (60, 61, 75, 90)):
        right = []
        for _, questions in drawn:
            ids, answer = processor.conversation([(f"{q.text}?", q.answer) for q in questions])
            at = 0
            for q in questions:  # where each answer begins and ends, counted anew
                begins = next(n for n in range(at, len(ids)) if answer[n])
                at = begins + len(processor.ids(f" {q.answer}{END}"))
                right.append(not any(begins <= n < at for n in wrong))
        scenes += 0 < np.mean(right) < 1
        found = conversation_score(Says(wrong), processor, drawn)
        assert found["overall"] == pytest.approx(np.mean(right))
    assert scenes == 2  # or nothing was told apart


def test_the_report_shows_each_question_its_own_picture():
    model, processor = built()
    drawn = held_out_scenes("validation", 3, questions=2)
    scenes = [scene for scene, _ in drawn]
    said = answer_texts(model, processor, drawn, [[s] for s in scenes])
    single = [
        generate_texts(model, processor, [f"{q.text}?"], [[render(scene)]], max_new_tokens=6)[0]
        for scene, questions in drawn
        for q in questions
    ]
    assert said == single
    assert len(describe(model, processor, scenes)) == 3
    found = report(model, processor, drawn)
    assert set(found["controls"]) == {"shuffled", "none", "two"}
    assert found["accuracy"] == found["by_kind"]["overall"]
    assert found["captions"]["seen"]["no sentence"]["mean"] == 1  # nothing was learned


def test_what_is_kept_of_the_language_is_measured_on_text_alone():
    model, processor = built()
    found = kept_language(model, processor)
    assert found["perplexity"] == pytest.approx(256, rel=0.1)  # one byte in 256 at random
    assert len(found["answers"]) == len(QUESTIONS) == 40


def test_an_answer_is_held_by_whole_words():
    assert holds("It is Au.", "au") and not holds("Because gold is auric.", "au")
    assert holds("There are 7 days", "seven|7") and not holds("There are 17 days", "seven|7")
    assert holds("South America", "south america")
