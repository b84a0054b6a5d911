"""Multi-turn chat with a KV cache that is kept between turns.

Images and audio clips are encoded once. The keys and values of earlier turns stay in the cache, and each turn feeds only its new tokens to
the language model. The answers equal those of recomputing the whole conversation.
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
from zoo.processors.media.video_file import read_video
from zoo.storage.files import create_folder_of, write_text_atomically
from zoo.types import verbs_of


@dataclass(frozen=True)
class Answer:
    """Answer of the assistant.

    Attributes:
        stop_reason: that of ``zoo.language.decoding.generate.Generated``, or "interrupted" if the user interrupted it.
        num_tokens: number of tokens of the answer.
        prompt_tokens: number of tokens of the whole conversation before the answer, including image and audio tokens.
        computed_tokens: number of prompt tokens that went through the language model now; the others were in the cache.
    """

    text: str
    stop_reason: str
    num_tokens: int
    prompt_tokens: int
    computed_tokens: int


@dataclass(frozen=True)
class Shown:
    """Image, video or audio clip of a conversation: its name, and what ``ModalityProcessor.kept`` returned for it."""

    name: str
    item: Any


class ChatSession:
    """Conversation with a system whose head supports ``generate``.

    Args:
        system: a ``zoo.System`` with a multimodal language-model head (llava, kosmos) and a processor.
        sampling: decoding settings; a missing seed is drawn once for the session.
        instruction: system prompt; None uses that of the chat template.
        stop: stop strings; answers end before them.

    Attributes:
        messages: the conversation so far.
        shown: images and audio clips of the messages, by modality, in order.
        waiting: attachments of the next question.
        sampled: which frames of a video are shown, as keywords of ``read_video``.

    Raises:
        ConfigError: the system cannot generate text, or has no processor.
    """

    def __init__(self, system: Any, sampling: Sampling, *, instruction: str | None = None, stop: Sequence[str] = ()) -> None:
        if not {"generate", "prompt_vectors"} <= set(verbs_of(system)):
            can = ", ".join(verbs_of(system)) or "encode"
            raise ConfigError(f"this model cannot chat; it can {can}. Use a model with a language model, for example a trained llava_nano")
        if system.processor is None:
            raise ConfigError("this model has no processor, which is needed to tokenize questions; load it from a saved directory")
        self.system, self.part, self.language = system, system.processor["conversation"], system.head.language
        seed = fresh_seed() if sampling.seed is None else sampling.seed
        self.sampling = replace(sampling, seed=seed, eos_token_ids=tuple(self.part.eos_token_ids))
        self.stop = (*check_stop(stop), *self.part.stop_strings)
        self.instruction = instruction
        self._turn = 0
        self.sampled: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Remove all messages, images and audio clips, and the cache."""
        self.messages = [] if self.instruction is None else [Message("system", self.instruction)]
        self.shown: dict[str, list[Shown]] = {"image": [], "audio": []}
        self.waiting: list[tuple[str, Shown]] = []
        self._features: dict[str, Tensor] = {}
        self._cache: Any = None
        self._held: Tensor | None = None  # input embeddings of the cached positions [length, dim]

    def show(self, modality: str, raw: Any) -> None:
        """Attach an image ("image"), video ("video") or audio clip ("audio") to the next question.

        Raises:
            ConfigError: the system has no encoder of this modality; that of images also reads videos.
            DataError: the file cannot be read.
        """
        is_video, modality = modality == "video", "image" if modality == "video" else modality
        if modality not in self.system.processor.parts:
            can = ", ".join(m for m in self.shown if m in self.system.processor.parts) or "only text"
            raise ConfigError(f"{raw}: this model has no encoder of {modality}; it takes {can}")
        raw = Path(raw).expanduser() if isinstance(raw, str) else raw
        name = str(raw.resolve()) if isinstance(raw, Path) else f"{modality} {len(self.waiting) + 1}"
        raw = read_video(raw, **self.sampled) if is_video and isinstance(raw, Path) else raw
        self.waiting.append((modality, Shown(name, self.system.processor[modality].kept(raw))))

    def ask(self, text: str, on_text: Callable[[str], None] | None = None) -> Answer:
        """Generate the answer to a question and add both to the conversation, unless the answer is empty.

        Args:
            text: the question.
            on_text: streaming callback, called with each new piece of the answer.

        Raises:
            DataError: the question is empty, or the conversation is too long. The conversation is then unchanged.
        """
        if not text.strip():
            raise DataError("the question is empty; write a question")
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
        """Write the conversation as JSON, in the format that ``Conversation.parse`` reads.

        Raises:
            DataError: the file cannot be written.
        """
        rows = [{"role": message.role, "content": message.text} for message in self.messages]
        listed = {modality: [each.name for each in shown] for modality, shown in self.shown.items() if shown}
        create_folder_of(path, "/save")
        try:
            write_text_atomically(path, json.dumps({"messages": rows, **listed}, ensure_ascii=False, indent=2) + "\n")
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror}); give another file") from error

    def _with(self, text: str) -> Conversation:
        """Return the conversation with a question appended."""
        try:
            question = Conversation.of_prompt([*(shown.item for _, shown in self.waiting), text])
        except ItemError as error:
            if error.reason != "path":
                raise
            raise DataError(f"{text!r} is the name of a file; attach it with --image, --audio, /image or /audio") from error
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
        """Crop the cache to the longest prefix that it shares with a prompt, and return its length.

        The last token is never reused, because the model must compute its logits.
        """
        # The tokens of a prefix see later ones, so that a longer conversation changes them all.
        if self._held is None or self.sampling.num_beams > 1 or self.system.head.prefix:
            self._forget()
            return 0
        shortest = min(len(self._held), len(vectors) - 1)
        differs = (self._held[:shortest] != vectors[:shortest]).any(1)
        known = int(differs.int().argmax()) if bool(differs.any()) else shortest
        known = self._cache.crop(known).length  # 0 if the cache cannot go back (sliding windows, linear attention)
        self._held = self._held[:known]
        return known

    def _generate(
        self, vectors: Float[Tensor, "length dim"], ids: Int[Tensor, " length"], push: Callable[[int, int], None], tokens: list[int]
    ) -> str:
        """Generate an answer, record the state of the cache, and return the stop reason."""
        if self._cache is None and self.sampling.num_beams == 1:
            self._cache = self.language.new_cache(1, len(vectors))  # the cache grows as needed
        halts = StopStrings(self.part.decode, self.stop) if self.stop else None
        done = False
        try:
            words = {"cache": self._cache, "rows": [self._turn], "prefix_lengths": self.system.head.prefix_lengths([vectors])}
            (answer,) = generate(self.language, [vectors], [ids], self.sampling, stop=halts, on_token=push, **words)
            done = True
            return answer.stop_reason
        except KeyboardInterrupt:
            return "interrupted"
        finally:
            self._note(vectors, tokens, done)

    def _note(self, vectors: Float[Tensor, "length dim"], tokens: list[int], done: bool) -> None:
        """Record the valid part of the cache: an interrupted step may have filled only some layers."""
        if self._cache is None or (not done and not tokens):
            self._forget()
            return
        if not done:
            self._cache.crop(len(vectors) + len(tokens) - 1)  # all but the last token have gone through the model
        with torch.inference_mode():
            embedded = self.language.embed(torch.tensor(tokens, dtype=torch.int64, device=vectors.device))
        self._held = torch.cat([vectors, embedded])[: self._cache.length]

    def _forget(self) -> None:
        self._cache, self._held = None, None
