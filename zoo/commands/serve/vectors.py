"""Embeddings and classifications."""

import asyncio
import base64
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
from torch import Tensor

from zoo.commands.serve.batching import Job
from zoo.commands.serve.faults import RequestError
from zoo.commands.serve.inputs import from_data_url, modality_of, read_item
from zoo.commands.serve.schemas import ClassificationRequest, EmbeddingRequest
from zoo.commands.serve.service import Reply, ServedModel, Service
from zoo.evaluation.adapters.embedder import find_embedder
from zoo.heads.clip import refuse_labels
from zoo.types import verbs_of

KEPT_LABELS = 16  # sets of labels whose vectors a model keeps


async def embeddings(service: Service, request: EmbeddingRequest, facts: dict[str, Any]) -> Reply:
    """Return the unit vectors of texts, images and recordings, in the order of the inputs.

    Raises:
        RequestError: an input is empty, of a modality that the model has not, or there are too many.
        DataError: an image or a recording cannot be read.
    """
    served = service.find(request.model, "embeddings")
    inputs = _listed(request.input, service.limits.max_inputs)
    modalities = [_checked_modality(served, "embeddings", text, place) for place, text in enumerate(inputs)]
    items, tokens = await service.read(partial(_read, served, service, inputs, modalities))
    facts |= {"items": len(inputs), "prompt_tokens": tokens}
    rows: dict[int, Tensor] = {}
    for modality in dict.fromkeys(modalities):
        places = [place for place, each in enumerate(modalities) if each == modality]
        vectors = await _in_batches(served, ("embed", modality), partial(_embed, served, modality), [items[place] for place in places])
        rows |= dict(zip(places, vectors, strict=True))
    width = len(rows[0])
    if request.dimensions not in (None, width):
        raise RequestError(f"dimensions: {request.dimensions}; this model's vectors have {width}", param="dimensions")
    write = _as_base64 if request.encoding_format == "base64" else Tensor.tolist
    data = [{"object": "embedding", "index": place, "embedding": write(rows[place])} for place in range(len(inputs))]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Reply(msgspec.json.encode({"object": "list", "model": served.name, "data": data, "usage": usage}))


async def classifications(service: Service, request: ClassificationRequest, facts: dict[str, Any]) -> Reply:
    """Return the probabilities of labels for images and recordings, the most probable first.

    Raises:
        RequestError: labels are missing for a zero-shot model or given for another, or an input cannot be classified.
        DataError: an image or a recording cannot be read, or a label is empty or repeated.
    """
    served = service.find(request.model, "classifications")
    names = _labels(served, request, service.limits.max_inputs)
    inputs = _listed(request.input, service.limits.max_inputs)
    modalities = [_checked_modality(served, "classifications", text, place) for place, text in enumerate(inputs)]
    if len(set(modalities)) > 1:
        raise RequestError("input: images and recordings in one request; send one request for each", param="input")
    items, _ = await service.read(partial(_read, served, service, inputs, modalities))
    facts |= {"items": len(inputs), "labels": len(names)}
    asked = None if request.labels is None else (tuple(request.labels), tuple(request.templates))
    rows = await _in_batches(served, ("classify", asked), partial(_classify, served, modalities[0], asked), items)
    most = min(request.top_k or len(names), len(names))
    data = [{"object": "classification", "index": place, "labels": _best(row, names, most)} for place, row in enumerate(rows)]
    return Reply(msgspec.json.encode({"object": "list", "model": served.name, "data": data}))


def _listed(given: str | list[str], most: int) -> list[str]:
    inputs = [given] if isinstance(given, str) else given
    if len(inputs) > most:
        raise RequestError(f"input: {len(inputs)} inputs; at most {most} are allowed in one request; send several", param="input")
    empty = next((place for place, text in enumerate(inputs) if not text), None)
    if empty is not None:
        raise RequestError(f"input[{empty}]: is empty; leave it out", param="input")
    return inputs


def _checked_modality(served: ServedModel, capability: str, text: str, place: int) -> str:
    modality, able = modality_of(text), served.capabilities[capability]
    if modality not in able:
        forms = {"text": "texts", "image": "images (data:image/png;base64,...)", "audio": "recordings (data:audio/wav;base64,...)"}
        wanted = " and ".join(forms[each] for each in able)
        raise RequestError(f"input[{place}]: is {modality}, but {served.name} takes {wanted}", param="input")
    return modality


def _read(served: ServedModel, service: Service, inputs: Sequence[str], modalities: Sequence[str]) -> tuple[list[Any], int]:
    """Return what the model computes from, and the number of tokens of the texts."""
    items, tokens = [], 0
    for place, (text, modality) in enumerate(zip(inputs, modalities, strict=True)):
        if modality == "text":
            items.append(text)
            tokens += len(served.part("text").item(text))
        else:
            items.append(read_item(served.part(modality), modality, from_data_url(text, f"input[{place}]"), service.limits))
    return items, tokens


async def _in_batches(served: ServedModel, key: Any, work: Any, items: Sequence[Any]) -> list[Tensor]:
    """Return a row per item. Many items become several jobs, between which other requests are computed."""
    size = served.batcher.max_items
    pieces = [items[start : start + size] for start in range(0, len(items), size)]
    async with asyncio.TaskGroup() as group:  # if one fails, the others are given up
        tasks = [group.create_task(served.batcher.run(key, work, piece, size=len(piece))) for piece in pieces]
    return [row for task in tasks for row in task.result()]


def _embed(served: ServedModel, modality: str, jobs: Sequence[Job]) -> list[Tensor]:
    """Embed the items of all jobs at once; return a matrix per job."""
    items = [item for job in jobs for item in job.payload]
    vectors = find_embedder(served.model, modality)(items)
    return _split(vectors, jobs)


def _classify(served: ServedModel, modality: str, asked: Any, jobs: Sequence[Job]) -> list[Tensor]:
    """Classify the items of all jobs at once; return a matrix of probabilities per job."""
    items = [item for job in jobs for item in job.payload]
    ready = served.part(modality).ready(items) if modality == "image" else items
    if asked is None:
        return _split(served.model.classify(ready), jobs)
    kept = served.class_vectors
    if asked not in kept:
        kept[asked] = served.model.class_vectors(list(asked[0]), list(asked[1]))
        if len(kept) > KEPT_LABELS:
            kept.pop(next(iter(kept)))
    return _split(served.model.score(modality, ready, kept[asked]), jobs)


def _split(rows: Tensor, jobs: Sequence[Job]) -> list[Tensor]:
    return list(rows.float().cpu().split([job.size for job in jobs]))


def _labels(served: ServedModel, request: ClassificationRequest, most: int) -> list[str]:
    """Return the names of the classes."""
    if "class_vectors" not in verbs_of(served.model):
        if request.labels is not None:
            raise RequestError(f"labels: {served.name} is a classifier with fixed classes; leave them out", param="labels")
        head = served.model.head
        return list(head.class_names or map(str, range(head.num_classes)))
    if request.labels is None:
        raise RequestError(f"labels: {served.name} is a zero-shot model; give a list of labels", param="labels")
    refuse_labels(request.labels, request.templates)
    if len(request.labels) * len(request.templates) > most:
        raise RequestError(
            f"labels: {len(request.labels)} labels with {len(request.templates)} templates; at most {most} texts are allowed",
            param="labels",
        )
    return request.labels


def _best(row: Tensor, names: Sequence[str], most: int) -> list[dict[str, Any]]:
    found = row.topk(most)
    return [{"label": names[int(i)], "probability": p} for i, p in zip(found.indices, found.values.tolist(), strict=True)]


def _as_base64(row: Tensor) -> str:
    """Return the vector as little-endian float32 in base64, which the client of OpenAI asks for."""
    return base64.b64encode(np.asarray(row, dtype="<f4").tobytes()).decode("ascii")
