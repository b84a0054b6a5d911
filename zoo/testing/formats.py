"""Check of formats, in which other libraries write models."""

import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.assembly.build import build_system
from zoo.interop.base.source import read_source
from zoo.registry.construct import build_part
from zoo.testing.rules.comparison import require, require_close


def check_format(
    format: Any,
    model: nn.Module,
    run: Callable[[Any], Tensor],
    *,
    others: Collection[Any] = (),
    open_source: Callable[[Path], Any] = read_source,
) -> None:
    """Check a format by a model that goes through it: written, recognised, described, read, equal.

    Args:
        format: object with ``name``, ``files``, ``recognises``, ``describe``, ``read``, ``writes`` and ``write``.
        model: a small one that the format can write.
        run: computes an output of the model, or of the one that was read back.
        others: formats that must recognise the written directory less than this one does.
        open_source: makes of a directory what the format's methods take.

    Raises:
        ContractError: a rule is broken.
    """
    require(bool(format.name), format, "a format must say its name", "it is empty", "a string", 'write name = "..." in the class')
    named = isinstance(format.files, Mapping) and bool(format.files)
    require(named, format, "files says what becomes of each file", f"it is {format.files!r:.60}", "patterns -> use", "list every file")
    reason = format.writes(model)
    require(reason is None, format, "writes(model) is None for what it can write", f"it is {reason!r}", "None", "choose another model")
    with tempfile.TemporaryDirectory() as folder:
        format.write(model, Path(folder))
        _check_files(format, Path(folder))
        source = open_source(Path(folder))
        _check_recognised(format, source, others)
        with torch.no_grad():
            expected, found = run(model.eval()), run(_read(format, source).eval())
    require_close(found, expected, format, "a model that was written and read gives equal outputs", "check names, layouts and config keys")


def _check_files(format: Any, folder: Path) -> None:
    """Every file is used, known to be harmless, or named."""
    written = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    require(bool(written), format, "write makes files", "there are none", "files", "write some")
    unknown = [str(path) for path in written if not any(path.match(pattern) for pattern in format.files)]
    require(not unknown, format, "files explains every file", f"it does not know {unknown}", "a pattern for each", "add them to files")


def _check_recognised(format: Any, source: Any, others: Collection[Any]) -> None:
    certainty = format.recognises(source)
    require(
        0 < certainty <= 1,
        format,
        "it recognises what it wrote",
        f"recognises gives {certainty}",
        "above 0, at most 1",
        "look at its config",
    )
    for other in others:
        rival = other.recognises(source)
        found = f"{other.name} recognises it with {rival}"
        require(
            rival < certainty, format, "it alone recognises what it wrote", found, f"less than {certainty}", "look at more of the config"
        )


def _read(format: Any, source: Any) -> nn.Module:
    """Build the described model and load its weights strictly."""
    config = format.describe(source).config
    kind = next((kind for kind in ("system", "encoder", "language") if kind in config), None)
    if kind is None:
        require(False, format, "describe gives a config", f"its keys are {list(config)}", "system, encoder or language", "return one")
    built: nn.Module = build_system(config["system"]) if kind == "system" else build_part(str(kind), config[str(kind)], str(kind))
    found = built.load_state_dict(dict(format.read(source)), strict=False)
    wrong = [*found.missing_keys, *found.unexpected_keys]
    require(
        not wrong, format, "read gives the weights of the described model", f"{wrong[:3]} do not fit", "equal names", "correct the key map"
    )
    return built
