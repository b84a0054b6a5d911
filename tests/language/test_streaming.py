"""Token ids to text as they come; the whole text decoded at once is the reference."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from zoo.errors import ConfigError
from zoo.language.decoding.streaming import StopStrings, TextStream, cut_at_stop, longest_beginning

TEXT = "Sure: na\u00efve caf\u00e9, \u732b and \U0001f600\U0001f44d\U0001f3fd!\n\nUSER: END."


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE that knows hardly a merge, so that most characters beyond ASCII are several tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(["Sure and USER"] * 3, trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False))
    return made


@pytest.fixture(scope="module")
def word_tokenizer():
    """Make a tokenizer of words with a mark for the space before them, which the decoder drops at the start of a text."""
    words = ["\u2581Sure", "\u2581yes", ":", "\u2581"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=":"))
    made.decoder = decoders.Metaspace()
    return made


def streamed(decode, ids, stop=()):
    stream = TextStream(decode, stop)
    pieces = [stream.push(token) for token in ids]
    pieces.append(stream.close())
    assert "".join(pieces) == stream.text
    return pieces, stream


def test_pieces_are_whole_characters_and_together_the_text(tokenizer):
    ids = tokenizer.encode(TEXT).ids
    pieces, _ = streamed(tokenizer.decode, ids)
    assert len(ids) > len(TEXT) * 0.8 and "".join(pieces) == TEXT and not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == "" and sum(piece != "" for piece in pieces) > 20  # nothing waits that could be shown


def test_a_character_that_never_ends_is_shown_as_the_decoder_shows_it(tokenizer):
    ids = tokenizer.encode("ok \u732b").ids[:-1]
    pieces, _ = streamed(tokenizer.decode, ids)
    assert "".join(pieces[:-1]) == "ok " and "".join(pieces) == tokenizer.decode(ids)


def test_spaces_between_words_survive_a_decoder_that_drops_the_first(word_tokenizer):
    ids = [0, 2, 1, 1, 0]
    assert "".join(streamed(word_tokenizer.decode, ids)[0]) == word_tokenizer.decode(ids) == "Sure: yes yes Sure"


@pytest.mark.parametrize("stop", ["\n\nUSER:", "USER", "R: E", "\U0001f44d", "!", "END"])
def test_text_ends_before_a_stop_string_wherever_tokens_end(tokenizer, stop):
    pieces, stream = streamed(tokenizer.decode, tokenizer.encode(TEXT).ids, [stop, "never"])
    assert "".join(pieces) == TEXT[: TEXT.index(stop)] == cut_at_stop(TEXT, [stop]) and stream.has_stopped


def test_no_piece_holds_what_a_stop_string_takes_back(tokenizer):
    ids, shown = tokenizer.encode("a STOP b STOPPER c").ids, ""
    stream = TextStream(tokenizer.decode, ["STOPPED"])
    for token in ids:
        shown += stream.push(token)
        assert not any(shown.endswith("STOPPED"[:n]) for n in range(1, 7))
    assert shown + stream.close() == "a STOP b STOPPER c"


def test_the_first_of_several_stop_strings_cuts():
    assert cut_at_stop("one two three", ["three", "two"]) == "one " and cut_at_stop("one", ["two"]) == "one"


@pytest.mark.parametrize("text, held", [("so E\nE", 2), ("so", 0), ("\n", 1), ("\nEN", 3), ("E\nE\nEN", 3), ("", 0)])
def test_what_may_begin_a_stop_string_is_held(text, held):
    assert longest_beginning(text, ["\nEND", "no"]) == held


@pytest.mark.parametrize("stop", ["USER", "\U0001f600", "\n\nUSER: END"])
def test_generation_is_told_to_stop_at_the_token_that_completes_a_stop_string(tokenizer, stop):
    ids, says = tokenizer.encode("x" * 50 + TEXT).ids, StopStrings(tokenizer.decode, [stop])
    first = next(n for n in range(1, len(ids) + 1) if says(ids[:n]))
    assert stop in tokenizer.decode(ids[:first]) and stop not in tokenizer.decode(ids[: first - 1])


def test_without_stop_strings_nothing_stops(tokenizer):
    assert not StopStrings(tokenizer.decode, [])([1, 2, 3])


@pytest.mark.parametrize("stop", ["END", [""]])
def test_stop_strings_that_are_none_are_refused(stop):
    with pytest.raises(ConfigError, match="stop: .* allowed is a sequence of strings"):
        StopStrings(str, stop)
