"""transformers' LLaVA against our system, in and out."""

import json

import numpy as np
import pytest
import torch
import transformers as reference
from PIL import Image

import zoo
from zoo.errors import ConfigError, WeightsError
from zoo.interop.llava import names as transformers_llava
from zoo.layers.splice import splice
from zoo.storage.tensors import read_tensors, write_tensors

IMAGE = 110
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
WORDS = {"vocab_size": 120, "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 5}
LANGUAGES = {
    "llama": lambda: reference.LlamaConfig(**WORDS, num_key_value_heads=1, head_dim=8, max_position_embeddings=128),
    "tied llama": lambda: reference.LlamaConfig(**WORDS, num_key_value_heads=5, max_position_embeddings=128, tie_word_embeddings=True),
    "qwen2": lambda: reference.Qwen2Config(**WORDS, num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=True),
    "gemma": lambda: reference.GemmaConfig(**WORDS, num_key_value_heads=1, head_dim=8, max_position_embeddings=128),
    "gpt_neox": lambda: reference.GPTNeoXConfig(**WORDS, max_position_embeddings=128),
    "mistral": lambda: reference.MistralConfig(**WORDS, num_key_value_heads=1, sliding_window=8, max_position_embeddings=128),
}
TOWER = {"image_size": 32, "patch_size": 8, "dim": 48, "depth": 3, "num_heads": 3, "pre_norm": True, "patch_bias": False, "eps": 1e-5}
TOWERS = {
    "clip": lambda: reference.CLIPVisionConfig(**VISION),
    "siglip": lambda: reference.SiglipVisionConfig(**VISION),
    "dinov2": lambda: reference.Dinov2Config(**VISION, mlp_ratio=2),
    "ijepa": lambda: reference.IJepaConfig(**VISION),
}
CASES = {
    "clip and llama": ("clip", "llama", {}),
    "siglip and mistral": ("siglip", "mistral", {"vision_feature_layer": -1}),
    "siglip and qwen2": ("siglip", "qwen2", {}),
    "dinov2, two layers, and gemma": ("dinov2", "gemma", {"vision_feature_layer": [-3, -1]}),
    "another tower and gpt_neox": ("ijepa", "gpt_neox", {}),
    "clip with its class token": ("clip", "llama", {"vision_feature_select_strategy": "full"}),
    "clip and a tied llama": ("clip", "tied llama", {"vision_feature_layer": 1, "multimodal_projector_bias": False}),
}
every_case = pytest.mark.parametrize("case", CASES)


def theirs(case, scramble):
    """Random LLaVA of transformers."""
    tower, language, more = CASES[case]
    more = {"vision_feature_select_strategy": "default" if tower in ("clip", "dinov2") else "full", **more}
    config = reference.LlavaConfig(vision_config=TOWERS[tower](), text_config=LANGUAGES[language](), image_token_index=IMAGE, **more)
    return scramble(reference.LlavaForConditionalGeneration(config), std=0.05)


def prompts(tokens=16):
    token_ids = torch.randint(0, 100, (2, 24))
    token_ids[0, 3 : 3 + tokens] = token_ids[1, 1 : 1 + tokens] = IMAGE
    return token_ids, torch.randn(2, 3, 32, 32)


def places(case):
    return 17 if case == "clip with its class token" else 16


@torch.no_grad()
def our_logits(system, token_ids, pixels):
    token_ids = token_ids.masked_fill(token_ids == IMAGE, -200)
    language, encoded = system.head.language, system.encode_ready("image", pixels)
    features = {"image": system.head.connectors["image"](encoded.tokens, encoded.mask)}
    return language.logits(language(splice(token_ids, language.embed(token_ids), features)))


@torch.no_grad()
def their_logits(model, token_ids, pixels):
    return model(input_ids=token_ids, pixel_values=pixels).logits


@every_case
def test_their_directory_gives_their_logits_here(case, scramble, tmp_path):
    model, inputs = theirs(case, scramble), prompts(places(case))
    model.save_pretrained(tmp_path)
    system = zoo.load(tmp_path)
    torch.testing.assert_close(our_logits(system, *inputs), their_logits(model, *inputs), rtol=0, atol=1e-5)
    assert system.counts["image"].fixed == places(case)


@every_case
def test_what_came_from_there_goes_back(case, scramble, tmp_path):
    model, inputs = theirs(case, scramble), prompts(places(case))
    model.save_pretrained(tmp_path / "theirs")
    zoo.export(zoo.load(tmp_path / "theirs"), tmp_path / "ours")
    again = reference.LlavaForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    marked = inputs[0].masked_fill(inputs[0] == IMAGE, again.config.image_token_id)  # a row of its own: no tokenizer names another
    found = their_logits(again, marked, inputs[1])
    torch.testing.assert_close(found[..., :120], their_logits(model, *inputs), rtol=0, atol=1e-5)
    assert (found[..., 120:] < found.amax(-1, keepdim=True)).all()
    assert again.config.vision_feature_layer == model.config.vision_feature_layer


@pytest.mark.parametrize("names", ["memory", "hub"])
def test_names_in_memory_and_of_the_hub_are_read_alike(names, scramble, tmp_path):
    model = theirs("clip and llama", scramble)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    expected = zoo.load(tmp_path).state_dict()
    if names == "memory":
        write_tensors(model.state_dict(), file)
    else:
        tensors = {key.replace("vision_tower.", "vision_tower.vision_model."): tensor for key, tensor in read_tensors(file).items()}
        write_tensors(tensors, file)
    found = zoo.load(tmp_path).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_our_system_gives_its_logits_there_with_rows_for_the_marker(tmp_path):
    system = zoo.create_system({"encoders": {"image": {"name": "vit", **TOWER}}, "head": "llava", "language": "llama_nano"})
    system.processor.fit(["what is it?", "seven"])
    zoo.export(system, tmp_path / "llava")
    model = reference.LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava").eval()
    marker = system.processor["conversation"].tokenizer.token_to_id("<image>")
    assert model.config.image_token_id == marker < model.config.text_config.vocab_size == 512
    token_ids, pixels = prompts()
    expected = our_logits(system, token_ids, pixels)
    found = their_logits(model, token_ids.masked_fill(token_ids == IMAGE, marker), pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_their_processor_and_greedy_text_are_ours(tmp_path):
    system = zoo.create_system({"encoders": {"image": {"name": "vit", **TOWER}}, "head": "llava", "language": "llama_nano"})
    system.processor.fit(["what is it?", "seven"])
    with torch.no_grad():
        for parameter in system.head.parameters():
            parameter.mul_(4)
    zoo.export(system, tmp_path / "llava")
    processor = reference.AutoProcessor.from_pretrained(tmp_path / "llava")
    model = reference.LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava").eval()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    conversation = system.processor["conversation"]
    text = "".join(piece.text for piece in conversation.render(conversation.conversation(["what?", picture]), for_generation=True))
    inputs = processor(images=[picture], text=[text], return_tensors="pt", add_special_tokens=False)
    batch = system.processor(conversation=[["what?", picture]], for_generation=True)
    ids = batch.inputs["text"]
    assert torch.equal(inputs["input_ids"], ids.masked_fill(ids == -200, model.config.image_token_id))
    torch.testing.assert_close(inputs["pixel_values"], batch.inputs["image"], rtol=0, atol=1e-5)
    found = model.generate(**inputs, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :]
    said = conversation.decode(found.tolist())
    assert system.generate([["what?", picture]], max_new_tokens=10) == [said]


@pytest.mark.parametrize("resize", ["pad", "crop"])
def test_both_ways_to_a_square_are_theirs(resize, tmp_path):
    """Compare within two grey levels: transformers resizes with torch, whose filters round differently from PIL's."""
    settings = {"image": {"resize": resize}}
    system = zoo.create_system(
        {"encoders": {"image": {"name": "vit", **TOWER}}, "head": "llava", "language": "llama_nano", "processor": settings}
    )
    zoo.export(system, tmp_path / "llava")
    theirs = reference.AutoImageProcessor.from_pretrained(tmp_path / "llava")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)).resize((96, 64))
    ours = system.processor["image"]([picture])[0]
    difference = (theirs(picture, return_tensors="pt")["pixel_values"] - ours).abs()
    assert difference.max() <= 2.01 / 255 / min(system.processor["image"].std)
    assert zoo.load(tmp_path / "llava").processor["image"].settings == system.processor["image"].settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_feature_layer": [-2, "-5"]}, "vision_feature_layer: got .* allowed is a whole number, or a list of them"),
        ({"vision_feature_select_strategy": "all"}, "vision_feature_select_strategy: got 'all'"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act: got 'relu'"),
        ({"vision_config": {**VISION, "model_type": "siglip_vision_model"}}, "got 'default', which leaves out the first patch of a siglip"),
        ({"vision_config": {**VISION, "model_type": "dinov2_with_registers", "num_register_tokens": 3}}, "has 4 tokens before its patches"),
        ({"text_config": {"model_type": "t5"}}, "text_config.model_type: 't5' is not a causal language model"),
        ({"text_config": {"model_type": "gemma2"}}, "text_config.final_logit_softcapping: got 30.0, which transformers' LLaVA ignores"),
    ],
)
def test_forms_that_ours_does_not_have_are_refused(change, message):
    config = {"model_type": "llava", "vision_config": VISION, "text_config": {"model_type": "llama"}}
    with pytest.raises(ConfigError, match=message):
        transformers_llava.system(config | change)


def test_weights_that_are_left_over_are_refused(scramble, tmp_path):
    theirs("clip and llama", scramble).save_pretrained(tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    write_tensors({**tensors, "image_newline": torch.zeros(40)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 unknown \(image_newline\)"):
        zoo.load(tmp_path)


def test_another_layer_than_the_weights_were_trained_with_is_refused(scramble, tmp_path):
    theirs("clip and llama", scramble).save_pretrained(tmp_path)
    config = json.loads(json.dumps(zoo.load(tmp_path).config))
    config["head"]["feature_layer"] = -1
    with pytest.raises(ConfigError, match="system.head.feature_layer: -1, but .* was trained with -2"):
        zoo.create_system(config, weights=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["system.head.connectors.image=linear"], "kind: got 'linear'"),
        (["encoder@system.encoders.image=vig_nano"], "this system has image: vig"),
        ([], "encoders.image.*pool|patch_bias"),
    ],
)
def test_systems_that_theirs_is_not_are_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        zoo.export(zoo.create_system("llava_nano", overrides), tmp_path / "out")
