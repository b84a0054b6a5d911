"""Language models of transformers behind LLaVA and Kosmos: answers to prompts with images are those of transformers' ``generate``."""

import json

import language_types
import numpy as np
import pytest
import torch
import transformers

import zoo
from zoo.language.decoding.generate import generate
from zoo.language.decoding.prefill import pad
from zoo.language.decoding.sampling import Sampling

SYSTEMS = {"llava_nano": "qwen3_next", "kosmos_nano": "mistral"}  # by system: states of linear attention, a window
TEXTS = ["which is it?", "what do you see?", "seven"]


@pytest.fixture(params=SYSTEMS)
def system(request, tmp_path):
    """Return a system whose language model is a tiny one of transformers with large random weights."""
    small = language_types.tiny_config(SYSTEMS[request.param])
    config = {**small, "vocab_size": 512, "max_position_embeddings": 512, "architectures": ["XForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    system = zoo.create_system(request.param, [f"language@system.head.language=transformers/{tmp_path}"]).eval()
    system.processor.fit(TEXTS)
    with torch.no_grad():
        for parameter in system.head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return system


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@torch.no_grad()
def test_answers_to_images_are_those_of_transformers(system):
    prompts = [["which is it?", picture(1)], ["seven"], [picture(2), picture(3), "a"]]
    vectors, ids = system.prompt_vectors(prompts)
    language = system.head.language
    answers = generate(language, vectors, ids, Sampling(max_new_tokens=6))
    batch, mask = pad(vectors, "left")
    theirs: transformers.PreTrainedModel = language.model
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = theirs.generate(inputs_embeds=batch, attention_mask=mask.long(), **settings)
    assert [answer.ids for answer in answers] == expected.tolist()
    assert len({tuple(answer.ids) for answer in answers}) > 1


def test_a_batch_trains_through_the_hosted_model(system):
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": picture(0)}, "which?"]}, {"role": "assistant", "content": "seven"}]
    ]
    loss = system.train()(system.processor(conversation=conversations)).loss
    loss.backward()
    gradients = [parameter.grad for parameter in system.head.language.parameters() if parameter.requires_grad]
    assert loss.isfinite() and all(gradient is not None for gradient in gradients)
