"""``zoo chat``: chat with a multimodal language model about images and audio.

Answers one question from the command line, or runs a session that reads lines from standard input; ``/help`` lists its commands.
"""

import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo.assembly.save_load import load
from zoo.commands.chat_boxes import Boxes, lines_of
from zoo.commands.chat_session import Answer, ChatSession
from zoo.commands.display import print_json
from zoo.commands.model_options import placement
from zoo.commands.plain import say
from zoo.errors import ConfigError, DataError, ZooError, name_choices
from zoo.language.decoding.sampling import Sampling

COMMANDS = {  # name: (argument, help text)
    "/image": ("PATH", "attach an image to the next question"),
    "/video": ("PATH", "attach a video to the next question"),
    "/audio": ("PATH", "attach an audio clip to the next question"),
    "/clear": ("", "start over: forget all messages, images and audio"),
    "/history": ("", "print the conversation"),
    "/save": ("FILE", "write the conversation as JSON"),
    "/help": ("", "print this list"),
    "/exit": ("", "end the session, as Ctrl-D does"),
}
OPTIONS = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "num_beams", "repetition_penalty", "seed")  # fields of Sampling
CUT = {"length": "by --max-new-tokens", "context": "because the model's context is full; /clear starts over"}


def chat_command(options: Namespace) -> int:
    """Run the command and return the exit status: 0, or 130 if the user interrupted the answer."""
    sampling = _sampling(options)
    place = placement(options)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    if prompt is not None and not prompt.strip():
        raise DataError("the question is empty; write a question, or omit it for an interactive session")
    model: Any = load(options.model, **place)
    try:
        session = ChatSession(model, sampling, instruction=options.system, stop=options.stop or ())
    except ConfigError as error:
        raise ConfigError(f"--model {options.model}: {error}") from error
    session.sampled = {"frames": options.frames, "rate": options.frame_rate}
    for modality in ("image", "video", "audio"):
        for path in getattr(options, modality) or ():
            session.show(modality, path)
    boxes = None if options.boxes is None else Boxes(model, Path(options.boxes))
    chat = Chat(session, as_json=options.json, boxes=boxes)
    if prompt is not None:
        return 130 if chat.ask(prompt.strip()).stop_reason == "interrupted" else 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return chat.follow(sys.stdin)
    say(f"{options.model}: type a question, or /help; /exit or Ctrl-D ends the session, Ctrl-C stops an answer", file=sys.stderr)
    return chat.converse()


def _sampling(options: Namespace) -> Sampling:
    """Return the sampling settings of the command line.

    Raises:
        ConfigError: a value is not allowed; the message names the flag.
    """
    try:
        return Sampling(**{key: getattr(options, key) for key in OPTIONS})
    except ConfigError as error:
        key, _, rest = str(error).partition(":")
        raise ConfigError(f"--{key.replace('_', '-')}:{rest}") from error


class Chat:
    """Terminal front end of a chat session: reads lines, runs commands, prints answers.

    Args:
        session: the conversation with the model.
        as_json: print one JSON line per answer instead of streaming its text.
        boxes: drawing of the bounding boxes in answers; None requests no boxes.
    """

    def __init__(self, session: ChatSession, *, as_json: bool, boxes: Boxes | None = None) -> None:
        self.session, self.as_json, self.boxes = session, as_json, boxes
        self.was_interrupted = False  # state of the last answer

    def converse(self) -> int:
        """Run an interactive session until the end of input and return the exit status; errors are printed and the session continues."""
        for line in _typed_lines():
            try:
                if not self.take(line):
                    break
            except ZooError as error:
                say(f"zoo: {error}", file=sys.stderr)
        return 0

    def follow(self, lines: Any) -> int:
        """Run a session from a file or pipe and return the exit status.

        Raises:
            ZooError: of the first line with an error. The session ends there, because later lines may depend on it.
        """
        for number, line in enumerate(lines, start=1):
            try:
                if not self.take(line):
                    break
            except ZooError as error:
                raise type(error)(f"line {number}: {error}") from error
            if self.was_interrupted:
                return 130
        return 0

    def take(self, line: str) -> bool:
        """Run one line, a command or a question; return False if the session is to end.

        Raises:
            ZooError: the command does not exist, a file cannot be used, or the question is not valid.
        """
        text = line.strip()
        if line.startswith("/"):
            return self._run(*text.partition(" ")[::2])
        if text:
            self.ask(text)
        return True

    def ask(self, text: str) -> Answer:
        """Ask a question, print the answer while it is generated, and return it."""
        start = time.perf_counter()
        question = text if self.boxes is None else self.boxes.ask_for(text)
        answer = self.session.ask(question, None if self.as_json or self.boxes else _show)
        self.was_interrupted = answer.stop_reason == "interrupted"
        plain, phrases = answer.text, []
        if self.boxes is not None:
            shown = self.session.shown["image"]
            plain, phrases = self.boxes.take(answer.text, shown[-1].name if shown else None)
        if self.as_json:
            facts = asdict(answer) | {"text": plain}
            places = {} if self.boxes is None else {"phrases": [{"text": each.text, "boxes": each.boxes} for each in phrases]}
            row = {"prompt": text, "answer": facts.pop("text"), **facts, **places}
            print_json({**row, "seconds": round(time.perf_counter() - start, 3)})
            return answer
        if self.boxes is not None:
            _show("\n".join([plain, *lines_of(phrases)]))
        say(flush=True)
        if not answer.text and not self.was_interrupted:
            say("zoo: the model returned an empty answer; the question is not kept in the conversation", file=sys.stderr)
        elif answer.stop_reason in CUT:
            say(f"zoo: the answer was cut off after {answer.num_tokens} tokens {CUT[answer.stop_reason]}", file=sys.stderr)
        return answer

    def _run(self, command: str, rest: str) -> bool:
        rest = rest.strip()
        if command not in COMMANDS:
            near = name_choices(command, COMMANDS)
            raise ConfigError(f"there is no command {command!r}; {near} (to send text that begins with /, put a space before it)")
        wants = COMMANDS[command][0]
        if bool(wants) != bool(rest):
            raise ConfigError(f"{command} needs a {wants} after it" if wants else f"{command} takes no argument; got {rest!r}")
        if command in ("/image", "/video", "/audio"):
            self.session.show(command[1:], _path(rest))
            self._tell(f"{_path(rest)} will be sent with the next question")
        elif command == "/clear":
            self.session.clear()
            self._tell("the conversation is empty")
        elif command == "/history":
            self._show_history()
        elif command == "/save":
            self.session.save(_path(rest))
            self._tell(f"written: {_path(rest)}")
        elif command == "/help":
            self._tell("\n".join(f"{f'{name} {wants}':<14}{text}" for name, (wants, text) in COMMANDS.items()))
        return command != "/exit"

    def _show_history(self) -> None:
        for message in self.session.messages:
            if self.as_json:
                print_json({"role": message.role, "content": message.text})
            else:
                say(f"{message.role}: {message.text}")

    def _tell(self, text: str) -> None:
        say(text, file=sys.stderr)


def _show(piece: str) -> None:
    say(piece, end="", flush=True)


def _path(text: str) -> Path:
    """Return a path that was typed, or dropped onto the terminal: possibly in quotes, or with escaped spaces."""
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe in a name
        words = []
    return Path(words[0] if len(words) == 1 else text).expanduser()


def _typed_lines() -> Iterator[str]:
    """Yield lines typed on the terminal, with line editing if readline is available; Ctrl-C discards the line."""
    try:
        import readline  # noqa: F401  # the import enables line editing in input()
    except ImportError:
        pass
    while True:
        try:
            yield input("> ") + "\n"
        except EOFError:
            say()
            return
        except KeyboardInterrupt:
            say("\nzoo: /exit or Ctrl-D ends the session", file=sys.stderr)
