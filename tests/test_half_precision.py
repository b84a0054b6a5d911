"""Verbs in bfloat16, float16 and float64: within reach of float32, whatever dtype the processor makes."""

import numpy as np
import pytest
import torch
from nano_batches import random_batch

import zoo

DTYPES = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float64: 1e-5}
PIXELS = [np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8) for n in range(3)]


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def dtype(request):
    return request.param


def compared(name, dtype, ask, overrides=()):
    model = zoo.load(name) if name == "clip_vit_nano" else zoo.create_system(name, list(overrides)).eval()
    expected = ask(model)
    assert (ask(model.to(dtype)).double() - expected.double()).abs().max() < DTYPES[dtype]


@pytest.mark.parametrize("modality", ["image", "text"])
def test_embed(dtype, modality):
    compared("clip_vit_nano", dtype, lambda model: model.embed(modality, PIXELS if modality == "image" else ["a three", "nine"]))


def test_classify_of_a_contrastive_system(dtype):
    compared("clip_vit_nano", dtype, lambda model: model.classify(PIXELS, ["three", "nine"]))


def test_classify_and_logits_of_a_classifier(dtype):
    compared("classifier_vit_nano", dtype, lambda model: model.classify(PIXELS))
    compared("classifier_vit_nano", dtype, lambda model: model.logits(PIXELS))


def test_encode_of_every_modality(dtype):
    compared("clap_whisper_nano", dtype, lambda model: model.encode("audio", [np.full(6000, 0.1, np.float32)]).pooled)


def test_loading_in_a_dtype(dtype):
    found = zoo.load("clip_vit_nano", dtype=dtype).embed("image", PIXELS)
    assert (found - zoo.load("clip_vit_nano").embed("image", PIXELS)).abs().max() < DTYPES[dtype]


def test_fill_mask(dtype):
    model = zoo.create_system("bert_pretraining_nano").eval()
    model.processor.fit(["a red ball lies here"] * 3)
    part = model.processor["text"]
    ((pairs,),) = model.to(dtype).fill_mask([f"a {part.tokenizer.id_to_token(part.mask_token_id)} ball"])
    assert len(pairs) == 5 and all(np.isfinite(share) for _, share in pairs)


def test_generate_and_score(dtype):
    model = zoo.create_system("llava_nano").eval()
    model.processor.fit(["what is it? seven"] * 3)
    model.to(dtype)
    assert len(model.generate([[PIXELS[0], "what is it?"]], max_new_tokens=2)) == 1
    assert model.score([[PIXELS[0], "what is it?"]], ["seven"]).isfinite().all()


def test_transcribe(dtype):
    model = zoo.create_system("whisper_nano").eval()
    model.processor.fit(["what is it? seven"] * 3)
    assert isinstance(model.to(dtype).transcribe((np.full(6000, 0.1, np.float32), 16000), temperatures=[0.0]).text, str)


@pytest.mark.parametrize("name", ["tacotron2_nano", "tacotron_nano"])
def test_synthesize(dtype, name):
    model = zoo.create_system(name).eval()
    (speech,) = model.to(dtype).synthesize(["seven"], max_seconds=0.2)
    assert np.isfinite(np.asarray(speech.waveform)).all()


@pytest.mark.parametrize("name", ["tacotron2_nano", "tacotron_nano"])
def test_the_loss_of_speech_with_targets_in_float32(dtype, name):
    torch.manual_seed(0)
    model = zoo.create_system(name).eval()
    batch = random_batch(model, 2)
    with torch.no_grad():
        expected = model(batch).loss.double()
        assert (model.to(dtype)(batch).loss.double() - expected).abs() < DTYPES[dtype] * expected
