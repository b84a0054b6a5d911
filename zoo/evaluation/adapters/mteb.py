"""Interface of MTEB (Massive Text Embedding Benchmark) for systems and encoders of ours: its text, image and audio tasks.

Papers: Muennighoff et al. 2022 (arXiv 2210.07316); Xiao et al. 2025, MIEB (arXiv 2504.10471). Interface: ``mteb`` 2,
``mteb.models.models_protocols.EncoderProtocol``. The package is imported only where MTEB asks for a model's metadata.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.evaluation.adapters.embedder import find_embedder
from zoo.types import encoders_of, head_of

MODALITIES = ("text", "image", "audio")  # columns of MTEB's batches that can be encoded


class MTEBEncoder:
    """A model with the interface of MTEB's encoders: ``mteb.evaluate(MTEBEncoder(zoo.load("clip_vit_nano")), tasks)``.

    An item with several modalities gets the unit vector of the sum of their vectors, as MTEB's own wrapper of CLIP does. Prompts and
    instructions are not used.

    Args:
        model: a system whose head has the verb ``embed``, or a model whose encoders give pooled vectors.
        name: "owner/name" under which MTEB keeps the results.
        revision: version of the model, in the results.
    """

    def __init__(self, model: Any, *, name: str = "zoo/model", revision: str = "unknown") -> None:
        self.model, self.name, self.revision = model, name, revision

    def encode(self, inputs: Iterable[Mapping[str, Any]], **settings: Any) -> Float[np.ndarray, "n dim"]:
        """Return a unit vector for each item.

        Args:
            inputs: batches of lists by column: "text" strings, "image" PIL images, "audio" mappings with ``array`` and
                ``sampling_rate`` (Hz). Other columns are not read.
            settings: MTEB's task and options, which change nothing.

        Raises:
            ConfigError: no column of a batch belongs to an encoder of the model.
            DataError: there are no items, or one cannot be read.
        """
        vectors = [self._batch(batch) for batch in inputs]
        if not vectors:
            raise DataError("inputs: got no batches; give at least one")
        return torch.cat(vectors).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Float[Tensor, "n m"]:
        """Return the cosine of each vector of the first set with each of the second; a single vector is a set of one."""
        return _units(embeddings1) @ _units(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Float[Tensor, " n"]:
        """Return the cosines of the vectors at equal places."""
        return (_units(embeddings1) * _units(embeddings2)).sum(-1)

    @property
    def mteb_model_meta(self) -> Any:
        """``ModelMeta`` of MTEB with name, modalities, width and number of parameters."""
        from mteb.models import ModelMeta  # type: ignore[import-not-found]  # of the user's environment

        head = head_of(self.model)
        width = None if head is None else head.embed_dim
        changes = {
            "name": self.name,
            "revision": self.revision,
            "modalities": [name for name in MODALITIES if name in encoders_of(self.model)],
            "n_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "embed_dim": width or next(iter(encoders_of(self.model).values())).dim,
            "similarity_fn_name": "cosine",
            "framework": ["PyTorch"],
        }
        return ModelMeta.create_empty(changes)

    def _batch(self, batch: Mapping[str, Any]) -> Float[Tensor, "batch dim"]:
        columns = [name for name in MODALITIES if name in batch and name in encoders_of(self.model)]
        if not columns:
            has = ", ".join(encoders_of(self.model))
            raise ConfigError(f"model: the task gives {', '.join(batch)}, but the model encodes {has}; choose tasks of these modalities")
        found = [find_embedder(self.model, name)(_raw(name, batch[name])).float().cpu() for name in columns]
        return found[0] if len(found) == 1 else F.normalize(torch.stack(found).sum(0), dim=-1)


def _raw(modality: str, items: Any) -> list[Any]:
    """Return MTEB's items as our processors take them."""
    if modality != "audio":
        return list(items)
    return [(np.asarray(each["array"], dtype=np.float32), int(each["sampling_rate"])) for each in items]


def _units(vectors: Any) -> Float[Tensor, "n dim"]:
    return F.normalize(torch.atleast_2d(torch.as_tensor(vectors)).float(), dim=-1)
