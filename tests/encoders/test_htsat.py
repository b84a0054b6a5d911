"""HTSAT and CLAP's mels against transformers, and the vector of a clip whatever stands beside it."""

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

import zoo
from zoo.encoders.htsat import HTSAT
from zoo.errors import ConfigError, DataError
from zoo.layers.swin import seam_mask, window_offsets
from zoo.processors.audio import AudioProcessor
from zoo.processors.media.clap_mel import VIEW_FRAMES, part_starts, repeat_padded
from zoo.testing import check_encoder

RATE = 48000
PUBLISHED = {"clap_htsat_unfused": 153_492_890, "clap_htsat_fused": 153_507_530, "clap_htsat_larger": 193_913_882}  # resolution.md, 6
SMALL = {"num_mels": 16, "spec_size": 64, "dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window": 4, "view_frames": 250}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    assert zoo.summarize(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize(
    ("spectrum", "truncation", "golden"), [("clap_fusion", "fusion", (-52.10705, 39.39664)), ("clap", "rand_trunc", (-67.30254, 36.66935))]
)
def test_mels_are_those_of_transformers(spectrum, truncation, golden):
    part, theirs = AudioProcessor(num_mels=64, spectrum=spectrum, too_long="cut"), ClapFeatureExtractor(truncation=truncation)
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(7 * RATE).astype(np.float32)
    for sound in (tone, noise):  # 3 s are repeated three times, 7 s once
        expected = theirs(sound, sampling_rate=RATE, return_tensors="pt")["input_features"][0, 0].T
        torch.testing.assert_close(part.item(sound), expected, atol=2e-5, rtol=0)
    found = part.item(tone)
    assert (found.mean().item(), found.std(correction=0).item()) == pytest.approx(golden, abs=1e-4)
    assert AudioProcessor(**part.settings).settings == part.settings


def test_a_long_clip_has_four_views_and_the_first_is_the_shrunk_whole_of_transformers():
    part = AudioProcessor(num_mels=64, spectrum="clap_fusion")
    sound = np.random.default_rng(0).standard_normal(11 * RATE).astype(np.float32)
    found = part.item(sound).unflatten(1, (4, VIEW_FRAMES))  # [num_mels, views, frames]
    theirs = ClapFeatureExtractor(truncation="fusion")(sound, sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(found[:, 0], theirs["input_features"][0, 0].T, atol=2e-5, rtol=0)
    assert torch.equal(found, part.item(sound).unflatten(1, (4, VIEW_FRAMES)))  # theirs cuts the other three at random
    assert part_starts(VIEW_FRAMES + 9) == [2, 5, 8] and part_starts(VIEW_FRAMES + 1) == [0, 1, 0]
    plain = AudioProcessor(num_mels=64, spectrum="clap", too_long="cut")
    torch.testing.assert_close(plain.item(sound), plain.item(sound[: 10 * RATE]))


def test_a_short_clip_is_repeated_whole_times():
    assert repeat_padded(torch.tensor([1.0, 2.0, 3.0]), 8).tolist() == [1, 2, 3, 1, 2, 3, 0, 0]
    with pytest.raises(DataError, match="at least one sample"):
        AudioProcessor(num_mels=64, spectrum="clap").item(np.zeros(0, dtype=np.float32))


def test_a_batch_of_short_and_long_clips_gives_what_single_clips_give(scramble):
    model = scramble(HTSAT(**SMALL, fusion=True), std=0.1)
    lengths = [1000, 250, 100, 1000]
    clips = [torch.randn(16, length) * 20 for length in lengths]
    batch = torch.stack([torch.nn.functional.pad(clip, (0, 1000 - clip.shape[1]), value=7.0) for clip in clips])
    together = model(batch, torch.arange(1000) < torch.tensor(lengths)[:, None])
    for row, clip in enumerate(clips):
        alone = model(clip[None])
        torch.testing.assert_close(together.pooled[row : row + 1], alone.pooled, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.tokens[row : row + 1], alone.tokens, atol=1e-5, rtol=1e-5)


def test_the_form_with_fusion_keeps_the_contract():
    check_encoder(zoo.create_model("htsat_nano", fusion=True))


def test_one_long_clip_trains_and_a_batch_without_one_still_reaches_the_fusion():
    model = HTSAT(**SMALL, fusion=True).train()
    weights = torch.linspace(0, 1, 16)
    (model(torch.randn(1, 16, 1000)).pooled * weights).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad(set_to_none=True)
    (model(torch.randn(2, 16, 250)).pooled * weights).sum().backward()
    assert all(p.grad is not None for p in model.parameters()) and not model.fusion.parts.weight.grad.any()


def test_offsets_and_seams_of_windows():
    assert window_offsets(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    mask = seam_mask(4, 2, 1)  # regions 0 0 1 2 on each axis: the first window is whole, in the last all four differ
    assert mask[0].all() and torch.equal(mask[3], torch.eye(4, dtype=torch.bool)) and mask[1].sum() == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_mels": 15}, "num_mels: 15 does not divide"),
        ({"window": 3}, "window: 3 does not divide the map of stage 1"),
        ({"depths": [1]}, "give both for each stage"),
        ({"dim": 15}, "give a multiple of 2"),
        ({"view_frames": 300}, "a view has 1 to 256 frames"),
        ({"num_heads": [3, 2]}, "num_heads: 3 does not divide dim 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        HTSAT(**{**SMALL, **wrong})


def test_other_mels_are_refused():
    with pytest.raises(DataError, match=r"takes \[batch, 16, 1 to 256 frames\]"):
        HTSAT(**SMALL)(torch.zeros(1, 16, 257))
