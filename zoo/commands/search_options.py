"""Options of ``zoo classify``, ``zoo embed`` and ``zoo search``, without the modules that run them."""

import argparse


def add_classify_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``zoo classify``."""
    command.add_argument("paths", nargs="+", metavar="PATH", help="image files, or folders that are searched recursively")
    labels = command.add_mutually_exclusive_group()
    labels.add_argument("--labels", help="comma-separated labels (zero-shot models only)")
    labels.add_argument("--labels-file", metavar="FILE", help="file of labels: one per line, or JSON with names or prompts per label")
    command.add_argument("--model", help="run directory, saved model or name of a bundled model")
    command.add_argument(
        "--templates", metavar="T", help="prompt templates: imagenet, imagenet_7, cifar, simple, or a file with {} in place of the label"
    )
    command.add_argument("--top-k", type=int, default=3, metavar="K", help="labels reported per image (default: 3)")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch (default: 64)")
    command.add_argument(
        "--output",
        metavar="FILE",
        help="write a .csv, .json or .html file instead of a table; CSV texts that begin with = + - @ get a ' in front",
    )
    command.add_argument("--no-cache", action="store_true", help="do not read or write the on-disk cache of label embeddings")


def add_embed_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``zoo embed``."""
    command.add_argument(
        "folder",
        metavar="FOLDER",
        help="folder of images or recordings, searched recursively; with --modality text a file with one text per line",
    )
    command.add_argument(
        "--output", "-o", metavar="DIR", required=True, help="directory of the index: embeddings.npy, items.jsonl, manifest.json"
    )
    command.add_argument("--model", help="run directory, saved model, transformers directory or name of a bundled model")
    command.add_argument("--modality", default="image", help="modality to embed: image (default), audio or text")
    command.add_argument("--format", default="npy", help="file format of the embeddings: npy (default) or parquet")
    command.add_argument("--dtype", default="float32", help="data type of the stored embeddings: float32 (default) or float16")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="items per batch (default: 64)")
    command.add_argument("--readers", type=int, default=2, metavar="N", help="threads that load files, per process (default: 2)")
    change = command.add_mutually_exclusive_group()
    change.add_argument(
        "--update", action="store_true", help="apply new, changed and removed files; unchanged files are not embedded again"
    )
    change.add_argument("--restart", action="store_true", help="delete the existing index in DIR and start over")


def add_search_options(command: argparse.ArgumentParser) -> None:
    """Add the options of ``zoo search``."""
    command.add_argument("text", nargs="?", metavar="TEXT", help="text query")
    command.add_argument("--index", metavar="DIR", required=True, help="index written by zoo embed")
    command.add_argument("--image", metavar="FILE", help="image query, instead of TEXT")
    command.add_argument("--top-k", type=int, default=10, metavar="K", help="results to return (default: 10)")
    command.add_argument(
        "--output",
        metavar="FILE",
        help="write a .csv, .json or .html file instead of a table; CSV texts that begin with = + - @ get a ' in front",
    )
    command.add_argument("--model", help="path of the model that built the index, if it has moved")
    command.add_argument("--backend", default="exact", help="nearest-neighbour search: exact (default) or faiss (flat index)")
