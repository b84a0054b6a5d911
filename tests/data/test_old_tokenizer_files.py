"""Tokenizers of directories without ``tokenizer.json``: SentencePiece models, vocabularies and merges, against transformers."""

import json

import pytest
from sentence_pieces import CORPUS, FAIRSEQ, XLNET, pieces
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, RobertaTokenizer

from zoo.errors import WeightsError
from zoo.processors.tokenizers.chat_tokenizer import read_language_tokenizer
from zoo.processors.tokenizers.library_tokenizers import read_tokenizer

TEXTS = ["a cat sat on the mat", "It's 12 o'clock, isn't it?", "zwei   words\n naïve", "", "Hello WORLD"]
WORDS = ["a", "cat", "##s", "sat", "hello", "on", "the", "mat", "it", "'", "?", ","]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
DEBERTA = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "user_defined_symbols": ["[MASK]"]}
DEBERTA |= {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
ALBERT = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"]}


def merges(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=ROBERTA, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.model.save(str(folder))


def words(symbols):
    return lambda folder: (folder / "vocab.txt").write_text("\n".join([*symbols, *WORDS]))


TROCR = {"model_type": "vision-encoder-decoder", "decoder": {"model_type": "trocr"}, "encoder": {"model_type": "vit"}}
KINDS = {  # config.json, tokenizer_config.json, writer of the other files
    "deberta v3": ({"model_type": "deberta-v2"}, {"do_lower_case": False, "vocab_type": "spm"}, pieces("spm.model", **DEBERTA)),
    "albert": ({"model_type": "albert"}, None, pieces("spiece.model", **ALBERT)),
    "xlm-roberta": ({"model_type": "xlm-roberta"}, None, pieces("sentencepiece.bpe.model", **FAIRSEQ)),
    "xlnet": ({"model_type": "xlnet"}, None, pieces("spiece.model", **XLNET)),
    "t5": ({"model_type": "t5"}, None, pieces("spiece.model", **ENDS)),
    "pegasus": ({"model_type": "pegasus"}, None, pieces("spiece.model", **ENDS)),
    "roberta": ({"model_type": "roberta"}, {"model_max_length": 512}, merges),
    "bart": ({"model_type": "bart"}, None, merges),
    "trocr": (TROCR, {"tokenizer_class": "RobertaTokenizer"}, merges),
    "mpnet": ({"model_type": "mpnet"}, {"tokenizer_class": "MPNetTokenizer"}, words(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])),
    "electra": ({"model_type": "electra"}, None, words(BERT)),
}


def write(kind, folder):
    config, own, make = KINDS[kind]
    (folder / "config.json").write_text(json.dumps(config))
    if own is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(own))
    make(folder)
    made = RobertaTokenizer if kind == "trocr" else AutoTokenizer  # which knows no class for two models side by side
    return made.from_pretrained(str(folder)), config["model_type"]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_padding_are_those_of_transformers(kind, tmp_path):
    theirs, model_type = write(kind, tmp_path)
    ours = read_tokenizer(tmp_path, model_type=model_type)
    for text in TEXTS:
        assert ours.tokenizer.encode(text).ids == theirs(text)["input_ids"], text
    assert ours.settings["pad_token_id"] == theirs.pad_token_id


def test_a_language_model_with_another_class_than_gpt2_splits_texts_as_that_class(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "</s>", "pad_token": "<pad>"})
    )
    merges(tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(str(tmp_path)), read_language_tokenizer(tmp_path).tokenizer
    for text in (*TEXTS, "1234 cafe\u0301"):
        assert ours.encode(text).ids == theirs(text)["input_ids"], text


def test_a_tokenizer_of_python_code_is_refused_by_name(tmp_path):
    own = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic", "subword_tokenizer_type": "character"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    words(BERT)(tmp_path)
    with pytest.raises(WeightsError, match=r"BertJapaneseTokenizer of transformers, is Python code without a tokenizer.json"):
        read_tokenizer(tmp_path, model_type="bert")
