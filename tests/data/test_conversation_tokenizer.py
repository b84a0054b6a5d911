"""Tokenizers of language models, against transformers' own on directories as they lie on the hub."""

import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from zoo.errors import WeightsError
from zoo.processors.chat.messages import Conversation, Message
from zoo.processors.conversation import ConversationProcessor
from zoo.processors.tokenizers.chat_tokenizer import read_language_tokenizer

CORPUS = ["The capital of France is Paris, isn't it? USER: hello there ASSISTANT: 12 and 1789 and 42."] * 4
TEXTS = [
    "The capital of France",
    " leading and  double   spaces ",
    "line\nbreaks\n\n\tand tabs",
    "ünïcode 猫 🙂 e\u0301",
    "1789 12 3.14",
    "<s>[INST] hello there [/INST] is it</s><s>again",
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    "before<|endoftext|> after </s> x",
    "",
]


def write(directory, tokenizer, model_type, **config):
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"model_type": model_type, "eos_token_id": 2}))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def byte_level(special, digits=False):
    made = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level]) if digits else level
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return made


def sentence_pieces(special=("<unk>", "<s>", "</s>")):
    """Make a tokenizer as convert_slow_tokenizer converts LLaMA's: a normaliser adds the leading space, unknown letters become bytes."""
    byte_words = [f"<0x{number:02X}>" for number in range(256)]
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=[*special, *byte_words], show_progress=False, max_token_length=6)
    made.train_from_iterator([word for text in CORPUS for word in text.split()], trainer)
    content = json.loads(made.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    made = Tokenizer.from_str(json.dumps(content))
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def gpt2(folder):
    return write(folder, byte_level(["<|endoftext|>"]), "gpt2", tokenizer_class="GPT2Tokenizer", model_max_length=1024)


def smollm2(folder):
    words = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    names = {"bos_token": words[1], "eos_token": words[2], "pad_token": words[2], "unk_token": words[0]}
    extra = {"additional_special_tokens": list(words[1:]), "chat_template": "{{ messages[0]['content'] }}", "add_prefix_space": False}
    return write(folder, byte_level(words, digits=True), "llama", tokenizer_class="GPT2Tokenizer", **names, **extra)


def llama(folder, **flags):
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    return write(folder, sentence_pieces(), "llama", tokenizer_class="LlamaTokenizer", **{"legacy": False, **names, **flags})


def mistral(folder):
    tokens = {"bos_token": {"content": "<s>", "__type": "AddedToken"}, "eos_token": "</s>", "unk_token": "<unk>"}
    return write(folder, sentence_pieces(), "mistral", tokenizer_class="LlamaTokenizer", legacy=True, add_bos_token=True, **tokens)


@pytest.mark.parametrize(
    "make",
    [
        gpt2,
        smollm2,
        llama,
        lambda folder: llama(folder, legacy=True),
        lambda folder: llama(folder, add_bos_token=False, add_eos_token=True),
        lambda folder: llama(folder, pad_token="<pad>"),
        mistral,
    ],
    ids=["gpt2", "smollm2", "llama", "llama-legacy", "llama-ends", "llama-pad", "mistral"],
)
def test_ids_are_those_of_transformers_with_and_without_special_tokens(make, tmp_path):
    directory = make(tmp_path / "model")
    theirs, ours = AutoTokenizer.from_pretrained(directory), read_language_tokenizer(directory)
    for text in TEXTS:
        for special in (True, False):
            ids = ours.tokenizer.encode(text, add_special_tokens=special).ids
            assert ids == theirs(text, add_special_tokens=special)["input_ids"], (text, special)
            assert ours.tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    for name, word in ours.names.items():
        assert getattr(theirs, name) == word and getattr(theirs, f"{name}_id") == ours.tokenizer.token_to_id(word)
    assert ours.chat_template == theirs.chat_template and ours.eos_token_ids == (2,)


def test_texts_begin_with_what_the_tokenizer_begins_them_with(tmp_path):
    starts = {make.__name__: read_language_tokenizer(make(tmp_path / make.__name__)).symbols().starts for make in (gpt2, smollm2, llama)}
    assert starts == {"gpt2": False, "smollm2": False, "llama": True}


def test_text_after_a_marker_is_split_as_transformers_splits_it(tmp_path):
    directory = llama(tmp_path / "model")
    theirs = AutoTokenizer.from_pretrained(directory)
    theirs.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    part = ConversationProcessor(vocab_size=1000, context_length=99, tokenizer="given", template="none")
    part.use(read_language_tokenizer(directory))
    part.counts = {"image": lambda item: 1}
    asked = Conversation((Message("user", "hello <image>\nthere is it"),), (None,))
    ours = part.item(asked, {"image": [torch.zeros(1)]}, for_generation=True)
    expected = theirs("hello <image>\nthere is it")["input_ids"]
    assert ours.token_ids.tolist() == [-200 if number == theirs.convert_tokens_to_ids("<image>") else number for number in expected]


def test_vocabulary_and_merges_alone_are_gpt2s(tmp_path):
    directory = gpt2(tmp_path / "model")
    content = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "vocab.json").write_text(json.dumps(content["vocab"]))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in content["merges"]))
    (directory / "tokenizer.json").unlink()
    theirs, ours = AutoTokenizer.from_pretrained(directory), read_language_tokenizer(directory)
    assert all(ours.tokenizer.encode(text).ids == theirs(text)["input_ids"] for text in TEXTS)


def test_a_sentence_piece_model_is_converted(tmp_path):
    import sentencepiece

    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS))
    flags = {"model_type": "bpe", "vocab_size": 320, "byte_fallback": True, "minloglevel": 2, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "tokenizer"), **flags)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True})
    )
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), read_language_tokenizer(tmp_path)
    assert all(ours.tokenizer.encode(text).ids == theirs(text)["input_ids"] for text in TEXTS)


def test_where_templates_and_ends_lie(tmp_path):
    directory = smollm2(tmp_path / "model")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    assert read_language_tokenizer(directory).eos_token_ids == (2, 0)
    (directory / "chat_template.jinja").write_text("{{ 1 }}\n")
    assert read_language_tokenizer(directory).chat_template == "{{ 1 }}\n" == AutoTokenizer.from_pretrained(directory).chat_template
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    (directory / "chat_template.jinja").unlink()
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert read_language_tokenizer(directory).chat_template == "yes"
    part = ConversationProcessor(vocab_size=1000, context_length=99, tokenizer="given", names={"eos_token": "<|im_end|>"})
    part.use(read_language_tokenizer(directory))
    assert part.eos_token_ids == [0, 2] and part.stop_strings == () and part.pad_token_id == 2


def test_no_tokenizer_is_none_and_a_damaged_one_is_refused(tmp_path):
    assert read_language_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="its tokenizer cannot be read"):
        read_language_tokenizer(tmp_path)
