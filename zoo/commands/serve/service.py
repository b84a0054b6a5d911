"""The served models, and what each of them can do."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from zoo.commands.serve.batching import Batcher
from zoo.commands.serve.faults import RequestError
from zoo.commands.serve.limits import Limits
from zoo.commands.serve.metrics import Metrics
from zoo.errors import ConfigError, name_choices
from zoo.evaluation.adapters.embedder import find_embedder
from zoo.layers.low_precision.modes import precision_of
from zoo.types import encoders_of, is_system, processor_of, verbs_of

T = TypeVar("T")
READERS = 4  # threads that decode images and recordings; each may hold a whole image in memory
ROUTES = {  # capability: route, for messages
    "embeddings": "/v1/embeddings",
    "classifications": "/v1/classifications",
    "chat": "/v1/chat/completions",
    "transcriptions": "/v1/audio/transcriptions",
    "speech": "/v1/audio/speech",
}


@dataclass(frozen=True)
class Reply:
    """Whole answer to a request."""

    content: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Events:
    """Answer in pieces (server-sent events); the first piece exists already, so that errors of the request have a status."""

    pieces: AsyncIterator[bytes]


class ServedModel:
    """One model with its queue.

    Args:
        name: its id in requests.
        model: a system, or an encoder that was loaded alone.
        limits: of the server.
        metrics: counters of the server.
        num_open: returns the number of open requests.

    Attributes:
        capabilities: names of ``ROUTES``, each with the modalities that it takes.

    Raises:
        ConfigError: the model has no processor, or no capability that can be served.
    """

    def __init__(self, name: str, model: Any, limits: Limits, metrics: Metrics, num_open: Callable[[], int]) -> None:
        if processor_of(model) is None:
            raise ConfigError(f"--model {name}: this model has no processor to read requests; give a directory saved by zoo")
        self.name, self.model, self.created = name, model, int(time.time())
        self.capabilities = capabilities_of(model)
        if not self.capabilities:
            can = ", ".join(verbs_of(model)) or "nothing"
            raise ConfigError(
                f"--model {name}: this model can {can}, none of which is served; served are embed, classify, generate, transcribe "
                "and synthesize"
            )
        self.batcher = Batcher(
            max_items=limits.max_batch, max_wait_ms=limits.max_wait_ms, num_open=num_open, on_batch=partial(metrics.batch, name)
        )
        self.class_vectors: dict[Any, Any] = {}  # of the latest labels of zero-shot classification

    def part(self, modality: str) -> Any:
        """Return the processor of a modality."""
        return self.model.processor[modality]

    def as_json(self) -> dict[str, Any]:
        """Return the entry of ``/v1/models``."""
        able = {name: list(modalities) for name, modalities in self.capabilities.items()}
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "zoo",
            "precision": precision_of(self.model),
            "capabilities": able,
        }


def capabilities_of(model: Any) -> dict[str, Sequence[str]]:
    """Return the capabilities of a model, each with its input modalities."""
    verbs, encoders = verbs_of(model), encoders_of(model)
    found: dict[str, Sequence[str]] = {}
    if "embed" in verbs or not is_system(model):
        found["embeddings"] = [modality for modality in encoders if _embeds(model, modality)]
    if "class_vectors" in verbs or "classify" in verbs:
        found["classifications"] = [modality for modality in encoders if modality in ("image", "audio")]
    if {"generate", "prompt_vectors"} <= set(verbs):
        found["chat"] = ["text", *encoders]
    if "transcribe" in verbs:
        found["transcriptions"] = ["audio"]
    if "synthesize" in verbs:
        found["speech"] = ["text"]
    return {name: modalities for name, modalities in found.items() if modalities}


def _embeds(model: Any, modality: str) -> bool:
    try:
        find_embedder(model, modality)
    except ConfigError:
        return False
    return True


class Service:
    """All models of a server, and the threads that read images and recordings.

    Args:
        models: loaded models by their names.
        limits: of the server.

    Attributes:
        num_open: number of requests that wait or run.
    """

    def __init__(self, models: Mapping[str, Any], limits: Limits) -> None:
        self.limits, self.metrics, self.num_open = limits, Metrics(), 0
        self.models = {name: ServedModel(name, model, limits, self.metrics, lambda: self.num_open) for name, model in models.items()}
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="zoo-reader")

    def find(self, name: str, capability: str) -> ServedModel:
        """Return a model that has a capability.

        Raises:
            RequestError: there is no such model, or it cannot do this.
        """
        served = self.models.get(name)
        if served is None:
            raise RequestError(
                f"model: there is no {name[:80]!r} here; {name_choices(name[:80], self.models)}", 404, param="model", code="model_not_found"
            )
        if capability not in served.capabilities:
            able = " and ".join(ROUTES[each] for each in served.capabilities)
            raise RequestError(f"model: {name} cannot be used with {ROUTES[capability]}; it serves {able}", param="model")
        return served

    async def read(self, function: Callable[[], T]) -> T:
        """Run a function that decodes inputs in a reader thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function)

    def start(self) -> None:
        """Start the queues of all models."""
        for served in self.models.values():
            served.batcher.start()

    async def stop(self) -> None:
        """Stop the queues of all models."""
        for served in self.models.values():
            await served.batcher.stop()
        self._readers.shutdown(wait=False)
