"""Every encoder and a whole system can be exported, compiled, traced, copied and pickled."""

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import compiling
import jaxtyping
import pytest
import torch
from compiling import equal, example, labelled
from torch.utils import _pytree as pytree

import zoo
from zoo.registry import find_row
from zoo.types import Batch, Encoded, HeadOutput

NANO = sorted({row.family: row.name for row in map(find_row, zoo.list_models("*nano*", kind="encoder"))}.values())  # one per family
RNN = ("cbhg_encoder_nano", "tacotron2_encoder_nano")  # torch.compile takes no RNN (torch._dynamo.config.allow_rnn)
PARAMETRIZED = "transformers_audio_nano"  # wav2vec 2.0's weight norm; torch pickles no parametrized module
CHEAP = ("vit_nano", "text_nano", "whisper_nano_encoder")
# torch.jit is deprecated, and TracerWarnings tell that sizes become constants, which is what tracing means.
QUIET = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:.*LeafSpec:FutureWarning"
)


@pytest.fixture(autouse=True)
def _unchecked():
    """Signatures are not checked: while a model is traced, its sizes are tensors and symbols, and no ints."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@QUIET
@pytest.mark.parametrize("name", NANO)
def test_an_encoder_is_copied_pickled_and_traced(name):
    encoder = zoo.create_model(name)
    inputs = example(encoder)
    with torch.no_grad():
        expected = encoder(*inputs)
        equal(copy.deepcopy(encoder)(*inputs), expected)
        if name != PARAMETRIZED:
            equal(pickle.loads(pickle.dumps(encoder))(*inputs), expected)
        equal(pickle.loads(pickle.dumps(expected)), expected)
        traced = torch.jit.trace(encoder, inputs, check_trace=False)(*inputs)
    assert len(traced) == 3 - (expected.pooled is None)
    equal(traced, [each for each in (expected.tokens, expected.pooled, expected.mask) if each is not None])


def check_export(name):
    encoder = zoo.create_model(name)
    batch = torch.export.Dim("batch", min=1)
    inputs = example(encoder)
    free = None if name in RNN else tuple({0: batch} for _ in inputs)
    program = torch.export.export(encoder, inputs, dynamic_shapes=free).module()
    for others in (inputs,) if name in RNN else (inputs, example(encoder, 3)):
        found = program(*others)
        assert isinstance(found, Encoded)
        equal(found, encoder(*others))


@QUIET
@pytest.mark.parametrize("name", CHEAP)
def test_an_encoder_is_exported_with_a_free_batch_size(name):
    check_export(name)


@pytest.mark.heavy
@QUIET
@pytest.mark.parametrize("name", sorted(set(NANO) - set(CHEAP)))
def test_every_other_encoder_is_exported(name):
    check_export(name)


@pytest.mark.heavy
def test_every_encoder_and_a_system_are_compiled_whole():
    names = sorted(set(NANO) - set(RNN))
    command = [sys.executable, str(Path(compiling.__file__)), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (names, 0), done.stderr[-2000:]


@QUIET
def test_a_whole_system_is_exported():
    system, batch = labelled()
    found, expected = torch.export.export(system, (batch,)).module()(batch), system(batch)
    assert isinstance(found, HeadOutput) and found.metrics.keys() == expected.metrics.keys()
    equal(found, expected)


def test_values_are_taken_apart_and_put_together():
    for value in (
        Batch({"image": torch.rand(2, 3)}, ids=["a", "b"]),
        Encoded(torch.rand(2, 1, 4), None, torch.ones(2, 1, dtype=torch.bool)),
        HeadOutput(torch.tensor(1.0), {"accuracy": torch.tensor(0.5)}, {"logits": torch.rand(2, 2)}),
    ):
        leaves, spec = pytree.tree_flatten(value)
        back = pytree.tree_unflatten(leaves, spec)
        assert type(back) is type(value) and vars(back).keys() == vars(value).keys()
        equal(back, value)


@QUIET
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch's own reader of the file
def test_an_exported_program_is_saved_and_read():
    encoder, file = zoo.create_model("vit_nano"), io.BytesIO()
    torch.export.save(torch.export.export(encoder, example(encoder)), file)
    file.seek(0)
    equal(torch.export.load(file).module()(*example(encoder)), encoder(*example(encoder)))
