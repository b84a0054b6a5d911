"""transformers' ClapModel against our system of ``htsat`` and ``bert``, both ways."""

import math

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

import zoo
from zoo.errors import ConfigError
from zoo.interop import clap
from zoo.interop.base.recognise import find_format, unknown_files
from zoo.interop.base.source import read_source
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly
from zoo.types import EncoderSpec

AUDIO = {"num_mel_bins": 16, "spec_size": 64, "patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 2]}
AUDIO |= {"num_attention_heads": [2, 2], "window_size": 4}
TEXT = {"vocab_size": 13, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"max_position_embeddings": 10}
IDS = torch.tensor([[0, 5, 9, 2], [0, 4, 2, 1]])
GOLDEN = {  # resolution.md, section 6: parameters, first numbers of the first clip's vector, logits
    False: (10_216, [0.096105, 0.793868, -2.536019, -0.076387], [[-0.128500, -0.588351], [-0.107204, -0.570965]]),
    True: (10_732, None, [[-0.199077, -0.472703], [-0.195747, -0.469645]]),
}


def reference(fusion, **audio):
    """A tiny random model of the library."""
    config = ClapConfig(audio_config={**AUDIO, "enable_fusion": fusion, **audio}, text_config=TEXT, projection_dim=8)
    return ClapModel(config).eval()


def sines(model):
    """Fill the parameters with the sines of the sheet."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for j, name in enumerate(sorted(parameters)):
            own = parameters[name]
            values = 0.3 * torch.sin(0.7 * torch.arange(own.numel(), dtype=torch.float64) + j)
            own.copy_((values + (own.ndim == 1 and name.endswith("weight"))).view(own.shape))
    return model


def ours(model):
    """Our system with the weights of theirs, in double precision; a view has 250 frames."""
    described = clap.system_of(model.config.to_dict())
    described["encoders"]["audio"]["view_frames"] = 250
    inputs = {name: EncoderSpec(name, dim) for name, dim in (("audio", 16), ("text", 8))}
    encoders = {name: build_part("encoder", row, name) for name, row in described["encoders"].items()}
    system = zoo.System(encoders, build_part("head", described["head"], "head", inputs=inputs)).double()
    load_strictly(system, clap.to_zoo(model.state_dict()), origin="transformers")
    return system.eval()


def mels(views, frames=250):
    """Their input [clips, views, frames, bands], and ours: the views follow each other."""
    theirs = torch.sin(0.1 * torch.arange(2 * views * frames * 16, dtype=torch.float64)).view(2, views, frames, 16)
    return theirs, theirs.flatten(1, 2).transpose(1, 2)


@pytest.mark.card("clap_htsat_nano", "equals its reference")
@pytest.mark.parametrize("fusion", [False, True])
@torch.no_grad()
def test_vectors_logits_and_loss_equal_transformers_and_the_golden_rows(fusion, card_figure):
    model = sines(reference(fusion).double())
    count, pooled, golden = GOLDEN[fusion]
    assert sum(p.numel() for p in model.parameters()) == count
    system = ours(model)
    theirs, x = mels(4 if fusion else 1)
    longer = torch.tensor([[True], [False]])
    expected = model(input_ids=IDS, attention_mask=(IDS != 1).long(), input_features=theirs, is_longer=longer, return_loss=True)
    frames = torch.tensor([x.shape[2], 250])[:, None] if fusion else torch.tensor([[250], [250]])
    batch = zoo.Batch({"audio": x, "text": IDS}, {"audio": torch.arange(x.shape[2]) < frames, "text": IDS != 1})
    encoded = system.encode_batch(batch)
    torch.testing.assert_close(encoded["audio"].pooled, expected.audio_model_output.pooler_output, atol=1e-9, rtol=0)
    tokens = expected.audio_model_output.last_hidden_state.flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoded["audio"].tokens, tokens, atol=1e-9, rtol=0)
    features = {name: vectors.double() for name, vectors in system.head.features(encoded).items()}
    logits = system.head.scale_of("audio") * features["audio"] @ features["text"].T
    difference = (logits - expected.logits_per_audio).abs().max().item()
    card_figure(f"fusion {fusion}: logits differ by {difference:.0e}")
    assert difference < 1e-6  # projected vectors are normalised in float32
    torch.testing.assert_close(logits, torch.tensor(golden, dtype=torch.float64), atol=2e-6, rtol=0)
    if pooled is not None:
        torch.testing.assert_close(encoded["audio"].pooled[0, :4], torch.tensor(pooled, dtype=torch.float64), atol=1e-6, rtol=0)
        # Theirs takes the cross entropy over the texts twice (.694055); the paper's loss is symmetric.
        assert system.head.loss_of(features, {}).loss.item() == pytest.approx(0.707244, abs=2e-6)
        assert expected.loss.item() == pytest.approx(0.694055, abs=2e-6)


@pytest.mark.card("clap_htsat_nano", "goes back")
@pytest.mark.parametrize("fusion", [False, True])
def test_a_directory_loads_and_goes_back_bit_for_bit(fusion, tmp_path, scramble):
    model = scramble(reference(fusion))
    model.save_pretrained(tmp_path / "theirs")
    ClapFeatureExtractor(feature_size=16, truncation="fusion" if fusion else "rand_trunc").save_pretrained(tmp_path / "theirs")
    source = read_source(tmp_path / "theirs")
    assert find_format(source).name == "clap" and not unknown_files(source)
    system = zoo.load(tmp_path / "theirs")
    assert system.processor["audio"].spectrum == ("clap_fusion" if fusion else "clap")
    zoo.export(system, tmp_path / "back")
    again = ClapModel.from_pretrained(tmp_path / "back").eval()
    assert again.config.audio_config.enable_fusion == fusion and again.config.projection_dim == 8
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    with torch.no_grad():
        x = torch.randn(2, 1, 256, 16).repeat(1, 4 if fusion else 1, 1, 1)
        found = system.embed("audio", x[:, 0].transpose(1, 2))
        expected = again.get_audio_features(x, is_longer=torch.zeros(2, 1, dtype=torch.bool)).pooler_output
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        text = system.embed("text", IDS)
        torch.testing.assert_close(text, again.get_text_features(IDS, attention_mask=(IDS != 1).long()).pooler_output, atol=1e-5, rtol=0)


def test_other_mels_and_parts_that_ours_has_not_are_refused(tmp_path):
    reference(False).save_pretrained(tmp_path)
    ClapFeatureExtractor(feature_size=16, truncation="fusion").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="truncation: got 'fusion'; the mels of our 'clap' front end"):
        zoo.load(tmp_path)
    for key, value in {"patch_stride": [2, 2], "qkv_bias": False, "hidden_size": 24, "fusion_type": "channel_map", "depths": 2}.items():
        with pytest.raises(ConfigError, match=f"{key}: got"):
            clap.audio_arguments({**AUDIO, key: value})


def test_systems_of_another_form_do_not_go_to_transformers(tmp_path):
    with pytest.raises(ConfigError, match="head.projections.audio: 'linear'"):
        zoo.export(zoo.create_system("clap_htsat_nano", ["head@system.head=clip_nano"]), tmp_path / "a")


def test_a_sound_is_classified_and_one_in_a_batch_is_as_alone():
    system = zoo.create_system("clap_htsat_nano", ["system.encoders.audio.fusion=true"]).eval()
    system.processor.fit(["the sound of a bell", "the sound of a drum"])
    sounds = [np.random.default_rng(i).normal(size=48000 * (1 + 10 * (i == 1))).astype(np.float32) * 0.1 for i in range(3)]
    found = system.classify(sounds, ["bell", "drum"], templates=["the sound of a {}"])
    alone = torch.cat([system.classify([sound], ["bell", "drum"], templates=["the sound of a {}"]) for sound in sounds])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert math.isclose(found[0].sum().item(), 1, abs_tol=1e-5)
