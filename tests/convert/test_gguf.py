"""GGUF files, written by the gguf library, against the model and the tokenizer that they were made from."""

import json
import struct

import gguf
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import zoo
from zoo.interop.causal_lm import gguf_names as names
from zoo.layers.rope import Rotary
from zoo.storage import gguf as storage

SIZES = {"vocab_size": 300, "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 64}
CONFIGS = {
    "grouped": LlamaConfig(**SIZES, num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-5),
    "tied": LlamaConfig(**SIZES, num_attention_heads=3, num_key_value_heads=1, rms_norm_eps=1e-6, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=300, n_positions=64, n_embd=96, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0),
}
LLAMA = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    **{f"self_attn.{letter}_proj": f"attn_{letter}" for letter in "qkv"},
    **{f"mlp.{word}_proj": f"ffn_{word}" for word in ("gate", "up", "down")},
    "model.layers": "blk",
}
GPT2 = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "transformer.h": "blk",
}


@pytest.fixture(scope="module")
def tokenizer():
    """Train byte-level BPE like SmolLM2's, in which each digit is one token."""
    found = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    found.pre_tokenizer, found.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    special, letters = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], sorted(pre_tokenizers.ByteLevel.alphabet())
    found.train_from_iterator(
        ["the cat sat on the mat"], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=letters)
    )
    return found


def write(path, reference, tokenizer, kind=None, **metadata):
    """A GGUF file, as llama.cpp's converter writes it."""
    config, gpt2 = reference.config, reference.config.model_type == "gpt2"
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    architecture = "gpt2" if gpt2 else "llama"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(96)
    writer.add_feed_forward_length(384 if gpt2 else 128)
    writer.add_head_count(heads)
    if gpt2:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    vocabulary += [f"<unused{i}>" for i in range(300 - len(vocabulary))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if word.startswith("<") and len(word) > 1 else 1 for word in vocabulary])
    pairs = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    for name, tensor in reference.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if gpt2 and ("c_attn.w" in name or "c_proj.w" in name or "c_fc.w" in name):
            tensor = tensor.T
        if "q_proj" in name or "k_proj" in name:
            tensor = tensor.unflatten(0, (heads if "q_proj" in name else kv_heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        for old, new in (GPT2 if gpt2 else LLAMA).items():
            name = name.replace(old, new)
        numbers = tensor.contiguous().numpy()
        if kind is not None and tensor.ndim == 2 and "embd" not in name:
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_file_loads_as_the_model_that_it_was_made_from(name, tmp_path, tokenizer, scramble):
    reference = scramble(AutoModelForCausalLM.from_config(CONFIGS[name]))
    write(tmp_path / "model.gguf", reference, tokenizer)
    system = zoo.load(tmp_path / "model.gguf")
    language, ids = system.head.language, torch.randint(0, 300, (2, 20))
    expected = reference(ids).logits
    torch.testing.assert_close(language.logits(language(ids)), expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    assert not system.encoders and system.config["head"]["language"]["eps"] in (1e-5, 1e-6)
    again = zoo.load(tmp_path)  # a directory with nothing else in it
    assert all(torch.equal(one, other) for one, other in zip(again.state_dict().values(), system.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1], ids=lambda kind: kind.name)
def test_quantised_weights_become_the_numbers_that_they_stand_for(kind, tmp_path, tokenizer, scramble):
    reference = scramble(AutoModelForCausalLM.from_config(CONFIGS["grouped"]))
    write(tmp_path / "model.gguf", reference, tokenizer, kind)
    found = zoo.load(tmp_path / "model.gguf").head.language.blocks[1].attention.out.weight
    original = reference.model.layers[1].self_attn.o_proj.weight.detach()
    expected = gguf.quants.dequantize(gguf.quants.quantize(original.numpy(), kind), kind)
    assert torch.equal(found, torch.from_numpy(expected)) and not torch.equal(found, original)


def test_the_tokenizer_within_splits_as_the_one_that_it_was_made_from(tmp_path, tokenizer):
    write(tmp_path / "model.gguf", AutoModelForCausalLM.from_config(CONFIGS["grouped"]), tokenizer)
    conversation = zoo.load(tmp_path / "model.gguf").processor["conversation"]
    for text in ("the cat  sat\n\non 1234 mats, isn't it?", "<|im_start|>user\nna\u00efve \u6771\u4eac \U0001f600<|im_end|>", " \t x"):
        assert conversation.tokenizer.encode(text).ids == tokenizer.encode(text).ids
        assert conversation.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert conversation.eos_token_ids == [2] and conversation.template_name == "tokenizer"


def test_weights_of_a_file_go_into_a_named_model_or_a_part(tmp_path, tokenizer):
    reference = AutoModelForCausalLM.from_config(CONFIGS["tied"])
    write(tmp_path / "model.gguf", reference, tokenizer)
    sizes = {"vocab_size": 300, "dim": 96, "num_heads": 3, "num_kv_heads": 1, "hidden_dim": 128, "eps": 1e-6}
    model = zoo.create_model("llama_nano", weights=tmp_path / "model.gguf", **sizes)
    assert torch.equal(model.embedding.weight, reference.model.embed_tokens.weight)
    with pytest.raises(zoo.ConfigError, match=r"language.eps: 1e-05, but .* was trained with 1e-06"):
        zoo.create_model("llama_nano", weights=tmp_path / "model.gguf", **{**sizes, "eps": 1e-5})


def test_llama_3_factors_are_known_and_others_refused():
    metadata = {"general.architecture": "llama", "llama.embedding_length": 64, "llama.attention.head_count": 4, "llama.block_count": 1}
    metadata |= {"llama.context_length": 64, "llama.feed_forward_length": 64, "llama.attention.layer_norm_rms_epsilon": 1e-5}
    metadata |= {"llama.vocab_size": 10, "llama.rope.freq_base": 500000.0}
    scaling = {**names.LLAMA3, "factor": 8.0}
    plain, scaled = (Rotary(head_dim=16, theta=5e5, scaling=s).frequencies(torch.device("cpu")) for s in (None, scaling))
    assert names.arguments(metadata, [], plain / scaled)["rope_scaling"] == scaling
    with pytest.raises(zoo.ConfigError, match="not the scaling of Llama 3.1"):
        names.arguments(metadata, [], torch.linspace(1, 3, 8))
    with pytest.raises(zoo.ConfigError, match="general.architecture: got 'qwen2'"):
        names.arguments({**metadata, "general.architecture": "qwen2"}, [])
    with pytest.raises(zoo.ConfigError, match="mixture of experts"):
        names.arguments({**metadata, "llama.expert_count": 8}, [])


def test_files_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(zoo.WeightsError, match=r"damaged.gguf: "):
        zoo.load(tmp_path / "damaged.gguf")
    (tmp_path / "second.gguf").write_bytes(b"GGUF")
    with pytest.raises(zoo.WeightsError, match="holds 2 GGUF files"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("inner", ["uint8", "text", "lists of text"])
def test_a_false_number_of_entries_ends_at_the_end_of_the_file(tmp_path, inner):
    kinds = gguf.GGUFValueType
    types = {"uint8": [kinds.UINT8], "text": [kinds.STRING], "lists of text": [kinds.ARRAY, kinds.STRING]}[inner]
    count = struct.pack("<Q", 2**60)
    array = b"".join(struct.pack("<I", kind) + count for kind in types)
    entry = struct.pack("<Q", 4) + b"some" + struct.pack("<I", kinds.ARRAY) + array + bytes(64)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry)
    with pytest.raises(zoo.WeightsError, match=r"model.gguf: .*beyond the end of the file"):
        zoo.load(tmp_path / "model.gguf")


def test_metadata_without_end_is_refused(tmp_path, monkeypatch):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_token_list([str(number) for number in range(200)])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.close):
        write()
    monkeypatch.setattr(storage, "MOST_VALUES", 200)
    with pytest.raises(zoo.WeightsError, match="more than 200 values"):
        zoo.load(tmp_path / "model.gguf")
