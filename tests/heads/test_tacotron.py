"""The first Tacotron's head: published sizes, padding, steps against teacher forcing, and why it stops. There is no parity class of it."""

import pytest
import torch

import zoo
from zoo.errors import ConfigError, DataError
from zoo.heads.tacotron import Tacotron
from zoo.layers.tacotron_decoder import Stepper
from zoo.types import FRAMES, MAGNITUDES, MELS, SATURATED, SILENCE, Batch, Encoded, EncoderSpec


def make(**words):
    small = {"num_mels": 5, "num_bins": 9, "prenet_dims": (8, 4), "dim": 6, "postnet_dim": 4, "postnet_bank": 3, "postnet_channels": 4}
    head = Tacotron(inputs={"text": EncoderSpec("text", 6)}, **{**small, **words})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return head


def rows(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def encoded(row=None):
    tokens, mask = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1)), rows((7, 4))
    return Encoded(tokens, None, mask) if row is None else Encoded(tokens[row : row + 1, : (7, 4)[row]], None, rows(((7, 4)[row],)))


def batch(row=None):
    generator = torch.Generator().manual_seed(2)
    mels, linear = torch.rand(2, 5, 9, generator=generator), torch.rand(2, 9, 9, generator=generator)
    if row is None:
        return Batch({}, targets={MELS: mels, MAGNITUDES: linear, FRAMES: rows((9, 6))})
    length = (9, 6)[row]
    return Batch({}, targets={MELS: mels[row : row + 1, :, :length], MAGNITUDES: linear[row : row + 1, :, :length]})


@pytest.mark.parametrize("reduction", [1, 2, 5])
def test_padding_changes_nothing(reduction):
    head = make(reduction=reduction).eval()
    both = head({"text": encoded()}, batch())
    for row in (0, 1):
        alone = head({"text": encoded(row)}, batch(row))
        for name in ("mels", "magnitudes"):
            frames = alone.outputs[name].shape[2]
            torch.testing.assert_close(both.outputs[name][row, :, :frames], alone.outputs[name][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("row", "count"), [("tacotron_head", 1_639_968 + 1_824_625), ("tacotron_head_r5", 1_701_648 + 1_824_625)])
def test_sizes_are_those_of_table_1(row, count):
    head = zoo.create_model(row, inputs={"text": EncoderSpec("text", 256)}, device="meta")
    assert sum(p.numel() for p in head.parameters()) == count  # decoder and post-net, as the spec sheet counts keithito's


@torch.no_grad()
def test_step_by_step_gives_what_teacher_forcing_gives():
    head, mels = make(reduction=2).eval(), torch.rand(1, 5, 8)
    found, _, alignments = head.teacher_forced(encoded(0), mels)
    stepper, frame = Stepper(head.decoder, encoded(0).tokens, None), torch.zeros(1, 5)
    for step in range(4):
        group, weights = stepper(frame)
        torch.testing.assert_close(group.view(2, 5).T, found[0, :, 2 * step : 2 * step + 2], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(weights, alignments[:, step], atol=1e-6, rtol=1e-5)
        frame = mels[:, :, 2 * step + 1]


def test_every_parameter_learns():
    head = make(num_speakers=2, guided_weight=1.0, low_bins=3).train()
    targets = {**batch().targets, "labels": torch.tensor([0, 1])}
    head({"text": encoded()}, Batch({}, targets=targets)).loss.backward()
    silent = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


class Sound:
    sample_rate_hz, hop_samples, quiet_level = 100, 10, 0.5


def test_it_ends_where_attention_rests_or_nothing_is_heard():
    head = make(reduction=1).eval()
    quiet = head.say(encoded(0), sound=Sound, max_seconds=9.0, rest_seconds=None, silent_seconds=1e-9)
    assert set(quiet.reasons) <= {SILENCE, "step limit"}
    one_character = Encoded(encoded(0).tokens[:, :1], None, torch.ones(1, 1, dtype=torch.bool))
    resting = head.say(one_character, sound=Sound, max_seconds=9.0, rest_seconds=1.2, silent_seconds=None)
    assert resting.reasons == [SATURATED] and resting.num_steps.tolist() == [12]


def test_a_system_says_a_text_by_its_magnitudes():
    system = zoo.create_system("tacotron_nano")
    speech = system.synthesize(["forty two"], max_seconds=0.3)[0]
    assert speech.sample_rate_hz == 16000 and speech.stop_reason == "step limit"
    assert len(speech.waveform) == (speech.mels.shape[1] - 1) * 256
    assert "does not end" in speech.faults and not speech.is_aligned


def test_without_magnitudes_it_says_what_to_set():
    head = make()
    with pytest.raises(DataError, match="speech.linear to true and num_fft to 16"):
        head({"text": encoded()}, Batch({}, targets={MELS: batch().targets[MELS]}))


def test_wrong_numbers_are_refused():
    with pytest.raises(ConfigError, match="low_bins: 10"):
        make(low_bins=10)
