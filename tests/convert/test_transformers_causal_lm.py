"""transformers' GPT-2, LLaMA and Mistral against our ``causal_lm``, through the converter and back."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig

from zoo.errors import ConfigError, WeightsError
from zoo.interop.causal_lm import meta_llama, transformers_causal_lm
from zoo.interop.causal_lm.gguf_names import halves
from zoo.interop.causal_lm.write import language_files, language_tensors
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
    arguments = transformers_causal_lm.arguments(reference.config.to_dict())
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
def test_it_goes_back_to_transformers(reference, same_state):
    model, ids = ours_of(reference), torch.randint(0, 97, (2, 9))
    config = model.config["language"]
    theirs = language_files(config)["config.json"]
    again = AutoModelForCausalLM.from_config(AutoConfig.for_model(**theirs)).eval()
    report = again.load_state_dict(language_tensors(model.state_dict(), config), strict=False)
    assert not report.unexpected_keys and set(report.missing_keys) <= {"lm_head.weight"}  # which is tied
    assert torch.equal(again(ids).logits, reference(ids).logits) or config.get("window")  # transformers chooses its kernel by the window
    assert transformers_causal_lm.arguments(again.config.to_dict()) == transformers_causal_lm.arguments(reference.config.to_dict())
    same_state(ours_of(again).state_dict(), model.state_dict())


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
    "has no 'yarn'; allowed are default, linear, llama3": {"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 2.0}},
    "mlp_bias: got False": {"model_type": "llama", "attention_bias": True},
    "scale_attn_by_inverse_layer_idx: got True": {"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True},
    "model_type: got 'qwen2'": {"model_type": "qwen2"},
    "num_hidden_layers: got 0": {"model_type": "mistral", "num_hidden_layers": 0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_ours_does_not_have_is_refused(message):
    with pytest.raises(ConfigError, match=message):
        transformers_causal_lm.arguments(REFUSED[message])
