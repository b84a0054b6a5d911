"""transformers' GPT-1 and -2, LLaMA, Mistral and their relatives against our ``causal_lm``, through the converter and back."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    OpenAIGPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from zoo.errors import ConfigError, WeightsError
from zoo.interop.causal_lm import configs, meta_llama, transformers_causal_lm
from zoo.interop.causal_lm.gguf_names import halves
from zoo.interop.causal_lm.write import language_files, language_tensors, whole_keywords
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly

SIZES = {"vocab_size": 97, "hidden_size": 60, "intermediate_size": 88, "num_hidden_layers": 2, "max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
FLAVOURS = {
    "grouped queries": lambda: LlamaConfig(**SIZES, num_attention_heads=15, num_key_value_heads=5),
    "one key head, tied": lambda: LlamaConfig(**SIZES, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True),
    "biases": lambda: LlamaConfig(**SIZES, num_attention_heads=3, attention_bias=True, mlp_bias=True),
    "llama 3 positions": lambda: LlamaConfig(**SIZES, num_attention_heads=5, rope_parameters={**LLAMA3, "rope_theta": 5e5}),
    "linear positions": lambda: LlamaConfig(
        **SIZES, num_attention_heads=3, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    ),
    "mistral, short window": lambda: MistralConfig(
        **SIZES, num_attention_heads=6, num_key_value_heads=3, head_dim=12, sliding_window=5, attn_implementation="eager"
    ),
    "mistral, no window": lambda: MistralConfig(**SIZES, num_attention_heads=6, num_key_value_heads=2, sliding_window=None),
    "yarn": lambda: LlamaConfig(
        **SIZES,
        num_attention_heads=3,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16},
    ),
    "qwen2": lambda: Qwen2Config(**SIZES, num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2, window in its last layer": lambda: Qwen2Config(
        **SIZES,
        num_attention_heads=6,
        num_key_value_heads=3,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
        attn_implementation="eager",
    ),
    "qwen3": lambda: Qwen3Config(**SIZES, num_attention_heads=6, num_key_value_heads=2, head_dim=16),
    "gemma": lambda: GemmaConfig(**SIZES, num_attention_heads=3, num_key_value_heads=1, head_dim=24, **ENDS),
    "gemma2": lambda: Gemma2Config(
        **SIZES | {"num_hidden_layers": 3},
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=12,
        query_pre_attn_scalar=20,
        sliding_window=5,
        attn_implementation="eager",
        **ENDS,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SIZES | {"num_hidden_layers": 7},
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=12,
        query_pre_attn_scalar=16,
        sliding_window=5,
        attn_implementation="eager",
        **ENDS,
    ),
    "phi3, short window": lambda: Phi3Config(
        **SIZES, num_attention_heads=6, num_key_value_heads=3, sliding_window=5, pad_token_id=0, attn_implementation="eager", **ENDS
    ),
    "phi3, long texts": lambda: Phi3Config(
        **SIZES,
        num_attention_heads=3,
        pad_token_id=0,
        original_max_position_embeddings=4,  # all texts here are longer: theirs takes the longest of a batch, ours each
        rope_parameters={
            **{"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.6},
            **{"short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 5.0]},
        },
        **ENDS,
    ),
    "gpt neo": lambda: GPTNeoConfig(
        **{"vocab_size": 97, "max_position_embeddings": 64, "hidden_size": 60, "num_layers": 4, "num_heads": 3, "window_size": 5},
        attention_types=[[["global", "local"], 2]],
        **ENDS,
    ),
    "gpt1": lambda: OpenAIGPTConfig(vocab_size=97, n_positions=64, n_embd=60, n_layer=3, n_head=3, **ENDS),
    "gpt1, relu": lambda: OpenAIGPTConfig(vocab_size=97, n_positions=64, n_embd=60, n_layer=2, n_head=5, afn="relu", **ENDS),
    "gpt2": lambda: GPT2Config(vocab_size=97, n_positions=64, n_embd=60, n_layer=2, n_head=3, **ENDS),
    "gpt2, untied, narrow": lambda: GPT2Config(
        vocab_size=97,
        n_positions=64,
        n_embd=60,
        n_layer=2,
        n_head=5,
        n_inner=72,
        activation_function="relu",
        tie_word_embeddings=False,
        **ENDS,
    ),
}
EVERY_FLAVOUR = pytest.mark.parametrize("flavour", FLAVOURS)


def ours_of(reference):
    """Our model, made from the reference's config, with its weights."""
    arguments = configs.arguments(reference.config.to_dict())
    model = build_part("language", {"name": "causal_lm", **arguments}, "language").eval()
    load_strictly(model, transformers_causal_lm.to_zoo(reference.state_dict(), tied=arguments["tied"]), origin="transformers")
    model.config = {"language": {"name": "causal_lm", **arguments}}
    return model


@pytest.fixture
def reference(flavour, scramble):
    return scramble(AutoModelForCausalLM.from_config(FLAVOURS[flavour]()))


@EVERY_FLAVOUR
@torch.no_grad()
def test_logits_equal_transformers(reference, close):
    model, ids = ours_of(reference), torch.randint(0, 97, (3, 20))
    mask = torch.arange(20) >= torch.tensor([[0], [4], [15]])  # padding on the left
    close(model.logits(model(ids)), reference(ids).logits)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    theirs = reference(ids, attention_mask=mask.long(), position_ids=positions).logits
    close(model.logits(model(ids, mask))[mask], theirs[mask])


@EVERY_FLAVOUR
@torch.no_grad()
def test_greedy_tokens_equal_transformers(reference):
    model, ids = ours_of(reference), torch.randint(3, 97, (2, 7))
    cache, found = model.new_cache(2, 27), []
    hidden = model(ids, cache=cache)
    for _ in range(20):
        found.append(model.logits(hidden[:, -1]).argmax(-1, keepdim=True))
        hidden = model(found[-1], cache=cache)
    expected = reference.generate(ids, max_new_tokens=20, min_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    # transformers' generate forbids nothing here: no token ends a text
    assert torch.equal(torch.cat(found, dim=1), expected[:, 7:])


@EVERY_FLAVOUR
@torch.no_grad()
def test_beams_equal_transformers(reference):
    model, ids = ours_of(reference), torch.randint(3, 97, (2, 7))
    beams_equal(model, reference, ids)


def beams_equal(model, reference, ids, **settings):
    """Three beams over two prompts; two tokens that the greedy answers hold end a text."""
    prompts = [model.embed(row) for row in ids], list(ids)
    greedy = [answer.ids for answer in generate(model, *prompts, Sampling(max_new_tokens=9))]
    ends = (greedy[0][4], greedy[1][6])
    found = [answer.ids for answer in generate(model, *prompts, Sampling(max_new_tokens=9, num_beams=3, eos_token_ids=ends))]
    settings |= {"eos_token_id": list(ends), "pad_token_id": 0, "num_beams": 3, "do_sample": False, "max_new_tokens": 9}
    expected = reference.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, ids.shape[1] :].tolist()
    lengths = [min((row.index(end) for end in ends if end in row), default=len(row)) for row in expected]
    assert found == [row[:length] for row, length in zip(expected, lengths, strict=True)]


@EVERY_FLAVOUR
@torch.no_grad()
def test_it_goes_back_to_transformers(reference, same_state):
    model, ids = ours_of(reference), torch.randint(0, 97, (2, 9))
    config = model.config["language"]
    theirs = language_files(configs.config(whole_keywords("language", config)))["config.json"]
    again = AutoModelForCausalLM.from_config(AutoConfig.for_model(**theirs)).eval()
    report = again.load_state_dict(language_tensors(model.state_dict(), config), strict=False)
    assert not report.unexpected_keys and set(report.missing_keys) <= {"lm_head.weight"}  # which is tied
    assert torch.equal(again(ids).logits, reference(ids).logits) or config.get("window")  # transformers chooses its kernel by the window
    assert configs.arguments(again.config.to_dict()) == configs.arguments(reference.config.to_dict())
    same_state(ours_of(again).state_dict(), model.state_dict())


GOLDEN_SIZES = {"vocab_size": 13, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "max_position_embeddings": 64}
GOLDEN_SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "pad_token_id": 0, **ENDS}
EAGER = {"attn_implementation": "eager"}
# Parameters, the first four logits of the last token, sum of all logits' magnitudes: from the specification ``decoders_more``, section 1.
GOLDEN = {
    "qwen2": (
        lambda: Qwen2Config(**GOLDEN_SIZES, rope_theta=1e4),
        (1240, [-0.312989804, -0.018069315, 0.284961915, 0.460082791], 50.9336777),
    ),
    "qwen3": (
        lambda: Qwen3Config(**GOLDEN_SIZES, head_dim=4, rope_theta=1e4),
        (1608, [0.31828268, 0.011235392, -0.300855106, -0.477901302], 33.7718823),
    ),
    "gemma2": (
        lambda: Gemma2Config(**GOLDEN_SIZES, head_dim=4, query_pre_attn_scalar=16, sliding_window=3, **EAGER),
        (1520, [1.370325361, 1.99617603, 1.727720344, 0.683642369], 78.7461192),
    ),
    "gemma3": (
        lambda: Gemma3TextConfig(
            **GOLDEN_SIZES | {"num_hidden_layers": 7}, head_dim=4, query_pre_attn_scalar=16, sliding_window=3, **EAGER
        ),
        (5096, [0.882748225, 1.258901511, 1.069973887, 0.400768965], 54.7185492),
    ),
    "phi3": (
        lambda: Phi3Config(**GOLDEN_SIZES | {"rms_norm_eps": 1e-5}, tie_word_embeddings=False),
        (1208, [-0.760741319, -0.709173094, -0.339279589, 0.182905749], 54.8192374),
    ),
    "gpt_neo": (
        lambda: GPTNeoConfig(
            vocab_size=13, hidden_size=8, num_layers=2, num_heads=2, max_position_embeddings=16, window_size=3,
            attention_types=[[["global", "local"], 1]], **ENDS,
        ),
        (1944, [0.02457308, -0.30588927, -0.49904765, -0.46819939], None),
    ),
}  # fmt: skip
# The row of GPT-Neo was recorded with the token ids of the specification ``encoders_more``, and without a sum; transformers 5.17 gives it.
GOLDEN_IDS = {"gpt_neo": [5, 9, 3, 7, 6, 11]}


def fill_with_sines(model):
    """0.3 sin(0.7 i + j) for element i of the parameter at place j of the sorted names, plus 1 in weights of norms."""
    for place, (name, parameter) in enumerate(sorted(model.named_parameters())):
        values = 0.3 * torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + place)
        values += float(parameter.ndim == 1 and name.endswith("weight"))
        parameter.copy_(values.reshape(parameter.shape))


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_logits_are_those_of_the_specification(name):
    make, (parameters, last, total) = GOLDEN[name]
    reference = AutoModelForCausalLM.from_config(make()).eval()
    fill_with_sines(reference)
    model, ids = ours_of(reference), torch.tensor([GOLDEN_IDS.get(name, [5, 9, 3, 7, 2, 11])])
    logits = model.logits(model(ids))[0]
    torch.testing.assert_close(logits, reference(ids).logits[0], atol=1e-5, rtol=0)
    assert logits[-1, :4].tolist() == pytest.approx(last, abs=2e-6)
    assert sum(p.numel() for p in model.parameters()) == parameters
    if total is not None:
        assert logits.abs().sum().item() == pytest.approx(total, abs=1e-4)


@torch.no_grad()
def test_lengths_choose_the_factors_of_each_text(scramble, close):
    reference = scramble(AutoModelForCausalLM.from_config(FLAVOURS["phi3, long texts"]()))
    model, ids = ours_of(reference), torch.randint(0, 97, (2, 9))
    mask = torch.arange(9) < torch.tensor([[9], [3]])
    found = model.logits(model(ids, mask))
    for row, length in enumerate((9, 3)):
        close(found[row, :length], reference(ids[row : row + 1, :length]).logits[0])


@torch.no_grad()
def test_dynamic_positions_stretch_with_the_text(scramble, close):
    config = LlamaConfig(**SIZES | {"max_position_embeddings": 8}, num_attention_heads=3, rope_parameters={
        "rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0})  # fmt: skip
    reference = scramble(AutoModelForCausalLM.from_config(config))
    model = ours_of(reference)
    assert model.context_length == 32
    for length in (5, 20):
        ids = torch.randint(0, 97, (1, length))
        close(model.logits(model(ids)), reference(ids).logits)
    again = configs.config(whole_keywords("language", model.config["language"]))
    assert again["max_position_embeddings"] == 8 and again["rope_parameters"]["factor"] == 4.0


def test_names_of_older_files_are_read(scramble):
    reference = scramble(AutoModelForCausalLM.from_config(FLAVOURS["gpt2"]()))
    state = {name.removeprefix("transformer."): tensor for name, tensor in reference.state_dict().items() if name != "lm_head.weight"}
    state |= {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    assert transformers_causal_lm.recognises(state)
    found, expected = transformers_causal_lm.to_zoo(state), ours_of(reference).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_old_rotary_buffers_are_no_weights(scramble):
    state = scramble(AutoModelForCausalLM.from_config(FLAVOURS["grouped queries"]())).state_dict()
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(2) for i in range(2)}
    assert transformers_causal_lm.to_zoo(state | buffers).keys() == transformers_causal_lm.to_zoo(state).keys()


def test_a_head_of_its_own_is_not_dropped():
    reference = AutoModelForCausalLM.from_config(FLAVOURS["grouped queries"]())
    with pytest.raises(WeightsError, match="lm_head.weight is not the table of token vectors; set tied: false"):
        transformers_causal_lm.to_zoo(reference.state_dict(), tied=True)


def test_rows_in_pairs_become_halves():
    rows = torch.tensor([0, 100, 1, 101, 2, 102, 10, 110, 11, 111, 12, 112])[:, None]  # two heads; x and 100 + x turn together
    assert halves(rows, 6)[:, 0].tolist() == [0, 1, 2, 100, 101, 102, 10, 11, 12, 110, 111, 112]


@torch.no_grad()
def test_metas_files_give_the_same_model(scramble):
    reference = scramble(AutoModelForCausalLM.from_config(FLAVOURS["grouped queries"]()))
    expected = ours_of(reference).state_dict()

    def pairs(rows):  # as transformers' own converter permutes, the other way round
        return rows.unflatten(0, (-1, 2, 2)).transpose(1, 2).flatten(0, 2)

    names = {"self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo", "input_layernorm": "attention_norm"}
    names |= {"mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3"}
    names |= {"post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk"}
    names |= {"model.embed_tokens": "tok_embeddings", "lm_head": "output"}
    theirs = {"rope.freqs": torch.ones(2)}
    for name, tensor in reference.state_dict().items():
        turned = pairs(tensor) if "q_proj" in name or "k_proj" in name else tensor
        for old, new in names.items():
            name = name.replace(old, new)
        theirs[name.removeprefix("model.")] = turned
    assert meta_llama.recognises(theirs)
    found = meta_llama.to_zoo(theirs, head_dim=4)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


REFUSED = {
    "hidden_act: got 'gelu'": {"model_type": "llama", "hidden_act": "gelu"},
    "afn: our causal_lm has no 'gelu_new'": {"model_type": "openai-gpt", "afn": "gelu_new"},
    "has no 'xpos'; allowed are default, linear, dynamic": {"model_type": "llama", "rope_scaling": {"type": "xpos", "factor": 2.0}},
    "rope_type 'longrope' needs 'short_factor'": {"model_type": "phi3", "rope_scaling": {"type": "su"}},
    "layer_types: got": {"model_type": "gemma2", "layer_types": ["chunked_attention"]},
    "use_bidirectional_attention: got True": {"model_type": "gemma3_text", "use_bidirectional_attention": True},
    "mlp_bias: got False": {"model_type": "llama", "attention_bias": True},
    "scale_attn_by_inverse_layer_idx: got True": {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
    "model_type: got 'qwen9'": {"model_type": "qwen9"},
    "num_hidden_layers: got 0": {"model_type": "mistral", "num_hidden_layers": 0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_ours_does_not_have_is_refused(message):
    with pytest.raises(ConfigError, match=message):
        configs.arguments(REFUSED[message])
