"""``zoo search``: find the items of an index (``zoo embed``) with the highest cosine similarity to a text or an image."""

import warnings
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from zoo.assembly.save_load import load
from zoo.commands.display import print_json, table
from zoo.commands.index.embedding import hash_precision, hash_processor
from zoo.commands.index.search_report import Hit, check_output, write_hits
from zoo.commands.index.store import Index, Matrix
from zoo.commands.index.writer import name_of
from zoo.commands.model_options import placement
from zoo.commands.plain import say
from zoo.errors import ConfigError, DataError, name_choices
from zoo.evaluation.adapters.embedder import find_embedder
from zoo.layers.low_precision.modes import PRECISIONS, set_precision
from zoo.training.fingerprint import hash_parameters
from zoo.types import verbs_of

BACKENDS = ("exact", "faiss")


def search_command(options: Namespace) -> int:
    """Run the command and return the exit status."""
    if (options.text is None) == (options.image is None):
        raise ConfigError("search: give a text or --image FILE, but not both: zoo search 'a red shoe' --index DIR")
    if options.top_k < 1:
        raise ConfigError(f"--top-k: {options.top_k}; allowed is 1 or more")
    if options.output:
        check_output(Path(options.output))
    place = placement(options)
    searcher = Searcher(options.index, model=options.model, backend=options.backend, **place)
    query = options.text if options.image is None else options.image
    hits = searcher.search(query, modality="text" if options.image is None else "image", top_k=options.top_k)
    if options.output:
        write_hits(hits, Path(options.output), query=query, image=options.image, searched=f"{options.index}, {len(searcher.index)} items")
    if options.json:
        for hit in hits:
            print_json(vars(hit))
    elif options.output:
        say(f"written: {options.output} ({len(hits)} of {len(searcher.index)} items)")
    else:
        title = f"{query}: {len(hits)} of {len(searcher.index)} items, by {Path(searcher.index.manifest.model).name}"
        table(title, ["item", "similarity"], [[_short(hit), f"{hit.score:.4f}"] for hit in hits])
    return 0


def _short(hit: Hit) -> str:
    """Return the name of a hit; a path below the current folder becomes relative."""
    return str(Path(hit.name).relative_to(Path.cwd())) if hit.is_file and Path(hit.name).is_relative_to(Path.cwd()) else hit.name


class Searcher:
    """Index together with the model that made it.

    Args:
        directory: directory of the index.
        model: path of the model, if it has moved; None uses the path in the index.
        backend: "exact", or "faiss" for its flat index, which holds all vectors in memory.
        device: of the model; None is the CPU.
        precision: of the model, as for ``zoo.load``; None is float32. The index may have been made in another one.

    Raises:
        ConfigError: weights or preprocessing of the model differ from those of the index, or faiss is not installed.
        DataError: there is no index in the directory, or it is empty or damaged.
        WeightsError: the model cannot be loaded.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        model: str | None = None,
        backend: str = "exact",
        device: torch.device | str | None = None,
        precision: str | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise ConfigError(f"--backend: there is no {backend!r}; {name_choices(backend, BACKENDS)}")
        self.index, self.backend = Index(directory), backend
        if backend == "faiss":
            _faiss()
        if len(self.index) == 0:
            raise DataError(f"{directory}: the index holds no vectors ({self.index.manifest.failed} items could not be read)")
        self.model: Any = load(model or self.index.manifest.model)
        self._refuse_other(model or self.index.manifest.model)
        self.model.to(device=device)
        if precision is not None:
            set_precision(self.model, precision)

    def search(self, query: Any, *, modality: str = "text", top_k: int = 10) -> list[Hit]:
        """Return the items of highest cosine similarity, best first; ties are in the order of the index.

        Args:
            query: a text, or an image (path, PIL image or array).
            modality: modality of the query.
            top_k: maximum number of items.

        Raises:
            ConfigError: the model has no encoder of that modality.
            DataError: the query is empty or cannot be read.
        """
        if isinstance(query, str) and not query.strip():
            raise DataError("search: the query is empty; give a text")
        if modality != self.index.manifest.modality and "embed" not in verbs_of(self.model):
            raise ConfigError(
                f"search: {self.index.manifest.model} has no joint embedding space of {modality} and {self.index.manifest.modality}; "
                f"search this index with a query of modality {self.index.manifest.modality}"
            )
        vectors = find_embedder(self.model, modality)([query]).float().cpu().numpy()
        find = nearest_by_faiss if self.backend == "faiss" else nearest
        scores, rows = find(vectors, self.index.chunks(), top_k)
        described = self.index.describe(rows[0].tolist())
        origin = Path(self.index.manifest.origin)
        files = self.index.manifest.modality != "text"
        pairs = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return [Hit(str(origin / name_of(described[row])) if files else name_of(described[row]), score, files) for row, score in pairs]

    def _refuse_other(self, name: str) -> None:
        known = self.index.manifest
        hashes = (hash_precision(self.model, word) for word in PRECISIONS)  # zoo embed --precision
        weights = next((found for found in hashes if found == known.weights), None) or hash_parameters(self.model)
        for fact, found, expected in (
            ("weights", weights, known.weights),
            ("preprocessing", hash_processor(self.model), known.preprocessing),
        ):
            if found != expected:
                raise ConfigError(
                    f"{self.index.directory}: was made with other {fact} than that of {name} ({expected[:12]}, found {found[:12]}); "
                    "give the model that made the index with --model, or make the index again with zoo embed ... --restart"
                )


def nearest(
    queries: Float[np.ndarray, "queries dim"], chunks: Iterable[Matrix], k: int
) -> tuple[Float[np.ndarray, "queries found"], Int[np.ndarray, "queries found"]]:
    """Return scores and row numbers of the ``k`` rows with the highest inner product per query.

    Rows are sorted by descending score; ties are in the order of the rows. If there are fewer than ``k`` rows, all are returned.

    Args:
        chunks: the rows, in chunks; memory is O(queries x rows of a chunk).
    """
    best, index, start = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64), 0
    for chunk in chunks:
        rows = np.broadcast_to(np.arange(start, start + len(chunk)), (len(queries), len(chunk)))
        best = np.concatenate([best, queries @ chunk.astype(np.float32, copy=False).T], axis=1)
        index = np.concatenate([index, rows], axis=1)
        kept = [_first(scores, k) for scores in best]  # lower row numbers come first, so a stable sort keeps the order of ties
        best, index = (np.stack([part[at] for part, at in zip(whole, kept, strict=True)]) for whole in (best, index))
        start += len(chunk)
    return best, index


def _first(scores: Float[np.ndarray, " n"], k: int) -> Int[np.ndarray, " kept"]:
    """Return the positions of the ``k`` highest scores, highest first; ties keep their order, which ``argpartition`` does not guarantee."""
    if len(scores) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= least)
    else:
        candidates = np.arange(len(scores))
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


def nearest_by_faiss(
    queries: Float[np.ndarray, "queries dim"], chunks: Iterable[Matrix], k: int
) -> tuple[Float[np.ndarray, "queries found"], Int[np.ndarray, "queries found"]]:
    """Compute ``nearest`` with the flat inner-product index of faiss."""
    flat = None
    for chunk in chunks:
        flat = _faiss().IndexFlatIP(chunk.shape[1]) if flat is None else flat
        flat.add(np.ascontiguousarray(chunk, dtype=np.float32))
    assert flat is not None
    return flat.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, flat.ntotal))


def _faiss() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # faiss's SWIG code raises DeprecationWarning on import
            import faiss
    except ImportError as error:
        raise ConfigError(
            f"--backend: faiss is not installed ({error}); install it with: zoo install search, or leave --backend exact"
        ) from error
    return faiss
