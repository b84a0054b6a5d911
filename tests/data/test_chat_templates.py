"""Chat templates: supervised tokens, literally, and texts against the reference implementations."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from zoo.errors import ConfigError, DataError, WeightsError
from zoo.processors.chat.messages import Conversation, Message
from zoo.processors.chat.templates import LLAMA2_SYSTEM, VICUNA_SYSTEM, Jinja, Symbols, build_template
from zoo.processors.conversation import ConversationProcessor
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer

LLAMA = Symbols({"bos_token": "<s>", "eos_token": "</s>"}, starts=True, special=frozenset({"<s>", "</s>", "<unk>"}))
CHATML = Symbols(
    {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, special=frozenset({"<|im_start|>", "<|im_end|>", "<|endoftext|>"})
)
ASKED = [Message("user", "<image>\nwhat is it?"), Message("assistant", "a cat"), Message("user", "sure?"), Message("assistant", "yes")]
# Of SmolLM2-Instruct, Llama-2-chat and Mistral-Instruct, in their manner.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI "
    "assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
    "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}\n{% for message in messages %}\n  {%- if message['role'] == 'user' %}\n    {{- '[INST] ' + message['content'] + "
    "' [/INST]' -}}\n  {%- elif message['role'] == 'assistant' %}\n    {% generation %}{{- ' ' + message['content'] + eos_token -}}"
    "{% endgeneration %}\n  {%- endif %}\n{%- endfor %}\n"
)
OF_PARTS = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for part in message['content'] | selectattr('type', 'equalto', "
    "'text') %}{{ part['text'] + ' ' }}{% endfor %}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


def learnt(pieces):
    return [piece.text for piece in pieces if piece.supervised]


@pytest.mark.parametrize(
    ("name", "symbols", "whole", "answers", "prompt"),
    [
        (
            "vicuna_v1",
            LLAMA,
            f"<s>{VICUNA_SYSTEM} USER: <image>\nwhat is it? ASSISTANT: a cat</s>USER: sure? ASSISTANT: yes</s>",
            [" a cat</s>", " yes</s>"],
            f"<s>{VICUNA_SYSTEM} USER: <image>\nwhat is it? ASSISTANT: a cat</s>USER: sure? ASSISTANT:",
        ),
        (
            "llama2",
            LLAMA,
            f"<s>[INST] <<SYS>>\n{LLAMA2_SYSTEM}\n<</SYS>>\n\n<image>\nwhat is it? [/INST] a cat </s><s>[INST] sure? [/INST] yes </s>",
            [" a cat </s>", " yes </s>"],
            f"<s>[INST] <<SYS>>\n{LLAMA2_SYSTEM}\n<</SYS>>\n\n<image>\nwhat is it? [/INST] a cat </s><s>[INST] sure? [/INST]",
        ),
        (
            "chatml",
            CHATML,
            "<|im_start|>user\n<image>\nwhat is it?<|im_end|>\n<|im_start|>assistant\na cat<|im_end|>\n"
            "<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n",
            ["a cat<|im_end|>", "yes<|im_end|>"],
            "<|im_start|>user\n<image>\nwhat is it?<|im_end|>\n<|im_start|>assistant\na cat<|im_end|>\n"
            "<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "none",
            LLAMA,
            "<s><image>\nwhat is it?a cat</s>sure?yes</s>",
            ["a cat</s>", "yes</s>"],
            "<s><image>\nwhat is it?a cat</s>sure?",
        ),
    ],
)
def test_a_template_writes_this_and_learns_answers_with_their_end(name, symbols, whole, answers, prompt):
    template = build_template(name, symbols, None, None)
    assert text_of(template.pieces(ASKED)) == whole
    assert learnt(template.pieces(ASKED)) == answers
    assert text_of(template.pieces(ASKED[:3], for_generation=True)) == prompt


def test_plain_learns_a_caption_and_its_new_line_and_drops_the_question():
    template = build_template("plain", LLAMA, None, None)
    pieces = template.pieces([Message("user", "Describe <image> please"), Message("assistant", "a cat")])
    assert text_of(pieces) == "<s><image>a cat\n" and learnt(pieces) == ["a cat\n"]
    assert text_of(template.pieces([Message("user", "<image>")], for_generation=True)) == "<s><image>"
    with pytest.raises(DataError, match="one caption"):
        template.pieces(ASKED)


@pytest.mark.parametrize("name", ["vicuna_v1", "llama2", "chatml", "none", "plain"])
def test_a_prompt_and_its_answer_are_the_conversation(name):
    template = build_template(name, LLAMA, None, None)
    prompt = text_of(template.pieces(ASKED[:1], for_generation=True))
    whole = template.pieces(ASKED[:2])
    assert text_of(whole).startswith(prompt) and learnt(whole)[0] in text_of(whole)[len(prompt) :]
    begun = text_of(template.pieces([ASKED[0], Message("assistant", "a c")], for_generation=True))
    assert begun.endswith("a c") and text_of(whole).startswith(begun)


@pytest.mark.parametrize("name", ["vicuna_v1", "llama2"])
def test_two_turns_of_one_side_are_refused_where_a_template_has_no_place_for_them(name):
    twice = [Message("user", "a"), Message("user", "b"), Message("assistant", "c")]
    with pytest.raises(DataError, match="message 2.*has the role user, expected assistant"):
        build_template(name, LLAMA, None, None).pieces(twice)
    assert learnt(build_template("chatml", CHATML, None, None).pieces(twice)) == ["c<|im_end|>"]


def test_what_the_system_says_replaces_a_templates_sentence():
    said = [Message("system", "Be brief."), *ASKED[:2]]
    assert text_of(build_template("vicuna_v1", LLAMA, None, None).pieces(said)).startswith("<s>Be brief. USER:")
    assert text_of(build_template("vicuna_v1", LLAMA, "", None).pieces(ASKED)).startswith("<s>USER:")
    assert text_of(build_template("chatml", CHATML, "Hi.", None).pieces(ASKED)).startswith("<|im_start|>system\nHi.<|im_end|>\n")


def test_one_picture_moves_to_the_front_of_its_message_and_several_stay():
    template = build_template("vicuna_v1", LLAMA, "", None)
    one, two = (template.pieces([Message("user", text)], for_generation=True) for text in ("is <image> a cat?", "<image> or <image>?"))
    assert text_of(one) == "<s>USER: <image>\nis  a cat? ASSISTANT:" and text_of(two) == "<s>USER: <image> or <image>? ASSISTANT:"


@pytest.fixture
def tokenizer():
    """A tiny byte-level one with the special tokens of all three."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    made.train_from_iterator(["what is it? a cat, sure yes"] * 3, trainer)
    words = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]")
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in words])
    return made


@pytest.mark.parametrize(
    ("source", "bos", "eos", "answers"),
    [
        (SMOLLM2, "<|im_start|>", "<|im_end|>", ["a cat<|im_end|>", "yes<|im_end|>"]),
        (LLAMA2, "<s>", "</s>", [" a cat </s>", " yes </s>"]),
        (MISTRAL, "<s>", "</s>", [" a cat</s>", " yes</s>"]),
        (OF_PARTS, "<s>", "</s>", [" a cat </s>", " yes </s>"]),
    ],
    ids=["smollm2", "llama2", "mistral", "parts"],
)
def test_a_tokenizers_own_template_is_rendered_as_by_transformers(tokenizer, source, bos, eos, answers):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, chat_template=source)
    given = GivenTokenizer(tokenizer, {"bos_token": bos, "eos_token": eos}, chat_template=source)
    processor = ConversationProcessor(vocab_size=400, context_length=512, tokenizer="given", template="tokenizer")
    processor.use(given)
    for said, prompt in ((ASKED, False), (ASKED[:3], True), ([Message("system", "Be kind."), *ASKED[:2]], False)):
        said = [Message(message.role, message.text.replace("<image>\n", "")) for message in said]
        if source is MISTRAL:
            said = [message for message in said if message.role != "system"]
        rows = [{"role": message.role, "content": message.text} for message in said]
        if source is OF_PARTS:
            rows = [{"role": message.role, "content": [{"type": "text", "text": message.text}]} for message in said]
        expected = theirs.apply_chat_template(rows, tokenize=False, add_generation_prompt=prompt)
        assert text_of(processor.template.pieces(said, for_generation=prompt)) == expected
        ours = processor.item(Conversation(tuple(said)), for_generation=prompt)
        assert ours.token_ids.tolist() == theirs(expected, add_special_tokens=False)["input_ids"]
    assert learnt(processor.template.pieces(ASKED)) == answers and processor.template.end == eos


def test_a_template_of_a_tokenizer_continues_an_answer():
    template = Jinja(LLAMA2, LLAMA, None)
    begun = text_of(template.pieces([ASKED[0], Message("assistant", "a c")], for_generation=True))
    assert begun == "<s>[INST] <image>\nwhat is it? [/INST] a c"


def test_a_template_that_refuses_says_why():
    with pytest.raises(DataError, match="Conversation roles must alternate"):
        Jinja(LLAMA2, LLAMA, None).pieces([Message("user", "a"), Message("user", "b"), Message("assistant", "c")])


def test_a_template_that_rewrites_what_came_before_is_refused():
    last_only = "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.role + ':' + m.content + ';' }}{% endif %}{% endfor %}"
    with pytest.raises(DataError, match="renders the first .* messages differently"):
        Jinja(last_only, LLAMA, None).pieces(ASKED)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_reaches_nothing_of_python(attack):
    with pytest.raises(DataError, match="refuses"):
        Jinja(attack, LLAMA, None).pieces(ASKED)


def test_filters_and_globals_are_those_of_transformers():
    source = (
        "{{ messages[0] | tojson }}{{ strftime_now('%Y') | length }}"
        "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    text = Jinja(source, LLAMA, None).render([Message("user", "<é>")])
    assert text == json.dumps({"role": "user", "content": "<é>"}, ensure_ascii=False) + "401"


def test_unknown_and_missing_templates_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'chatml'"):
        build_template("chat_ml", LLAMA, None, None)
    with pytest.raises(ConfigError, match="has no chat template"):
        build_template("tokenizer", LLAMA, None, None)
    with pytest.raises(WeightsError, match="cannot be parsed"):
        build_template("tokenizer", LLAMA, None, "{% for %}")
