"""Any number of modalities: a third one, made here of an encoder and a name, in every fusion."""

import itertools
from collections.abc import Mapping

import pytest
import torch
from strategies import HOSTILE, error_line, normal
from torch import Tensor, nn
from transformers import masking_utils

from mmlib.encoders import Encoder, GridEncoder, TextEncoder, resnet_for_small_pictures, small_bert
from mmlib.errors import UserError
from mmlib.fusion import FUSIONS
from mmlib.models import FusionModel, FusionOutput, MultimodalBert, preset
from mmlib.tokens import Tokens

d, C, B, L_t, L_s, VOCABULARY = 16, 4, 4, 5, 6, 20
every_fusion = pytest.mark.parametrize("fusion", list(FUSIONS))
TOKEN_LEVEL = [name for name in FUSIONS if not FUSIONS[name].pooled]


class SensorRows(Encoder):
    """Rows of three readings [B, L, 3] as tokens: all that a new modality needs."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(3, 8), nn.Tanh()), 8, d)


class Foreign(nn.Module):
    """An encoder that is no `Encoder`: it keeps the promise of the call alone."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, d)

    def forward(self, rows: Tensor, present: Tensor | None = None) -> Tokens:
        tokens = Tokens.all_visible(self.linear(rows))
        return tokens if present is None else Tokens(tokens.value, tokens.mask & present[:, None])


def build(
    fusion: str = "merged", names: tuple[str, ...] = ("text", "image", "sensors"), layers: int = 2
) -> FusionModel:
    """Encoders in that order; whatever they are called, the kinds are text, picture, sensors."""
    torch.manual_seed(0)
    kinds = (
        lambda: TextEncoder(small_bert(VOCABULARY, 8, 1, 2, 8), d),
        lambda: GridEncoder(resnet_for_small_pictures(), 128, d, 16),
        SensorRows,
    )
    encoders = {name: make() for name, make in zip(names, kinds, strict=True)}
    model = FusionModel(encoders, d, 2, layers, fusion, C)
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            parameter.data.fill_(1.0)
    return model


def given(seed: int = 0, names=("text", "image", "sensors"), P: int = B) -> dict:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (B, L_t), generator=generator)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pictures = normal(seed + 1, P, 3, 16, 16, dtype=torch.float32)
    sensors = normal(seed + 2, B, L_s, 3, dtype=torch.float32)
    return dict(zip(names, (text, pictures, sensors), strict=True))


def presence(pattern: Mapping[str, bool]) -> dict[str, Tensor]:
    """All but the first row as the pattern says; the first has everything."""
    return {m: torch.tensor([True] + [there] * (B - 1)) for m, there in pattern.items()}


def spoiled(x, rows: Tensor, value: float):
    """The inputs with `value` in these rows; a text's words are exchanged, which have no NaN."""
    if isinstance(x, Mapping):
        return x | {"input_ids": torch.where(rows[:, None], 7, x["input_ids"])}
    return torch.where(rows.view(-1, *[1] * (x.dim() - 1)), value, x)


# --- a third modality -----------------------------------------------------------------------------


@every_fusion
def test_three_modalities_are_learned_together(fusion):
    """Eight steps lower the loss, and every encoder and every fusion gets gradient."""
    model = build(fusion).train()
    model.encoders["image"].freeze("conv1", "bn1", "layer1", "layer2")  # else it is all BatchNorm
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    inputs, target = given(), torch.tensor([0, 1, 2, 3])
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        for name, encoder in model.encoders.items():
            assert encoder.proj.weight.grad.abs().sum() > 0, name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@every_fusion
def test_the_answer_depends_on_each_modality(fusion):
    model = build(fusion).eval()
    logits, other = model(given()), given(9)
    for name in model.modalities:
        changed = model(given() | {name: other[name]})
        assert (logits - changed).abs().max() > 1e-4, name


@every_fusion
@pytest.mark.parametrize("pattern", list(itertools.product([True, False], repeat=3)))
def test_any_of_the_modalities_may_be_missing(fusion, pattern):
    """Finite logits and gradients; what stands in a row that is missing reaches neither."""
    model = build(fusion).train()
    shown = presence(dict(zip(model.modalities, pattern, strict=True)))
    outcomes = []
    for value in (0.0, 1e10, float("nan")):
        model.zero_grad()
        inputs = {m: spoiled(x, ~shown[m], value) for m, x in given().items()}
        logits = model(inputs, shown)
        logits.square().sum().backward()
        outcomes.append((logits, {n: p.grad for n, p in model.named_parameters()}))
    (logits, gradients), *others = outcomes
    assert logits.isfinite().all()
    assert all(g is None or g.isfinite().all() for g in gradients.values())
    for logits_2, gradients_2 in others:
        assert torch.allclose(logits, logits_2, atol=1e-5)
        for n, g in gradients.items():
            assert g is None or torch.allclose(g, gradients_2[n], rtol=1e-3, atol=1e-4), n


@every_fusion
def test_a_modality_that_no_sample_has(fusion):
    """Not a call of its backbone, and the same answer whatever is passed in its place."""
    model = build(fusion).eval()
    nobody = torch.zeros(B, dtype=torch.bool)
    for name in model.modalities:
        calls = []
        hook = model.encoders[name].backbone.register_forward_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        logits = model(given(), {name: nobody})
        other = model(given() | {name: given(9)[name]}, {name: nobody})
        hook.remove()
        assert not calls and logits.isfinite().all()
        assert torch.equal(logits, other)
    nothing = model(given(), dict.fromkeys(model.modalities, nobody))
    assert nothing.isfinite().all()
    assert torch.allclose(nothing, nothing[:1].expand_as(nothing), atol=1e-6)


def test_an_encoder_need_not_be_ours():
    model = FusionModel({"rows": Foreign(), "other": Foreign()}, d, 2, 1, "merged", C)
    rows = normal(0, B, L_s, 3, dtype=torch.float32)
    shown = torch.tensor([True, False, True, True])
    logits = model({"rows": rows, "other": rows}, {"other": shown})
    assert logits.shape == (B, C)
    changed = model({"rows": rows, "other": spoiled(rows, ~shown, 5.0)}, {"other": shown})
    assert torch.allclose(logits, changed, atol=1e-6)


# --- names ----------------------------------------------------------------------------------------


@every_fusion
def test_names_are_nothing_but_names(fusion):
    """The same encoders under exchanged names: the same parameters in number and shape, and where
    they are the same in value, the same answer."""
    first, second = build(fusion), build(fusion, ("sensors", "text", "image"))
    assert second.modalities == ("sensors", "text", "image")
    new = dict(zip(first.modalities, second.modalities, strict=True))

    def renamed(key: str) -> str:
        return ".".join(new.get(part, part) for part in key.split("."))

    state = {renamed(name): x for name, x in first.state_dict().items()}
    assert {n: x.shape for n, x in state.items()} == {
        n: x.shape for n, x in second.state_dict().items()
    }
    second.load_state_dict(state)
    logits = [m.eval()(given(names=m.modalities)) for m in (first, second)]
    assert torch.allclose(*logits, atol=1e-5)


@pytest.mark.parametrize("fusion", ["late", "concat", "merged", "resampler"])
def test_one_modality_alone_is_a_model_too(fusion):
    torch.manual_seed(0)
    model = FusionModel({"sensors": SensorRows()}, d, 2, 2, fusion, C)
    assert model({"sensors": given()["sensors"]}).shape == (B, C)


def test_the_first_name_asks():
    """Its tokens are the queries: as many states as it has tokens, and rows as it has samples."""
    out = build().outputs(given())
    assert isinstance(out, FusionOutput) and list(out.tokens) == ["text", "image", "sensors"]
    assert [x.value.shape for x in out.hidden_states] == [(B, L_t, d), (B, 1, d)]
    names = ("sensors", "text", "image")
    kinds = [build().encoders[m] for m in ("sensors", "text", "image")]
    model = FusionModel(dict(zip(names, kinds, strict=True)), d, 2, 2, "merged", C)
    out = model.outputs(given())
    assert out.hidden_states[0].value.shape == (B, L_s, d)


@every_fusion
def test_several_questions_share_a_picture(fusion):
    """P pictures for B questions, presence by picture: what B repeated pictures would give."""
    model = build(fusion).eval()
    shared, shown = given(P=2), torch.tensor([True, False])
    repeated = shared | {"image": shared["image"].repeat_interleave(2, 0)}
    logits = model(shared, {"image": shown})
    want = model(repeated, {"image": shown.repeat_interleave(2, 0)})
    assert torch.allclose(logits, want, atol=1e-5)


@pytest.mark.parametrize("fusion", TOKEN_LEVEL)
def test_the_last_layers_shortcut_gives_the_same_logits(fusion):
    model = build(fusion, names=("rows", "image", "words")).eval()
    out = model.outputs(given(names=model.modalities))
    state = out.tokens["rows"]
    others = {m: out.tokens[m] for m in ("image", "words")}
    for block in model.fusion:
        state = block(state, others)
    assert torch.allclose(model.head(state.value[:, 0]), out.logits, atol=1e-5)


@every_fusion
def test_fuse_takes_tokens_in_any_order_and_marks_their_modality(fusion):
    model = build(fusion).eval()
    tokens = {m: model.encoders[m](x) for m, x in given().items()}
    out = model.fuse(dict(reversed(tokens.items())))
    assert torch.allclose(out.logits, model(given()), atol=1e-6)
    for m, vector in zip(model.modalities, model.modality.weight, strict=True):
        marked = out.tokens[m].value - tokens[m].value
        assert torch.allclose(marked, vector.expand_as(marked), atol=1e-6)


@every_fusion
@pytest.mark.parametrize("value", HOSTILE)
def test_what_stands_in_the_padding_reaches_no_gradient(fusion, value):
    """The padding of the asking tokens too, which are queries: 0 · NaN is NaN in a gradient."""
    model = build(fusion)
    tokens = {m: model.encoders[m](x) for m, x in given().items()}
    for m, x in tokens.items():
        mask = x.mask.clone()
        mask[:, -2:] = False
        tokens[m] = Tokens(torch.where(mask[..., None], x.value, value), mask)
    model.fuse(tokens).logits.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_weights_say_where_each_layer_looks_by_name():
    model = build().eval()
    shown = {"sensors": torch.tensor([True, False, True, True])}
    for weights in model.weights(given(), shown):
        assert {m: w.shape[-1] for m, w in weights.items()} == {"text": 5, "image": 4, "sensors": 6}
        total = torch.stack([w.sum(-1) for w in weights.values()]).sum(0)
        assert torch.allclose(total, torch.ones_like(total), atol=1e-5)
        assert not weights["sensors"][1].any(), "what is missing is not looked at"
    with pytest.raises(UserError) as error:
        build("cross").weights(given())
    error_line(error, "merged attention")


# --- the document's model is one of them ----------------------------------------------------------


def test_the_documents_order_and_the_names_are_the_same_call():
    torch.manual_seed(0)
    model = MultimodalBert.from_config(preset("tiny", C, VOCABULARY, image_size=16)).eval()
    inputs = {m: x for m, x in given().items() if m != "sensors"}
    text, image = inputs.values()
    shown = torch.tensor([True, False, True, True])
    assert isinstance(model, FusionModel) and model.modalities == ("text", "image")
    assert torch.equal(model(text, image), model(inputs))
    assert torch.equal(model(text, image, shown), model(inputs, {"image": shown}))
    assert not torch.allclose(model(text, image, shown), model(text, image))
    by_order, by_name = model.weights(text, image, shown), model.weights(inputs, {"image": shown})
    assert torch.equal(by_order[0]["image"], by_name[0]["image"])
    assert torch.equal(
        model.outputs(text, image).hidden_states[0].value,
        model.outputs(inputs).hidden_states[0].value,
    )
    with pytest.raises(UserError) as error:
        model(inputs, {"image": shown}, shown)
    error_line(error, "by name", "two mappings")


@pytest.fixture
def meta(monkeypatch):
    """BERT's library asks whether there is padding at all, which the meta device cannot say."""
    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *_: False)
    return torch.device("meta")


@pytest.mark.parametrize(
    "name, fusion",
    [*(("tiny", fusion) for fusion in FUSIONS), ("small", "merged"), ("base", "merged")],
)
def test_nothing_stays_behind_when_a_model_goes_to_another_device(meta, name, fusion):
    """The meta device stands for any: a tensor left on the CPU, or made there, raises."""
    changes = {"fusion": fusion, "text_layers": 1}  # base whole has 143 million parameters
    model = MultimodalBert.from_config(preset(name, C, VOCABULARY, **changes)).to(meta)
    size = model.encoders["image"].image_size
    ids = torch.ones(B, L_t, dtype=torch.long, device=meta)
    logits = model(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)},
        torch.zeros(2, 3, size, size, device=meta),
    )
    assert logits.device.type == "meta" and logits.shape == (B, C)


@pytest.mark.parametrize("kind", ["text", "image", "image in bytes", "sensors"])
def test_an_encoders_tokens_and_mask_are_on_the_device_of_its_inputs(meta, kind):
    encoder = build().encoders[kind.split()[0]].to(meta)
    inputs = given()[kind.split()[0]]
    inputs = (
        {n: x.to(meta) for n, x in inputs.items()}
        if isinstance(inputs, Mapping)
        else inputs.to(meta, torch.uint8 if "bytes" in kind else torch.float32)
    )
    tokens = encoder(inputs)
    assert tokens.value.device.type == tokens.mask.device.type == "meta"


# --- mistakes -------------------------------------------------------------------------------------


def test_inputs_that_do_not_fit_the_modalities_are_one_line():
    model, inputs = build(), given()
    with pytest.raises(UserError) as error:
        model({m: x for m, x in inputs.items() if m != "sensors"})
    error_line(error, "text, image, sensors", "got text, image", "`present` all False")
    with pytest.raises(UserError) as error:
        model(inputs | {"smell": inputs["sensors"]})
    error_line(error, "smell")
    with pytest.raises(UserError) as error:
        model(inputs, {"smell": torch.ones(B, dtype=torch.bool)})
    error_line(error, "presence of text, image, sensors", "got smell")
    with pytest.raises(UserError) as error:
        model.fuse({})
    error_line(error, "tokens of text, image, sensors", "got none")


@pytest.mark.parametrize("name", ["a.b", "", "keys", "forward", "training"])
def test_a_name_that_cannot_be_one_is_one_line(name):
    with pytest.raises(UserError) as error:
        FusionModel({name: SensorRows()}, d, 2, 1, "merged", C)
    error_line(error, f"'{name}'", "another name")
