"""Interface of lmms-eval for multimodal language models of ours, such as LLaVA and Kosmos: its image, video and audio tasks.

Paper: Zhang et al. 2024, "LMMs-Eval" (arXiv 2407.12772). Interface: ``lmms_eval`` 0.7, ``lmms_eval.api.model.lmms``. The package is
imported only if it is installed.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.requirements import checked_limits, refuse_model
from zoo.processors.chat.messages import IMAGE_SUFFIXES, MARKERS, Conversation, Message, without_markers
from zoo.processors.media.video_file import NUM_FRAMES, VIDEO_SUFFIXES, read_video
from zoo.types import encoders_of, processor_of

PASSED_ON = ("max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty", "length_penalty")
IGNORED = ("do_sample", "image_aspect_ratio", "use_cache")  # but do_sample: false is greedy at any temperature


class LmmsModel:
    """A model with lmms-eval's interface: ``lmms_eval.evaluator.simple_evaluate(model=LmmsModel(zoo.load("runs/llava")), tasks=["mme"])``.

    A request is an ``Instance`` of lmms-eval; its ``args`` are the context, the generation settings (for likelihoods: the answer, or a
    function from the document to it), a function from the document to its media, the document's number, the task and the split. Media are
    PIL images, paths of image and video files, and mappings of ``array`` and ``sampling_rate`` (Hz). They stand at the context's
    ``<image>`` and ``<audio>`` markers if there is one for each, else before the context.

    Args:
        model: a system whose head has the verbs ``generate`` and ``score``, with its processor.
        batch_size: number of requests processed together; it does not change the answers.
        max_new_tokens: maximum length of an answer if the task sets none.
        frames: evenly spread frames that are shown of a video.

    Attributes:
        task_dict: documents by task and split; set by lmms-eval.

    Raises:
        ConfigError: the model cannot generate or score text, has no processor, or a number is below 1.
    """

    is_simple: ClassVar[bool] = True  # requests hold contexts, not lists of messages

    def __init__(self, model: Any, *, batch_size: int = 8, max_new_tokens: int = 1024, frames: int = NUM_FRAMES) -> None:
        refuse_model(model, ("generate", "score"), "lmms_eval")
        if processor_of(model) is None:
            raise ConfigError("model: has no processor to read prompts; load it from a saved directory")
        checked_limits({"batch_size": batch_size, "max_new_tokens": max_new_tokens, "frames": frames})
        self.model, self.batch_size, self.max_new_tokens, self.frames = model, batch_size, max_new_tokens, frames
        self.task_dict: dict[str, Any] = {}
        self._rank, self._world_size = 0, 1  # lmms-eval sets both under these names
        _register_with_lmms_eval()

    @property
    def rank(self) -> int:
        """Number of this process among those that share the requests."""
        return self._rank

    @property
    def world_size(self) -> int:
        """Number of processes that share the requests."""
        return self._world_size

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return self.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the answer to each request; those with equal settings are batched together.

        Raises:
            ConfigError: a request has a setting that is unknown, or media that the model has no encoder for.
            DataError: a request cannot be used, for example because it is too long.
        """
        asked = [_Asked(self, *request.args) for request in requests]
        return self._answers([each.prompt() for each in asked], [each.given for each in asked])

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Return the answers of all rounds of each request.

        The task writes the context of each round from the answers so far; earlier rounds are not repeated before it.
        """
        found = []
        for request in requests:
            context, settings, visual, doc_to_text, *place = request.args
            asked = _Asked(self, context, settings, visual, *place)
            answers, facts, prompt = [], None, asked.prompt()
            while True:
                answers.append(self._answers([prompt], [settings])[0])
                step = doc_to_text(asked.document, previous_output=answers, round_idx=len(answers), previous_round_info=facts)
                media, context, ended, answers, facts = step
                answers = list(answers)
                if ended:
                    break
                prompt = self._conversation(context, media or ())
            found.append(answers)
        return found

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return for each request the negative log-probability of its answer, and whether greedy decoding gives this answer.

        Despite the method's name, lmms-eval takes the choice with the *smallest* value. The sum over the tokens and the end of the answer
        is given, where most models of lmms-eval give the mean. Its evaluator of version 0.7.3 turns the pairs of every model into text
        (``unwrap_generation_output``), so that its multiple-choice tasks fail there.
        """
        asked = [_Asked(self, *request.args) for request in requests]
        prompts, answers = [each.prompt() for each in asked], [each.answer() for each in asked]
        scores = self.model.score(prompts, answers, batch_size=self.batch_size).tolist()
        distinct = {each.key: prompt for each, prompt in zip(asked, prompts, strict=True)}
        length = {"max_new_tokens": max(map(len, answers), default=0) + 1}  # a token has one character or more
        greedy = dict(zip(distinct, self._answers(list(distinct.values()), [length] * len(distinct)), strict=True))
        return [(-score, greedy[each.key] == answer) for score, each, answer in zip(scores, asked, answers, strict=True)]

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Accept lmms-eval's cache of answers, which is not used."""

    def clean(self) -> None:
        """Keep the model, which belongs to the caller; lmms-eval calls this behind its last request."""

    def _answers(self, prompts: Sequence[Conversation], settings: Sequence[Mapping[str, Any]]) -> list[str]:
        """Generate in groups of equal settings; the answers are in the order of the prompts."""
        groups: dict[str, list[int]] = {}
        read = [self._settings(given) for given in settings]
        for place, given in enumerate(read):
            groups.setdefault(repr(sorted(given.items())), []).append(place)
        found = [""] * len(prompts)
        for places in groups.values():
            texts = self.model.generate([prompts[place] for place in places], batch_size=self.batch_size, **read[places[0]])
            for place, text in zip(places, texts, strict=True):
                found[place] = text.strip()
        return found

    def _settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keywords of ``generate`` for a task's settings; values of None are left out."""
        unknown = [key for key in given if key not in (*PASSED_ON, *IGNORED, "until")]
        if unknown:
            raise ConfigError(f"generation_kwargs: {unknown[0]!r} is unknown; known are {', '.join(('until', *PASSED_ON, *IGNORED))}")
        kept = {key: given[key] for key in PASSED_ON if given.get(key) is not None}
        if given.get("do_sample") is False or not kept.get("temperature"):
            kept = {key: value for key, value in kept.items() if key not in ("temperature", "top_p", "top_k")}  # many tasks set top_p: 0
        until = given.get("until") or ()
        stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
        return {"max_new_tokens": self.max_new_tokens, "seed": 0, **kept, "stop": stop}

    def _conversation(self, context: str, media: Sequence[Any]) -> Conversation:
        """Return the prompt of one request."""
        found: dict[str, list[Any]] = {modality: [] for modality in MARKERS}
        for each in media:
            modality, raw = _medium(each, self.frames)
            if modality not in encoders_of(self.model):
                has = ", ".join(encoders_of(self.model)) or "no encoder"
                raise ConfigError(f"model: the task shows {modality} inputs, but the model has {has}; choose other tasks")
            found[modality].append(raw)
        if any(context.count(MARKERS[modality]) != len(raw) for modality, raw in found.items()):
            shown = "".join(MARKERS[modality] + "\n" for modality, raw in found.items() for _ in raw)
            context = shown + without_markers(context)
        role = "document" if self.model.processor["conversation"].template_name == "kosmos" else "user"
        return Conversation((Message(role, context),), tuple(found["image"]), tuple(found["audio"]))


class _Asked:
    """One request: context, settings or answer, and the document that it belongs to."""

    def __init__(self, owner: LmmsModel, context: str, given: Any, visual: Callable[[Any], Any] | None = None, *place: Any) -> None:
        self.owner, self.context, self.given, self.visual = owner, context, given, visual
        self.place = place  # number of the document, task, split; empty in requests without a document
        self.key = (context, *place)

    @property
    def document(self) -> Any:
        number, task, split = self.place
        return self.owner.task_dict[task][split][number]

    def prompt(self) -> Conversation:
        media = self.visual(self.document) if self.visual is not None and self.place else ()
        return self.owner._conversation(self.context, media or ())

    def answer(self) -> str:
        text = self.given(self.document) if callable(self.given) else self.given
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"request {self.key}: the answer to score is {text!r}; allowed is a text that is not empty")
        return text.strip()


def _medium(raw: Any, frames: int) -> tuple[str, Any]:
    """Return the modality of one of lmms-eval's media, and the medium as our processors take it: of a video, so many frames."""
    if isinstance(raw, Image.Image):
        return "image", raw
    if isinstance(raw, Mapping) and {"array", "sampling_rate"} <= set(raw):
        return "audio", (np.asarray(raw["array"], dtype=np.float32), int(raw["sampling_rate"]))
    if isinstance(raw, str | Path) and Path(raw).suffix.lower() in IMAGE_SUFFIXES:
        return "image", Path(raw)
    if isinstance(raw, str | Path) and Path(raw).suffix.lower() in VIDEO_SUFFIXES:
        return "image", read_video(raw, frames=frames)
    kind = repr(raw)[:60] if isinstance(raw, str | Path) else type(raw).__name__
    raise DataError(f"a task shows {kind}; allowed are PIL images, image and video files, and mappings of 'array' and 'sampling_rate'")


def _register_with_lmms_eval() -> None:
    """Make ``isinstance(model, lmms_eval.api.model.lmms)`` true, which its evaluator asks, if the package is installed."""
    if importlib.util.find_spec("lmms_eval") is not None:
        from lmms_eval.api.model import lmms  # type: ignore[import-not-found]  # of the user's environment

        lmms.register(LmmsModel)
