"""``zoo chat``: talk with a model, and show it pictures and sound.

One question on the command line, or a session of lines from standard input; ``/help`` in it lists its commands.
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
from zoo.commands.embed import refuse_device
from zoo.errors import ConfigError, DataError, ZooError, name_choices
from zoo.language.decoding.sampling import Sampling

COMMANDS = {  # what stands behind it, and what it does
    "/image": ("PATH", "show a picture with the next question"),
    "/audio": ("PATH", "play a clip with the next question"),
    "/clear": ("", "forget what was said and shown"),
    "/history": ("", "print what was said"),
    "/save": ("FILE", "write what was said as JSON"),
    "/help": ("", "print this list"),
    "/exit": ("", "leave, as the end of input does"),
}
OPTIONS = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "num_beams", "repetition_penalty", "seed")  # of Sampling
CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}  # a model may not steer the terminal
CUT = {"length": "by --max-new-tokens", "context": "because the model's context is full; /clear begins anew"}


def chat_command(options: Namespace) -> int:
    """Run the command; returns the exit status."""
    sampling = _sampling(options)
    refuse_device(options.device)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    if prompt is not None and not prompt.strip():
        raise DataError("the question is empty; say what you want to know, or leave it out for a session")
    model: Any = load(options.model, device=options.device)
    try:
        session = ChatSession(model, sampling, instruction=options.system, stop=options.stop or ())
    except ConfigError as error:
        raise ConfigError(f"--model {options.model}: {error}") from error
    for modality in ("image", "audio"):
        for path in getattr(options, modality) or ():
            session.show(modality, path)
    boxes = None if options.boxes is None else Boxes(model, Path(options.boxes))
    chat = Chat(session, as_json=options.json, boxes=boxes)
    if prompt is not None:
        return 130 if chat.ask(prompt.strip()).stop_reason == "interrupted" else 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return chat.follow(sys.stdin)
    print(f"{options.model}: ask, or /help; /exit or Ctrl-D leaves, Ctrl-C stops an answer", file=sys.stderr)
    return chat.converse()


def _sampling(options: Namespace) -> Sampling:
    """The settings of the command line; what is wrong is said with the flag's name."""
    try:
        return Sampling(**{key: getattr(options, key) for key in OPTIONS})
    except ConfigError as error:
        key, _, rest = str(error).partition(":")
        raise ConfigError(f"--{key.replace('_', '-')}:{rest}") from error


class Chat:
    """A session as people see it.

    Args:
        as_json: a line of JSON for each answer instead of text as it comes.
        boxes: where the places that answers name are drawn; None does not ask for any.
    """

    def __init__(self, session: ChatSession, *, as_json: bool, boxes: Boxes | None = None) -> None:
        self.session, self.as_json, self.boxes = session, as_json, boxes
        self.was_interrupted = False  # the last answer

    def converse(self) -> int:
        """Lines from a terminal until the end of input; a mistake is told, and the session goes on."""
        for line in _typed_lines():
            try:
                if not self.take(line):
                    break
            except ZooError as error:
                print(f"zoo: {error}", file=sys.stderr)
        return 0

    def follow(self, lines: Any) -> int:
        """Lines from a file or pipe; the first mistake ends it, since what follows may rest upon it."""
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
        """Do what a line says; whether the session goes on.

        Raises:
            ZooError: a command that does not exist, a file that cannot be used, a question that cannot be asked.
        """
        text = line.strip()
        if line.startswith("/"):
            return self._obey(*text.partition(" ")[::2])
        if text:
            self.ask(text)
        return True

    def ask(self, text: str) -> Answer:
        """Ask, and show the answer as it comes."""
        start = time.perf_counter()
        asked = text if self.boxes is None else self.boxes.ask_for(text)
        answer = self.session.ask(asked, None if self.as_json or self.boxes else _show)
        self.was_interrupted = answer.stop_reason == "interrupted"
        plain, phrases = answer.text, []
        if self.boxes is not None:
            shown = self.session.shown["image"]
            plain, phrases = self.boxes.take(answer.text, shown[-1].name if shown else None)
        if self.as_json:
            facts = asdict(answer) | {"text": plain}
            places = {} if self.boxes is None else {"phrases": [{"text": each.text, "boxes": each.boxes} for each in phrases]}
            told = {"prompt": text, "answer": facts.pop("text"), **facts, **places}
            print_json({**told, "seconds": round(time.perf_counter() - start, 3)})
            return answer
        if self.boxes is not None:
            _show("\n".join([plain, *lines_of(phrases)]))
        print(flush=True)
        if not answer.text and not self.was_interrupted:
            print("zoo: the model said nothing; the question is not kept", file=sys.stderr)
        elif answer.stop_reason in CUT:
            print(f"zoo: the answer was cut after {answer.num_tokens} tokens {CUT[answer.stop_reason]}", file=sys.stderr)
        return answer

    def _obey(self, command: str, rest: str) -> bool:
        rest = rest.strip()
        if command not in COMMANDS:
            near = name_choices(command, COMMANDS)
            raise ConfigError(f"there is no command {command!r}; {near} (a text that begins with / is sent with a space before it)")
        wants = COMMANDS[command][0]
        if bool(wants) != bool(rest):
            raise ConfigError(f"{command} needs a {wants} behind it" if wants else f"{command} stands alone; got {rest!r} behind it")
        if command in ("/image", "/audio"):
            self.session.show(command[1:], _path(rest))
            self._tell(f"{_path(rest)} goes with the next question")
        elif command == "/clear":
            self.session.clear()
            self._tell("nothing was said")
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
                print(f"{message.role}: {message.text}")

    def _tell(self, text: str) -> None:
        print(text, file=sys.stderr)


def _show(piece: str) -> None:
    print(piece.translate(CONTROLS) if sys.stdout.isatty() else piece, end="", flush=True)


def _path(text: str) -> Path:
    """A path as people type or drop it: in quotes, or with spaces escaped."""
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe in a name
        words = []
    return Path(words[0] if len(words) == 1 else text).expanduser()


def _typed_lines() -> Iterator[str]:
    """Lines from the terminal, with editing where Python has it; Ctrl-C begins a new line."""
    try:
        import readline  # noqa: F401  # input() edits lines from then on
    except ImportError:
        pass
    while True:
        try:
            yield input("> ") + "\n"
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\nzoo: /exit or Ctrl-D leaves", file=sys.stderr)
