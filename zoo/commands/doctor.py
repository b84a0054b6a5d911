"""``zoo doctor``: versions, devices, threads, caches, and which commands miss a package."""

import os
import platform
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from zoo.commands.plain import json_line
from zoo.storage import distribution
from zoo.storage.places import cache_directory

NEEDS = {  # command -> extras beyond the core
    "train, evaluate, classify, embed, search": (),
    "chat, evaluate: models of transformers": ("transformers",),
    "chat, embed: CLIP's own tokenizer": ("clip",),
    "train with adapters (LoRA)": ("peft",),
    "train on 4-bit weights (QLoRA)": ("qlora",),
    "train: near duplicates, Markdown": ("documents",),
    "train: TensorBoard": ("tensorboard",),
    "train -m: Optuna, launchers": ("sweep",),
    "transcribe": ("audio",),
    "transcribe: voice activity (Silero)": ("vad",),
    "transcribe --microphone": ("microphone",),
    "speak": ("speech", "audio"),
    "speak with the vocoder Vocos": ("vocoder",),
    "evaluate: word errors": ("metrics",),
    "evaluate: captions": ("language",),
    "evaluate: linear probe": ("probe",),
    "export --format onnx": ("onnx",),
    "export --format gguf, read GGUF": ("gguf",),
    "fetch": ("fetch",),
    "serve": ("serve",),
    "demo": ("demo", "audio"),
    "embed --format parquet, search --backend faiss": ("search",),
    "files on s3:// and https://": ("remote",),
    "files on gs://": ("gcs",),
    "--launcher submitit": ("submitit",),
    "--launcher ray": ("ray",),
}
SHOWN = ("torch", "torchvision", "torchaudio", "timm", "transformers", "peft", "accelerate", "hydra-core")


def doctor_command(options: Namespace) -> int:
    """Print what this installation has and lacks.

    Returns:
        0, or 1 if installed packages differ from the tested versions.
    """
    facts, slow = dict(_facts()), dict(_slow_precisions())
    tested = distribution.tested_versions()
    different = {
        name: (installed, wanted)
        for name, wanted in tested.items()
        if (installed := distribution.installed_version(name)) is not None and installed.partition("+")[0] != wanted
    }
    lacking = {
        use: names for use, extras in NEEDS.items() if (names := [e for e in extras if distribution.missing(distribution.requirements(e))])
    }
    if options.json:
        print(json_line({**facts, "slow": slow, "different": different, "missing": lacking}))
        return int(bool(different))
    for key, value in facts.items():
        print(f"{key:<14}{value}")
    for precision, reason in slow.items():
        print(f"{precision:<14}{reason}")
    print("commands")
    for use in NEEDS:
        print(f"  {use:<48}{'needs: zoo install ' + ' '.join(lacking[use]) if use in lacking else 'ready'}")
    for name, (installed, wanted) in different.items():
        print(f"version: {name} {installed} is installed, {wanted} is tested")
    return int(bool(different))


def _facts() -> Iterator[tuple[str, Any]]:
    yield "zoo", distribution.version()
    yield "python", f"{platform.python_version()} in {sys.prefix}"
    yield "system", f"{platform.platform()}, {os.cpu_count()} cores"
    for name in SHOWN:
        yield name, distribution.installed_version(name) or "not installed"
    try:
        import torch
    except (ImportError, OSError) as error:
        yield "torch fails", str(error)
        return
    yield "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})"
    yield "cpu has", _instructions()
    yield "cuda", ", ".join(_gpus()) or "no device"
    yield "mps", "yes" if torch.backends.mps.is_available() else "no device"
    cache = cache_directory()
    yield "cache", f"{cache} ({sum(1 for _ in cache.iterdir()) if cache.is_dir() else 0} entries)"
    yield "offline", "yes" if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on") else "no"


def _gpus() -> Iterator[str]:
    import torch

    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)"


def _instructions() -> str:
    """Return the CPU's widest vectors, and its instructions for low precisions."""
    import torch

    from zoo.layers.low_precision.cpu import instructions

    names = [torch.backends.cpu.get_cpu_capability(), *(name for name, there in instructions().items() if there)]
    return ", ".join(names)


def _slow_precisions() -> Iterator[tuple[str, str]]:
    """Yield the precisions that gain little on this CPU, and why."""
    try:
        from zoo.layers.low_precision.cpu import reason_to_avoid
        from zoo.layers.low_precision.modes import PRECISIONS
    except (ImportError, OSError):  # torch fails, which the facts say
        return
    for precision in PRECISIONS:
        if (reason := reason_to_avoid(precision)) is not None:
            yield precision, reason
