"""Build the tokenizer in the metadata of a GGUF file."""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from zoo.errors import ConfigError, name_choices

CONTROL, USER_DEFINED = 3, 4  # of ``tokenizer.ggml.token_type``
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {  # by ``tokenizer.ggml.pre``: True if each digit is a separate token; the pattern of a word
    "default": (False, GPT2_WORDS),
    "gpt-2": (False, GPT2_WORDS),
    "smollm": (True, GPT2_WORDS),
    "llama-bpe": (False, LLAMA3_WORDS),
}


def gguf_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """Build the tokenizer of a file: byte-level BPE (``gpt2``) or SentencePiece's BPE (``llama``).

    Raises:
        ConfigError: the tokenizer is of another kind, or splits words by unknown rules.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise ConfigError(f"tokenizer.ggml.model: got {kind!r}; allowed are gpt2, llama. Put a tokenizer.json beside the model instead")
    words, kinds = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type") or []
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = _byte_level(metadata, vocabulary) if kind == "gpt2" else _pieces(metadata, vocabulary)
    marked = [(word, kind) for word, kind in zip(words, kinds, strict=False) if kind in (CONTROL, USER_DEFINED)]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word, kind in marked if kind == CONTROL])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word, kind in marked if kind == USER_DEFINED])
    start = metadata.get("tokenizer.ggml.bos_token_id")
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") and start is not None:
        after = tokenizer.post_processor
        begin = processors.TemplateProcessing(single=f"{words[start]} $A", special_tokens=[(words[start], start)])
        tokenizer.post_processor = begin if after is None else processors.Sequence([after, begin])  # type: ignore[list-item]
    return tokenizer


def _merges(metadata: dict[str, Any], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges in their order; a SentencePiece vocabulary has scores instead, and every pair that makes a piece is a merge."""
    lines = metadata.get("tokenizer.ggml.merges")
    if lines is not None:
        return [(line[: line.index(" ", 1)], line[line.index(" ", 1) + 1 :]) for line in lines]
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None:
        raise ConfigError("tokenizer.ggml: has neither merges nor scores; put a tokenizer.json beside the model instead")
    found = []
    for piece, number in vocabulary.items():
        cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        parts = [(first, second) for first, second in cuts if first in vocabulary and second in vocabulary]
        parts.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found += [(-scores[number], pair) for pair in parts]
    return [pair for _, pair in sorted(found, key=lambda entry: entry[0])]


def _byte_level(metadata: dict[str, Any], vocabulary: dict[str, int]) -> Tokenizer:
    name = str(metadata.get("tokenizer.ggml.pre", "default"))
    if name not in PRE_TOKENIZERS:
        choices = name_choices(name, PRE_TOKENIZERS)
        raise ConfigError(f"tokenizer.ggml.pre: there is no {name!r}; {choices}. Put a tokenizer.json beside the model instead")
    digits, pattern = PRE_TOKENIZERS[name]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(metadata, vocabulary), ignore_merges=name == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *([pre_tokenizers.Digits(individual_digits=True)] if digits else []),
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=bool(metadata.get("tokenizer.ggml.add_space_prefix", False)), use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces(metadata: dict[str, Any], vocabulary: dict[str, int]) -> Tokenizer:
    unknown = metadata["tokenizer.ggml.tokens"][metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    merges = _merges(metadata, vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaced = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps = [*([normalizers.Prepend("\u2581")] if spaced else []), normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    strip = [decoders.Strip(" ", 1, 0)] if spaced else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return tokenizer
