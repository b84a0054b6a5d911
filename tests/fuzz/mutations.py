"""Changes of the fuzz harness: values of other types, damaged bytes, odd overrides."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import yaml

from zoo.commands.index.store import hash_file

ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2.5,
        1e308,
        -1e-308,
        10**6,
        10**12,
        10**30,
        float("nan"),
        float("inf"),
        "",
        "x",
        "\x1b[31m",
        "${oc.env:HOME}",
    ),
    *([], {}, [[]], [1, "a"], {"": 1}, {"_target_": "os.system"}, "a" * 5000, "../../etc/passwd", "\udcff", [0] * 1000, {"a": {"b": {}}}),
]


TYPED = (".gguf", ".bin", ".pt")
GGUF_ODD: list[Any] = [0, -1, 2**31 - 1, 2.5, float("nan"), 1e30, "x", "", "a" * 5000, True, ["x"], ["a"] * 40, [1], [1.5], ["a b", "x y"]]


def mutate(draw: random.Random, folder: Path) -> str:
    """Change one file of an input, or two, and return the changes in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "cache")
    said = []
    for _ in range(draw.choice([1, 1, 1, 2])):
        path = draw.choice(files)
        if path.suffix in (".json", ".yaml", ".jsonl") and draw.random() < 0.8:
            said.append(_mutate_tree(draw, path))
        elif path.suffix in TYPED and draw.random() < 0.5:
            said.append(_mutate_typed(draw, path))
        elif path.name == "overrides.txt":
            said.append(_mutate_overrides(draw, path))
        else:
            said.append(_mutate_bytes(draw, path))
    manifest = folder / "manifest.json"
    if (
        draw.random() < 0.5 and manifest.is_file() and (folder / "items.jsonl").is_file()
    ):  # a hash that fits, so that more than the hash is read
        try:
            content = json.loads(manifest.read_text())
            manifest.write_text(json.dumps({**content, "items": hash_file(folder / "items.jsonl")}))
        except (ValueError, TypeError, OSError, RecursionError):
            pass
    if draw.random() < 0.7:
        _fit_processor_hash(folder)
    return "; ".join(said)


def _fit_processor_hash(folder: Path) -> None:
    """Write the hash of changed processor files into a saved config, so that more than the hash is read."""
    from zoo.data.system_processor import hash_files

    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
        if "processor_sha256" in config:
            path.write_text(yaml.safe_dump({**config, "processor_sha256": hash_files(folder)}))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        pass


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a tree with each of its keys."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def _mutate_tree(draw: random.Random, path: Path) -> str:
    """Set, remove or add a value somewhere in a JSON or YAML file."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    number = draw.randrange(len(lines)) if lines else 0
    try:
        tree = load(lines[number])
        places = list(_places(tree))
    except (ValueError, IndexError, RecursionError, yaml.YAMLError):
        return _mutate_bytes(draw, path)
    if not places:
        return _mutate_bytes(draw, path)
    (node, key), value, deed = draw.choice(places), draw.choice(ODD), draw.choice(["set", "set", "set", "remove", "add"])
    if deed == "remove":
        del node[key]
    elif deed == "add" and isinstance(node, dict):
        node[draw.choice(["zz", "_target_", "depth", "name", "type"])] = value
    else:
        node[key] = value
    lines[number] = dump(tree)
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    return f"{path.name}: {deed} {key!r} {str(value)[:40]!r}"


def _mutate_typed(draw: random.Random, path: Path) -> str:
    """Set or remove a value in the metadata of a GGUF file or in a pickle; a file that is damaged already gets other bytes."""
    try:
        tree = _read_gguf(path) if path.suffix == ".gguf" else torch.load(path, weights_only=True)
    except Exception:  # whatever the libraries raise on damaged bytes
        return _mutate_bytes(draw, path)
    places = [(tree["metadata"], key) for key in tree["metadata"]] if path.suffix == ".gguf" else list(_places(tree))
    if not places:
        return _mutate_bytes(draw, path)
    (node, key), value = draw.choice(places), draw.choice(GGUF_ODD if path.suffix == ".gguf" else ODD)
    if draw.random() < 0.3:
        del node[key]
    else:
        node[key] = value
    if path.suffix == ".gguf":
        write_gguf(path, tree["metadata"], tree["tensors"])
    else:
        torch.save(tree, path)
    return f"{path.name}: {key!r} {str(value)[:40]!r}"


def _read_gguf(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return {"metadata": metadata, "tensors": {tensor.name: np.array(tensor.data) for tensor in reader.tensors}}


def write_gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Write a GGUF file whose values have the types that Python tells."""
    writer = gguf.GGUFWriter(None, "")
    writer.kv_data[0].clear()
    for key, value in metadata.items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _mutate_overrides(draw: random.Random, path: Path) -> str:
    keys = "seed data system training evaluation objective data.source system.head system.encoders.image training.adapters hydra".split()
    keys += "run_dir system.encoders.text.vocab_size system.head.embed_dim weights teacher +a.b ~data ~system".split()
    keys.append("encoder@system.encoders.image")
    values = [
        "${seed}",
        "${x.y}",
        "[[[]]]",
        "1e-400",
        "true",
        "{a: 1}",
        "${oc.env:HOME}",
        "",
        "null",
        "9" * 50,
        "-1",
        "1000000000000",
        "'",
        "[",
        "\x1b",
    ]
    text = "\n".join(f"{draw.choice(keys)}={draw.choice(values)}" for _ in range(draw.choice([1, 2])))
    path.write_text(text, encoding="utf-8")
    return text


def _mutate_bytes(draw: random.Random, path: Path) -> str:
    """Flip, cut, insert, repeat or replace bytes."""
    data = bytearray(path.read_bytes())
    deed = draw.choice(["flip", "flip", "cut", "insert", "zero", "empty", "start", "nest"])
    at = draw.randrange(len(data)) if data else 0
    if draw.random() < 0.5:
        at = min(at, draw.randrange(256))  # headers
    if deed == "flip" and data:
        for _ in range(draw.choice([1, 3, 30])):
            data[min(len(data) - 1, draw.choice([at, draw.randrange(len(data))]))] = draw.randrange(256)
    elif deed == "cut":
        del data[at:]
    elif deed == "insert":
        data[at:at] = draw.randbytes(draw.choice([1, 8, 1000]))
    elif deed == "zero":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif deed == "start":
        data[:8] = draw.choice([b"\xff" * 8, b"\x00" * 8, b"PK\x03\x04", b"GGUF\x03\x00\x00\x00", b"\x80\x04", b"{" * 8])
    elif deed == "nest" and path.suffix in (".json", ".yaml", ".jsonl"):
        data[:] = b"[" * 100_000
    else:
        data.clear()
    path.write_bytes(bytes(data))
    return f"{path.name}: {deed} at {at}"
