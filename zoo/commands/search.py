"""``zoo search``: the items of an index (``zoo embed``) that are nearest to a text or an image, by exact cosine similarity."""

import warnings
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from zoo.assembly.save_load import load
from zoo.commands.display import print_json, table
from zoo.commands.embed import find_embedder, hash_processor
from zoo.commands.index.search_report import Hit, check_output, write_hits
from zoo.commands.index.store import Index, Matrix
from zoo.commands.index.writer import name_of
from zoo.errors import ConfigError, DataError, name_choices
from zoo.training.fingerprint import hash_parameters

BACKENDS = ("exact", "faiss")


def search_command(options: Namespace) -> int:
    """Run the command; returns the exit status."""
    if (options.text is None) == (options.image is None):
        raise ConfigError("search: give a text or --image FILE, one of the two: zoo search 'a red shoe' --index DIR")
    if options.top_k < 1:
        raise ConfigError(f"--top-k: {options.top_k}; allowed is 1 or more")
    if options.output:
        check_output(Path(options.output))
    searcher = Searcher(options.index, model=options.model, backend=options.backend)
    query = options.text if options.image is None else options.image
    hits = searcher.search(query, modality="text" if options.image is None else "image", top_k=options.top_k)
    if options.output:
        write_hits(hits, Path(options.output), query=query, image=options.image, searched=f"{options.index}, {len(searcher.index)} items")
    if options.json:
        for hit in hits:
            print_json(vars(hit))
    elif options.output:
        print(f"written: {options.output} ({len(hits)} of {len(searcher.index)} items)")
    else:
        title = f"{query}: {len(hits)} of {len(searcher.index)} items, by {Path(searcher.index.manifest.model).name}"
        table(title, ["item", "similarity"], [[_short(hit), f"{hit.score:.4f}"] for hit in hits])
    return 0


def _short(hit: Hit) -> str:
    """A path from the current folder where the file is in it."""
    return str(Path(hit.name).relative_to(Path.cwd())) if hit.is_file and Path(hit.name).is_relative_to(Path.cwd()) else hit.name


class Searcher:
    """An index and the model that made it.

    Args:
        directory: of the index.
        model: where the model is now, if it was moved; None takes what the index names.
        backend: "exact", or "faiss" for its flat index, which holds all vectors in memory.

    Raises:
        ConfigError: the model's weights or preprocessing are not those of the index, or faiss is missing.
        DataError: no index there, an empty or a damaged one.
        WeightsError: the model cannot be loaded.
    """

    def __init__(self, directory: str | Path, *, model: str | None = None, backend: str = "exact") -> None:
        if backend not in BACKENDS:
            raise ConfigError(f"--backend: there is no {backend!r}; {name_choices(backend, BACKENDS)}")
        self.index, self.backend = Index(directory), backend
        if backend == "faiss":
            _faiss()
        if len(self.index) == 0:
            raise DataError(f"{directory}: the index holds no vectors ({self.index.manifest.failed} items could not be read)")
        self.model: Any = load(model or self.index.manifest.model)
        self._refuse_other(model or self.index.manifest.model)

    def search(self, query: Any, *, modality: str = "text", top_k: int = 10) -> list[Hit]:
        """The items of highest cosine similarity, best first; of equal ones the first in the index.

        Args:
            query: a text, or an image (path, PIL image or array).

        Raises:
            ConfigError: the model has no encoder of that modality.
            DataError: the query is empty or cannot be read.
        """
        if isinstance(query, str) and not query.strip():
            raise DataError("search: the query is empty; say what to look for")
        if modality != self.index.manifest.modality and not hasattr(getattr(self.model, "head", None), "embed"):
            raise ConfigError(
                f"search: {self.index.manifest.model} does not bring {modality} and {self.index.manifest.modality} into one space; "
                f"search this index with a query of {self.index.manifest.modality}"
            )
        vectors = find_embedder(self.model, modality)([query]).float().cpu().numpy()
        find = nearest_by_faiss if self.backend == "faiss" else nearest
        scores, rows = find(vectors, self.index.chunks(), top_k)
        told = self.index.describe(rows[0].tolist())
        origin = Path(self.index.manifest.origin)
        files = self.index.manifest.modality != "text"
        pairs = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return [Hit(str(origin / name_of(told[row])) if files else name_of(told[row]), score, files) for row, score in pairs]

    def _refuse_other(self, name: str) -> None:
        known = self.index.manifest
        for word, ours, theirs in (
            ("weights", hash_parameters(self.model), known.weights),
            ("preprocessing", hash_processor(self.model), known.preprocessing),
        ):
            if ours != theirs:
                raise ConfigError(
                    f"{self.index.directory}: was made with other {word} than those of {name} ({theirs[:12]}, found {ours[:12]}); give the "
                    "model that made it with --model, or make the index again with zoo embed ... --restart"
                )


def nearest(
    queries: Float[np.ndarray, "queries dim"], chunks: Iterable[Matrix], k: int
) -> tuple[Float[np.ndarray, "queries found"], Int[np.ndarray, "queries found"]]:
    """The ``k`` rows of highest inner product with each query, or all where there are fewer, best first, equal ones by row.

    Args:
        chunks: the rows, some at a time; memory is O(queries x rows of a chunk).
    """
    best, index, start = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64), 0
    for chunk in chunks:
        rows = np.broadcast_to(np.arange(start, start + len(chunk)), (len(queries), len(chunk)))
        best = np.concatenate([best, queries @ chunk.astype(np.float32, copy=False).T], axis=1)
        index = np.concatenate([index, rows], axis=1)
        kept = [_first(scores, k) for scores in best]  # in the order of rows: those of lower number stand first
        best, index = (np.stack([part[at] for part, at in zip(whole, kept, strict=True)]) for whole in (best, index))
        start += len(chunk)
    return best, index


def _first(scores: Float[np.ndarray, " n"], k: int) -> Int[np.ndarray, " kept"]:
    """Where the ``k`` highest scores stand, highest first; of equal scores the first, which ``argpartition`` would not promise."""
    if len(scores) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= least)
    else:
        candidates = np.arange(len(scores))
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


def nearest_by_faiss(
    queries: Float[np.ndarray, "queries dim"], chunks: Iterable[Matrix], k: int
) -> tuple[Float[np.ndarray, "queries found"], Int[np.ndarray, "queries found"]]:
    """``nearest`` by faiss's flat index of inner products."""
    flat = None
    for chunk in chunks:
        flat = _faiss().IndexFlatIP(chunk.shape[1]) if flat is None else flat
        flat.add(np.ascontiguousarray(chunk, dtype=np.float32))
    assert flat is not None
    return flat.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, flat.ntotal))


def _faiss() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its generated code
            import faiss
    except ImportError as error:
        raise ConfigError(
            f"--backend: faiss is not installed ({error}); install it with: pip install 'multimodal-zoo[search]', or leave --backend exact"
        ) from error
    return faiss
