"""Write ``assets/guide/transformers.md``: which model types of transformers run here, and why the others are refused.

``python tests/support/hosted_guide.py`` builds a tiny model of every type, compares ours with the library's, and prints the counts.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import hosted_types
import language_types
import torch
import transformers

GUIDE = Path(__file__).parents[2] / "assets" / "guide" / "transformers.md"
HEAD = """# Models of transformers

Any text encoder, audio encoder, vision backbone or causal language model of the library `transformers` can be a part of a system. Name the
directory that the library saved, or a hub id:

```text
zoo.create_model("transformers/DIRECTORY", weights="DIRECTORY")       # one part, with the weights
zoo.load("DIRECTORY")                                                 # an encoder with its tokenizer or feature extractor
encoder@system.encoders.text=transformers/DIRECTORY                   # in place of another encoder
encoder@system.encoders.audio=transformers/DIRECTORY
language@system.head.language=transformers/DIRECTORY                  # behind LLaVA or Kosmos
```

The library's own module runs, under its own names. Only safetensors are read, and no code of a directory is run.

A tiny copy of the config is tried when a model is built. The trial finds what the model makes of padding, of positions and of its cache. A
model that would give wrong outputs is refused with the reason. Rows with padding that a model does not ignore run one at a time.

The tables below are written by `python tests/support/hosted_guide.py` with transformers {version}: a tiny random model of each type, ours
beside the library's. "Equal" means within 1e-5 of the largest value: for language models the logits of a whole text, with a cache (7 and 4
tokens) and with padding on the left; for encoders the hidden states of single items and of a padded batch.
"""
LANGUAGE = """Types that attend both ways unless told otherwise (bert, roberta, electra, ...) need `is_decoder: true` in their config.
Decoders of sequence-to-sequence models (bart, marian, ...) need `is_encoder_decoder: false`, as the library writes it for them. Gemma 4
runs without embeddings per layer (31B, 26B-A4B) and is refused with them (E2B, E4B).
"""
TEXT = "The tokenizer goes along. The mask tells what is padding. `pool` chooses the pooled vector.\n"
AUDIO = """The feature extractor goes along and runs on one clip at a time. `mels` are its features; a waveform is one channel of samples.
SpecAugment and LayerDrop inside a model are off. A clip in a batch gives what it gives alone, also where the library's model lets padding
change the outputs (wav2vec2-base and others with a group norm): clips of different lengths then run apart.
"""
SECTIONS: Sequence[tuple[str, str, Sequence[str], Callable[[str], tuple[str, str]]]] = (
    ("Causal language models", LANGUAGE, language_types.TYPES, language_types.outcome),
    ("Text encoders", TEXT, hosted_types.TEXT_TYPES, lambda kind: hosted_types.outcome(kind, hosted_types.text_differences)),
    ("Audio encoders", AUDIO, hosted_types.AUDIO_TYPES, lambda kind: hosted_types.outcome(kind, hosted_types.audio_differences)),
)


def section(title: str, words: str, types: Sequence[str], outcome: Callable[[str], tuple[str, str]]) -> str:
    """Try every type, print the counts, and return the section's text."""
    found = {kind: outcome(kind) for kind in types}
    counts = Counter(status for status, _ in found.values())
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    print(f"{title}: {len(types)} types: {told}")
    for kind, (status, detail) in found.items():
        if status not in ("equal", "refused"):
            print(f"  {kind}: {status}: {detail}")
    equal = ", ".join(f"`{kind}`" for kind, (status, _) in found.items() if status == "equal")
    rows = [
        f"| `{kind}` | {'not compared: ' * (status == 'failed')}{reason(detail)} |"
        for kind, (status, detail) in found.items()
        if status != "equal"
    ]
    table = "\n".join(["\nRefused:\n", "| type | reason |", "|---|---|", *rows]) if rows else ""
    return f"## {title}\n\n{words}\nOf {len(types)} types: {told}.\n\nEqual: {equal}.\n{table}".rstrip("\n") + "\n"


def reason(detail: str) -> str:
    """Return the reason of a refusal without the name of the type and the advice."""
    short = re.sub(r"^.*?(cannot be used: |is not a |transformers cannot build the model: )", r"\1", " ".join(detail.split()))
    short = short.removeprefix("cannot be used: ").removesuffix("; choose another causal language model").replace("|", "/")
    return short if len(short) < 200 else f"{short[:197]}..."


def main() -> None:
    """Write the guide."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    parts = [HEAD.format(version=transformers.__version__), *(section(*each) for each in SECTIONS)]
    GUIDE.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
