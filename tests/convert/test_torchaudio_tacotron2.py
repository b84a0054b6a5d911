"""Tacotron 2 against torchaudio's, tiny and random, through our converter and back."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file
from torchaudio.models import Tacotron2

import zoo
from zoo.errors import ConfigError, WeightsError
from zoo.interop import tacotron2 as origin
from zoo.types import Batch

SIZES = {
    "n_mels": 10,
    "n_symbol": 38,
    "symbol_embedding_dim": 32,
    "encoder_embedding_dim": 32,
    "encoder_n_convolution": 2,
    "decoder_rnn_dim": 24,
    "attention_rnn_dim": 24,
    "attention_hidden_dim": 16,
    "attention_location_n_filter": 8,
    "attention_location_kernel_size": 7,
    "prenet_dim": 12,
    "postnet_n_convolution": 3,
    "postnet_embedding_dim": 16,
    "decoder_max_step": 40,
}
IDS = torch.tensor([[13, 4, 20, 12, 30, 7, 22, 19, 9], [9, 31, 5, 12, 14, 7, 25, 16, 37], [12] * 9])
LENGTHS = torch.tensor([9, 9, 9])


@pytest.fixture
def pair(monkeypatch, scramble):
    """Torchaudio's model without dropout, and ours with its weights and without dropout."""
    monkeypatch.setattr("torchaudio.models.tacotron2.F.dropout", lambda x, *words, **more: x)
    reference = scramble(Tacotron2(**SIZES))
    for name, buffer in reference.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            buffer.normal_(std=0.2)
    system = zoo.create_system(origin.system_config(reference.state_dict()))
    system.load_state_dict(origin.to_zoo(reference.state_dict()))
    system.head.decoder.prenet.dropout = 0.0
    return reference, system.eval()


def encode(system, ids=IDS, mask=None):
    return system.encode_batch(Batch({"text": ids}, {} if mask is None else {"text": mask}))["text"]


@torch.no_grad()
def infer(reference, ids, lengths):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the step limit was reached
        return reference.infer(ids, lengths)


@pytest.mark.card("tacotron2", "equals its reference")
@torch.no_grad()
def test_teacher_forced_outputs_are_torchaudios(pair, card_figure):
    reference, system = pair
    mels = torch.randn(3, 10, 14)
    before, after, stops, alignments = reference(IDS, LENGTHS, mels, torch.tensor([14, 14, 14]))
    found, found_after = system.head.teacher_forced(encode(system), mels)
    pairs = [(found.mels, before), (found_after, after), (found.stops, stops), (found.alignments, alignments)]
    worst = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    card_figure(f"max difference {worst:.0e} from torchaudio, teacher-forced, dropout held")
    assert worst < 1e-5


@torch.no_grad()
def test_training_mode_is_torchaudios_with_dropout_held(pair, monkeypatch):
    reference, system = pair
    monkeypatch.setattr("zoo.layers.masked_conv.F.dropout", lambda x, *words, **more: x)  # one F for all modules
    mels = torch.randn(3, 10, 14)
    before, after, _, _ = reference.train()(IDS, LENGTHS, mels, torch.tensor([14, 14, 14]))
    found, found_after = system.train().head.teacher_forced(encode(system), mels)
    torch.testing.assert_close((found.mels, found_after), (before, after), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [-3.0, 0.0, 0.6, 3.0])
def test_said_frames_and_stops_are_torchaudios(pair, bias):
    reference, system = pair
    with torch.no_grad():
        reference.decoder.gate_layer.bias.fill_(bias)
    system.load_state_dict(origin.to_zoo(reference.state_dict()))
    for ids in IDS[:, None]:  # torchaudio's post-net sees what follows the end of a shorter row
        theirs, length, alignments = infer(reference, ids, LENGTHS[:1])
        said = system.head.say(encode(system, ids), max_steps=40)
        steps = int(length)
        assert int(said.num_steps) == steps
        assert said.reasons == ["stop token" if steps < 40 else "step limit"]
        torch.testing.assert_close(said.alignments[:, :steps], alignments[:, :steps], atol=1e-5, rtol=1e-5)
        # torchaudio's stops at its last step, ours looks a few steps later: what is said is equal
        torch.testing.assert_close(said.frames[:, :, :steps], theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_shorter_text_gives_what_torchaudio_gives_for_it_alone(pair):
    reference, system = pair
    mels = torch.randn(1, 10, 8)
    mask = torch.tensor([[True] * 9, [True] * 6 + [False] * 3])
    both = encode(system, IDS[:2], mask)
    found, _ = system.head.teacher_forced(both, mels.expand(2, -1, -1))
    alone, *_ = reference(IDS[1:2, :6], torch.tensor([6]), mels, torch.tensor([8]))
    torch.testing.assert_close(found.mels[1:], alone, atol=1e-5, rtol=1e-5)


def nvidias(tensors):
    """Rename tensors as in NVIDIA/tacotron2: one more word after each convolution and each linear layer."""
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        owner, kind = parts[-2], parts[-1]
        is_norm = parts[-2] == "1" and "convolutions" in parts
        if "rnn" in name or "lstm" in name or name == "embedding.weight" or is_norm:
            renamed[name] = tensor
        else:
            word = "conv" if "convolutions" in parts or owner == "location_conv" else "linear_layer"
            renamed[".".join([*parts[:-1], word, kind])] = tensor
    return renamed


def test_nvidias_names_are_read(pair):
    reference, system = pair
    theirs = nvidias(reference.state_dict())
    assert "encoder.convolutions.0.0.conv.weight" in theirs and "decoder.gate_layer.linear_layer.bias" in theirs
    assert origin.recognises(theirs)
    torch.testing.assert_close(origin.to_zoo(theirs), dict(system.state_dict()))
    assert origin.system_config(theirs) == origin.system_config(reference.state_dict())


@pytest.mark.card("tacotron2", "goes back")
def test_export_gives_torchaudio_its_weights_and_zoo_reads_them_back(pair, tmp_path, card_figure):
    reference, system = pair
    zoo.export(system, tmp_path / "out", format="torchaudio")
    keywords = json.loads((tmp_path / "out" / "tacotron2.json").read_text())
    again = Tacotron2(**keywords)
    again.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    torch.testing.assert_close(again.state_dict(), reference.state_dict())
    loaded = zoo.load(tmp_path / "out" / "model.safetensors")
    torch.testing.assert_close(loaded.state_dict(), system.state_dict())
    assert loaded.processor["text"].item("ab")[0] == 12
    card_figure("torchaudio -> zoo -> torchaudio, weights equal")


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t, "iteration": 3}])
def test_a_pt_file_loads_as_a_system(pair, tmp_path, wrap):
    reference, system = pair
    torch.save(wrap(nvidias(reference.state_dict())), tmp_path / "tacotron2.pt")
    loaded = zoo.load(tmp_path / "tacotron2.pt")
    torch.testing.assert_close(loaded.state_dict(), system.state_dict())


def test_a_missing_tensor_is_named(pair):
    tensors = dict(pair[0].state_dict())
    del tensors["decoder.gate_layer.bias"]
    with pytest.raises(WeightsError, match="decoder.gate_layer"):
        zoo.create_system(origin.system_config(tensors), weights=None).load_state_dict(
            origin.to_zoo({**tensors, "decoder.gate_layer.other": torch.zeros(1)})
        )


def test_what_torchaudio_does_not_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="head.reduction: 2"):
        zoo.export(zoo.create_system("tacotron2_nano"), tmp_path / "out", format="torchaudio")
    with pytest.raises(ConfigError, match="System cannot be written as 'torchaudio', which takes systems with the head 'tacotron2'"):
        zoo.export(zoo.create_system("clip_vit_nano"), tmp_path / "out", format="torchaudio")
