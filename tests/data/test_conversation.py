"""Conversations: accepted forms, their token ids, and refused inputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.augmentation import Augmentation
from zoo.data.system_processor import Processor, hash_files
from zoo.errors import ConfigError, DataError, WeightsError
from zoo.processors.conversation import Conversation, ConversationProcessor, Message, as_conversation
from zoo.processors.image import ImageProcessor
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer
from zoo.types import PLACEHOLDER_IDS, Sample

IMAGE = PLACEHOLDER_IDS["image"]
RED, BLUE = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
LLAVA_ROW = {
    "id": "3",
    "image": "a.png",
    "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}],
}


def processor_of(**keywords):
    part = ConversationProcessor(**{"vocab_size": 400, "context_length": 64, **keywords})
    if part.source != "given":
        part.fit(["what is it?", "a cat", "a dog and a cat"])
    part.counts = {"image": lambda item: 4}
    return Processor({"image": ImageProcessor(image_size=8), "conversation": part})


@pytest.fixture
def processor():
    return processor_of()


def shown(count, answer="a cat", text="what is it?"):
    asked = Message("user", "<image>" * count + text)
    return Conversation((asked, Message("assistant", answer)), (RED,) * count, id="3")


# How they are written


def test_llavas_json_is_read_with_paths_beside_the_file():
    found = Conversation.parse(LLAVA_ROW, "/data")
    assert found == Conversation((Message("user", "<image>\nwhat?"), Message("assistant", "a cat")), (Path("/data/a.png"),), id="3")
    assert found.answer == "a cat" and found.question().messages == found.messages[:1]


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "image", "path": "a.png"}, {"type": "text", "text": "what?"}],
        [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "what?"}],
        [{"type": "image", "image": "a.png"}, "what?"],
        "<image>\nwhat?",
    ],
)
def test_messages_with_a_string_or_parts_mean_the_same(parts):
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a cat"}], "id": "3"}
    if isinstance(parts, str):
        row["images"] = ["a.png"]
    assert Conversation.parse(row, "/data") == Conversation.parse(LLAVA_ROW, "/data")


def test_parts_without_a_path_take_what_the_row_lists_in_order():
    parts = [{"type": "image"}, {"type": "text", "text": " and "}, {"type": "image"}]
    found = Conversation.parse({"messages": [{"role": "user", "content": parts}], "images": [RED, BLUE]})
    assert found.messages[0].text == "<image> and <image>" and found.images == (RED, BLUE)


def test_a_prompt_is_a_string_or_strings_images_and_audio_in_order(tmp_path):
    clip = np.zeros(16, dtype=np.float32)
    found = as_conversation(["Compare", RED, "with", Path("b.png"), "and", clip, Path("c.wav"), "please"])
    assert found.messages[0].text == "Compare\n<image>\nwith\n<image>\nand\n<audio><audio>\nplease"
    assert found.images == (RED, Path("b.png")) and found.audio[0] is clip and found.audio[1] == Path("c.wav")
    assert as_conversation("hello").messages == (Message("user", "hello"),)
    assert as_conversation(found.prompt()) == found
    RED.save(tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"the name of a file; give pathlib\.Path"):
        as_conversation([str(tmp_path / "photo.png"), "what is it?"])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({**LLAVA_ROW, "image": ["a.png", "b.png"]}, "conversation 3 holds 2 images but 1 `<image>`"),
        ({**LLAVA_ROW, "image": None}, "conversation 3 holds 0 images but 1 `<image>`"),
        ({"messages": [{"role": "narrator", "content": "a"}]}, "no role 'narrator'; allowed are system, user, assistant, document, human"),
        ({"messages": [{"role": "user", "content": 3}]}, "message 1 holds int"),
        ({"messages": [{"role": "user"}]}, "message 1 has no 'role' and 'content'"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "allowed types are text, image, video, audio"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "a part of type 'video' names no file; add the key 'video'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "names no file"),
        ({**LLAVA_ROW, "image": "https://example.org/a.png"}, "is an address"),
        ({"text": "a"}, "no list 'messages' or 'conversations'; its keys are text"),
        ({"messages": []}, "no list 'messages'"),
        ([], "give a string"),
        (3, "give a string"),
        (["a", {"b": 1}], "a prompt holds dict"),
    ],
)
def test_what_is_no_conversation_is_refused_by_name(raw, words):
    with pytest.raises(DataError, match=words.replace("[", r"\[")):
        as_conversation(raw)


# Token ids


def test_a_marker_becomes_as_many_placeholders_as_are_asked_for(processor):
    part = processor["conversation"]
    part.counts = {"image": lambda item: int(item.sum() > 0) + 2}  # of each picture its own
    item = processor.conversation_item(
        Conversation((Message("user", "<image><image>?"), Message("assistant", "a")), (RED, Image.new("RGB", (8, 8))))
    )
    assert (item["conversation"].token_ids == IMAGE).sum() == 3 + 2
    text = part.decode(item["conversation"].token_ids.tolist(), skip_special_tokens=False)
    assert text == "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "learnt"), [("chatml", "a cat<|im_end|>"), ("vicuna_v1", " a cat</s>"), ("llama2", " a cat </s>"), ("plain", "a cat\n")]
)
@pytest.mark.parametrize("kind", ["trained", "characters"])
def test_what_is_learnt_is_the_answer_and_its_end(template, learnt, kind):
    part = ConversationProcessor(vocab_size=400, context_length=400, template=template, tokenizer=kind, system="a cat")
    part.fit(["what is it? a cat USER ASSISTANT [INST] [/INST] <<SYS>> <</SYS>> : \n"])
    part.counts = {"image": lambda item: 4}
    tokens = part.item(shown(1), {"image": [torch.zeros(3, 8, 8)]})
    assert part.decode(tokens.token_ids[tokens.supervised].tolist(), skip_special_tokens=False) == learnt
    assert not tokens.supervised[tokens.token_ids < 0].any()


def test_spaces_and_letters_of_many_bytes_are_learnt_too(processor):
    answer = "  ein Käfer 🐞 \n\n und  Gras "
    tokens = processor.conversation_item(shown(0, answer))["conversation"]
    part = processor["conversation"]
    assert part.decode(tokens.token_ids[tokens.supervised].tolist(), skip_special_tokens=False) == answer + "<|im_end|>"


def test_offsets_that_leave_spaces_out_change_nothing_of_what_is_learnt(processor):
    from tokenizers import Tokenizer, processors

    part = processor["conversation"]
    trimmed = Tokenizer.from_str(part.tokenizer.to_str())
    trimmed.post_processor = processors.ByteLevel(trim_offsets=True)
    other = ConversationProcessor(vocab_size=400, context_length=64, tokenizer="given")
    other.use(GivenTokenizer(trimmed, part.names))
    ours, theirs = (each.item(shown(0, " a  🐞 \n\n b ")) for each in (part, other))
    assert torch.equal(ours.token_ids, theirs.token_ids) and torch.equal(ours.supervised, theirs.supervised)


def test_a_batch_holds_all_pictures_in_order_and_pads_on_the_right(processor):
    samples = [Sample(name, {"conversation": shown(count)}) for name, count in (("a", 2), ("b", 0), ("c", 1))]
    batch = processor.collate(samples, [processor.items(sample) for sample in samples])
    assert batch.inputs["image"].shape == (3, 3, 8, 8) and batch.ids == ["a", "b", "c"] and len(batch) == 3
    assert (batch.inputs["text"] == IMAGE).sum(1).tolist() == [8, 0, 4]
    mask = batch.masks["text"]
    assert mask[0].all() and (mask.int().diff(dim=1) <= 0).all() and not batch.targets["supervised"][~mask].any()
    assert (batch.inputs["text"][~mask] == processor["conversation"].pad_token_id).all()


def test_a_batch_without_pictures_has_none_of_the_right_shape(processor):
    batch = processor(conversation=["hello", "you"], for_generation=True)
    assert batch.inputs["image"].shape == (0, 3, 8, 8) and batch.inputs["image"].dtype == torch.float32


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_end_with_the_assistants_prefix_on_either_side(processor, side):
    prompts = ["a", [RED, "what is it?"], shown(1).question()]
    batch = processor(conversation=prompts, for_generation=True, padding_side=side)
    part = processor["conversation"]
    for row, mask in zip(batch.inputs["text"], batch.masks["text"], strict=True):
        assert part.decode(row[mask].tolist(), skip_special_tokens=False).endswith("<|im_start|>assistant\n")
        assert mask[-1 if side == "left" else 0]
    alone = processor(conversation=prompts[:1], for_generation=True)
    assert torch.equal(alone.inputs["text"][0], batch.inputs["text"][0][batch.masks["text"][0]])


def test_an_answer_that_is_begun_is_continued_without_an_end(processor):
    begun = Conversation((Message("user", "what?"), Message("assistant", "Let's think.")))
    ids = processor(conversation=[begun], for_generation=True).inputs["text"][0].tolist()
    assert processor["conversation"].decode(ids, skip_special_tokens=False).endswith("<|im_start|>assistant\nLet's think.")


def test_a_picture_with_a_caption_is_a_conversation(processor):
    sample = Sample("x", {"image": RED, "text": "a cat"})
    tokens = processor.items(sample)["conversation"]
    assert (tokens.token_ids == IMAGE).sum() == 4
    assert processor["conversation"].decode(tokens.token_ids[tokens.supervised].tolist()) == "a cat"


# Lengths


def test_a_long_conversation_loses_its_tail_but_never_a_part_of_a_picture():
    turns = [
        Message("user", "what is it?"),
        Message("assistant", "a cat"),
        Message("user", "<image><image>"),
        Message("assistant", "a dog"),
    ]
    conversation = Conversation(tuple(turns), (RED, BLUE))
    whole = processor_of(context_length=400).conversation_item(conversation)["conversation"].token_ids
    first = int((whole == IMAGE).int().argmax())
    for length in range(first + 1, len(whole)):
        item = processor_of(context_length=400, max_length=length).conversation_item(conversation)
        ids, kept = item["conversation"].token_ids, item["conversation"].kept["image"]
        assert torch.equal(ids, whole[: len(ids)]) and (ids == IMAGE).sum() == 4 * kept == 4 * len(item["image"])
        assert len(ids) == length or (length - len(ids) < 4 and whole[len(ids)] == IMAGE)


def test_what_leaves_nothing_to_learn_or_does_not_fit_is_refused_with_lengths(processor):
    with pytest.raises(DataError, match=r"conversation 3: \d+ tokens stand before the first answer, but only 64 are allowed"):
        processor.conversation_item(shown(20))
    with pytest.raises(DataError, match=r"conversation 0: the prompt has \d+ tokens \(80 of them for images and clips\)"):
        processor(conversation=[shown(20).question().prompt()], for_generation=True)


def test_a_prompt_may_be_as_long_as_the_model_takes_whatever_training_is_cut_to():
    processor = processor_of(max_length=30)
    assert processor(conversation=["a cat " * 15], for_generation=True).inputs["text"].shape[1] > 30


# Refusals


def test_what_cannot_be_used_is_refused(processor):
    with pytest.raises(DataError, match=r"conversation 3: message 2 \(assistant\) is empty"):
        processor.conversation_item(shown(1, " "))
    with pytest.raises(DataError, match="has no assistant message"):
        processor.conversation_item(shown(1).question())
    with pytest.raises(DataError, match="no encoder of audio"):
        processor(conversation=[[np.zeros(9, dtype=np.float32), "what?"]], for_generation=True)
    with pytest.raises(DataError, match="3 images; max_images allows 2"):
        processor_of(max_images=2).conversation_item(shown(3))
    with pytest.raises(DataError, match="but the text of template chatml contains 0"):
        processor["conversation"].item(Conversation.of_prompt("hello"), {"image": [torch.zeros(3, 8, 8)]}, for_generation=True)
    with pytest.raises(DataError, match="gives an empty text"):
        processor_of(template="plain")(conversation=["hello"], for_generation=True)
    with pytest.raises(DataError, match="no tokenizer yet: the language model's weights came without one"):
        processor_of(tokenizer="given")(conversation=["hello"], for_generation=True)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"tokenizer": "givn"}, "did you mean 'given'"),
        ({"template": "vicuna"}, "did you mean 'vicuna_v1'"),
        ({"vocab_size": 100}, "vocab_size: 100 is too small"),
        ({"max_length": 65}, "max_length: 65 with context_length 64"),
        ({"template": "tokenizer"}, "comes with a given tokenizer"),
        ({"max_images": -1}, "max_images: -1"),
    ],
)
def test_keywords_that_cannot_be_are_refused(keywords, words):
    with pytest.raises(ConfigError, match=words):
        ConversationProcessor(**{"vocab_size": 400, "context_length": 64, **keywords})


def test_a_tokenizer_that_is_larger_than_the_models_table_is_refused(processor):
    part = processor["conversation"]
    small = ConversationProcessor(vocab_size=270, context_length=64, tokenizer="given")
    with pytest.raises(WeightsError, match=r"ids up to \d+ .*; vocab_size allows ids below 270"):
        small.use(GivenTokenizer(part.tokenizer, part.names))
    with pytest.raises(WeightsError, match="has no eos_token '<eot>'"):
        ConversationProcessor(vocab_size=400, context_length=64, tokenizer="given").use(
            GivenTokenizer(part.tokenizer, {"eos_token": "<eot>"})
        )
    with pytest.raises(ConfigError, match="too small for the 9 characters"):
        ConversationProcessor(vocab_size=12, context_length=9, tokenizer="characters").fit(["abcdefghi"])


# What is kept


@pytest.mark.parametrize("kind", ["trained", "characters"])
def test_saved_and_loaded_it_gives_the_same_ids(tmp_path, kind):
    processor = processor_of(tokenizer=kind, system="a", template="vicuna_v1", max_images=3)
    processor.save(tmp_path)
    again = Processor.load(tmp_path)
    again["conversation"].counts = processor["conversation"].counts
    ours, theirs = (each(conversation=[shown(1), shown(2)]) for each in (processor, again))
    assert torch.equal(ours.inputs["text"], theirs.inputs["text"]) and torch.equal(ours.targets["supervised"], theirs.targets["supervised"])
    assert again["conversation"].settings == processor["conversation"].settings
    assert again["conversation"].eos_token_ids == processor["conversation"].eos_token_ids


def test_the_hash_covers_tokenizer_and_chat_template(tmp_path, processor):
    part = ConversationProcessor(vocab_size=400, context_length=64, tokenizer="given", template="tokenizer")
    part.use(GivenTokenizer(processor["conversation"].tokenizer, processor["conversation"].names, (7,), "{{ messages[0].content }}"))
    Processor({"conversation": part}).save(tmp_path)
    before = hash_files(tmp_path)
    assert json.loads((tmp_path / "processor.json").read_text())["conversation"]["eos_token_ids"] == [7]
    assert Processor.load(tmp_path)["conversation"].chat_template == part.chat_template
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }} ")
    assert hash_files(tmp_path) != before


def test_a_trained_tokenizer_depends_on_the_captions_only():
    parts = [ConversationProcessor(vocab_size=400, context_length=64) for _ in range(2)]
    parts[0].fit(["a cat", "<image>a dog"])
    parts[1].fit(["a dog", "a cat", "a cat"])
    assert parts[0].tokenizer.to_str() == parts[1].tokenizer.to_str()


def test_every_picture_of_a_conversation_is_varied_by_the_items_own_numbers(processor):
    sample = Sample(
        "x",
        {
            "conversation": Conversation(
                (Message("user", "<image><image>"), Message("assistant", "a")), (np.arange(192, dtype=np.uint8).reshape(8, 8, 3),) * 2
            )
        },
    )
    augmentation = Augmentation(crop_scale=(0.3, 0.6))
    first, again, other = (
        augmentation(sample, np.random.default_rng(seed), processor["image"]).inputs["conversation"].images for seed in (0, 0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], other[0])


def test_a_batch_on_the_meta_device_has_the_shapes_of_a_real_one(processor):
    batch = processor.meta(["image", "conversation"], 2)
    assert batch.inputs["text"].shape == batch.masks["text"].shape == batch.targets["supervised"].shape == (2, 64)
    assert batch.inputs["image"].shape == (2, 3, 8, 8) and batch.inputs["image"].is_meta
