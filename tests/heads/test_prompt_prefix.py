"""LLaVA with a prefix (PaliGemma): the tokens of a prompt see each other, those of the answer only earlier ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import zoo
from zoo.commands.chat_session import ChatSession
from zoo.errors import ConfigError, ItemError
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling
from zoo.processors.chat.messages import Conversation, Message
from zoo.processors.chat.template_pieces import Symbols
from zoo.processors.chat.templates import build_template

WORDS = ["+system.head.prefix=true", "system.processor.conversation.tokenizer=characters"]


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def a_system(template):
    torch.manual_seed(0)
    system = zoo.create_system("llava_nano", [*WORDS, f"system.processor.conversation.template={template}"])
    system.processor.fit(["What is there? a cat and two dogs, user assistant\n"])
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return system.eval()


@pytest.fixture(scope="module")
def system():
    return a_system("paligemma")


def asked(question, answer, seed=0):
    content = [{"type": "image", "image": picture(seed)}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


def test_the_loss_is_that_of_a_mask_written_out(system):
    batch = system.processor(conversation=[asked("What is there?", "a cat"), asked("so", "two dogs", 1)])
    losses, language = [], system.head.language
    features = system.head._connected(system.encode_batch(batch), batch)
    vectors = system.head.spliced(batch.inputs["text"], batch.masks["text"], features, batch.ids)
    for row, ids, mask, supervised in zip(vectors, batch.inputs["text"], batch.masks["text"], batch.targets["supervised"], strict=True):
        length, first = int(mask.sum()), int(supervised.int().argmax())
        hidden = language(row[None, :length], prefix_lengths=torch.tensor([first]))
        losses.append(F.cross_entropy(language.logits(hidden)[0, first - 1 : length - 1], ids[first:length], reduction="none"))
    torch.testing.assert_close(system(batch).loss, torch.cat(losses).mean(), rtol=0, atol=1e-6)


def test_a_prompt_sees_itself_and_an_answer_does_not_leak(system):
    (states, _), (changed, _), (longer, _) = (
        states_of(system, batch) for batch in (asked("What is it", "a cat"), asked("What is at", "a cat"), asked("What is it", "a cow"))
    )
    assert not torch.allclose(states[0], changed[0])  # a later letter of the question changes the first token
    torch.testing.assert_close(states[:-3], longer[:-3])  # up to "a c"
    assert not torch.allclose(states[-2], longer[-2])


@torch.no_grad()
def states_of(system, conversation):
    batch = system.processor(conversation=[conversation])
    features = system.head._connected(system.encode_batch(batch), batch)
    vectors = system.head.spliced(batch.inputs["text"], batch.masks["text"], features, batch.ids)
    seen = (batch.targets["supervised"].cumsum(1) == 0).sum(1)
    return system.head._states(vectors, batch.masks["text"], seen)


def test_rows_of_a_batch_are_as_alone_and_padding_may_be_on_either_side(system):
    prompts, answers = [[picture(), "What is there?"], [picture(1), "so"], ["a cat"]], ["a cat", "two", "dogs"]
    alone = torch.cat([system.score([prompt], [answer]) for prompt, answer in zip(prompts, answers, strict=True)])
    torch.testing.assert_close(system.score(prompts, answers), alone, rtol=1e-5, atol=1e-5)
    assert system.generate(prompts, max_new_tokens=5) == [system.generate([each], max_new_tokens=5)[0] for each in prompts]
    rows = [asked("What is there?", "a cat"), asked("so", "two dogs", 1)]
    left, right = (system(system.processor(conversation=rows, padding_side=side)).loss for side in ("left", "right"))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


def test_generation_with_a_cache_is_that_of_the_whole_text(system):
    vectors, ids = system.prompt_vectors([[picture(), "What is there?"]])
    language, seen = system.head.language, [len(vectors[0])]
    (answer,) = generate(language, vectors, ids, Sampling(max_new_tokens=4), prefix_lengths=seen)
    whole, found = vectors[0], []
    with torch.no_grad():
        for _ in range(4):
            hidden = language(whole[None], prefix_lengths=torch.tensor(seen))
            found.append(int(language.logits(hidden)[0, -1].argmax()))
            whole = torch.cat([whole, language.embed(torch.tensor(found[-1:]))])
    assert answer.ids == found


def test_a_longer_chat_computes_its_prefix_anew():
    system = a_system("chatml")
    session = ChatSession(system, Sampling(max_new_tokens=4))
    session.show("image", picture())
    session.ask("What is there?")
    messages = [*session.messages, Message("user", "so")]
    expected = system.generate([Conversation(tuple(messages), (picture(),))], max_new_tokens=4)[0]
    answer = session.ask("so")
    assert answer.text == expected.strip() and answer.computed_tokens == answer.prompt_tokens


def test_the_template_puts_pictures_first_and_refuses_other_roles():
    template = build_template("paligemma", Symbols({"bos_token": "<bos>", "eos_token": "<eos>"}), None, None)
    pieces = template.pieces([Message("user", "what is\n<image>\nthere"), Message("assistant", "a cat")])
    assert [(piece.text, piece.supervised) for piece in pieces] == [("<image><bos>what is\n\nthere\n", False), ("a cat<eos>", True)]
    with pytest.raises(ItemError, match="one user message and one answer"):
        template.pieces([Message("user", "a"), Message("assistant", "b"), Message("user", "c")])
    with pytest.raises(ConfigError, match="no system prompt"):
        build_template("paligemma", Symbols(), "Be brief.", None)


def test_a_language_model_without_a_prefix_is_refused():
    with pytest.raises(ConfigError, match="has no prefix whose tokens see each other"):
        zoo.create_system("llava_nano", ["+system.head.prefix=true", "language@system.head.language=rwkv7_nano"])
