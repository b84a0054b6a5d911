"""Tokenizers of other libraries, against these libraries on difficult texts."""

import json
import random
import string

import pytest
import torch
from tokenizers import Tokenizer

import zoo
from zoo.processors.text import TextProcessor
from zoo.processors.tokenizers.cleaning import clean_web_text
from zoo.processors.tokenizers.library_tokenizers import (
    CLIP_VOCABULARY,
    clip_tokenizer,
    find_merges,
    is_clips,
    read_tokenizer,
    swap_ids,
    tokenizer_files,
)

GOLDENS = {  # specs/clip.md, section 4
    "a diagram": [49406, 320, 22697, 49407],
    "a photo of a cat.": [49406, 320, 1125, 539, 320, 2368, 269, 49407],
    "Hello, World!": [49406, 3306, 267, 1002, 256, 49407],
}
NASTY = ["", "   ", "\t\n a \r\n b", "cat " * 200, "it's I'll we've they'd I'M YOU'RE 'S", "naïve café Ångström"]
NASTY += ["e\u0301 e&#x301;", "ΟΔΟΣ", "猫は好き 中文字符 한국어", "🙂👍🏽👨‍👩‍👧 ok", "&amp; &lt;b&gt; &amp;amp;amp; &quot;"]
NASTY += ["12345 3.14 2nd ½ ² ٣ ④ Ⅷ", "İstanbul", "'ſ ſ ῼ α\u0345 K ǅ ß ẞ ﬁ", "don’t “quote” ‘x’", "a_b-c/d\\e", "!!! ??? ...", "!"]
NASTY += ["\x00\x01abc\x7f", "â€œmojibakeâ€\x9d", "<html> a<b>c", "\u200b zero\u00a0width\ufeff"]
LETTERS = string.printable + "äöüßéÉñ中文日本語한글🙂🎉¿¡“”’–—…½²³€£\u0301\u200d&;#'<>ſ"


def random_texts(count=300):
    generator = random.Random(0)
    anything = [chr(code) for code in range(32, 0x3000) if chr(code).isprintable()]  # as this Python's Unicode knows them
    return ["".join(generator.choices(pool, k=generator.randint(1, 60))) for pool in (LETTERS, anything) for _ in range(count // 2)]


@pytest.fixture(scope="module")
def clips():
    return TextProcessor(vocab_size=49408, context_length=77, tokenizer="clip", cleaning="web", pad_to="context_length", eot_token_id=49407)


def test_goldens_of_openai(clips):
    for text, ids in GOLDENS.items():
        assert clips.item(text).tolist() == ids


def test_equals_open_clip_on_nasty_texts(clips):
    from open_clip import get_tokenizer

    texts = [*NASTY, *random_texts(), *GOLDENS]
    assert torch.equal(clips(texts)[0], get_tokenizer("ViT-B-32")(texts))


@pytest.mark.parametrize("files", ["vocab.json and merges.txt", "tokenizer.json"])
def test_equals_transformers_on_nasty_texts(clips, files, tmp_path):
    from transformers import CLIPTokenizer

    model = json.loads(clips.tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    if files == "tokenizer.json":
        theirs.save_pretrained(tmp_path / "again")
    found = read_tokenizer(tmp_path / "again" if files == "tokenizer.json" else tmp_path)
    ours = TextProcessor(vocab_size=49408, context_length=77, **found.settings)
    ours.use(found.tokenizer)
    texts = [*NASTY, *random_texts(), *GOLDENS]
    expected = theirs(texts, truncation=True, max_length=77, padding=True, return_tensors="pt")
    ids, mask = ours(texts)
    assert torch.equal(ids, expected.input_ids) and torch.equal(mask, expected.attention_mask.bool())
    assert torch.equal(ours(ids)[1], mask)  # the end symbol is the padding too, and the first one is real


def test_plain_text_is_cleaned_without_ftfy_as_with_it(monkeypatch):
    import ftfy

    for text in [*NASTY, *random_texts(), string.printable, *string.printable]:
        with monkeypatch.context() as patched:
            patched.setattr("zoo.processors.tokenizers.cleaning._is_plain", lambda text: False)
            mended = clean_web_text(text)
        assert clean_web_text(text) == mended
    monkeypatch.setattr(ftfy, "fix_text", None)
    assert clean_web_text("plain, \n and\tASCII!") == "plain, and ASCII!"


def test_where_the_merges_come_from(tmp_path, monkeypatch):
    assert find_merges().name == "bpe_simple_vocab_16e6.txt.gz"
    monkeypatch.setenv("ZOO_CLIP_MERGES", str(tmp_path / "none"))
    with pytest.raises(zoo.WeightsError, match="ZOO_CLIP_MERGES: .* is not a file"):
        find_merges()
    monkeypatch.delenv("ZOO_CLIP_MERGES")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    (tmp_path / "clip_merges").mkdir()
    (tmp_path / "clip_merges" / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"a b\n")
    with pytest.raises(zoo.WeightsError, match="holds 1 merges of CLIP, not 48894"):
        clip_tokenizer(find_merges())


def test_without_merges_ready_ids_are_taken_and_a_string_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr("zoo.processors.text.find_merges", lambda: None)
    text = TextProcessor(vocab_size=49408, context_length=77, tokenizer="clip", eot_token_id=49407)
    assert text(torch.tensor([[49406, 320, 49407, 0]]))[1].tolist() == [[True, True, True, False]]
    with pytest.raises(zoo.DataError, match="CLIP's merges were not found; zoo install clip, or set ZOO_CLIP_MERGES"):
        text(["a cat"])
    with pytest.raises(zoo.ConfigError, match="tokenizer: 'clip', but there is no tokenizer and it cannot be trained"):
        text.fit(["a cat"])


def test_word_pieces_of_a_bert_keep_their_end_and_equal_transformers(tmp_path):
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "dog", "uber", "猫", ",", "!"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    theirs, found = BertTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path, model_type="bert")
    ours = TextProcessor(vocab_size=len(words), context_length=6, **found.settings)
    ours.use(found.tokenizer)
    texts = ["A cat, cats!", "Über 猫 dog", "", "dog " * 20, "unknown [SEP] words"]
    expected = theirs(texts, padding=True, truncation=True, max_length=6, return_tensors="pt")
    ids, mask = ours(texts)
    assert torch.equal(ids, expected.input_ids) and torch.equal(mask, expected.attention_mask.bool())
    assert (ours.pad_token_id, ours.eot_token_id) == (0, 3)


def test_sentence_pieces_of_siglip_equal_transformers_and_are_padded_whole(tmp_path):
    import sentencepiece
    from transformers import SiglipTokenizer

    corpus = ["a photo of a cat", "this is the photo of a dog", "hello world", "naïve café", "photo 12345"] * 4
    sentencepiece.SentencePieceTrainer.train(
        **{"sentence_iterator": iter(corpus), "model_prefix": str(tmp_path / "spiece"), "vocab_size": 60, "minloglevel": 2},
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "hard_vocab_limit": False},
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer", "do_lower_case": True}))
    theirs, found = SiglipTokenizer(str(tmp_path / "spiece.model")), read_tokenizer(tmp_path, model_type="siglip")
    ours = TextProcessor(vocab_size=99, context_length=16, **found.settings)
    ours.use(found.tokenizer)
    texts = ["A photo, of a CAT!", "hello_world", "", "photo " * 30, "naïve  café\t12345"]
    expected = theirs(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt").input_ids
    ids, mask = ours(texts)
    assert torch.equal(ids, expected) and mask is None and ids.shape == (5, 16)


@pytest.mark.parametrize(("name", "content"), [("tokenizer.json", "{"), ("tokenizer_config.json", "[]"), ("spiece.model", "no")])
def test_damaged_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(zoo.WeightsError, match="cannot be read|not a JSON object|cannot be converted"):
        read_tokenizer(tmp_path)


def test_swapped_ids_say_the_same_words():
    text = TextProcessor(vocab_size=300, context_length=20)
    text.fit(["a photo of a cat"])
    keywords = {"cleaning": "whitespace", "lowercase": True, "pad_token_id": 0, "eot_token_id": 2, "max_length": 20, "masks": True}
    files = tokenizer_files(text.tokenizer, **keywords)
    other = Tokenizer.from_str(json.dumps(swap_ids(files["tokenizer.json"], 2, 299)))
    places = {2: 299}
    for caption in ("A  cat ", "photo of naïve 猫"):
        assert other.encode(caption).ids == [places.get(number, number) for number in text.item(caption).tolist()]
    assert files["tokenizer_config.json"]["eos_token"] == "<eot>" and not is_clips(text.tokenizer)
    assert is_clips(clip_tokenizer(find_merges())) and CLIP_VOCABULARY == 49408


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tokenizer": "clp"}, "did you mean 'clip'"),
        ({"tokenizer": "clip"}, "vocab_size: 300 is too small; CLIP's tokenizer needs at least 49408"),
        ({"tokenizer": "clip", "vocab_size": 49408}, "eot_token_id: got 2; CLIP's tokenizer ends texts with 49407"),
        ({"cleaning": "wbe"}, "did you mean 'web'"),
        ({"mask_padding": False}, "allowed only with pad_to=context_length"),
    ],
)
def test_words_that_do_not_fit_are_refused(keywords, message):
    with pytest.raises(zoo.ConfigError, match=message):
        TextProcessor(**{"vocab_size": 300, "context_length": 9, **keywords})


def test_a_trained_tokenizer_whose_end_the_encoder_does_not_know_is_refused():
    text = TextProcessor(vocab_size=300, context_length=9, eot_token_id=299)
    with pytest.raises(zoo.ConfigError, match="eot_token_id: 299, but a tokenizer that is trained on captions ends texts with 2"):
        text.fit(["a cat"])
