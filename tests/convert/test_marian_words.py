"""MarianMT's tokenizer: ids, texts and files equal those of transformers; a directory with it translates raw texts."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

import zoo
from zoo.errors import DataError, WeightsError
from zoo.interop.base.recognise import unknown_files
from zoo.interop.base.source import read_source
from zoo.processors.tokenizers.piece_tokenizer import PieceTokenizer, read_pieces
from zoo.processors.tokenizers.tokenizer_file import read_own_file

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
GUIDE = Path(zoo.__file__).parent.parent / "assets" / "guide"
TRICKY = (
    *(
        "",
        "  ",
        "Open the file.",
        " two  spaces ",
        "a\tb\nc",
        "\ufb01ne \u00bd \uff11\uff12",
        "\u65e5\u672c\u8a9e text",
        "\U0001f389 x \U0001f389",
    ),
    *("</s> inside </s>", "a<pad>b <unk> c", "<s> start <s>", ">>deu<< Open", ">>xyz<< no", "x >>deu<< y", ">>", ">>deu", "A" * 40),
    *(
        "\u2581 already \u2581\u2581 there",
        "e\u0301 \u00a0nbsp\u200bzero",
        "\u00d6ffnen Sie \u201edie\u201c Datei\u2026",
        "\x01",
        "end </s>",
    ),
)
LETTERS = "abc \u00e4\u00df\u2581 <>/s\u65e5\U0001f389\u00a0.,  "


def texts():
    draw = random.Random(0)
    return [*TRICKY, *("".join(draw.choices(LETTERS, k=draw.randrange(1, 20))) for _ in range(150))]


@pytest.fixture(scope="module", params=["one vocabulary", "two vocabularies"])
def marian(request, tmp_path_factory):
    """A directory of MarianMT with tokenizer, and the number of ids of its source."""
    folder, apart = tmp_path_factory.mktemp("marian"), request.param == "two vocabularies"
    english = "\n".join(path.read_text(encoding="utf-8") for path in sorted(GUIDE.glob("s*.md")))
    german = english.translate(str.maketrans("aeouy", "\u00e4\u00e9\u00f6\u00fcz"))
    pieces = {}
    for name, text, size in (("source", english, 260), ("target", german, 240)):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / f"{name}.txt"), model_prefix=str(folder / name), vocab_size=size, minloglevel=2, character_coverage=0.99
        )
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces[name] = [model.id_to_piece(i) for i in range(3, size)]
    both = list(dict.fromkeys([*pieces["source"], *pieces["target"]]))
    vocabularies = {"vocab": pieces["source"] if apart else both, **({"target_vocab": pieces["target"]} if apart else {})}
    sizes = {}
    for name, words in vocabularies.items():
        # Some pieces are missing, as in published vocabularies.
        numbers = {word: i for i, word in enumerate(["</s>", "<unk>", *words[:30], *words[45:], ">>deu<<", "<pad>"])}
        (folder / f"{name}.json").write_text(json.dumps(numbers), encoding="utf-8")
        sizes[name] = len(numbers)
    tokenizer = MarianTokenizer(
        *(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")),
        **({"target_vocab_file": str(folder / "target_vocab.json"), "separate_vocabs": True} if apart else {}),
    )
    torch.manual_seed(0)
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    pad = sizes.get("target_vocab", sizes["vocab"]) - 1
    config = MarianConfig(
        **small,
        vocab_size=sizes["vocab"],
        decoder_vocab_size=pad + 1,
        share_encoder_decoder_embeddings=not apart,
        encoder_ffn_dim=20,
        decoder_ffn_dim=20,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
    )
    MarianMTModel(config).save_pretrained(folder / "theirs")
    tokenizer.save_pretrained(folder / "theirs")
    return tokenizer, folder / "theirs"


def test_ids_and_texts_equal_theirs(marian):
    theirs, directory = marian
    parts = zoo.load(directory).processor
    for text in texts():
        source, target = theirs(text)["input_ids"], theirs(text_target=text)["input_ids"]
        assert parts["text"].tokenizer.encode(text).ids == source, text
        if "<pad>" not in text or not theirs.separate_vocabs:  # there they take the source's id of the padding
            assert parts["target_text"].tokenizer.encode(text).ids == target, text
            found = parts["target_text"].tokenizer.decode(target, skip_special_tokens=True)
            assert found == theirs.decode(target, skip_special_tokens=True), text
    assert parts["target_text"].tokenizer.decode([0, 1], skip_special_tokens=False) == "</s> <unk>"


def test_it_goes_back_and_is_saved(marian, tmp_path):
    theirs, directory = marian
    assert not unknown_files(read_source(directory))
    system = zoo.load(directory)
    zoo.export(system, tmp_path / "back")
    zoo.save(system, tmp_path / "saved")
    again, saved = MarianTokenizer.from_pretrained(tmp_path / "back"), zoo.load(tmp_path / "saved").processor
    for text in texts():
        assert again(text)["input_ids"] == theirs(text)["input_ids"] == saved["text"].tokenizer.encode(text).ids
        assert again(text_target=text)["input_ids"] == theirs(text_target=text)["input_ids"]


@torch.no_grad()
def test_raw_texts_are_translated_as_theirs(marian):
    theirs, directory = marian
    model, system = MarianMTModel.from_pretrained(directory).eval(), zoo.load(directory)
    lines = ["Open the file.", "The model gives the tokens of the last block"]
    beams = 1 if system.head.decoder.embedding is not None else 2  # their beam search fails with two vocabularies
    inputs = theirs(lines, return_tensors="pt", padding=True)
    expected = theirs.batch_decode(model.generate(**inputs, max_new_tokens=8, num_beams=beams), skip_special_tokens=True)
    expected = [text.replace("<pad>", "").strip() for text in expected]  # of two vocabularies they do not skip the target's padding
    assert system.generate(lines, max_new_tokens=8, num_beams=beams) == expected
    assert zoo.create_system(system.config, weights=directory).generate(lines, max_new_tokens=8, num_beams=beams) == expected


def test_wrong_files_are_refused(marian, tmp_path):
    _, directory = marian
    pieces = read_pieces(directory / "source.spm")
    with pytest.raises(WeightsError, match="lacks <pad>"):
        PieceTokenizer(pieces, {"<unk>": 0, "</s>": 1})
    with pytest.raises(DataError, match="single texts"):
        zoo.load(directory).processor["text"].item(("one", "two"))
    (tmp_path / "tokenizer.json").write_text('{"pieces_and_vocabulary": 1, "pieces": {}}', encoding="utf-8")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_own_file(tmp_path / "tokenizer.json")
    (tmp_path / "text.txt").write_text("some words of a text\n" * 9, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "bpe"), vocab_size=20, model_type="bpe", minloglevel=2
    )
    with pytest.raises(WeightsError, match="only SentencePiece models of the kind unigram"):
        read_pieces(tmp_path / "bpe.model")
