"""``zoo chat``: cached turns give the same answers as recomputed ones, and mistakes of the user do not end a session."""

import functools
import io
import json

import numpy as np
import pytest
import torch

import zoo
from zoo.commands.chat import Chat
from zoo.commands.chat_session import ChatSession
from zoo.commands.cli import main
from zoo.errors import ConfigError, DataError
from zoo.language.decoding.sampling import Sampling
from zoo.processors.chat.messages import Conversation
from zoo.storage.places import packaged_directory

SAMPLES = packaged_directory("assets") / "samples"
LETTERS = "abcdefghijklmnopqrstuvwxyz ?."


def random_system(name):
    torch.manual_seed(0)
    system = zoo.create_system(name, ["system.processor.conversation.tokenizer=characters"])
    system.processor.fit([LETTERS, "user", "assistant", "system", "\n"])
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return system.eval()


@functools.cache
def talker(name):
    """Random system with a tokenizer of single characters, of which it generates letters only: one token per character."""
    system = random_system(name)
    part, scores = system.processor["conversation"], system.head.language.logits
    offset = torch.full((system.head.language.vocab_size,), -1e9)
    offset[[part.tokenizer.token_to_id(letter) for letter in "etaoins"]] = 0
    offset[part.eos_token_ids] = -6
    system.head.language.logits = lambda hidden: scores(hidden) + offset
    return system


@pytest.fixture
def system():
    return talker("llava_nano")


@pytest.fixture
def image():
    return SAMPLES / "digit_81.png"


def from_scratch(system, conversation, **keywords):
    return system.generate([conversation], max_new_tokens=12, **keywords)[0].strip()


SETTINGS = {"greedy": {}, "drawn": {"temperature": 1.5, "seed": 3}, "beams": {"num_beams": 2}, "penalised": {"repetition_penalty": 1.5}}


@pytest.mark.parametrize("settings", ["greedy", "beams", "penalised"])
def test_every_turn_answers_as_the_conversation_computed_anew(system, image, settings):
    session = ChatSession(system, Sampling(max_new_tokens=12, **SETTINGS[settings]))
    session.show("image", image)
    said = []
    for question in ("what is it?", "is it?", "and this?", "so?"):
        if question == "and this?":
            session.show("image", SAMPLES / "digit_84.png")
        asked = session._with(question)
        expected = from_scratch(system, asked, **SETTINGS[settings])
        said.append(session.ask(question).text)
        assert said[-1] == expected
    assert all(said) and len(session.messages) == 8 and len(session.shown["image"]) == 2


def test_drawn_answers_differ_by_turn_and_repeat_with_the_seed(system):
    def talk(seed):
        session = ChatSession(system, Sampling(max_new_tokens=12, temperature=1.5, seed=seed))
        return [session.ask("so?").text for _ in range(3)]

    first = talk(1)
    assert talk(1) == first != talk(2) and len(set(first)) == 3


def test_images_are_encoded_once_and_only_new_tokens_are_computed(system, image, monkeypatch):
    encoded, shown, encode, forward = [], [], system.encode_ready, system.head.language.forward
    monkeypatch.setattr(system, "encode_ready", lambda m, x, mask=None: (encoded.append(len(x)), encode(m, x, mask))[1])
    monkeypatch.setattr(
        system.head.language, "forward", lambda x, *rest, **named: (shown.append(x.shape[1]), forward(x, *rest, **named))[1]
    )
    session = ChatSession(system, Sampling(max_new_tokens=12))
    session.show("image", image)
    first = session.ask("what is it?")
    assert (
        encoded == [1]
        and first.computed_tokens == first.prompt_tokens == shown[0]
        and len(shown) == first.num_tokens + (first.stop_reason == "eos")
    )
    shown.clear()
    second = session.ask("is it?")
    ends_and_question = len("<\n<user\nis it?<\n<assistant\n")  # each < a symbol
    unseen = 1 if first.stop_reason == "length" else 0  # the answer's last token was chosen, and shown to nobody
    assert second.computed_tokens == ends_and_question + unseen == shown[0] and encoded == [1]
    session.show("image", SAMPLES / "digit_84.png")
    third = session.ask("and this?")
    assert encoded == [1, 1] and third.computed_tokens < third.prompt_tokens - second.prompt_tokens


def test_after_an_interruption_the_session_goes_on_from_what_was_said(system, image):
    session, pieces = ChatSession(system, Sampling(max_new_tokens=12)), []

    def stop_after(count):
        def on_text(piece):
            pieces.append(piece)
            if len(pieces) == count:
                raise KeyboardInterrupt

        return on_text

    session.show("image", image)
    answer = session.ask("what is it?", stop_after(4))
    assert answer.stop_reason == "interrupted" and answer.text == "".join(pieces).strip() and answer.num_tokens < 12
    expected = from_scratch(system, session._with("is it?"))
    second = session.ask("is it?")
    assert second.text == expected and second.computed_tokens < second.prompt_tokens - answer.prompt_tokens + 2


def test_an_interruption_before_the_first_token_leaves_everything_as_it_was(system, image, monkeypatch):
    session, forward = ChatSession(system, Sampling(max_new_tokens=12)), system.head.language.forward

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    session.show("image", image)
    monkeypatch.setattr(system.head.language, "forward", interrupted)
    assert session.ask("what is it?").stop_reason == "interrupted"
    monkeypatch.setattr(system.head.language, "forward", forward)
    assert session.messages == [] and len(session.waiting) == 1
    assert session.ask("what is it?").text == from_scratch(system, Conversation.parse([{"role": "user", "content": [
        {"type": "image", "image": image}, {"type": "text", "text": "what is it?"}]}]))  # fmt: skip


def test_another_picture_in_a_failed_questions_place_is_not_taken_for_it(system, image, monkeypatch):
    session = ChatSession(system, Sampling(max_new_tokens=12))
    session.show("image", image)
    monkeypatch.setattr(session, "_keep", lambda *_: None)  # as if the answer had been empty
    first = session.ask("what is it?")
    session.waiting.clear()
    session.show("image", SAMPLES / "digit_84.png")
    expected = from_scratch(system, session._with("what is it?"))
    second = session.ask("what is it?")
    assert second.text == expected and second.computed_tokens > first.prompt_tokens // 2


def test_a_session_forgets_when_told_and_keeps_its_instruction(system, image):
    session = ChatSession(system, Sampling(max_new_tokens=12), instruction="be so")
    session.show("image", image)
    first = session.ask("what is it?")
    session.ask("is it?")
    session.clear()
    assert [message.role for message in session.messages] == ["system"] and not session.shown["image"]
    session.show("image", image)
    assert session.ask("what is it?") == first


def test_sound_is_taken_along():
    system = talker("llava_whisper_nano")
    session = ChatSession(system, Sampling(max_new_tokens=12))
    session.show("audio", np.sin(np.arange(8000) / 20).astype(np.float32))
    expected = from_scratch(system, session._with("what is it?"))
    assert session.ask("what is it?").text == expected and len(session.shown["audio"]) == 1


def test_a_text_that_is_cut_at_a_stop_string_is_so_in_the_history(system):
    free = ChatSession(system, Sampling(max_new_tokens=12)).ask("what is it?")
    stop = free.text[4:6]
    session, pieces = ChatSession(system, Sampling(max_new_tokens=12), stop=[stop]), []
    answer = session.ask("what is it?", pieces.append)
    assert answer.text == free.text[: free.text.index(stop)].strip() == "".join(pieces).strip() == session.messages[-1].text
    assert answer.stop_reason == "stop"
    assert session.ask("is it?").text == from_scratch(system, Conversation((*session.messages[:2], *session._with("is it?").messages[-1:])),
                                                      stop=[stop])  # fmt: skip


def test_what_was_said_is_saved_as_a_conversation_that_can_be_read(system, image, tmp_path):
    session = ChatSession(system, Sampling(max_new_tokens=12))
    session.show("image", image)
    session.ask("what is it?")
    session.save(tmp_path / "said.json")
    read = Conversation.parse(json.loads((tmp_path / "said.json").read_text()))
    assert list(read.messages) == session.messages and read.images == (image.resolve(),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A random system on disk; tokens other than letters have no vectors, and so no score."""
    system = random_system("llava_nano")
    ids = [system.processor["conversation"].tokenizer.token_to_id(letter) for letter in LETTERS]
    with torch.no_grad():
        table = system.head.language.embedding.weight
        table[[i for i in range(len(table)) if i not in ids]] = 0
    return str(zoo.save(system, tmp_path_factory.mktemp("chat") / "model"))


def test_one_question_is_answered_from_the_command_line(saved, image, capsys):
    words = ["chat", "--model", saved, "--image", str(image), "--max-new-tokens", "8", "what is it?"]
    assert main(words) == 0
    said = capsys.readouterr().out.strip()
    assert said == zoo.load(saved).generate([[image, "what is it?"]], max_new_tokens=8)[0].strip()
    assert main([*words, "--json"]) == 0
    (row,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert row["answer"] == said and row["prompt"] == "what is it?" and row["computed_tokens"] == row["prompt_tokens"] > 8


def test_a_question_may_come_from_standard_input(saved, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("what\nis it?\n"))
    assert main(["chat", "--model", saved, "--max-new-tokens", "4", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "what\nis it?"


def test_lines_of_a_pipe_are_turns_and_commands(saved, image, monkeypatch, capsys, tmp_path):
    lines = [
        f"/image '{image}'",
        "what is it?",
        "",
        " /is it?",
        "/history",
        f"/save {tmp_path / 'a b.json'}",
        "/clear",
        "/exit",
        "/nonsense",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", "--model", saved, "--max-new-tokens", "4", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows[:2]] == ["what is it?", "/is it?"] and [row["role"] for row in rows[2:]] == [
        "user",
        "assistant",
    ] * 2
    assert json.loads((tmp_path / "a b.json").read_text())["image"] == [str(image.resolve())]


def test_a_terminal_session_survives_mistakes_and_interruptions(system, image, monkeypatch, capsys, tmp_path):
    typed = iter(
        ["/imge x", "/image", f"/image {tmp_path}/none.png", KeyboardInterrupt, f"/image {image}", "what is it?", "/help", EOFError]
    )

    def read(_):
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    session = ChatSession(system, Sampling(max_new_tokens=12))
    assert Chat(session, as_json=False).converse() == 0
    told = capsys.readouterr()
    assert (
        "did you mean '/image'" in told.err
        and "/image needs a PATH" in told.err
        and "none.png" in told.err
        and "Ctrl-D ends the session" in told.err
    )
    assert "/save FILE" in told.err and told.out.strip() == session.messages[-1].text


@pytest.mark.parametrize(
    "words, message",
    [
        (["--temperature", "-1"], "--temperature: -1.0; allowed is 0"),
        (["--top-p", "0.5"], "--top-p: 0.5 has no effect at temperature 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens: 0; allowed is 1 or more"),
        (["--stop", ""], "stop: ['']; allowed"),
        (["--audio", "x.wav"], "no encoder of audio; it takes image"),
        (["--image", "no_such.png"], "no_such.png"),
        (["--device", "gpu9"], "--device: gpu9 cannot be used here"),
    ],
)
def test_a_wrong_option_exits_with_two_and_says_which(saved, capsys, words, message):
    assert main(["chat", "--model", saved, *words, "hello"]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) <= 6


def test_a_model_that_does_not_talk_is_refused(capsys):
    assert main(["chat", "--model", "clip_vit_nano", "hello"]) == 2
    assert "--model clip_vit_nano: this model cannot chat; it can embed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, message", [("/imge x", "line 2: there is no command '/imge'"), ("/clear all", "line 2: /clear takes no argument; got 'all'")]
)
def test_the_first_mistake_ends_a_piped_session(saved, monkeypatch, capsys, line, message):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"hello\n{line}\nhello\n"))
    assert main(["chat", "--model", saved, "--max-new-tokens", "2", "--json"]) == 2
    told = capsys.readouterr()
    assert message in told.err and len(told.out.splitlines()) == 1


def test_a_question_that_is_empty_or_the_name_of_a_picture_is_refused(system, image):
    session = ChatSession(system, Sampling(max_new_tokens=2))
    with pytest.raises(DataError, match="the question is empty"):
        session.ask(" \n")
    with pytest.raises(DataError, match="is the name of a file; attach it with --image"):
        session.ask(str(image))


def test_a_conversation_that_is_too_long_is_refused_and_left_as_it_was(system):
    session = ChatSession(system, Sampling(max_new_tokens=4))
    session.ask("so?")
    before = list(session.messages)
    with pytest.raises(DataError, match="context_length"):
        session.ask("so " * 200)
    assert session.messages == before and session.ask("so?").text


def test_a_system_without_a_processor_is_refused(system, monkeypatch):
    monkeypatch.setattr(system, "processor", None)
    with pytest.raises(ConfigError, match="has no processor"):
        ChatSession(system, Sampling())
