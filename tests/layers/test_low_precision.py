"""Matrix products in int8, fp16 and bf16: exact sums, closeness to float32, batches equal to single items, stored weights unchanged."""

import copy
import pickle

import pytest
import torch

import zoo
from zoo.assembly.loading import finish
from zoo.evaluation.measures.classifier_weights import classifier_key
from zoo.layers.attention import attend
from zoo.layers.linear import Linear, fast_linear
from zoo.layers.low_precision import attention, products
from zoo.layers.low_precision.modes import packed_memory, precision_of, set_precision
from zoo.layers.low_precision.packings import kept

NAMES = ("vit_nano", "bert_nano", "roberta_nano", "clip_text_nano")
NEAR = {"int8": 0.05, "bf16": 0.05, "fp16": 0.001}  # relative error of pooled vectors; models with random weights average nothing out


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def encoder(name):
    """Return an encoder with random weights and five inputs of it."""
    if name == "clip_text_nano":
        model = zoo.create_model("clip_vit_nano").encoders["text"]
    else:
        model = zoo.create_model(name)
    shape = (5, 3, model.image_size, model.image_size) if model.modality == "image" else (5, 7)
    return model.eval(), torch.randn(shape) if model.modality == "image" else torch.randint(1, model.vocab_size, shape)


def pooled(model, x):
    with torch.inference_mode():
        x = x.to(next(model.parameters()).dtype) if x.is_floating_point() else x
        return model(x, reads="pooled").pooled.float()


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
@pytest.mark.parametrize("rows", [1, 2, 7, 300])
def test_int8_products_are_exact_sums_of_rounded_numbers(rows, activation):
    layer, x = Linear(33, 48).requires_grad_(False), torch.randn(rows, 33)
    most = 127 if products.has_vnni() else products.SUMS_IN_16_BITS
    steps, scales = (m.abs().amax(1, keepdim=True) / top for m, top in ((x, 127), (layer.weight, most)))
    sums = (x / steps).round().double() @ (layer.weight / scales).round().double().T
    expected = products.activate(sums * steps * scales.T + layer.bias.double(), activation)
    torch.testing.assert_close(fast_linear(x, layer.weight, layer.bias, activation, "int8").double(), expected, atol=1e-5, rtol=1e-5)


def test_a_row_is_rounded_as_in_the_specification(monkeypatch):
    """Specification ``alignment_more``, section 4: symmetric int8, scale max / 127, halves to even."""
    monkeypatch.setattr(products, "has_vnni", lambda: True)
    stored, scale = products.int8_rows(torch.tensor([[-1, -0.26, 0, 0.5, 1.27]]))
    assert stored.tolist() == [[-100, -26, 0, 50, 127]] and scale.item() == pytest.approx(0.01)


def test_the_largest_numbers_do_not_saturate_the_sums():
    layer = Linear(64, 8, bias=False).requires_grad_(False)
    layer.weight.fill_(1.0)
    torch.testing.assert_close(fast_linear(torch.ones(40, 64), layer.weight, None, None, "int8"), torch.full((40, 8), 64.0))


def test_zeros_and_empty_batches_pass():
    layer = Linear(33, 48).requires_grad_(False)
    layer.precision = "int8"
    torch.testing.assert_close(layer(torch.zeros(3, 33)), layer.bias.expand(3, 48))
    assert layer(torch.zeros(0, 33)).shape == (0, 48)


@pytest.mark.parametrize("precision", NEAR)
@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_is_close_to_fp32_and_a_batch_to_single_items(name, precision):
    model, x = encoder(name)
    expected = pooled(model, x)
    found = pooled(set_precision(model, precision), x)
    assert precision_of(model) == precision and 0 < error(found, expected) < NEAR[precision]
    singly = torch.cat([pooled(model, item[None]) for item in x])
    assert error(singly, found) < 0.01  # fp32 attention differs in the last bit, which can move a number to the next integer
    many, one = torch.get_num_threads(), 1
    try:
        for threads in (one, 2):
            torch.set_num_threads(threads)
            assert error(pooled(model, x), found) < 0.01
    finally:
        torch.set_num_threads(many)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_copies_of_a_marked_model_give_the_same(name, precision):
    model, x = encoder(name)
    found = pooled(set_precision(model, precision), x)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(pooled(same, x), found, atol=0, rtol=0)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_marked_model_is_saved_as_it_was(precision, tmp_path):
    model, x = encoder("vit_nano")
    expected = pooled(model, x)
    zoo.save(set_precision(model, precision), tmp_path / "model")
    assert packed_memory(model) == 0
    found = pooled(model, x)
    assert packed_memory(model) > 0
    assert torch.equal(pooled(zoo.load(tmp_path / "model"), x), expected)
    assert torch.equal(pooled(zoo.load(tmp_path / "model", precision=precision), x), found)
    assert torch.equal(pooled(set_precision(model, "fp32"), x), expected) and packed_memory(model) == 0


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_changed_weight_is_packed_again(precision):
    layer, x = Linear(33, 48).requires_grad_(False), torch.randn(4, 33)
    layer.precision = precision
    before = layer(x)
    layer.weight.mul_(2.0)
    torch.testing.assert_close(layer(x) - layer.bias, 2 * (before - layer.bias), atol=1e-5, rtol=1e-5)
    layer.weight.data = torch.zeros(48, 33)
    assert kept(layer.weight, "int8 few") is kept(layer.weight, "fp16") is None
    torch.testing.assert_close(layer(x), layer.bias.expand(4, 48))


def test_layers_that_are_kept_stay_in_fp32():
    model, x = encoder("vit_nano")
    expected = pooled(model, x)
    assert {layer.precision for layer in set_precision(model, "int8", keep=["*.fc2"]).modules() if isinstance(layer, Linear)} == {
        None,
        "int8",
    }
    assert error(pooled(model, x), expected) < error(pooled(set_precision(model, "int8"), x), expected)


def test_int8_has_no_training():
    model, x = encoder("vit_nano")
    set_precision(model, "int8")
    with pytest.raises(zoo.ConfigError, match="'int8' is for inference"):
        model.train()
    with pytest.raises(zoo.ConfigError, match="have no gradient"):
        model.eval()(x).pooled.sum().backward()
    with pytest.raises(zoo.ConfigError, match="call eval"):
        set_precision(zoo.create_model("vit_nano").train(), "int8")


def test_int8_is_refused_where_it_is_not_offered():
    with pytest.raises(zoo.ConfigError, match="does not offer 'int8'"):
        zoo.create_model("vig_nano", precision="int8")
    with pytest.raises(zoo.ConfigError, match="runs on a CPU"):
        finish(zoo.create_model("vit_nano"), None, "vit_nano", torch.device("cuda"), "int8")
    with pytest.raises(zoo.ConfigError, match="there is no 'int9'"):
        set_precision(zoo.create_model("vit_nano"), "int9")


def test_towers_that_stay_in_fp32_are_named(caplog):
    model = set_precision(zoo.create_model("clip_vig_nano"), "int8")
    assert model.encoders["text"].precision == "int8" and "'int8' is not offered for encoders.image" in caplog.text
    caplog.clear()
    set_precision(zoo.load("clip_vit_nano"), "int8")
    assert not caplog.records


def test_cached_class_vectors_of_fp32_are_not_taken_for_int8():
    model = zoo.load("clip_vit_nano")
    before = classifier_key(model, [["three"]])
    assert classifier_key(set_precision(model, "int8"), [["three"]]) != before
    assert classifier_key(set_precision(model, "int8", keep=["*.fc2"]), [["three"]]) != classifier_key(
        set_precision(model, "int8"), [["three"]]
    )


@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
def test_bf16_products_round_only_the_result(rows, activation):
    layer, x = Linear(33, 48).bfloat16().requires_grad_(False), torch.randn(rows, 33, dtype=torch.bfloat16)
    expected = products.activate(x.double() @ layer.weight.double().T + layer.bias.double(), activation)
    found = fast_linear(x, layer.weight, layer.bias, activation)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=1e-2, rtol=2**-7)  # a bf16 number has 8 bits


@pytest.mark.parametrize("rows", [1, 2, 70])
@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
def test_fp16_products_round_only_the_weights(rows, activation):
    layer, x = Linear(33, 48).requires_grad_(False), torch.randn(rows, 33)
    expected = products.activate(x.double() @ layer.weight.half().double().T + layer.bias.double(), activation)
    for given in (x, x.double(), x[None], x[0]):
        found = fast_linear(given, layer.weight, layer.bias, activation, "fp16")
        assert found.dtype == given.dtype and found.shape == (*given.shape[:-1], 48)
        torch.testing.assert_close(found.double(), (expected[0] if given.ndim == 1 else expected).view(found.shape), atol=1e-5, rtol=1e-5)


def test_weights_beyond_the_range_of_fp16_stay_finite():
    layer = Linear(8, 8, bias=False).requires_grad_(False)
    layer.weight.fill_(1e6)
    assert torch.equal(fast_linear(torch.ones(2, 8), layer.weight, None, None, "fp16"), torch.full((2, 8), 8 * 65504.0))


def test_fp16_marks_layers_on_a_cpu_and_converts_weights_elsewhere(monkeypatch):
    marked = zoo.create_model("vit_nano", precision="fp16")
    assert marked.precision == precision_of(marked) == "fp16" and next(marked.parameters()).dtype == torch.float32
    kept_types = [zoo.create_model("vit_nano", dtype=torch.float16), zoo.create_model("vit_nano", precision="fp16", device="meta")]
    kept_types.append(set_precision(zoo.create_model("vit_nano").train(), "fp16"))
    monkeypatch.setattr("zoo.layers.low_precision.modes.has_fbgemm", lambda: False)
    kept_types.append(zoo.create_model("vit_nano", precision="fp16"))
    for model in kept_types:
        assert model.precision is None and precision_of(model) == "fp16" and next(model.parameters()).dtype == torch.float16
    assert next(set_precision(marked, torch.float16).parameters()).dtype == torch.float16 and marked.precision is None


def test_attention_beside_fp16_layers_stays_in_float32(monkeypatch):
    for name, value in (("has_bf16", True), ("has_amx", False)):
        monkeypatch.setattr(attention, name, lambda value=value: value)
    q = torch.randn(1, 200, 24)
    assert not attention.fits_low_attention(q, q, "fp16") and attention.fits_low_attention(q, q, "int8")


@pytest.mark.parametrize("tokens", [5, 257])
def test_bf16_attention_in_blocks_equals_attention(tokens):
    q, k, v = torch.randn(3, 2, tokens, 24).bfloat16()
    expected = attend(q.double(), k.double(), v.double(), num_heads=3)
    found = attention.attend_low(q, k, v, num_heads=3)
    torch.testing.assert_close(found.double(), expected, atol=0.03, rtol=0.03)  # weights are rounded to bf16 before the second product


def test_attention_beside_int8_layers_uses_bf16_where_the_cpu_has_it(monkeypatch):
    model = zoo.create_model("vit_nano", image_size=96)  # 145 tokens, above ``FEWEST_KEYS``
    x = torch.randn(2, 3, 96, 96)
    expected = pooled(set_precision(model, "int8"), x)
    for name, value in (("has_bf16", True), ("has_amx", False)):
        monkeypatch.setattr(attention, name, lambda value=value: value)
    calls = []
    monkeypatch.setattr(
        "zoo.layers.attention.attend_low", lambda *qkv, num_heads: calls.append(1) or attention.attend_low(*qkv, num_heads=num_heads)
    )
    assert error(pooled(model, x), expected) < 0.05 and len(calls) == 2
