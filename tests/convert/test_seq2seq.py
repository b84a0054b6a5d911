"""transformers' encoder-decoder models against ours: directories in, directories out, outputs, greedy and beam tokens, golden figures."""

import functools
import json

import pytest
import torch
import transformers
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    GenerationConfig,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForCausalLM,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    TrOCRConfig,
    TrOCRForCausalLM,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)

import zoo
from tests.convert.test_cross_decoders import written_tokens_equal
from zoo.interop.base.recognise import unknown_files
from zoo.interop.base.source import read_source
from zoo.language.decoding.sampling import Sampling
from zoo.language.decoding.seq2seq import generate_answers
from zoo.types import SUPERVISED, TARGET_IDS, Batch

SIZES = {
    **{"vocab_size": 61, "d_model": 24, "max_position_embeddings": 40, "encoder_layers": 2, "decoder_layers": 3},
    **{"encoder_attention_heads": 3, "decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 28},
}
T5 = {"vocab_size": 61, "d_model": 24, "d_kv": 7, "num_heads": 3, "d_ff": 20, "num_layers": 2, "decoder_start_token_id": 0}
MARIAN = {**SIZES, "pad_token_id": 60, "decoder_start_token_id": 60, "eos_token_id": 0, "activation_function": "swish"}
TWO = {**MARIAN, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 53, "pad_token_id": 52, "decoder_start_token_id": 52}
MODELS = {
    "marian": lambda: MarianMTModel(MarianConfig(**MARIAN, scale_embedding=True)),
    "marian of two vocabularies": lambda: MarianMTModel(MarianConfig(**TWO)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**SIZES)),
    "mbart": lambda: MBartForConditionalGeneration(MBartConfig(**SIZES, scale_embedding=True, decoder_start_token_id=7)),
    "pegasus": lambda: PegasusForConditionalGeneration(PegasusConfig(**SIZES, activation_function="relu")),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5)),
    # Three layers in the decoder: their cache fails to generate with more than the encoder has, so that only outputs are compared.
    "t5 1.1, tied": lambda: T5ForConditionalGeneration(
        T5Config(**T5, num_decoder_layers=3, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "t5 1.1": lambda: untied(T5ForConditionalGeneration(T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False))),
    "mt5": lambda: untied(MT5ForConditionalGeneration(MT5Config(**T5, feed_forward_proj="gated-gelu"))),
}


def untied(model):
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.3)
    return model


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Their model with random values everywhere, and ours read from its directory."""

    @functools.cache
    def make(name):
        torch.manual_seed(1)
        model = MODELS[name]().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:  # word tables of T5 begin with deviation 1, which would make logits of 30
                    parameter.mul_(0.3).add_(torch.randn_like(parameter) * 0.2)
            if "final_logits_bias" in dict(model.named_buffers()):
                model.final_logits_bias.normal_()
        directory = tmp_path_factory.mktemp("theirs")
        model.save_pretrained(directory)
        return model, zoo.load(directory), directory

    return make


def sources(vocab_size=50):
    """Three sources of odd lengths, padded on the right."""
    ids = torch.randint(3, vocab_size, (3, 7), generator=torch.Generator().manual_seed(0))
    return ids, torch.arange(7) < torch.tensor([[7], [5], [2]])


def outputs(system, ids, mask, target):
    batch = Batch({"text": ids}, {"text": mask}, {TARGET_IDS: target, SUPERVISED: torch.ones_like(target, dtype=torch.bool)})
    return system(batch).outputs["logits"].unflatten(0, (len(ids), -1))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_outputs_equal_theirs_and_go_back(name, pair, tmp_path):
    model, system, directory = pair(name)
    assert not unknown_files(read_source(directory))  # every file that their library writes is used, harmless or named
    ids, mask = sources()
    target = torch.randint(3, 50, (3, 6), generator=torch.Generator().manual_seed(2))
    expected = model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=target[:, :-1], use_cache=False).logits
    torch.testing.assert_close(outputs(system, ids, mask, target), expected, atol=1e-5, rtol=1e-5)
    zoo.export(system, tmp_path / "back")
    again = type(model).from_pretrained(tmp_path / "back").eval()
    if name != "mt5":  # the same weights are a T5 1.1, as which they are written
        found = again(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=target[:, :-1], use_cache=False).logits
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    theirs, ours = zoo.load(tmp_path / "back").state_dict(), system.state_dict()
    assert theirs.keys() == ours.keys() and all(theirs[key].equal(ours[key]) for key in ours)


SETTINGS = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "beams, penalty": {"num_beams": 3, "length_penalty": 2.0},
    "no repeated pairs": {"num_beams": 4, "no_repeat_ngram_size": 2},
    "no repeated pairs, greedy": {"no_repeat_ngram_size": 2},
    "forced": {"num_beams": 2, "forced_bos_token_id": 9, "forced_eos_token_id": 4, "min_new_tokens": 5, "bad_words_ids": [[11], [12]]},
    "repetition": {"repetition_penalty": 1.7},
}
OURS = {"forced_bos_token_id": "first_token_id", "forced_eos_token_id": "last_token_id"}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", [name for name in MODELS if name != "t5 1.1, tied"])
@torch.no_grad()
def test_written_tokens_equal_theirs(name, settings, pair, monkeypatch):
    model, system, _ = pair(name)
    if name == "marian of two vocabularies":  # their beams count the words of the source's vocabulary
        monkeypatch.setattr(model.config, "vocab_size", model.config.decoder_vocab_size)
    ids, mask = sources()
    special = {key: getattr(model.config, key) for key in ("pad_token_id", "eos_token_id", "decoder_start_token_id")}
    generation = GenerationConfig(**special, max_new_tokens=9, do_sample=False, **settings)
    model.generation_config = GenerationConfig(**special)
    theirs = model.generate(input_ids=ids, attention_mask=mask.long(), generation_config=generation)
    own = {OURS.get(key, key): value for key, value in settings.items() if key != "bad_words_ids"}
    own["suppress_tokens"] = tuple(word for (word,) in settings.get("bad_words_ids", []))
    sampling = Sampling(max_new_tokens=9, eos_token_ids=(special["eos_token_id"],), **own)
    encoded = system.encode_ready("text", ids, mask)
    found = generate_answers(system.head.decoder, encoded, [special["decoder_start_token_id"]], sampling)
    for answer, row in zip(found, theirs.tolist(), strict=True):
        end = row.index(special["eos_token_id"], 1) if special["eos_token_id"] in row[1:] else len(row)
        assert answer.ids == row[1:end]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_cache_and_shared_memory_change_nothing(name, pair):
    _, system, _ = pair(name)
    decoder = system.head.decoder
    ids, mask = sources()
    encoded = system.encode_ready("text", ids, mask)
    memory = decoder.remember(encoded.tokens, encoded.mask)
    target = torch.randint(3, 50, (6, 8))  # two rows for each source
    whole = decoder.logits(decoder.states(target, memory))
    cache = decoder.new_cache(memory, batch_size=6, length=8)
    steps = [decoder.logits(decoder.states(target[:, a:b], cache.memory, cache=cache)) for a, b in ((0, 3), (3, 4), (4, 8))]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-5)
    alone = decoder.logits(decoder.states(target[2:4], memory.select(torch.tensor([1]))))
    torch.testing.assert_close(alone, whole[2:4], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_padding_on_either_side_of_source_and_start_changes_nothing(name, pair):
    _, system, _ = pair(name)
    decoder = system.head.decoder
    ids = torch.tensor([[5, 9, 3]])
    target = torch.tensor([[7, 11, 4]])
    alone = outputs(system, ids, torch.ones_like(ids, dtype=torch.bool), torch.cat([target, target[:, :1]], 1))
    left, right = torch.tensor([[1, 1, 5, 9, 3]]), torch.tensor([[5, 9, 3, 1, 1]])
    real = torch.tensor([[False, False, True, True, True]])
    for padded, mask in ((left, real), (right, real.flip(1))):
        found = outputs(system, padded, mask, torch.cat([target, target[:, :1]], 1))
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    encoded = system.encode_ready("text", ids)
    memory = decoder.remember(encoded.tokens, encoded.mask)
    shifted = decoder.logits(decoder.states(torch.tensor([[0, 0, 7, 11, 4]]), memory, mask=real))
    torch.testing.assert_close(shifted[:, 2:], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_each_half_loads_alone(pair):
    _, system, directory = pair("t5")
    model = zoo.create_model("t5_nano", **{k: v for k, v in system.config["encoders"]["text"].items() if k != "name"}, weights=directory)
    ids, mask = sources()
    torch.testing.assert_close(model(ids, mask).tokens, system.encode_ready("text", ids, mask).tokens)


def test_special_tokens_and_settings_of_generation_are_taken(pair, tmp_path):
    model, _, _ = pair("bart")
    model.generation_config = GenerationConfig(
        decoder_start_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
        forced_bos_token_id=0,
        num_beams=4,
        length_penalty=2.0,
        early_stopping=True,
        no_repeat_ngram_size=3,
        min_length=6,
        max_length=20,
        bad_words_ids=[[1], [3, 4]],
    )
    model.save_pretrained(tmp_path)
    part = zoo.load(tmp_path).processor["target_text"]
    assert (part.start_token_ids, part.eot_token_id, part.pad_token_id) == ([2], 2, 1)
    assert part.generation == {
        **{"num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram_size": 3, "first_token_id": 0, "last_token_id": 2},
        **{"min_new_tokens": 5, "max_new_tokens": 19, "suppress_tokens": [1]},
    }


VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 20, "patch_size": 5}
DECODER = {"vocab_size": 61, "decoder_layers": 2, "decoder_ffn_dim": 20, "max_position_embeddings": 30, "is_decoder": True}
DECODER |= {"decoder_attention_heads": 2, "add_cross_attention": True}
DECODERS = {
    "trocr": lambda tied: TrOCRForCausalLM(
        TrOCRConfig(**DECODER, d_model=16, cross_attention_hidden_size=24, tie_word_embeddings=tied, scale_embedding=tied)
    ),
    "bart": lambda tied: BartForCausalLM(BartConfig(**DECODER, d_model=24, tie_word_embeddings=tied, scale_embedding=tied)),
    "mbart": lambda tied: MBartForCausalLM(MBartConfig(**DECODER, d_model=24, tie_word_embeddings=tied, scale_embedding=tied)),
}


@pytest.mark.parametrize(("kind", "tied"), [("trocr", True), ("trocr", False), ("bart", True), ("mbart", True), ("mbart", False)])
@torch.no_grad()
def test_an_image_encoder_with_a_text_decoder_equals_theirs_and_goes_back(kind, tied, tmp_path):
    model = VisionEncoderDecoderModel(encoder=ViTModel(ViTConfig(**VIT), add_pooling_layer=tied), decoder=DECODERS[kind](tied)).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    model.config.decoder_start_token_id, model.config.pad_token_id = 2, 1
    model.save_pretrained(tmp_path / "theirs")
    system = zoo.load(tmp_path / "theirs")
    pixels, target = torch.rand(2, 3, 20, 20), torch.randint(3, 60, (2, 7))
    expected = model(pixel_values=pixels, decoder_input_ids=target[:, :-1]).logits
    batch = Batch({"image": pixels}, {}, {TARGET_IDS: target, SUPERVISED: torch.ones_like(target, dtype=torch.bool)})
    torch.testing.assert_close(system(batch).outputs["logits"].unflatten(0, (2, -1)), expected, atol=1e-5, rtol=1e-5)
    written_tokens_equal(model, system, pixels)
    zoo.export(system, tmp_path / "back")
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path / "back").eval()
    torch.testing.assert_close(again(pixel_values=pixels, decoder_input_ids=target[:, :-1]).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": {"model_type": "roberta"}}, "decoder.model_type: 'roberta' cannot be converted here"),
        ({"encoder": {"model_type": "deit"}}, "encoder.model_type: 'deit' cannot be converted here"),
        ({"model_type": "speech-encoder-decoder"}, "speech-encoder-decoder"),
    ],
)
def test_other_encoders_and_decoders_are_refused_by_name(change, message, tmp_path):
    model = VisionEncoderDecoderModel(encoder=ViTModel(ViTConfig(**VIT)), decoder=DECODERS["trocr"](True))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(zoo.ZooError, match=message):
        zoo.load(tmp_path)


# Golden figures of the specification: every trainable parameter is 0.3 sin(0.7 i + j), plus 1 for gains.
TINY = {
    **{
        "vocab_size": 13,
        "d_model": 8,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    },
    **{"encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "max_position_embeddings": 16},
}
TINY_T5 = {"vocab_size": 13, "d_model": 8, "d_kv": 3, "num_heads": 2, "d_ff": 12, "num_layers": 2, "decoder_start_token_id": 0}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
SWISH = {"activation_function": "swish", "scale_embedding": True, "pad_token_id": 12, "decoder_start_token_id": 12, "eos_token_id": 0}
GOLDENS = {  # model, parameters (with the fixed tables of positions, which ours computes), memory[0, :4], logits[-1, :4], sum of |logits|
    "marian": (
        lambda: MarianMTModel(MarianConfig(**TINY, **SWISH)),
        3096,
        [0.3482283012, -0.7266848589, 1.033056436, -1.9708931995],
        [0.3566204896, 0.8716613521, 0.9954411149, 0.6723989736],
        27.53156214,
    ),
    "bart": (
        lambda: BartForConditionalGeneration(BartConfig(**TINY)),
        3160,
        [-0.3527841908, -1.2498492659, 0.693406208, -0.1560520962],
        [-0.0663604528, -0.8024457016, -1.1783385582, -1.0253126565],
        57.82337689,
    ),
    "mbart": (
        lambda: MBartForConditionalGeneration(MBartConfig(**TINY, scale_embedding=True)),
        3192,
        [0.2490412531, 0.9879630588, -1.2939951227, -0.5097323058],
        [-0.4805119051, 0.3582811793, 1.0362532202, 1.249084099],
        42.56070771,
    ),
    "pegasus": (
        lambda: PegasusForConditionalGeneration(PegasusConfig(**TINY, scale_embedding=True, activation_function="relu")),
        3128,
        [-1.3525134479, -2.0491528745, 0.1363281792, 0.0396291057],
        [0.159830381, -0.635204326, -1.1451159833, -1.1410214411],
        40.91099199,
    ),
    "t5": (
        lambda: T5ForConditionalGeneration(T5Config(**TINY_T5)),
        2248,
        [0.8490086, -1.8131759, 0.1138867, 1.3221898],
        [-0.1448599, -0.0086160, 0.1314954, 0.2125827],
        4.836845,
    ),
    "t5 1.1, tied": (
        lambda: T5ForConditionalGeneration(T5Config(**TINY_T5, **GATED)),
        2632,
        [1.0199110, -0.7873129, -0.6608260, 1.1572508],
        [-0.1534347, -0.0055795, 0.1447802, 0.2301527],
        12.810225,
    ),
    "t5 1.1": (
        lambda: T5ForConditionalGeneration(T5Config(**TINY_T5, **GATED)),
        2632,
        [1.0199110, -0.7873129, -0.6608260, 1.1572508],
        [0.2607494, 0.2506583, -0.3336910, -0.1535542],
        14.405662,
    ),
}


@torch.no_grad()
def sine_filled(model):
    """Fill all trainable parameters; j also counts the names of fixed tables, which stay."""
    named = sorted(model.named_parameters(), key=lambda pair: pair[0])
    for j, (name, parameter) in enumerate(named):
        if not parameter.requires_grad:
            continue
        values = 0.3 * torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + j)
        values += 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        parameter.copy_(values.reshape(parameter.shape))
    return sum(parameter.numel() for _, parameter in named if parameter.requires_grad)


@pytest.mark.parametrize("name", GOLDENS)
@torch.no_grad()
def test_golden_figures(name, tmp_path):
    build, count, memory, last, total = GOLDENS[name]
    model = build()
    trainable = sine_filled(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    if name == "t5 1.1":
        rows = 0.3 * torch.cos(torch.arange(model.lm_head.weight.numel(), dtype=torch.float64))
        model.lm_head.weight = torch.nn.Parameter(rows.reshape(model.lm_head.weight.shape).float())
    model.save_pretrained(tmp_path)
    system = zoo.load(tmp_path)
    ids, target = torch.tensor([[5, 9, 3, 7, 0]]), torch.tensor([[11, 4, 8, 2, 0]])
    assert system.encode_ready("text", ids).tokens[0, 0, :4].tolist() == pytest.approx(memory, abs=2e-6)
    logits = outputs(system, ids, torch.ones_like(ids, dtype=torch.bool), target)[0]
    assert logits[-1, :4].tolist() == pytest.approx(last, abs=2e-6)
    assert float(logits.abs().sum()) == pytest.approx(total, abs=3e-5)
    if name != "t5 1.1":
        assert sum(parameter.numel() for parameter in system.parameters()) == trainable
