"""Any causal language model of transformers: what transformers itself computes, with our masks, caches and lists."""

import pytest
import torch
import transformers

import zoo
from zoo.layers.packing import Packing
from zoo.registry.construct import build_part

SIZES = {"vocab_size": 97, "hidden_size": 60, "num_hidden_layers": 2, "num_attention_heads": 6, "max_position_embeddings": 64}
GROUPED = {**SIZES, "intermediate_size": 80, "num_key_value_heads": 3}
CONFIGS = {
    "qwen2": GROUPED,
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 64},  # caps its logits
    "granite": {**GROUPED, "logits_scaling": 3.0, "embedding_multiplier": 5.0},
    "mixtral": {**GROUPED, "num_local_experts": 4},
    "opt": {**SIZES, "ffn_dim": 80, "word_embed_proj_dim": 60},
    "gpt_neox": {**SIZES, "intermediate_size": 80},
    "bloom": {"vocab_size": 97, "hidden_size": 60, "n_layer": 2, "n_head": 6},  # takes no positions
}
EVERY_MODEL = pytest.mark.parametrize("kind", CONFIGS)
LENGTHS = [12, 8, 5]


@pytest.fixture
def model(kind, scramble):
    return scramble(build_part("language", {"name": "transformers", "config": {"model_type": kind, **CONFIGS[kind]}}, "language"), std=0.05)


@pytest.fixture
def batch():
    """Token ids with padding on the left, and the mask."""
    return torch.randint(3, 97, (3, 12)), torch.arange(12) >= 12 - torch.tensor(LENGTHS)[:, None]


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)


@EVERY_MODEL
@torch.no_grad()
def test_logits_are_those_of_transformers(model):
    ids = torch.randint(3, 97, (2, 9))
    close(model.logits(model(ids)), model.model(ids).logits)
    close(model.logits(model(model.embed(ids)))[:, -1], model.model(ids).logits[:, -1])


@EVERY_MODEL
@torch.no_grad()
def test_padding_and_cache_change_nothing(model, batch):
    ids, mask = batch
    whole = model(ids, mask)
    for row, length in enumerate(LENGTHS):
        close(whole[row][mask[row]], model(ids[row : row + 1, 12 - length :])[0])
    cache = model.new_cache(3, 12)
    first = model(ids[:, :8], mask[:, :8], cache=cache)
    close(torch.cat([first, model(ids[:, 8:9], cache=cache), model(ids[:, 9:], cache=cache)], dim=1)[mask], whole[mask])
    cache.crop(9).select(torch.tensor([1, 1]))
    assert cache.length == 9 and cache.mask.sum(1).tolist() == [5, 5]
    close(model(ids[[1, 1], 9:], cache=cache), whole[[1, 1], 9:])


@pytest.mark.parametrize("kind", ["qwen2"])
@torch.no_grad()
def test_a_list_is_what_the_padded_batch_is(model, batch):
    ids, mask = batch[0], batch[1].flip(1)
    packing = Packing(mask, causal=True)
    found = packing.unpack(model(ids.flatten()[packing.index], layout=packing))
    close(found[mask], model(ids, mask)[mask])


def test_a_directory_is_a_language_model_and_not_needed_again(tmp_path):
    reference = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**CONFIGS["qwen2"])).eval()
    reference.save_pretrained(tmp_path / "qwen")
    ids = torch.randint(3, 97, (2, 9))
    model = zoo.create_model(f"transformers/{tmp_path / 'qwen'}", weights=tmp_path / "qwen")
    zoo.save(model, tmp_path / "saved")
    (tmp_path / "qwen" / "config.json").unlink()
    with torch.no_grad():
        again = zoo.load(tmp_path / "saved")
        assert torch.equal(again.logits(again(ids)), reference(ids).logits)


def test_a_system_takes_it_by_an_override(tmp_path):
    reference = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**CONFIGS["qwen2"], "vocab_size": 512}))
    reference.save_pretrained(tmp_path)
    override = f"language@system.head.language=transformers/{tmp_path}"
    system = zoo.create_system("llava_nano", [override], weights=tmp_path, weights_parts=["head.language"])
    assert system.config["head"]["language"]["config"]["model_type"] == "qwen2"
    assert torch.equal(system.head.language.model.lm_head.weight, reference.lm_head.weight)


REFUSED = {
    "is not a causal language model": {"model_type": "t5"},
    "attention is not causal": {"model_type": "bert", "num_hidden_layers": 1},
    "does not accept past_key_values": {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 1},
    "transformers has no 'lama'": {"model_type": "lama"},
    "names code": {"model_type": "llama", "auto_map": {"AutoModel": "x.Y"}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_serve_is_refused(message):
    with pytest.raises(zoo.ConfigError, match=message):
        build_part("language", {"name": "transformers", "config": REFUSED[message]}, "language")


def test_texts_that_are_too_long_are_refused():
    model = zoo.create_model("transformers_language_nano")
    with pytest.raises(zoo.DataError, match="257 tokens; context_length allows 256"):
        model(torch.zeros(1, 257, dtype=torch.int64))
