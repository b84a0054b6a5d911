"""A conversation that goes on: what was computed for earlier turns is kept.

Pictures and clips are encoded once. Keys and values of the turns so far stay in the cache, and only what a turn adds is shown to the
language model; answers are those of the whole conversation computed anew.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError, DataError, ItemError
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling, fresh_seed
from zoo.language.decoding.streaming import StopStrings, TextStream, check_stop
from zoo.processors.chat.messages import Conversation, Message
from zoo.storage.files import write_text_atomically


@dataclass(frozen=True)
class Answer:
    """What the assistant said.

    Attributes:
        stop_reason: of ``zoo.language.decoding.generate.Generated``, or "interrupted" by the user.
        num_tokens: of the answer.
        prompt_tokens: of the whole conversation before it, pictures and clips among them.
        computed_tokens: how many of these the language model was shown now; the others stood in the cache.
    """

    text: str
    stop_reason: str
    num_tokens: int
    prompt_tokens: int
    computed_tokens: int


@dataclass(frozen=True)
class Shown:
    """A picture or clip: its name and what the processor made of it."""

    name: str
    item: Tensor


class ChatSession:
    """Questions and answers with a system that has the verb ``generate``.

    Args:
        system: a ``zoo.System`` with a head like llava and a processor.
        instruction: what the assistant is told first, in place of the template's own.
        stop: strings before which answers are cut.

    Attributes:
        messages: what was said so far.
        shown: the pictures and clips that stand in the messages, by modality, in order.
        waiting: those that go with the next question.

    Raises:
        ConfigError: the system cannot talk.
    """

    def __init__(self, system: Any, sampling: Sampling, *, instruction: str | None = None, stop: Sequence[str] = ()) -> None:
        if not {"generate", "prompt_vectors"} <= set(getattr(getattr(system, "head", None), "verbs", ())):
            can = ", ".join(getattr(getattr(system, "head", None), "verbs", ())) or "encode"
            raise ConfigError(f"this model cannot chat; it can {can}. Give one with a language model, for example a trained llava_nano")
        if system.processor is None:
            raise ConfigError("this model has no processor, so that it cannot read questions; load it from a saved directory")
        self.system, self.part, self.language = system, system.processor["conversation"], system.head.language
        seed = fresh_seed() if sampling.seed is None else sampling.seed
        self.sampling = replace(sampling, seed=seed, eos_token_ids=tuple(self.part.eos_token_ids))
        self.stop = (*check_stop(stop), *self.part.stop_strings)
        self.instruction = instruction
        self._turn = 0
        self.clear()

    def clear(self) -> None:
        """Forget what was said and shown."""
        self.messages = [] if self.instruction is None else [Message("system", self.instruction)]
        self.shown: dict[str, list[Shown]] = {"image": [], "audio": []}
        self.waiting: list[tuple[str, Shown]] = []
        self._features: dict[str, Tensor] = {}
        self._cache: Any = None
        self._held: Tensor | None = None  # vectors of what the cache holds [length, dim]

    def show(self, modality: str, raw: Any) -> None:
        """Take a picture ("image") or clip ("audio") along with the next question.

        Raises:
            ConfigError: the system has no encoder of it.
            DataError: it cannot be read.
        """
        if modality not in self.system.processor.parts:
            can = ", ".join(m for m in self.shown if m in self.system.processor.parts) or "text alone"
            raise ConfigError(f"{raw}: this model has no encoder of {modality}; it takes {can}")
        raw = Path(raw).expanduser() if isinstance(raw, str) else raw
        name = str(raw.resolve()) if isinstance(raw, Path) else f"{modality} {len(self.waiting) + 1}"
        self.waiting.append((modality, Shown(name, self.system.processor[modality].item(raw))))

    def ask(self, text: str, on_text: Callable[[str], None] | None = None) -> Answer:
        """Ask, and keep question and answer for the next turn; an empty answer is not kept, nor is its question.

        Args:
            on_text: told each piece of the answer as soon as it is known.

        Raises:
            DataError: the conversation cannot be used, or is too long; it is then as it was before.
        """
        if not text.strip():
            raise DataError("the question is empty; say what you want to know")
        conversation = self._with(text)
        (vectors,), (ids,) = self.system.prompt_vectors([conversation], kept=self._features)
        known = self._reuse(vectors)
        stream, tokens = TextStream(self.part.decode, self.stop), []

        def push(_: int, token: int) -> None:
            tokens.append(token)
            piece = stream.push(token)
            if piece and on_text is not None:
                on_text(piece)

        reason = self._generate(vectors, ids, push, tokens)
        rest = stream.close()
        if rest and on_text is not None:
            on_text(rest)
        self._turn += 1
        if stream.text.strip():
            self._keep(conversation, stream.text.strip())
        return Answer(stream.text.strip(), reason, len(tokens), len(ids), len(ids) - known)

    def save(self, path: Path) -> None:
        """Write what was said as JSON, in the form of ``Conversation.parse``.

        Raises:
            DataError: the file cannot be written.
        """
        rows = [{"role": message.role, "content": message.text} for message in self.messages]
        listed = {modality: [each.name for each in shown] for modality, shown in self.shown.items() if shown}
        try:
            write_text_atomically(path, json.dumps({"messages": rows, **listed}, ensure_ascii=False, indent=2) + "\n")
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror}); name a file in a folder that exists") from error

    def _with(self, text: str) -> Conversation:
        """The conversation with a question behind it."""
        try:
            question = Conversation.of_prompt([*(shown.item for _, shown in self.waiting), text])
        except ItemError as error:
            if error.reason != "path":
                raise
            raise DataError(f"{text!r} is the name of a file; show it with --image, --audio, /image or /audio, and ask about it") from error
        images, audio = (
            (*(each.item for each in self.shown[m]), *(shown.item for modality, shown in self.waiting if modality == m))
            for m in ("image", "audio")
        )
        return Conversation((*self.messages, *question.messages), images, audio)

    def _keep(self, conversation: Conversation, answer: str) -> None:
        self.messages = [*conversation.messages, Message("assistant", answer)]
        for modality, shown in self.waiting:
            self.shown[modality].append(shown)
        self.waiting = []

    def _reuse(self, vectors: Float[Tensor, "length dim"]) -> int:
        """Crop the cache to the beginning that it shares with a prompt, and say how long that is; the last token is always asked."""
        if self._held is None or self.sampling.num_beams > 1:
            self._forget()
            return 0
        shortest = min(len(self._held), len(vectors) - 1)
        differs = (self._held[:shortest] != vectors[:shortest]).any(1)
        known = int(differs.int().argmax()) if bool(differs.any()) else shortest
        self._cache.crop(known)
        self._held = self._held[:known]
        return known

    def _generate(
        self, vectors: Float[Tensor, "length dim"], ids: Int[Tensor, " length"], push: Callable[[int, int], None], tokens: list[int]
    ) -> str:
        """Let the model answer, and note what the cache holds then; returns the reason why the answer ends."""
        if self._cache is None and self.sampling.num_beams == 1:
            self._cache = self.language.new_cache(1, len(vectors))  # which grows
        halts = StopStrings(self.part.decode, self.stop) if self.stop else None
        done = False
        try:
            (answer,) = generate(
                self.language, [vectors], [ids], self.sampling, stop=halts, on_token=push, cache=self._cache, rows=[self._turn]
            )
            done = True
            return answer.stop_reason
        except KeyboardInterrupt:
            return "interrupted"
        finally:
            self._note(vectors, tokens, done)

    def _note(self, vectors: Float[Tensor, "length dim"], tokens: list[int], done: bool) -> None:
        """Note what the cache holds for certain: a step that was broken off may have filled some layers only."""
        if self._cache is None or (not done and not tokens):
            self._forget()
            return
        if not done:
            self._cache.crop(len(vectors) + len(tokens) - 1)  # all but the last token have gone through the model
        with torch.inference_mode():
            said = self.language.embed(torch.tensor(tokens, dtype=torch.int64, device=vectors.device))
        self._held = torch.cat([vectors, said])[: self._cache.length]

    def _forget(self) -> None:
        self._cache, self._held = None, None
