"""Originals, targets and mutations of the fuzz harness."""

import json
import random
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import zoo
from zoo.assembly.compose import apply_overrides, compose
from zoo.commands.index.store import Index, Manifest, hash_file
from zoo.data.readers.table import read_table
from zoo.processors.media.audio_file import read_audio
from zoo.processors.media.image_file import open_image, read_pixels
from zoo.registry import find_part
from zoo.runs.check import check
from zoo.runs.run_directory import read_run_config

TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
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


def _load(folder: Path) -> None:
    model: Any = zoo.load(folder)
    processor = getattr(model, "processor", None)
    if processor is not None:
        _ = processor.is_fitted


def _read_index(folder: Path) -> None:
    index = Index(folder)
    index.describe([0, 1])
    for chunk in index.chunks():
        _ = chunk.sum()


def _read_tokens(folder: Path) -> None:
    """Load a chat model, and render a prompt with the template beside it."""
    model: Any = zoo.load(folder)
    if model.processor is not None and model.processor.get("conversation") is not None:
        model.generate(["hi"], max_new_tokens=2)


def _compose(folder: Path) -> None:
    overrides = (folder / "overrides.txt").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    check(compose("train", ["system=clip_vit_nano", "data=digits", *filter(None, overrides)]))


def _resume(folder: Path) -> None:
    apply_overrides(read_run_config(folder), ["training.max_steps=3"])


def _read_rows(folder: Path) -> None:
    for name in ("rows.jsonl", "rows.csv"):
        list(read_table(folder / name, ["a", "b"]))


def _read_chats(folder: Path) -> None:
    source: Any = find_part("source", "instruct")(path=str(folder / "chats.json"))
    split = source.split("train")
    for number in range(len(split)):
        split.sample(number)


def _read_shards(folder: Path) -> None:
    source: Any = find_part("source", "shards")(path=str(folder / "a.tar"), test=str(folder / "a.tar"))
    split = source.split("test")
    for number in range(len(split)):
        split.sample(number)


def _read_pictures(folder: Path) -> None:
    for path in sorted(folder.glob("*.*")):
        try:
            open_image(path)
            read_pixels(path)
        except zoo.DataError:
            pass


def _read_recordings(folder: Path) -> None:
    for path in sorted(folder.glob("*.*")):
        try:
            read_audio(path)
        except zoo.DataError:
            pass


TARGETS: dict[str, Callable[[Path], None]] = {
    "saved": _load,
    "bert": _load,
    "clip": _load,
    "vit": _load,
    "llama": _read_tokens,
    "whisper": _load,
    "pickle": _load,
    "index": _read_index,
    "compose": _compose,
    "run": _resume,
    "rows": _read_rows,
    "chats": _read_chats,
    "shards": _read_shards,
    "pictures": _read_pictures,
    "recordings": _read_recordings,
}


SLOW = ("whisper",)  # a second of computing each; drawn one time in five


def make_originals(folder: Path) -> Path:
    """Write one intact input of each target into a folder of its name."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name in TARGETS:
        (folder / name).mkdir(parents=True)
    zoo.save(zoo.create_model("clip_vit_nano"), folder / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _foreign(folder)
    shutil.copytree(folder / "vit", folder / "pickle", dirs_exist_ok=True)
    tensors = ViTForImageClassification.from_pretrained(folder / "vit").state_dict()
    (folder / "pickle" / "model.safetensors").unlink()
    torch.save(tensors, folder / "pickle" / "pytorch_model.bin")
    _index(folder / "index")
    config = compose("train", ["system=clip_vit_nano", "data=digits"])
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "compose" / "overrides.txt").write_text("training.max_steps=3\nsystem.head.embed_dim=32\nseed=1", encoding="utf-8")
    _data(folder)
    return folder


def warm_up(folder: Path) -> None:
    """Read each original once, so that the forks find every module imported."""
    for name, read in TARGETS.items():
        read(folder / name)
    shutil.rmtree(folder / "shards" / "cache", ignore_errors=True)


def _foreign(folder: Path) -> None:
    vit = ViTConfig(**TINY, image_size=8, patch_size=4, num_labels=3)
    ViTForImageClassification(vit).save_pretrained(folder / "vit")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "resample": 2, "do_resize": True}
    settings |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    BertModel(BertConfig(**TINY, vocab_size=30, max_position_embeddings=8)).save_pretrained(folder / "bert")
    (folder / "bert" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxy"]))
    (folder / "bert" / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 8}')
    towers = {
        "text_config": {**TINY, "vocab_size": 30, "max_position_embeddings": 8},
        "vision_config": {**TINY, "image_size": 8, "patch_size": 4},
    }
    CLIPModel(CLIPConfig(**towers, projection_dim=8)).save_pretrained(folder / "clip")
    LlamaForCausalLM(LlamaConfig(**TINY, vocab_size=40, max_position_embeddings=64)).save_pretrained(folder / "llama")
    _tokenizer().save(str(folder / "llama" / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "llama" / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "llama" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}")
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_source_positions": 10, "max_target_positions": 16, "vocab_size": 51865}
    WhisperForConditionalGeneration(WhisperConfig(**sizes)).save_pretrained(folder / "whisper")


def _tokenizer() -> Tokenizer:
    words = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz:", "user", "assistant", " "]
    found = Tokenizer(models.WordLevel({word: number for number, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    found.add_special_tokens(["<s>", "</s>"])
    return found


def _index(folder: Path) -> None:
    items = [{"path": f"{name}.png", "size": 3, "mtime_ns": 4} for name in "ab"]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "failed.jsonl").write_text("")
    np.save(folder / "embeddings.npy", np.eye(2, 4, dtype=np.float32))
    texts = dict.fromkeys(("model", "weights", "preprocessing", "origin", "listing"), "a")
    facts = {"format": 1, "modality": "image", "dim": 4, "dtype": "float32", "storage": "npy", "count": 2, "failed": 0}
    manifest = Manifest(**texts, **facts, items=hash_file(folder / "items.jsonl"))
    (folder / "manifest.json").write_text(json.dumps(asdict(manifest)))


def _data(folder: Path) -> None:
    (folder / "rows" / "rows.jsonl").write_text('{"a": "x", "b": [1, {"c": 2}]}\n{"a": "y", "b": 3}\n')
    (folder / "rows" / "rows.csv").write_text('a,b\nx,1\n"y, z",2\n')
    turns = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "yes"}]
    (folder / "chats" / "chats.json").write_text(json.dumps([{"messages": turns, "id": str(i)} for i in range(8)]))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"):
        picture.save(folder / "pictures" / f"a.{suffix}")
    import soundfile

    wave = np.sin(np.arange(4000) / 20).astype(np.float32)
    for suffix in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(str(folder / "recordings" / f"a.{suffix}"), wave, 16000)
    members = {"1.jpg": (folder / "pictures" / "a.jpg").read_bytes(), "1.txt": b"a cat", "1.cls": b"1", "1.json": b'{"caption": "a"}'}
    with tarfile.open(folder / "shards" / "a.tar", "w") as archive:
        for name, content in members.items():
            place = folder / "shards" / name
            place.write_bytes(content)
            archive.add(place, name)
            place.unlink()


def mutate(draw: random.Random, folder: Path) -> str:
    """Change one file of an input, or two, and return the changes in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "cache")
    said = []
    for _ in range(draw.choice([1, 1, 1, 2])):
        path = draw.choice(files)
        if path.suffix in (".json", ".yaml", ".jsonl") and draw.random() < 0.8:
            said.append(_mutate_tree(draw, path))
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
