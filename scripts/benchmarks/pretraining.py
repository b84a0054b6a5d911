"""Short pre-training of small ModernBERT, ELECTRA, DeBERTa v3 and XLNet on WordNet's glosses: losses on held-out texts before and after.

    python scripts/benchmarks/pretraining.py [modernbert electra deberta xlnet] [--steps 150]     # about two minutes each on one core

Each run is `zoo train experiment=bert_nano` with the words that it prints. The held-out texts are masked with fixed seeds, so that the
figures before and after are of the same tokens. Prints one line of JSON for each model.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.assembly.compose import compose
from zoo.data.loader import Draw, ProcessedSplit
from zoo.downloads.fetching import fetched
from zoo.runs.data_setup import make_masking, make_source
from zoo.runs.train import train

REPLACED = "data.masking={probability: 0.15, unit: pieces, mask_share: 1.0, random_share: 0.0}"
MODELS = {
    "modernbert": ["system=modernbert_pretraining_nano", "data.masking={probability: 0.3, unit: pieces}"],
    "electra": ["system=electra_pretraining_nano", REPLACED],
    "deberta": ["system=deberta_pretraining_nano", REPLACED],
    "xlnet": ["system=xlnet_pretraining_nano", "data.masking={probability: 0.1667, unit: spans, permutation: true}"],
}
LINES, TEXTS, BATCH = 20_000, 128, 32


@torch.no_grad()
def held_out(system: Any, config: Any) -> dict[str, float]:
    """Return the mean loss and metrics of held-out texts."""
    torch.manual_seed(0)  # of the generator's samples
    data = ProcessedSplit(
        make_source(config["data"]).split("validation"), system.processor, masking=make_masking(config["data"]["masking"], system)
    )
    sums: dict[str, float] = {}
    for start in range(0, TEXTS, BATCH):
        batch = data.collate([data[Draw(index, (0, 0, index))] for index in range(start, start + BATCH)])
        output = system.eval()(batch)
        for name, value in {"loss": output.loss, **output.metrics}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * BATCH / TEXTS
    return {name: round(value, 4) for name, value in sums.items()}


def run(name: str, words: Sequence[str], steps: int, texts: Path) -> dict[str, Any]:
    """Train one model and return its figures."""
    usual = [f"training.max_steps={steps}", "training.warmup_steps=30", f"training.batch_size={BATCH}", "training.evaluate_every=0"]
    usual += [
        "data.source.pairs=none",
        "data.source.split_fractions=[0.9, 0.05, 0.05]",
        "training.checkpoint_every=1000",
        "data.num_workers=0",
        "training.learning_rate=2e-3",
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = compose("train", ["experiment=bert_nano", *words, *usual, f"data.source.path={texts}", f"run_dir={Path(folder) / 'run'}"])
        found = train(config)
        trained = zoo.load(found.model)
        torch.manual_seed(0)
        fresh = zoo.create_system(words[0].partition("=")[2])
        fresh.processor = trained.processor
        return {"model": name, "steps": steps, "words": words, "before": held_out(fresh, config), "after": held_out(trained, config)}


def main() -> None:
    """Run the models that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "lines.txt"
        lines = (fetched("wordnet") / "lines.txt").read_text(encoding="utf-8").splitlines()
        texts.write_text("\n".join(lines[:: len(lines) // LINES]), encoding="utf-8")
        for name in options.models:
            print(json.dumps(run(name, MODELS[name], options.steps, texts)), flush=True)


if __name__ == "__main__":
    main()
