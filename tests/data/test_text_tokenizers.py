"""Tokenizers of BERT, RoBERTa, ALBERT and T5 in directories of transformers, against transformers itself, pairs included."""

import pytest
import torch
from tokenizers import pre_tokenizers

from zoo.data.groups import stable_group
from zoo.processors.text import TextProcessor, _shares
from zoo.processors.tokenizers.library_tokenizers import read_tokenizer

WORDS = "the cat sat on a mat near unbelievable running dogs naive cafe of strasse and it s don t 1 2 3".split()
TEXTS = [
    "",
    "the cat sat on a mat",
    "Unbelievable running dogs!",
    "  na\u00efve  caf\u00e9 ",
    "it's 123, don't",
    "a " * 60,
    "\u732b\u306f 42 \U0001f642",
]
PAIRS = [("the cat", "on a mat"), ("", "dogs"), ("a " * 50, "running dogs"), ("the cat", "dogs " * 50), ("a " * 50, "cat " * 50)]


def bert(folder):
    from transformers import BertTokenizer

    letters = sorted({letter for word in WORDS for letter in word})
    pieces = [*WORDS, *letters, *(f"##{letter}" for letter in letters), ",", "!", "'"]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(pieces)]
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return BertTokenizer(vocab=str(folder / "vocab.txt"))


def roberta(folder):
    from transformers import RobertaTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("a", "t"), ("\u0120", "c"), ("\u0120c", "at")]
    entries = ["<s>", "<pad>", "</s>", "<unk>", *letters, *("".join(pair) for pair in merges), "<mask>"]
    return RobertaTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, merges=merges)


def unigrams(*symbols):
    letters = sorted({letter for word in WORDS for letter in word} | set("!',123"))
    pieces = [*("\u2581" + word for word in WORDS), "\u2581", *letters]
    return [*((symbol, 0.0) for symbol in symbols), *((piece, -1.0 - i / 10) for i, piece in enumerate(dict.fromkeys(pieces)))]


def albert(folder):
    from transformers import AlbertTokenizer

    return AlbertTokenizer(vocab=unigrams("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))


def t5(folder):
    from transformers import T5Tokenizer

    return T5Tokenizer(vocab=unigrams("<pad>", "</s>", "<unk>"), extra_ids=0)


def ours(folder, model_type, longest=24):
    found = read_tokenizer(folder, model_type=model_type)
    part = TextProcessor(vocab_size=600, context_length=longest, **found.settings)
    part.use(found.tokenizer)
    return part


@pytest.mark.parametrize("make", [bert, roberta, albert, t5])
def test_single_texts_and_pairs_equal_transformers(make, tmp_path):
    theirs = make(tmp_path)
    theirs.save_pretrained(tmp_path / "saved")
    part = ours(tmp_path / "saved", make.__name__)
    words = {"truncation": True, "max_length": 24, "padding": True, "return_tensors": "pt"}
    for given, expected in ((TEXTS, theirs(TEXTS, **words)), (PAIRS, theirs(*map(list, zip(*PAIRS, strict=True)), **words))):
        ids, mask = part(given)
        assert torch.equal(ids, expected.input_ids)
        assert torch.equal(mask, expected.attention_mask.bool())
    assert part.eot_token_id == theirs.eos_token_id or part.eot_token_id == theirs.sep_token_id
    if make is not t5:
        assert part.mask_token_id == theirs.mask_token_id


def test_types_of_pairs_follow_from_the_separator_as_transformers_gives_them(tmp_path):
    from zoo.encoders.bert import Bert

    theirs = bert(tmp_path)
    theirs.save_pretrained(tmp_path / "saved")
    part, firsts, seconds = ours(tmp_path / "saved", "bert"), *map(list, zip(*PAIRS[2:], strict=True))
    expected = theirs(firsts, seconds, truncation=True, max_length=24, padding=True, return_tensors="pt").token_type_ids
    ids, mask = part(PAIRS[2:])
    model = Bert(vocab_size=600, context_length=24, dim=8, depth=1, num_heads=1, separator_id=part.eot_token_id)
    assert torch.equal(model._types(ids, None)[mask], expected[mask])


def test_old_files_of_word_pieces_make_pairs_too(tmp_path):
    theirs = bert(tmp_path)  # vocab.txt alone
    ids, _ = ours(tmp_path, "bert")(PAIRS)
    firsts, seconds = map(list, zip(*PAIRS, strict=True))
    assert torch.equal(ids, theirs(firsts, seconds, truncation=True, max_length=24, padding=True, return_tensors="pt").input_ids)


@pytest.mark.parametrize(("lengths", "kept"), [((2, 3), (2, 3)), ((2, 9), (2, 4)), ((9, 2), (4, 2)), ((9, 9), (3, 3)), ((4, 9), (3, 3))])
def test_the_longer_of_two_texts_gives_way(lengths, kept):
    assert _shares(*lengths, 6) == kept


def test_trained_word_pieces_have_symbols_pairs_and_a_mask_and_depend_on_the_texts_alone():
    texts = [f"{a} {b}" for a in WORDS for b in WORDS]
    one, other = (TextProcessor(vocab_size=240, context_length=16, tokenizer="word_pieces") for _ in range(2))
    one.fit(texts)
    other.fit(sorted(texts, key=stable_group))
    assert one.tokenizer.to_str() == other.tokenizer.to_str()
    ids, _ = one([("The [MASK]", "dogs")])
    assert [one.tokenizer.id_to_token(i) for i in ids[0].tolist()] == ["[CLS]", "the", "[MASK]", "[SEP]", "dogs", "[SEP]"]
    assert one.tokenizer.get_vocab_size() <= 240 and one.mask_token_id == 4


def test_bad_pairs_and_rooms_are_refused():
    from zoo.errors import ConfigError, DataError

    part = TextProcessor(vocab_size=240, context_length=4, tokenizer="word_pieces")
    part.fit(WORDS)
    with pytest.raises(ConfigError, match="context_length: 4 is too small for two texts .* give 5 or more"):
        part.item(("a", "b"))
    for raw in (("a", 3), ("a", "b", "c"), 5):
        with pytest.raises(DataError, match="a string, or a pair of strings"):
            part.item(raw)
