"""Chat template of Kosmos: documents, pairs, questions, span symbols, supervised tokens, and cuts of long documents."""

import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError, WeightsError
from zoo.processors.chat.kosmos_template import spaced
from zoo.processors.chat.messages import Conversation, Message
from zoo.processors.conversation import ConversationProcessor
from zoo.processors.image import ImageProcessor
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer
from zoo.types import PLACEHOLDER_IDS

IMAGE, TOKENS = PLACEHOLDER_IDS["image"], 3
RED = Image.new("RGB", (8, 8), "red")
TEXTS = ["what is it?", "a cat sat. a dog ran.", "Question: Answer:"]


def part_of(**keywords):
    part = ConversationProcessor(**{"vocab_size": 400, "context_length": 64, "template": "kosmos", **keywords})
    if part.source != "given":
        part.fit(TEXTS)
    part.counts = {"image": lambda item: TOKENS}
    return part


@pytest.fixture(scope="module")
def part():
    return part_of()


def written(part, conversation, **keywords):
    """Return the text with ``#`` for each placeholder, and the same for the supervised tokens."""
    media = {"image": [torch.zeros(1)] * len(conversation.images)}
    tokens = part.item(conversation, media, **keywords)
    ids = tokens.token_ids.tolist()
    show = [part.decode([i], skip_special_tokens=False) if i >= 0 else "#" for i in ids]
    return "".join(show), "".join(word for word, learnt in zip(show, tokens.supervised.tolist(), strict=True) if learnt)


def said(*turns, images=0):
    return Conversation(tuple(Message(role, text) for role, text in turns), (RED,) * images)


SHOWN = "<image>###</image>"


@pytest.mark.parametrize(
    ("conversation", "whole", "learnt"),
    [
        (said(("document", "a cat")), "<s>a cat</s>", "a cat</s>"),
        (
            said(("document", "a cat \n<image>\n a dog <image><image>"), images=3),
            f"<s>a cat{SHOWN} a dog{SHOWN}{SHOWN}</s>",
            "a cat<image></image> a dog<image></image><image></image></s>",
        ),
        (Conversation.of_caption("a cat", images=[RED]), f"<s>{SHOWN} a cat</s>", " a cat</s>"),
        (Conversation.of_caption("a cat"), "<s>a cat</s>", "a cat</s>"),
        (
            said(("user", "<image>\nwhat is it?"), ("assistant", "a cat"), images=1),
            f"<s>{SHOWN} Question: what is it? Answer: a cat</s>",
            " a cat</s>",
        ),
        (
            said(("user", "what?"), ("assistant", "a cat"), ("user", "<image>"), ("assistant", "a dog"), images=1),
            f"<s>Question: what? Answer: a cat{SHOWN} a dog</s>",
            " a cat a dog</s>",
        ),
        (
            said(("system", "sat"), ("user", "it?"), ("assistant", "a cat"), ("user", "is it?"), ("assistant", "ran")),
            "<s>sat\nQuestion: it? Answer: a cat\nQuestion: is it? Answer: ran</s>",
            " a cat\n ran</s>",
        ),
        (said(("document", "<image>"), ("assistant", "a cat"), images=1), f"<s>{SHOWN} a cat</s>", " a cat</s>"),
    ],
)
def test_a_sequence_is_written_and_learnt_as_the_paper_has_it(part, conversation, whole, learnt):
    assert written(part, conversation) == (whole, learnt)


def test_a_plain_prompt_begins_a_document_and_messages_ask_a_question(part):
    assert written(part, part.conversation([RED, "a cat", RED]), for_generation=True) == (f"<s>{SHOWN} a cat{SHOWN}", "")
    assert written(part, part.conversation("a dog"), for_generation=True) == ("<s>a dog", "")
    asked = said(("user", "<image>\nwhat is it?"), images=1)
    assert written(part, asked, for_generation=True)[0] == f"<s>{SHOWN} Question: what is it? Answer:"
    begun = said(("user", "is it?"), ("assistant", "a"))
    assert written(part, begun, for_generation=True)[0] == "<s>Question: is it? Answer: a"
    assert written(part, part.conversation([RED, "it is"], answer="a cat")) == (f"<s>{SHOWN} it is a cat</s>", " a cat</s>")


def test_prompts_of_a_whole_system_begin_documents_too(part):
    processor = Processor({"image": ImageProcessor(image_size=8), "conversation": part})
    batch = processor(conversation=[["a cat", RED], "a dog"], for_generation=True)
    ids = part.tokenizer.encode("<s>a dog", add_special_tokens=False).ids
    assert batch.inputs["text"][1][batch.masks["text"][1]].tolist() == ids and len(batch.inputs["image"]) == 1


def test_symbols_of_spans_are_tokens_of_the_vocabulary_and_a_picture_ends_what_is_said(part):
    assert part.spans == {"image": (6, 7), "audio": (8, 9)} and {3, 6, 8} <= set(part.eos_token_ids)
    tokens = part.item(said(("document", "<image>"), images=1), {"image": [torch.zeros(1)]})
    assert tokens.token_ids.tolist() == [2, 6, IMAGE, IMAGE, IMAGE, 7, 3]


def test_what_looks_like_a_symbol_in_the_texts_of_the_world_is_none(part):
    found = Conversation.of_document([("text", "use <image> and </image>"), ("image", RED), ("text", "it")])
    assert found.messages[0].text == "use < image> and < /image>\n<image>\nit" and found.images == (RED,)
    assert part.item(found, {"image": [torch.zeros(1)]}).token_ids.tolist().count(6) == 1


def test_a_document_has_a_place_in_two_templates_alone():
    document = said(("document", "a cat"))
    none = part_of(template="none")
    assert written(none, document) == ("a cat</s>", "a cat</s>")
    with pytest.raises(DataError, match="which template chatml does not support"):
        part_of(template="chatml").item(document)


@pytest.mark.parametrize("roles", [("document", "user"), ("document", "document"), ("user", "user"), ("system",)])
def test_messages_in_another_order_are_refused(part, roles):
    refusals = "takes a document, or a document and one answer|alternating user and assistant|has no assistant message|needs a user message"
    with pytest.raises(DataError, match=refusals):
        part.item(said(*((role, "a") for role in roles), ("assistant", "a")) if "system" not in roles else said(("system", "a")))


def unigram():
    """Tokenizer like Kosmos-2's: SentencePiece pieces, ``<s>`` before each text, added symbols at the end, no symbols for audio."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{w}", -2.0) for w in ("a", "cat", "dog", "it", "is"))]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((letter, -5.0) for letter in "\u2581acdgiost?:.,QAnswer")], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_tokens([AddedToken(word, lstrip=True, normalized=False) for word in ("</doc>", "<image>", "</image>")])
    return GivenTokenizer(tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"})


def test_a_given_tokenizer_with_the_symbols_gives_their_ids_and_spans_of_those_modalities_alone(tmp_path):
    given = unigram()
    part = part_of(tokenizer="given", vocab_size=given.tokenizer.get_vocab_size())
    part.use(given)
    start, end = (given.tokenizer.token_to_id(word) for word in ("<image>", "</image>"))
    assert part.spans == {"image": (start, end)}
    tokens = part.item(said(("document", "a cat <image> it is"), images=1), {"image": [torch.zeros(1)]})
    before, after = (given.tokenizer.encode(text, add_special_tokens=False).ids for text in ("a cat", "it is"))
    assert tokens.token_ids.tolist() == [0, *before, start, IMAGE, IMAGE, IMAGE, end, *after, 2]
    part.save(tmp_path)
    again = ConversationProcessor(**part.settings)
    again.load(tmp_path)
    assert again.spans == part.spans


def test_a_tokenizer_without_the_symbols_is_refused_with_what_to_do_and_others_may_be_named():
    given = part_of(template="chatml").tokenizer  # trained here without symbols
    words = {"bos_token": "<s>", "eos_token": "</s>"}
    part = part_of(tokenizer="given", vocab_size=300)
    part.use(GivenTokenizer(given, words))
    with pytest.raises(WeightsError, match=r"no <image> and </image> below vocab_size 300.*spans\.image"):
        part.item(said(("document", "<image>"), images=1), {"image": [torch.zeros(1)]})
    part = part_of(tokenizer="given", vocab_size=300, spans={"image": ["<|im_start|>", "<|im_end|>"]})
    part.use(GivenTokenizer(given, words))
    assert part.spans == {"image": (4, 5)} and part.settings["spans"] == {"image": ["<|im_start|>", "<|im_end|>"]}
    assert written(part, said(("document", "<image>"), images=1))[0] == "<s><|im_start|>###<|im_end|></s>"


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"vocab_size": 265}, "needs at least 266"),
        ({"spans": {"video": ["<a>", "<b>"]}}, "no modality 'video'"),
        ({"spans": {"image": ["<a>", "<a>"]}}, "two different special tokens"),
        ({"spans": {"image": "<a>"}}, "two different special tokens"),
    ],
)
def test_keywords_that_cannot_be_are_refused(keywords, words):
    with pytest.raises(ConfigError, match=words):
        part_of(**keywords)


def test_spaces_go_with_what_follows_a_picture():
    assert spaced(" a <image> <image>\n\nb <audio>, c <image> ") == "a<image><image> b<audio>, c<image>"


def test_a_tokenizer_of_characters_knows_the_letters_of_the_template():
    part = part_of(tokenizer="characters")
    assert "<unk>" not in written(part, said(("user", "a"), ("assistant", "cat")))[0]


# Where long documents are cut


def parts_of(part, text, images=0):
    return part.parts(said(("document", text), images=images), {"image": [TOKENS] * images})


def test_a_long_document_is_cut_between_sentences_and_nothing_of_it_is_lost(part):
    text = " ".join(["a cat sat.", "a dog ran. what is it?"] * 20) + "<image> a cat sat. " + "a dog ran. " * 15
    found, whole = parts_of(part, text, images=1), part_of(context_length=4096)
    joined = torch.cat([each.token_ids[each.token_ids != 2] for each in found])
    expected = whole.item(said(("document", text), images=1), {"image": [torch.zeros(1)]}).token_ids
    assert joined.tolist() == expected[1:].tolist()
    texts = [part.decode(each.token_ids.tolist(), skip_special_tokens=False) for each in found]
    assert (
        len(found) > 3
        and all(text.startswith("<s>") for text in texts)
        and [t.endswith("</s>") for t in texts].index(True) == len(found) - 1
    )
    assert all(text[-1] in ".?>" for text in texts) and all(32 <= len(each.token_ids) <= 64 for each in found[:-1])
    assert all(not each.supervised[0] and each.supervised[1] for each in found)


def test_each_part_knows_its_pictures_and_none_is_split():
    small = part_of(max_length=8)
    found = parts_of(small, "a cat<image> a<image><image> it", images=3)
    assert sum(each.kept["image"] for each in found) == 3
    assert [each.passed["image"] for each in found] == [sum(e.kept["image"] for e in found[:i]) for i in range(len(found))]
    for each in found:
        ids = each.token_ids.tolist()
        assert ids.count(6) == ids.count(7) == each.kept["image"] and ids.count(IMAGE) == TOKENS * each.kept["image"] and len(ids) <= 8


def test_a_text_without_sentences_is_cut_between_words_and_one_without_words_between_tokens(part):
    words, letters = parts_of(part, "cat dog " * 60), parts_of(part, "q" * 200)
    assert all(part.decode(each.token_ids.tolist()).split()[-1] in ("cat", "dog") for each in words) and len(words) > 1
    assert [len(each.token_ids) for each in letters] == [64, 64, 64, 200 + 4 + 1 - 3 * 64] and len(letters) == 4


def test_a_picture_that_is_too_long_by_itself_is_refused():
    with pytest.raises(DataError, match="an image or clip takes more than the 5 tokens"):
        parts_of(part_of(max_length=5), "a<image>", images=1)


def test_questions_lose_their_tail_and_are_no_parts(part):
    long = said(("user", "what?"), ("assistant", "a cat sat. " * 40))
    found = part.parts(long, {})
    assert len(found) == 1 and len(found[0].token_ids) == 64
