"""Language models as GGUF files: read back by zoo, by the gguf library and by llama.cpp."""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import llama_cpp
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, PreTrainedTokenizerFast

import zoo

SIZES = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
CONFIGS = {
    "grouped": LlamaConfig(**LLAMA),
    "tied": LlamaConfig(**LLAMA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "linear": LlamaConfig(**LLAMA, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
    "llama3": LlamaConfig(**LLAMA | {"head_dim": 32}, rope_parameters={**LLAMA3, "rope_theta": 5e5}),
    "gpt2": GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3),
}
TEXTS = ["the cat  sat\n\n on 1234 mats, isn't it?", "<|im_start|>user\nna\u00efve \u6771\u4eac \U0001f600<|im_end|>", " \t x"]


def byte_level():
    found = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    found.pre_tokenizer, found.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    special, letters = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], sorted(pre_tokenizers.ByteLevel.alphabet())
    found.train_from_iterator(
        ["the cat sat on the mat"] * 3, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=letters)
    )
    return found


def sentence_piece():
    words = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        *(f"<0x{i:02X}>" for i in range(256)),
        *"\u2581thecas",
        "th",
        "the",
        "\u2581the",
        "at",
    ]
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("a", "t")]
    vocabulary = {word: i for i, word in enumerate(words)}
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<|endoftext|>", fuse_unk=True, byte_fallback=True))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    found.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return found


def saved(folder, config, tokenizer=None):
    """Save a random model with a tokenizer, as transformers does, and load it here."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if tokenizer is not None:
        words = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
        theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words)
        theirs.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        theirs.save_pretrained(folder)
    return zoo.load(folder)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("grouped"), CONFIGS["grouped"], byte_level())


@torch.no_grad()
def logits(system, ids):
    return system.head.language.logits(system.head.language(ids))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_written_file_loads_as_the_same_model(name, tmp_path):
    system = saved(tmp_path / "theirs", CONFIGS[name], byte_level())
    back = zoo.load(zoo.export(system, tmp_path / "gguf", "gguf"))
    ids = torch.randint(0, 300, (2, 20))
    torch.testing.assert_close(logits(back, ids), logits(system, ids), atol=1e-5, rtol=1e-5)
    assert {k: v for k, v in back.config["head"]["language"].items() if k != "name"}["depth"] == 2
    conversation = back.processor["conversation"]
    assert [conversation.tokenizer.encode(text).ids for text in TEXTS] == [byte_level().encode(text).ids for text in TEXTS]
    assert conversation.chat_template == system.processor["conversation"].chat_template and conversation.eos_token_ids == [2]


def test_the_library_reads_sizes_and_tokens(grouped, tmp_path):
    reader = gguf.GGUFReader(zoo.export(grouped, tmp_path / "gguf", "gguf") / "model.gguf")
    told = {name: field.contents() for name, field in reader.fields.items()}
    wanted = {"context_length": 128, "embedding_length": 64, "block_count": 2, "attention.head_count": 4, "attention.head_count_kv": 2}
    assert {key: told[f"llama.{key}"] for key in wanted} == wanted
    assert len(told["tokenizer.ggml.tokens"]) == 300 and told["tokenizer.ggml.pre"] == "smollm" and told["tokenizer.ggml.eos_token_id"] == 2
    assert told["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1] and told["general.file_type"] == 0


@pytest.mark.parametrize(("target", "kind"), [("gguf_f16", "F16"), ("gguf_q8_0", "Q8_0")])
def test_smaller_types_hold_the_numbers_that_the_library_makes_of_them(target, kind, grouped, tmp_path):
    back = zoo.load(zoo.export(grouped, tmp_path / "gguf", target))
    type_, name = gguf.GGMLQuantizationType[kind], "head.language.blocks.1.attention.out.weight"
    original = grouped.state_dict()[name].numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(original, type_), type_)
    assert torch.equal(back.state_dict()[name], torch.from_numpy(expected)) and not (expected == original).all()
    assert torch.equal(back.state_dict()["head.language.norm.weight"], grouped.state_dict()["head.language.norm.weight"])


def ask(path, prompt, texts):
    command = [sys.executable, str(Path(llama_cpp.__file__)), str(path), json.dumps(prompt), json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["grouped", "llama3"])
def test_llama_cpp_says_the_same_tokens_and_splits_texts_alike(name, tmp_path):
    system = saved(tmp_path / "theirs", CONFIGS[name], byte_level())
    prompt = [5, 77, 200, 150, 33]
    said, split = ask(zoo.export(system, tmp_path / "gguf", "gguf") / "model.gguf", prompt, TEXTS)
    ids = list(prompt)
    for _ in said:
        scores = logits(system, torch.tensor([ids]))[0, -1].index_fill(
            0, torch.tensor(2), float("-inf")
        )  # no end of the text, as asked there
        ids.append(int(scores.argmax()))
    assert said == ids[len(prompt) :] and len(set(said)) > 10
    assert split == [byte_level().encode(text).ids for text in TEXTS]


def test_sentence_piece_splits_alike_in_llama_cpp(tmp_path):
    system = saved(tmp_path / "theirs", CONFIGS["grouped"], sentence_piece())
    path = zoo.export(system, tmp_path / "gguf", "gguf") / "model.gguf"
    texts = ["the cat sat", "na\u00efve \u6771 the"]
    ours = [sentence_piece().encode(text).ids for text in texts]
    assert ask(path, [5, 6], texts)[1] == ours
    assert [zoo.load(path).processor["conversation"].tokenizer.encode(text).ids for text in texts] == ours


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(zoo.ConfigError, match="a GGUF file holds its tokenizer, and this model has none"):
        zoo.export(zoo.create_model("llama_nano"), tmp_path / "gguf", "gguf")


def test_a_sliding_window_is_refused(tmp_path):
    system = saved(tmp_path / "theirs", MistralConfig(**LLAMA, sliding_window=8), byte_level())
    with pytest.raises(zoo.ConfigError, match="window: got 8, but llama.cpp's architecture 'llama' attends to everything"):
        zoo.export(system, tmp_path / "gguf", "gguf")


def test_a_tokenizer_with_other_rules_is_refused(tmp_path):
    other = byte_level()
    other.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    with pytest.raises(zoo.ConfigError, match="the tokenizer splits words by rules that have no name in GGUF files"):
        zoo.export(saved(tmp_path / "theirs", CONFIGS["grouped"], other), tmp_path / "gguf", "gguf")
