"""Adapters of PEFT: find the base model that a directory of adapters names, and merge both as transformers and PEFT do.

PEFT names the layers of an adapter as transformers names them in memory, which is not how files name them. So transformers builds the
base model, PEFT adds the adapter and merges it, and the result goes through our converters. Reference: PEFT 0.21, ``PeftModel``.
"""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError, ZooError, first_line
from zoo.interop.base.hub_model import fetch_model
from zoo.interop.base.library_files import ADAPTER_CONFIG, read_library_config, read_optional
from zoo.layers.hosted_transformers import import_transformers, parse_config, quiet_and_offline
from zoo.storage.containers import read_file
from zoo.storage.hub import CONFIG
from zoo.storage.outside import shown

log = logging.getLogger("zoo")

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."  # PEFT's, before the base model's own names
BESIDE = (".json", ".jinja", ".txt", ".model", ".spm", ".tiktoken")  # suffixes of the files around weights that formats read
UNMERGEABLE = {  # keys of adapter_config.json: why no weights can hold such an adapter
    "megatron_config": "it names a module of Megatron, which is not imported",
    "alora_invocation_tokens": "it begins at certain tokens of a text",
    "arrow_config": "it chooses among several adapters for each token",
}
AUTO_CLASSES = {  # by PEFT's task: the class that it loads the base with
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
FAULTS = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)  # for odd settings


def find_base(directory: Path, given: str | Path | None) -> str:
    """Return the base model of a directory that holds an adapter alone: a local directory, or a directory fetched from the hub.

    Args:
        directory: holds ``adapter_config.json``.
        given: the base that the user names instead of that of the config.

    Raises:
        WeightsError: there is no base, or it cannot be fetched.
    """
    settings = read_optional(directory / ADAPTER_CONFIG)
    if given is not None:
        return str(given)
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or not base:
        raise _alone(directory, settings, "which it does not name")
    if _is_directory(base):
        return base
    if base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise _alone(directory, settings, "which is no directory here")
    try:
        return str(fetch_model(f"{base}@{revision}" if isinstance(revision, str) and revision else base, base)[0])
    except WeightsError as error:
        raise _alone(directory, settings, f"which is no directory here and cannot be fetched ({first_line(error)})") from error


def _is_directory(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # a name that is too long or holds a zero byte
        return False


def _alone(directory: Path, settings: Mapping[str, Any], why: str) -> WeightsError:
    kind, base = settings.get("peft_type", "of unknown kind"), settings.get("base_model_name_or_path")
    return WeightsError(
        f"{directory}: holds an adapter ({ADAPTER_CONFIG}: {kind}) of the base model {shown(base)}, {why}, and not a whole model; give the "
        f"base's directory: zoo.load({str(directory)!r}, base=DIR), or write it into {ADAPTER_CONFIG} as base_model_name_or_path"
    )


def files_of_both(base: Path, adapter: Path) -> Path:
    """Return a new folder with the base's files around its weights (config, tokenizer, images), over them those of the adapter.

    A tokenizer, a chat template or a pooling that was saved with the adapter counts; the architecture is the base's.
    """
    folder = Path(tempfile.mkdtemp(prefix="zoo-adapter-"))
    for directory, left_out in ((base, ()), (adapter, (CONFIG,))):
        for path in _files_beside(directory):
            name = path.relative_to(directory)
            if str(name) not in left_out:
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, folder / name)
    return folder


def _files_beside(directory: Path) -> Iterator[Path]:
    for path in sorted((*directory.glob("*"), *directory.glob("[0-9]_*/*"))):
        if path.is_file() and path.suffix in BESIDE and path.name != ADAPTER_CONFIG and not path.name.endswith(".index.json"):
            yield path


def merged_tensors(base: Mapping[str, Tensor], config: Path, adapter: Path) -> dict[str, Tensor]:
    """Return the weights of a base model with an adapter merged into them, under the names that transformers has in memory.

    Args:
        base: tensors of the base, as its files name them.
        config: the base's ``config.json``.
        adapter: directory of the adapter.

    Raises:
        ConfigError: transformers or PEFT is not installed, or the adapter cannot be merged into weights.
        WeightsError: a file cannot be read, or adapter and base do not fit.
    """
    settings = read_optional(adapter / ADAPTER_CONFIG)
    path = next((adapter / name for name in WEIGHTS if (adapter / name).is_file()), None)
    if path is None:
        raise WeightsError(f"{adapter}: holds {ADAPTER_CONFIG}, but no {' or '.join(WEIGHTS)}; download the directory again")
    names = [name.removeprefix(PREFIX) for name in read_file(path)]  # a pickle that would run code is refused here, before PEFT reads it
    _refuse_unmergeable(settings, adapter)
    parsed = parse_config(read_library_config(config), {}, "llama")
    floats = [tensor.dtype for tensor in base.values() if tensor.is_floating_point()]
    dtype = torch.float32 if torch.float32 in floats or not floats else floats[0]
    with _told(adapter, parsed.model_type), quiet_and_offline():
        made = _class_of(settings, parsed, names, adapter)
        model, report = made.from_pretrained(None, config=parsed, state_dict=dict(base), dtype=dtype, output_loading_info=True)
        merged = _merge(model, adapter)
    # transformers fills what the base lacks, for example a pooler, with random numbers.
    invented = set(report["missing_keys"]) - set(names)
    log.info("%s: merged into its base model (%d tensors)", adapter, len(names))
    return {name: tensor.detach() for name, tensor in merged.state_dict().items() if name not in invented}


def _refuse_unmergeable(settings: Mapping[str, Any], adapter: Path) -> None:
    for key, why in UNMERGEABLE.items():
        if settings.get(key):
            raise ConfigError(f"{adapter / ADAPTER_CONFIG}: {key}: {why}; the adapter cannot be merged into the weights of its base")


def _class_of(settings: Mapping[str, Any], parsed: Any, names: list[str], adapter: Path) -> Any:
    """Return the class of transformers whose parts have the names of the adapter's tensors.

    Raises:
        WeightsError: none has.
    """
    library = import_transformers()
    mapping = settings.get("auto_mapping")
    told = [mapping.get("base_model_class") if isinstance(mapping, Mapping) else "", *(parsed.architectures or ())]
    autos = [AUTO_CLASSES.get(str(settings.get("task_type")), ""), "AutoModel"]
    # An Auto class finds the class of a config; those that a config names are taken only if they are models.
    found: list[Any] = [getattr(library, str(name), None) for name in told if name]
    found += [getattr(library, name)._model_mapping.get(type(parsed), None) for name in autos if name]
    first = {name.split(".")[0] for name in names}
    for made in found:
        if not (isinstance(made, type) and issubclass(made, library.PreTrainedModel)):
            continue
        with torch.device("meta"):
            parts = {name for name, _ in made(parsed).named_children()}
        if first <= parts:
            return made
    raise WeightsError(
        f"{adapter}: the adapter changes {', '.join(sorted(first)[:3])}, which a {parsed.model_type} of its base does not have; name the "
        "base that it was trained with"
    )


def _merge(model: nn.Module, adapter: Path) -> nn.Module:
    """Return a model of transformers with an adapter merged into it by PEFT.

    Raises:
        ConfigError: PEFT is not installed, or the adapter is of a kind that cannot be merged.
        WeightsError: the adapter does not fit the model.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise ConfigError(f"{adapter}: an adapter needs PEFT; install it with: zoo install peft") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # missing tensors, of which PEFT warns, are refused below
        config: Any = PeftConfig.from_pretrained(str(adapter))
        if config.is_prompt_learning or config.is_adaption_prompt:
            raise ConfigError(
                f"{adapter / ADAPTER_CONFIG}: peft_type: {config.peft_type.value} puts learned tokens before each text, which cannot be "
                "merged into weights; use an adapter of another kind (LORA, IA3, ...)"
            )
        adapted: Any = PeftModel.from_pretrained(model, str(adapter), config=config)
        report = adapted.load_adapter(str(adapter), "default")  # a second time, because only this tells what was missing
        if lost := [*report.missing_keys, *report.unexpected_keys]:
            raise WeightsError(
                f"{adapter}: {len(report.missing_keys)} tensors of the adapter are missing and {len(report.unexpected_keys)} unknown "
                f"to a {type(model).__name__} ({', '.join(lost[:3])}); name the base that it was trained with"
            )
        return adapted.merge_and_unload()


@contextmanager
def _told(adapter: Path, kind: str) -> Iterator[None]:
    """Turn what transformers and PEFT raise for odd settings or weights into an error that names the adapter."""
    try:
        yield
    except FAULTS as error:
        if isinstance(error, ZooError):
            raise
        raise WeightsError(
            f"{adapter}: PEFT cannot merge the adapter into a {kind} ({first_line(error)}); name the base that it was trained with, or "
            "merge the two where it was trained"
        ) from error
