"""transformers' Kosmos-2 against our decoder and our system, in and out."""

import json

import numpy as np
import pytest
import torch
import transformers as reference
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers.models.kosmos2 import modeling_kosmos2

import zoo
from zoo.errors import ConfigError, WeightsError
from zoo.interop.kosmos2 import names as transformers_kosmos2
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.language.magneto import Magneto
from zoo.storage.tensors import read_tensors, write_tensors

WORDS = {"vocab_size": 131, "max_position_embeddings": 90, "embed_dim": 42, "layers": 3, "ffn_dim": 50, "attention_heads": 3}
VISION = {"image_size": 28, "patch_size": 7, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 60}
LATENTS = 5


def text_config(**more):
    return modeling_kosmos2.Kosmos2TextConfig(**WORDS, **more)


@pytest.fixture
def decoder(scramble):
    """Their language model with random weights, and ours with the same."""
    theirs = scramble(modeling_kosmos2.Kosmos2TextForCausalLM(text_config()), std=0.1)
    ours = Magneto(**transformers_kosmos2.language_arguments(theirs.config.to_dict())).eval()
    ours.load_state_dict(transformers_kosmos2.language_to_zoo(theirs.state_dict()))
    return theirs, ours


@torch.no_grad()
def test_the_decoder_gives_their_states_and_logits(decoder):
    theirs, ours = decoder
    ids = torch.randint(2, 131, (2, 37))
    expected = theirs.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(ours(ids), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.logits(ours(ids)), theirs(input_ids=ids).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_decoder_gives_their_states_of_a_padded_batch(decoder):
    theirs, ours = decoder
    ids, mask = torch.randint(2, 131, (3, 20)), torch.arange(20) < torch.tensor([[20], [7], [1]])
    ids = ids.masked_fill(~mask, 1)
    expected = theirs.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(ours(ids, mask)[mask], expected[mask], rtol=0, atol=1e-5)


def test_the_decoders_gradients_are_theirs(decoder):
    theirs, ours = decoder
    ids = torch.randint(2, 131, (2, 15))
    for logits in (theirs(input_ids=ids).logits, ours.logits(ours(ids))):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    found = dict(ours.named_parameters())
    for name, gradient in transformers_kosmos2.language_to_zoo(gradients).items():
        torch.testing.assert_close(found[name].grad, gradient, rtol=0, atol=1e-5 * max(1, gradient.abs().max().item()))


def their_tokenizer():
    """Make a small tokenizer like Kosmos-2's: SentencePiece with the first ids of fairseq."""
    letters = sorted(set("\u2581An image of fire?.,:QuestionAwr".replace(" ", "")))
    special = ("<s>", "<pad>", "</s>", "<unk>")
    words = [(word, -3.0) for word in ("\u2581An", "\u2581image", "\u2581of", "\u2581a")] + [(letter, -8.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram([*((word, 0.0) for word in special), *words], unk_id=3))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), special, strict=True))
    return reference.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def their_processor():
    square = {"height": VISION["image_size"], "width": VISION["image_size"]}
    images = reference.CLIPImageProcessor(size=square, crop_size=square)
    return reference.Kosmos2Processor(images, their_tokenizer(), num_patch_index_tokens=16)


def their_model(scramble, **more):
    config = reference.Kosmos2Config(text_config=WORDS, vision_config=VISION, latent_query_num=LATENTS, **more)
    model = scramble(reference.Kosmos2ForConditionalGeneration(config), std=0.1)
    model.set_attn_implementation("eager")  # with theirs by default, latents are masked as if they were words; see the converter
    with torch.no_grad():
        model.get_input_embeddings().weight[1] = 0  # padding's, which they set to zero when they load a model
    return model


@pytest.fixture
def directory(scramble, tmp_path):
    """Directory of a random model of transformers, with its processor."""
    model, processor = their_model(scramble), their_processor()
    model.save_pretrained(tmp_path / "theirs")
    processor.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs", model, processor


def a_picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def their_inputs(processor, texts, pictures):
    return processor(images=pictures, text=texts, return_tensors="pt", padding=True, num_image_tokens=LATENTS)


@torch.no_grad()
def our_logits(system, batch):
    """Logits at every token of prompts."""
    vectors, _ = system.head.prompt_vectors(system, batch)
    return [system.head.language.logits(system.head.language(row[None]))[0] for row in vectors]


@torch.no_grad()
def test_their_directory_gives_their_logits_here(directory):
    path, model, _ = directory
    system, pixels = zoo.load(path), torch.randn(2, 3, 28, 28)
    encoded = system.encode_ready("image", pixels)
    latents, _ = system.head.connectors["image"](encoded.tokens, encoded.mask)
    assert encoded.tokens.shape == (2, 17, 36) and latents.shape == (2, LATENTS, 42)
    ids, places = torch.randint(4, 60, (2, 12)), torch.zeros(2, 12, dtype=torch.bool)
    places[:, 2:7] = True
    expected = model(pixel_values=pixels, input_ids=ids, image_embeds_position_mask=places).logits
    language = system.head.language
    vectors = language.embed(ids).masked_scatter(places[..., None], latents)
    torch.testing.assert_close(language.logits(language(vectors)), expected, rtol=0, atol=1e-5)


TEXTS = ["An image of", "<grounding> An image of", "<phrase>a fire</phrase><object><patch_index_0003><patch_index_0007></object>?"]


def test_the_places_of_tokens_are_those_of_their_processor(directory):
    path, _, processor = directory
    system, pictures = zoo.load(path), [a_picture(seed) for seed in range(3)]
    theirs = their_inputs(processor, TEXTS, pictures)
    ours = system.processor(conversation=[[p, t] for p, t in zip(pictures, TEXTS, strict=True)], for_generation=True, padding_side="right")
    ids, mask = ours.inputs["text"], ours.masks["text"]
    latents = theirs["image_embeds_position_mask"].bool()
    assert torch.equal(ids == -200, latents) and torch.equal(mask, theirs["attention_mask"].bool())
    assert torch.equal(ids[mask & ~latents], theirs["input_ids"][mask & ~latents])
    assert latents[0].tolist()[:8] == [False, False, *[True] * LATENTS, False] and int(ids[0, 0]) == 0
    assert (theirs["pixel_values"] - ours.inputs["image"]).abs().max() < 2.01 / 255 / 0.26  # grey levels: theirs resizes with torch


def test_their_greedy_tokens_are_ours(directory):
    path, model, processor = directory
    system, picture = zoo.load(path), a_picture()
    inputs = their_inputs(processor, ["An image of"], [picture])
    inputs["pixel_values"] = system.processor(conversation=[[picture, "An image of"]], for_generation=True).inputs["image"]
    ends = system.processor["conversation"].eos_token_ids
    found = model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=ends)[0, inputs["input_ids"].shape[1] :]
    vectors, ids = system.prompt_vectors([[picture, "An image of"]])
    answer = generate(system.head.language, vectors, ids, Sampling(max_new_tokens=12, temperature=0.0, eos_token_ids=tuple(ends)))[0]
    assert answer.ids == [token for token in found.tolist() if token not in ends] and len(answer.ids) > 3
    said = system.generate([[picture, "An image of"]], max_new_tokens=12)
    assert said == [system.processor["conversation"].decode(answer.ids)]


def test_what_came_from_there_goes_back_bit_for_bit(directory, tmp_path):
    path, model, processor = directory
    zoo.export(zoo.load(path), tmp_path / "ours")
    before, after = (read_tensors(folder / "model.safetensors") for folder in (path, tmp_path / "ours"))
    assert set(before) == set(after) and all(torch.equal(after[name], tensor) for name, tensor in before.items())
    again = reference.Kosmos2ForConditionalGeneration.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    inputs = their_inputs(reference.AutoProcessor.from_pretrained(tmp_path / "ours"), TEXTS, [a_picture(seed) for seed in range(3)])
    expected = their_inputs(processor, TEXTS, [a_picture(seed) for seed in range(3)])
    assert all(torch.equal(inputs[name], value) for name, value in expected.items()) and set(inputs) == set(expected)
    assert torch.equal(again(**inputs).logits, model(**expected).logits)
    before, after = (reference.AutoConfig.from_pretrained(folder).to_diff_dict() for folder in (path, tmp_path / "ours"))
    assert {**after, "transformers_version": "", "dtype": ""} == {**before, "transformers_version": "", "dtype": ""}


TOWER = {"image_size": 28, "patch_size": 7, "dim": 36, "depth": 1, "num_heads": 3, "pre_norm": True, "patch_bias": False, "eps": 1e-5}


def test_our_system_gives_its_logits_there(tmp_path):
    latents = {"kind": "kosmos2", "num_latents": LATENTS, "num_heads": 2}
    system = zoo.create_system(
        {
            "encoders": {"image": {"name": "vit", **TOWER}},
            "head": {"name": "kosmos", "connectors": {"image": latents}},
            "language": {"name": "magneto", "vocab_size": 400, "dim": 32, "depth": 1, "num_heads": 2, "positions": "sinusoids"},
            "processor": {"image": {"resize": "squash"}, "conversation": {"template": "kosmos"}},
        }
    )
    system.processor.fit(["what is it?", "seven"])
    zoo.export(system, tmp_path / "ours")
    model = reference.Kosmos2ForConditionalGeneration.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    inputs = their_inputs(reference.AutoProcessor.from_pretrained(tmp_path / "ours"), ["what is it"], [a_picture()])
    inputs["pixel_values"] = system.processor(conversation=[[a_picture(), "what is it"]], for_generation=True).inputs["image"]
    (expected,) = our_logits(system, [[a_picture(), "what is it"]])
    found, words = model(**inputs).logits[0], [0, *range(2, 400)]  # theirs sets the vector of token 1 to zero when it is loaded
    torch.testing.assert_close(found[:, words], expected[:, words], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_without_a_tokenizer_the_weights_are_read_all_the_same(tied, scramble, tmp_path):
    model = their_model(scramble, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    write_tensors(model.state_dict(), tmp_path / "model.safetensors")  # as in memory: with a copy of the table where it is tied
    system = zoo.load(tmp_path)
    assert (system.head.language.lm_head is None) == tied and system.processor["image"].settings["resize"] == "squash"
    assert not system.processor["conversation"].is_fitted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": {"activation_function": "relu"}}, "activation_function: got 'relu'"),
        ({"text_config": {"add_cross_attention": True}}, "add_cross_attention: got True"),
        ({"text_config": {"pad_token_id": 0}}, "pad_token_id: got 0, which our magneto does not have; allowed is 1"),
        ({"vision_config": {"hidden_act": "tanh"}}, "hidden_act: our vit has no 'tanh'"),
    ],
)
def test_forms_that_ours_does_not_have_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        transformers_kosmos2.system({"model_type": "kosmos-2", "text_config": WORDS, "vision_config": VISION} | change)


def test_weights_that_are_left_over_are_refused_and_buffers_are_not(scramble, tmp_path):
    their_model(scramble).save_pretrained(tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    old = {"text_model.model.embed_positions.weights": torch.zeros(92, 42), "vision_model.model.embeddings.position_ids": torch.arange(17)}
    write_tensors({**tensors, **old}, tmp_path / "model.safetensors")
    zoo.load(tmp_path)
    write_tensors({**tensors, "text_model.model.layers.0.encoder_attn.k_proj.bias": torch.zeros(42)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="1 unknown"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("head", "class_token"), False, "system.head.class_token: False, but .* was trained with True"),
        (("head", "connectors", "image", "num_heads"), 6, "system.head.connectors.image.num_heads: 6, but .* trained with 3"),
        (("head", "connectors", "image", "normalise"), False, "connectors.image.normalise: False, but"),
        (("head", "language", "embed_scale"), 1.0, "system.head.language.embed_scale: 1.0, but"),
        (("head", "feature_layer"), -1, "system.head.feature_layer: -1, but"),
    ],
)
def test_what_no_shape_shows_is_refused_where_it_differs(path, value, message, scramble, tmp_path):
    their_model(scramble).save_pretrained(tmp_path)
    config = place = json.loads(json.dumps(zoo.load(tmp_path).config))
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        zoo.create_system(config, weights=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder@system.encoders.image=vig_nano"], "this system has image: vig"),
        ([], "head.connectors.image.kind: got 'resampler'"),
        (["head@system.head=kosmos_2_head"], "head.connectors.image.num_heads: got 1, .* allowed is 4"),
        (["head@system.head=kosmos_2_head", "system.head.language.num_heads=1"], "positions: got 'xpos'"),
    ],
)
def test_systems_that_theirs_is_not_are_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        zoo.export(zoo.create_system("kosmos_nano", overrides), tmp_path / "out")


def test_kosmos_2_by_name_has_their_sizes_and_takes_their_weights_names():
    system = zoo.create_model("kosmos_2", device="meta")
    ours = transformers_kosmos2.from_zoo(system.state_dict())
    with torch.device("meta"):
        theirs = reference.Kosmos2ForConditionalGeneration(reference.Kosmos2Config())
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items() if name != "text_model.lm_head.weight"}
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes
    assert sum(parameter.numel() for parameter in system.parameters()) == 1_664_485_376
