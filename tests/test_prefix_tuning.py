"""Prefix tuning: learned keys and values before a text, equal to transformers' cache in every way of computing the text."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import zoo
from zoo.assembly.build import add_adapters
from zoo.interop.causal_lm import transformers_causal_lm
from zoo.layers.adapters import Adapter, inject, merge
from zoo.layers.decoder import CausalAttention
from zoo.layers.packing import Packing

SIZES = {"vocab_size": 37, "context_length": 32, "dim": 24, "depth": 2, "num_heads": 4, "num_kv_heads": 2, "hidden_dim": 40}
SYSTEM = "llava_nano"


def prefixed(num_tokens: int = 3) -> tuple[torch.nn.Module, list[CausalAttention]]:
    torch.manual_seed(0)
    holder = torch.nn.Module()
    holder.language = zoo.create_model("llama_nano", **SIZES, tied=False)
    inject(holder, {"language": Adapter(kind="prefix", num_tokens=num_tokens)})
    attentions = [module for module in holder.modules() if isinstance(module, CausalAttention)]
    for parameter in (p for attention in attentions for p in attention.prefix.parameters()):
        parameter.data.normal_()
    return holder.language, attentions


def test_states_equal_those_of_transformers_with_the_prefix_in_its_cache():
    ours, attentions = prefixed()
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40}
    theirs = LlamaForCausalLM(LlamaConfig(vocab_size=37, max_position_embeddings=32, rms_norm_eps=1e-5, **sizes)).eval()
    ours.load_state_dict(transformers_causal_lm.to_zoo(theirs.state_dict()), strict=False)  # all but the prefix
    ids, cache = torch.randint(37, (2, 7)), DynamicCache()
    for layer, attention in enumerate(attentions):
        cache.update(attention.prefix.keys.expand(2, -1, -1, -1), attention.prefix.values.expand(2, -1, -1, -1), layer)
    with torch.no_grad():
        expected = theirs(ids, past_key_values=cache, position_ids=torch.arange(7)[None]).logits
        torch.testing.assert_close(ours.logits(ours(ids)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_packing_and_a_cache_change_nothing(side):
    model, _ = prefixed()
    ids = torch.randint(37, (2, 6))
    short = [0, 0, 1, 1, 1, 1] if side == "left" else [1, 1, 1, 1, 0, 0]
    mask = torch.tensor([[1] * 6, short], dtype=torch.bool)
    with torch.no_grad():
        alone = [model(row[real][None])[0] for row, real in zip(ids, mask, strict=True)]
        padded, cache = model(ids, mask), model.new_cache(2, 8)
        begun = torch.cat([model(ids[:, :4], mask[:, :4], cache=cache), model(ids[:, 4:5], mask[:, 4:5], cache=cache)], dim=1)
        for row, (real, expected) in enumerate(zip(mask, alone, strict=True)):
            torch.testing.assert_close(padded[row][real], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(begun[row][real[:5]], expected[: int(real[:5].sum())], atol=1e-5, rtol=1e-5)
        if side == "right":
            packing = Packing(mask, causal=True)
            listed = packing.unpack(model(packing.pack(model.embed(ids)), layout=packing))
            torch.testing.assert_close(listed[mask], padded[mask], atol=1e-5, rtol=1e-5)


def test_only_the_prefix_learns_and_a_saved_system_has_it_again(tmp_path):
    system = zoo.create_system(SYSTEM)
    add_adapters(system, {"head.language": {"kind": "prefix", "num_tokens": 5}}, "training.adapters")
    learnt = [name for name, parameter in system.head.language.named_parameters() if parameter.requires_grad]
    assert learnt and all(".prefix." in name for name in learnt)
    ids = torch.randint(37, (2, 6))
    with torch.no_grad():
        expected = system.eval().head.language(ids)
        again = zoo.load(zoo.save(system, tmp_path / "prefixed"))
        assert torch.equal(again.head.language(ids), expected)
        assert not torch.equal(zoo.create_system(SYSTEM).eval().head.language(ids), expected)


def test_what_a_prefix_cannot_do_is_refused():
    system = zoo.create_system(SYSTEM)
    with pytest.raises(zoo.ConfigError, match="training.adapters.encoders.image: kind prefix needs a zoo language model"):
        add_adapters(system, {"encoders.image": {"kind": "prefix"}}, "training.adapters")
    with pytest.raises(zoo.ConfigError, match="num_tokens: got 0; allowed are whole numbers from 1"):
        add_adapters(system, {"head.language": {"kind": "prefix", "num_tokens": 0}}, "training.adapters")
    add_adapters(system, {"head.language": {"kind": "prefix"}}, "training.adapters")
    with pytest.raises(zoo.ConfigError, match="a prefix cannot be merged into weights"):
        merge(system)
