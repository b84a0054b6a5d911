"""Quantisation-aware training: the forward pass is that of inference in int8 or int4, and the gradient passes the rounding."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from tests.support import compiling_rounded
from zoo.assembly.compose import compose
from zoo.assembly.create import create_model, create_system
from zoo.layers.linear import Linear
from zoo.layers.low_precision.int4 import from_four_bits, pack_int4, rounded_to_int4
from zoo.layers.low_precision.modes import set_precision, simulate_precision
from zoo.runs.check import check
from zoo.runs.train import train


def marked(precision, in_dim=70, out_dim=33):
    torch.manual_seed(0)
    layer = Linear(in_dim, out_dim)
    layer.precision = f"simulated_{precision}"
    return layer


@pytest.mark.parametrize("rows", [1, 5, 65])
def test_int8_is_simulated_as_the_kernels_compute_it(rows):
    layer, x = marked("int8"), torch.randn(2, rows, 70)
    trained = layer(x)
    layer.precision = "int8"
    with torch.inference_mode():
        torch.testing.assert_close(trained, layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("in_dim", "out_dim"), [(64, 48), (70, 33), (5, 1)])
def test_int4_is_simulated_as_the_kernels_compute_it(in_dim, out_dim):
    layer, x = marked("int4", in_dim, out_dim), torch.randn(65, in_dim)
    weight = layer.weight.detach()
    torch.testing.assert_close(rounded_to_int4(weight), from_four_bits(weight, pack_int4(weight)[1]), rtol=1e-6, atol=1e-7)
    trained = layer(x)
    layer.precision = "int4"
    with torch.inference_mode():
        torch.testing.assert_close(trained, layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_gradient_is_that_of_a_product_of_the_rounded_numbers(precision):
    layer, x = marked(precision), torch.randn(4, 70, requires_grad=True)
    layer(x).square().sum().backward()
    rounded = layer(torch.eye(70)) - layer.bias  # rows of the rounded matrix: 0 and 1 are kept by both roundings
    out = layer(x).detach()
    torch.testing.assert_close(x.grad, 2 * out @ rounded.T.detach(), rtol=1e-4, atol=1e-4)
    assert layer.weight.grad.count_nonzero() == layer.weight.numel()
    near = 2 * out.T @ x.detach()  # the true one uses rounded rows
    assert (layer.weight.grad - near).norm() < 0.02 * near.norm()


def test_an_encoder_trains_in_int8_and_evaluates_as_int8_inference_does():
    model, pixels = create_model("vit_nano"), torch.randn(3, 3, 32, 32)
    simulate_precision(model.train(), "int8")
    model(pixels).pooled.sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "blocks" in name)
    with torch.inference_mode():
        simulated = model.eval()(pixels).pooled
        expected = set_precision(model, "int8")(pixels).pooled
        plain = set_precision(model, "fp32")(pixels).pooled
    torch.testing.assert_close(simulated, expected, rtol=1e-4, atol=1e-4)
    assert (simulated - plain).abs().max() > 1e-4


def test_a_language_model_in_int4_computes_its_tied_logits_in_int8():
    model, ids = create_model("llama_nano"), torch.randint(0, 512, (2, 40))
    simulate_precision(model, "int4")
    assert model.table_precision == "simulated_int8"
    with torch.inference_mode():
        simulated = model.logits(model(model.embed(ids)))
        expected = set_precision(model, "int4").logits(model(model.embed(ids)))
    torch.testing.assert_close(simulated, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.heavy
def test_a_run_learns_with_rounding_and_saves_ordinary_weights(tmp_path):
    words = ["system=classifier_vit_nano", "data=digits", "evaluation=classification", "training.threads=1", "training.quantise=int8"]
    steps = ["training.max_steps=12", "training.batch_size=32", "training.evaluate_every=0", "training.log_every=1"]
    result = train(compose("train", [*words, *steps, f"run_dir={tmp_path / 'run'}"]))
    model, plain = zoo.load(result.model, precision="int8"), zoo.load(result.model)
    assert model.encoders["image"].precision == "int8"
    assert plain.encoders["image"].precision is None
    assert set(plain.state_dict()) == set(create_system("classifier_vit_nano").state_dict())


@pytest.mark.heavy
def test_compiled_blocks_round_as_others_in_outputs_and_gradients():
    done = subprocess.run([sys.executable, str(Path(compiling_rounded.__file__))], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["int8", "int4"], 0), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.quantise=int3"], "quantise: there is no 'int3'"),
        (["training.quantise=int4"], "training.quantise: System does not offer 'int4'"),
    ],
)
def test_what_cannot_be_simulated_is_refused_before_weights_exist(words, message):
    with pytest.raises(zoo.ConfigError, match=message):
        check(compose("train", words))
