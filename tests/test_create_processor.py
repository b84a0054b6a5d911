"""A model that is created by name is ready for raw inputs, with and without weights."""

import numpy as np
import pytest
import torch

import zoo


@pytest.mark.parametrize("name", ["vit_nano", "vig_nano", "timm_nano", "fusion_nano"])
def test_an_image_encoder_takes_pictures(name):
    encoder, picture = zoo.create_model(name), np.zeros((50, 40, 3), dtype=np.uint8)
    pixels, _ = encoder.processor["image"]([picture])
    assert pixels.shape == (1, 3, encoder.image_size, encoder.image_size) and torch.equal(encoder.transform(picture), pixels[0])
    assert encoder.processor["image"].settings["mean"] == list(encoder.preprocessing.get("mean", encoder.processor["image"].mean))


def test_an_audio_encoder_takes_waveforms():
    encoder = zoo.create_model("whisper_nano_encoder")
    mels, mask = encoder.processor["audio"]([np.zeros(8000, dtype=np.float32)])
    assert encoder(mels, mask).tokens.shape[2] == encoder.dim


def test_a_text_encoder_of_clip_has_clips_tokenizer():
    processor = zoo.create_model("text_clip_base", depth=1, dim=64, num_heads=2).processor["text"]
    token_ids, _ = processor(["a cat"])
    assert token_ids[0].tolist() == [49406, 320, 2368, 49407]  # as open_clip's tokenizer


def test_other_sizes_still_make_a_model():
    assert zoo.create_model("text_nano", vocab_size=20, eot_token_id=3, context_length=4).processor is None


def test_the_processor_follows_the_size_of_the_model():
    assert zoo.create_model("vit_nano", image_size=64).processor["image"].image_size == 64
