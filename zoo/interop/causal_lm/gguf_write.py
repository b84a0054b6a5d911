"""Language models as GGUF files: llama.cpp's tensors, and metadata of model and tokenizer.

Reference: llama.cpp, ``convert_hf_to_gguf.py``; the file is written through the ``gguf`` library.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base.format import Export
from zoo.interop.causal_lm import gguf_names
from zoo.interop.causal_lm.gguf_tokenizer import CONTROL, PRE_TOKENIZERS, USER_DEFINED, gguf_tokenizer
from zoo.storage import gguf

KINDS = {"gguf": "F32", "gguf_f16": "F16", "gguf_q8_0": "Q8_0"}  # by target: type of the matrices
FILE = "model.gguf"
UNCLEAR = "default"  # of ``PRE_TOKENIZERS``: llama.cpp splits otherwise than what files of this name were made with
NORMAL, UNUSED, BYTE = 1, 5, 6  # of ``tokenizer.ggml.token_type``
PROBE = (  # words, numbers, white space, contractions, other scripts, symbols: what rules of splitting differ in
    "The cat  sat\n\n on 1234567 mats, isn't IT'S it?\t 3.14 x_y  \r\n  \u00e9t\u00e9 na\u00efve \u6771\u4eac \u0440\u0443\u0441 "
    "\U0001f600!! (a+b)*c == d; don't  'quote' \u00bd #hash @you   ...\n"
)


def gguf_export(arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], conversation: Any, target: str, name: str) -> Export:
    """Return the one file of a language model.

    Args:
        arguments: all keywords of our ``causal_lm``.
        tensors: its state dict.
        conversation: the processor's part that owns the tokenizer.
        target: one of ``KINDS``.
        name: of the model.

    Raises:
        ConfigError: llama.cpp has no such architecture or tokenizer.
    """
    kind = gguf_names.architecture(arguments)
    if conversation is None or not conversation.is_fitted:
        raise ConfigError(
            "export: a GGUF file holds its tokenizer, and this model has none; load it with one, or choose format transformers"
        )
    metadata = {"general.name": name, **_model(arguments, kind), **_tokenizer(conversation, arguments["vocab_size"])}

    def save(found: Mapping[str, Tensor], path: Path) -> None:
        gguf.write(path, kind, metadata, found, KINDS[target])

    return Export({}, partial(gguf_names.from_zoo, tensors, arguments), FILE, save)


def _model(arguments: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the metadata of the architecture; the inverse of ``gguf_names.arguments``."""
    heads, dim = arguments["num_heads"], arguments["dim"]
    found: dict[str, Any] = {
        "context_length": arguments["context_length"],
        "embedding_length": dim,
        "block_count": arguments["depth"],
        "feed_forward_length": arguments["hidden_dim"] or 4 * dim,
        "attention.head_count": heads,
        "vocab_size": arguments["vocab_size"],
    }
    if kind == "gpt2":
        return {f"{kind}.{key}": value for key, value in (found | {"attention.layer_norm_epsilon": float(arguments["eps"])}).items()}
    head_dim, scaling = arguments["head_dim"] or dim // heads, arguments["rope_scaling"] or {}
    found |= {
        "attention.head_count_kv": arguments["num_kv_heads"] or heads,
        "attention.layer_norm_rms_epsilon": float(arguments["eps"]),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(arguments["rope_theta"]),
    }
    if scaling.get("kind") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    return {f"{kind}.{key}": value for key, value in found.items()}


def _tokenizer(conversation: Any, vocab_size: int) -> dict[str, Any]:
    """Return the metadata of a tokenizer.

    Raises:
        ConfigError: it is of a kind, or splits words by rules, that GGUF files have no name for.
    """
    from zoo.interop.causal_lm.write import tokenizer_files  # that module imports this one

    content = tokenizer_files(conversation)["tokenizer.json"]
    model = content["model"]
    if model["type"] != "BPE":
        raise ConfigError(f"export: the tokenizer is a {model['type']}; GGUF files are written with BPE (byte-level or SentencePiece's)")
    added = {each["content"]: each for each in content["added_tokens"]}
    ids = {**model["vocab"], **{word: each["id"] for word, each in added.items()}}
    if max(ids.values()) >= vocab_size:
        raise ConfigError(f"export: the tokenizer has {max(ids.values()) + 1} tokens, more than vocab_size {vocab_size}")
    words = {number: word for word, number in ids.items()}
    tokens = [words.get(number, f"[PAD{number}]") for number in range(vocab_size)]
    pieces = bool(model.get("byte_fallback"))
    merges = [" ".join(each) if isinstance(each, list) else each for each in model["merges"]]
    found = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_kind(number, words, added, pieces) for number in range(vocab_size)],
        **_special(conversation, ids, content),
        **({} if conversation.chat_template is None else {"tokenizer.chat_template": conversation.chat_template}),
    }
    if pieces:
        ranks = {"".join(merge.split(" ")): rank for rank, merge in reversed(list(enumerate(merges)))}
        scores = [-float(ranks[word]) if word in ranks else -1e4 for word in tokens]
        found |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.scores": scores}
        return _checked([found | {"tokenizer.ggml.add_space_prefix": spaced} for spaced in (True, False)], content)
    found |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": merges}
    return _checked([found | {"tokenizer.ggml.pre": pre} for pre in PRE_TOKENIZERS if pre != UNCLEAR], content)


def _kind(number: int, words: Mapping[int, str], added: Mapping[str, Any], pieces: bool) -> int:
    word = words.get(number)
    if word is None:
        return UNUSED
    if word in added:
        return CONTROL if added[word]["special"] else USER_DEFINED
    return BYTE if pieces and len(word) == 6 and word.startswith("<0x") else NORMAL


def _special(conversation: Any, ids: Mapping[str, int], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids of the tokens with a task, and if a text begins with one."""
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    given = {key: ids.get(str((conversation.names or {}).get(name))) for name, key in names.items()}
    given["bos"] = conversation.bos_token_id if given["bos"] is None else given["bos"]
    if given["eos"] is None and conversation.eos_token_ids:
        given["eos"] = conversation.eos_token_ids[0]
    found: dict[str, Any] = {f"tokenizer.ggml.{key}_token_id": number for key, number in given.items() if number is not None}
    start = Tokenizer.from_str(json.dumps(content)).encode("a").ids[:1]
    return {**found, "tokenizer.ggml.add_bos_token": given["bos"] is not None and start == [given["bos"]]}


def _checked(candidates: list[dict[str, Any]], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first metadata from which the tokenizer that is built splits texts as the given one does.

    Raises:
        ConfigError: there is none.
    """
    wanted = Tokenizer.from_str(json.dumps(content))
    texts = [PROBE, *(f"a{word}b" for word in list(wanted.get_vocab(True))[-20:])]
    for metadata in candidates:
        built = gguf_tokenizer(metadata)
        # Words first: rules that differ may still give the same tokens of a small vocabulary.
        if _words(built) == _words(wanted) and all(built.encode(text).ids == wanted.encode(text).ids for text in texts):
            return metadata
    known = ", ".join(name for name in PRE_TOKENIZERS if name != UNCLEAR)
    raise ConfigError(f"export: the tokenizer splits words by rules that have no name in GGUF files (known: {known}, SentencePiece)")


def _words(tokenizer: Tokenizer) -> Any:
    before = tokenizer.pre_tokenizer
    return None if before is None else before.pre_tokenize_str(PROBE)
