"""Systems that speak as weights of torchaudio's ``Tacotron2``."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from zoo.checkpoint import WEIGHTS_FILE, atomic_directory, write_tensors
from zoo.convert import torchaudio_tacotron2
from zoo.errors import ConfigError
from zoo.registry import find_part
from zoo.system import System

FORMAT = "torchaudio"
KEYWORDS_FILE = "tacotron2.json"


def write_tacotron2(model: nn.Module, directory: Path) -> Path:
    """Write ``model.safetensors`` with torchaudio's names, and the constructor's keywords in ``tacotron2.json``.

    ``model = torchaudio.models.Tacotron2(**json.load(open("DIR/tacotron2.json")))``, then ``model.load_state_dict(
    safetensors.torch.load_file("DIR/model.safetensors"))``. How texts become symbols and sound becomes mels is not theirs to keep.

    Raises:
        ConfigError: another model, or something that torchaudio's does not have.
    """
    config: Any = getattr(model, "config", {})
    if not isinstance(model, System) or config["head"].get("name") != torchaudio_tacotron2.FAMILY:
        raise ConfigError(f"format: {FORMAT!r} has systems with the head 'tacotron2' only; {type(model).__name__} is none of them")
    whole = (_whole(kind, part) for kind, part in (("encoder", config["encoders"]["text"]), ("head", config["head"])))
    keywords = torchaudio_tacotron2.keywords(*whole)
    with atomic_directory(directory) as folder:
        write_tensors(torchaudio_tacotron2.from_zoo(model.state_dict()), folder / WEIGHTS_FILE)
        (folder / KEYWORDS_FILE).write_text(json.dumps(keywords, indent=2) + "\n", encoding="utf-8")
    return directory


def _whole(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords with the defaults of those that a config leaves out."""
    defaults = {key: p.default for key, p in inspect.signature(find_part(kind, config["name"])).parameters.items()}
    return {**defaults, **config}
