"""Invariants of Tacotron 2's head (padding, several frames per step, schedules); equality with torchaudio's: tests/convert."""

import pytest
import torch

import zoo
from zoo.errors import ConfigError, DataError
from zoo.layers.teacher_forcing import TeacherForcing, fed_frames, whole_groups
from zoo.types import FRAMES, MELS, Batch, Encoded, EncoderSpec

TEXT_LENGTHS, FRAME_LENGTHS = (7, 4), (9, 6)
TEXTS = ["forty two", "seven", "one hundred and three"]


def make(**words):
    from zoo.heads.tacotron2 import Tacotron2

    small = {"num_mels": 5, "prenet_dim": 8, "rnn_dim": 12, "attention_dim": 8, "location_filters": 4, "location_kernel": 5}
    head = Tacotron2(inputs={"text": EncoderSpec("text", 6)}, postnet_dim=8, postnet_depth=2, **{**small, **words})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return head


def rows(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def encoded(row=None):
    tokens, mask = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1)), rows(TEXT_LENGTHS)
    if row is None:
        return Encoded(tokens, None, mask)
    length = TEXT_LENGTHS[row]
    return Encoded(tokens[row : row + 1, :length], None, mask[row : row + 1, :length])


def batch(row=None, **targets):
    mels, mask = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(2)), rows(FRAME_LENGTHS)
    if row is None:
        return Batch({}, targets={MELS: mels, FRAMES: mask, **targets})
    length = FRAME_LENGTHS[row]
    return Batch({}, targets={MELS: mels[row : row + 1, :, :length], **targets})


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_padding_changes_neither_frames_nor_loss(reduction):
    head = make(reduction=reduction, guided_weight=1.0).eval()
    both = head({"text": encoded()}, batch())
    alone = [head({"text": encoded(row)}, batch(row)) for row in (0, 1)]
    for row, output in enumerate(alone):
        frames = output.outputs["mels"].shape[2]
        torch.testing.assert_close(both.outputs["mels"][row, :, :frames], output.outputs["mels"][0], atol=1e-5, rtol=1e-5)
    steps = torch.tensor([output.outputs["stops"].shape[1] for output in alone]).float()
    for name in ("mel_loss", "postnet_loss", "stop_loss", "guided_loss"):  # means over real steps, weighted by their number
        expected = (torch.stack([output.metrics[name] for output in alone]) * steps).sum() / steps.sum()
        torch.testing.assert_close(both.metrics[name], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reduction", [1, 3])
def test_saying_step_by_step_gives_what_teacher_forcing_gives(reduction):
    head = make(reduction=reduction).eval()
    said = head.say(encoded(0), max_steps=5, seed=0, stop_threshold=0.999999)
    mels = torch.cat([said.frames, said.frames[..., -1:]], -1)[..., : 5 * reduction]
    before = _before_postnet(head, encoded(0), 5)
    found, _ = head.teacher_forced(encoded(0), before)
    torch.testing.assert_close(found.mels, before, atol=1e-5, rtol=1e-5)
    assert mels.shape[2] == 5 * reduction


def _before_postnet(head, text, steps):
    """Return the frames of the decoder, before the post-net."""
    masks, stepper = head._masks(text.tokens, 0), head.decoder.stepper(text.tokens, None)
    frame, groups = torch.zeros(1, head.num_mels), []
    with torch.no_grad():
        for number in range(steps):
            group, _, _ = stepper(frame, masks[number])
            frame = group[:, -head.num_mels :]
            groups.append(group.view(1, -1, head.num_mels))
    return torch.cat(groups, 1).transpose(1, 2)


def test_folding_the_tokens_changes_nothing(monkeypatch):
    head, text = make().eval(), encoded()
    folded = head.say(text, max_steps=6)
    import zoo.layers.tacotron2_decoder as module

    plain = module.Attended.__init__

    def never(self, memory, *columns):
        plain(self, memory, *columns)
        self.values, self.columns = memory, torch.cat(columns)

    monkeypatch.setattr(module.Attended, "__init__", never)
    torch.testing.assert_close(head.say(text, max_steps=6).frames, folded.frames, atol=1e-5, rtol=1e-5)


def test_the_second_lstm_in_a_loop_gives_what_it_gives_at_once(monkeypatch):
    monkeypatch.setattr("zoo.layers.tacotron2_decoder.F.dropout", lambda x, *words, **more: x)
    head = make(hidden_dropout=0.1, prenet_dropout=0.0)
    looped, _ = head.train().teacher_forced(encoded(), batch().targets[MELS])
    at_once, _ = head.eval().teacher_forced(encoded(), batch().targets[MELS])
    torch.testing.assert_close(looped.mels, at_once.mels, atol=1e-5, rtol=1e-5)


def test_prenet_dropout_stays_on_and_follows_the_seed_alone():
    head = make().eval()
    first = head.say(encoded(0), max_steps=4, seed=3).frames
    torch.rand(7)  # the global generator has no part in it
    torch.testing.assert_close(head.say(encoded(0), max_steps=4, seed=3).frames, first, atol=0, rtol=0)
    assert not torch.allclose(head.say(encoded(0), max_steps=4, seed=4).frames, first)


def test_every_parameter_learns():
    head = make(num_speakers=3, guided_weight=1.0).train()
    head({"text": encoded()}, batch(labels=torch.tensor([0, 2]))).loss.backward()
    silent = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_speakers_sound_different_and_must_be_named():
    head = make(num_speakers=2).eval()
    one, two = (head.say(encoded(0), max_steps=3, speaker=who).frames for who in (0, 1))
    assert not torch.allclose(one, two)
    with pytest.raises(DataError, match="2 voices"):
        head({"text": encoded()}, batch())
    with pytest.raises(DataError, match="allowed are 0 to 1"):
        head({"text": encoded()}, batch(labels=torch.tensor([0, 2])))


def test_teacher_forcing_follows_its_schedule_and_is_part_of_the_state():
    forcing = TeacherForcing((1.0, 0.5), (10, 20)).train()
    seen = []
    for _ in range(31):
        seen.append(forcing.share)
        forcing.after_step()
    assert seen[10] == 1.0 and seen[15] == 0.75 and seen[20] == 0.5 and seen[30] == 0.5
    again = TeacherForcing((1.0, 0.5), (10, 20))
    again.load_state_dict(forcing.state_dict())
    assert int(again.steps_done) == 31 and again.eval().share == 1.0


def test_without_true_frames_the_own_ones_are_fed():
    head = make(teacher_forcing=(0.0, 0.0), prenet_dropout=0.0, hidden_dropout=0.0).train()
    mels = torch.randn(2, 5, 4)
    found, _ = head.teacher_forced(encoded(), mels)
    other, _ = head.teacher_forced(encoded(), mels + 1)
    torch.testing.assert_close(found.mels, other.mels)
    head.forcing = TeacherForcing((1.0, 1.0), (0, 1))
    by_truth, _ = head.teacher_forced(encoded(), torch.cat([found.mels, mels], -1)[..., :4])
    torch.testing.assert_close(by_truth.mels, found.mels, atol=1e-5, rtol=1e-5)


def test_groups_are_filled_with_each_rows_last_frame():
    mels, mask = torch.arange(5.0).expand(2, 1, 5), rows((5, 3))
    whole, real = whole_groups(mels, mask, 2)
    assert whole[:, 0].tolist() == [[0, 1, 2, 3, 4, 4], [0, 1, 2, 2, 2, 2]]
    assert real.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert fed_frames(whole, 2)[:, 0, 0].tolist() == [0, 1, 3]


def test_a_batch_of_texts_says_what_single_texts_say():
    system = zoo.create_system("tacotron2_nano")
    together = system.synthesize(TEXTS, batch_size=3, max_seconds=0.4)
    for text, speech in zip(TEXTS, together, strict=True):
        alone = system.synthesize([text], max_seconds=0.4)[0]
        assert alone.stop_reason == speech.stop_reason and speech.alignment.shape[1] == len(text)
        torch.testing.assert_close(alone.mels, speech.mels, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.waveform, speech.waveform, atol=1e-3, rtol=1e-3)  # sixty rounds of Griffin-Lim


def test_synthesis_refuses_what_it_cannot_say():
    system = zoo.create_system("tacotron2_nano")
    for words, match in [
        ({"texts": "hello"}, "list of texts"),
        ({"texts": ["..."]}, "nothing that can be spoken"),
        ({"texts": ["hello " * 40]}, "cannot be spoken in one piece"),
        ({"texts": ["hello"], "max_seconds": 0.0}, "max_seconds 0"),
        ({"texts": ["hello"], "speaker": 1}, "do not give a speaker"),
        ({"texts": ["hello"], "vocoder": "hifi"}, "no 'hifi'"),
        ({"texts": ["hello"], "vocoder": "wavernn"}, "was trained on mels with sample_rate_hz 22050"),
        ({"texts": ["hello"], "stop_threshold": 1.0}, "stop_threshold: 1.0"),
    ]:
        with pytest.raises((DataError, ConfigError), match=match):
            system.synthesize(**words)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"reduction": 0}, "reduction: 0"),
        ({"location_kernel": 4}, "odd"),
        ({"teacher_forcing": [2.0, 1.0]}, "two shares"),
        ({"num_speakers": -1}, "-1"),
    ],
)
def test_wrong_numbers_are_refused(words, match):
    with pytest.raises(ConfigError, match=match):
        make(**words)


def test_a_batch_without_mels_says_what_is_missing():
    with pytest.raises(DataError, match="processor 'speech' with num_mels 5"):
        make()({"text": encoded()}, Batch({}))


@pytest.mark.card("tacotron2", "trains")
def test_one_batch_can_be_learnt(card_figure):
    head = make(guided_weight=1.0, prenet_dropout=0.0, hidden_dropout=0.0, postnet_dropout=0.0).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = head({"text": encoded()}, batch()).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    card_figure(f"one batch, 120 steps: loss {losses[0]:.2f} to {losses[-1]:.2f}")
    assert losses[-1] < losses[0] / 3
