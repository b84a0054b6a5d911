"""Write models as files of another library."""

from pathlib import Path

from torch import nn

from zoo.assembly.finite import refuse_not_finite
from zoo.assembly.save_load import save
from zoo.errors import ConfigError, name_choices
from zoo.interop.base.format import OTHER_FAMILY, Format
from zoo.interop.base.recognise import formats
from zoo.layers.adapters import without_adapters
from zoo.storage.files import atomic_directory

OURS = "zoo"


def export(model: nn.Module, directory: str | Path, format: str = "transformers", *, allow_nan: bool = False) -> Path:
    """Write a model so that another library reads it; ``zoo.load`` or ``weights=`` read it back.

    Args:
        model: image encoders (``vit``, ``vig``) and text encoders (``bert``, ``albert``, ``t5``), alone or with their classifier or
            pre-training head, language models, and systems with the heads ``clip``, ``llava``, ``kosmos``, ``whisper`` and
            ``tacotron2``, as far as the other library has the same architecture. Adapters are merged into the weights.
        directory: replaced as a whole when everything is written.
        format: "transformers", "open_clip" (CLIPs), "timm" (weights of a ``VisionTransformer``), "vig" (weights with the published
            names), "torchaudio" (Tacotron 2), "openai-whisper" (``model.pt``), "onnx" (a graph per encoder, checked with onnxruntime),
            "gguf", "gguf_f16" and "gguf_q8_0" (language models with tokenizer), or "zoo" (any model, as ``zoo.save`` writes it). The
            classes in ``zoo/interop/`` describe the files of each.
        allow_nan: write weights that hold NaN or infinity, too.

    Raises:
        ConfigError: there is no such format, or it does not have this architecture; the message says why.
        WeightsError: the weights hold NaN or infinity.
    """
    if not allow_nan:
        refuse_not_finite(model, "export", "--allow-nan (allow_nan=True)")
    writers = [each for each in formats().values() if format in each.targets]
    known = sorted({target for each in formats().values() for target in each.targets})
    if not writers and format != OURS:
        raise ConfigError(f"format: there is no {format!r}; {name_choices(format, [*known, OURS])}")
    model = without_adapters(model)
    if format == OURS:
        return save(model, directory)
    writer = _writer(writers, model, format)
    with atomic_directory(Path(directory)) as folder:
        writer.write(model, folder, format, Path(directory))
    return Path(directory)


def _writer(writers: list[Format], model: nn.Module, target: str) -> Format:
    """Return the first format that can write the model.

    Raises:
        ConfigError: none can; the message lists the reasons of those that have models of this family.
    """
    reasons = {each: each.writes(model, target) for each in writers}
    able = next((each for each, reason in reasons.items() if reason is None), None)
    if able is not None:
        return able
    near = [reason for reason in reasons.values() if reason is not None and reason != OTHER_FAMILY]
    if near:
        raise ConfigError("; ".join(near))
    takes = "; ".join(each.takes for each in writers)
    raise ConfigError(f"export: {type(model).__name__} cannot be written as {target!r}, which takes {takes}")
