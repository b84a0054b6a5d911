"""Directories of translators that converters write: config, weights and tokenizers in the form of ``zoo.save``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE, hash_of_files
from zoo.storage.tensors import write_tensors

PROCESSOR, WORDS, TARGET_WORDS = "processor.json", "tokenizer.json", "target_tokenizer.json"
UNKNOWN, PADDING, START, END = range(4)  # ids of the special symbols in both packages


def symbol_tokenizer(symbols: Sequence[str], pattern: str) -> Tokenizer:
    """Return a tokenizer that cuts a text into symbols; the id of each is its place in the list.

    Args:
        symbols: unknown, padding, start and end symbol, then all others.
        pattern: regular expression of one symbol, which matches everywhere.
    """
    tokenizer = Tokenizer(models.WordLevel({symbol: number for number, symbol in enumerate(symbols)}, unk_token=symbols[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(symbol, special=True, normalized=False) for symbol in symbols[: END + 1]])
    start, end = symbols[START], symbols[END]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=[(start, START), (end, END)])
    return tokenizer


def write_translator(
    target: Path, sizes: Mapping[str, Any], tensors: Mapping[str, Tensor], words: Tokenizer, target_words: Tokenizer, *, lowercase: bool
) -> None:
    """Write a directory for ``zoo.load``, with source and target vocabularies apart.

    Args:
        sizes: keywords that encoder and head share.
        tensors: weights under our names.
        words: tokenizer of source texts.
        target_words: tokenizer of target texts.
        lowercase: source texts are converted to lower case.
    """
    shared = {"context_length": sizes["context_length"], "pad_token_id": PADDING, "eot_token_id": END}
    given = {**shared, "tokenizer": "given", "cleaning": "whitespace"}
    own = {"vocab_size": target_words.get_vocab_size(), "shared_words": False, "tied": False, "output_bias": True}
    parts = {
        "text": {**given, "vocab_size": words.get_vocab_size(), "lowercase": lowercase},
        "target_text": {**given, "vocab_size": own["vocab_size"], "lowercase": False, "start_token_ids": [START]},
    }
    write_tensors(dict(tensors), target / WEIGHTS_FILE)
    (target / PROCESSOR).write_text(json.dumps(parts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    words.save(str(target / WORDS))
    target_words.save(str(target / TARGET_WORDS))
    encoder = {"name": "seq2seq", **sizes, "vocab_size": words.get_vocab_size()}
    head = {"name": "seq2seq", **sizes, **own}
    system = {"encoders": {"text": encoder}, "head": head, "processor": parts}
    hashed = hash_of_files(target, (PROCESSOR, WORDS, TARGET_WORDS))
    config = {"format": 1, "system": system, "processor_sha256": hashed}
    (target / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def joined(tensors: Mapping[str, Tensor], names: Sequence[str], prefix: str, suffix: str) -> Tensor:
    """Return the rows of several tensors in one, for a matrix that projects to queries, keys and values together."""
    return torch.cat([tensors[f"{prefix}{name}.{suffix}"] for name in names])
