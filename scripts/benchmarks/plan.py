"""A plan on paper for 8 and 64 H200: memory, time and model FLOPs utilisation (MFU) of three trainings, by mesh.

    python scripts/benchmarks/plan.py          # the table of assets/guide/plan_64_gpus.md
    python scripts/benchmarks/plan.py --json

Parameters and FLOPs come from zoo.summarize; the rest is the arithmetic below. Nothing here was measured on a GPU: EFFICIENCY, OVERLAP
and LINK are assumptions, and the first run on real GPUs replaces them.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass

import zoo
from zoo.layers.attention import Attention
from zoo.layers.decoder import CausalAttention
from zoo.types import Encoder, LanguageModel

# One H200, from NVIDIA's data sheet, and the network of the question.
PEAK = 989e12  # FLOP/s in bf16, dense
MEMORY = 141e9  # bytes
NVLINK = 450e9  # bytes/s in each direction; 900 GB/s are both together
NETWORK = 50e9  # bytes/s for each GPU between nodes: 400 Gb/s
NODE = 8  # GPUs
# Assumptions.
EFFICIENCY = 0.55  # share of the peak that the kernels of a transformer reach with torch.compile, without communication
OVERLAP = 0.7  # share of the communication that computation hides
LINK = 0.8  # share of a link that NCCL reaches on large messages
USABLE = 0.9  # share of the memory: the rest is fragmentation, CUDA and NCCL
WORK = 16  # bytes per trained parameter: fp32 weight, gradient and two moments of AdamW
BLOCK = (
    34  # bytes of activations per token, layer and channel without recomputation, bf16 (Korthikanti et al. 2022, eq. 2, no attention map)
)
KEPT = 2  # the same with recomputation of each block: its input


@dataclass(frozen=True)
class Tower:
    """A part that is run on tokens.

    Attributes:
        parameters: number.
        flops: of one forward pass over the items of one GPU and step.
        tokens: of these items together.
        width: channels of a token, times the number of layers.
        trained: False if frozen.
        vocabulary: number of words for which each token has a logit; 0 for a tower without logits.
    """

    parameters: int
    flops: float
    tokens: int
    width: int
    trained: bool = True
    vocabulary: int = 0

    def work(self) -> float:
        """Return the model FLOPs of a step: forward, and twice that for the backward pass if it is trained."""
        return self.flops * (3 if self.trained else 1)

    def extra(self, recomputed: bool) -> float:
        """Return the FLOPs of the recomputation, which MFU does not count as useful."""
        return self.flops if recomputed and self.trained else 0.0

    def activations(self, recomputed: bool) -> float:
        """Return the bytes that wait for the backward pass; logits and their gradients are in fp32."""
        per_token = self.width * (KEPT if recomputed else BLOCK) + self.vocabulary * 8
        return self.tokens * per_token if self.trained else 0.0


@dataclass(frozen=True)
class Plan:
    """Costs of one training on one mesh, per GPU and step."""

    job: str
    gpus: int
    mesh: str
    recomputed: bool
    memory_gb: float
    compute_s: float
    communication_s: float
    step_s: float
    mfu: float
    fits: bool


def layers_by_width(module: Encoder | LanguageModel) -> int:
    """Return channels times layers of a transformer."""
    return module.dim * sum(isinstance(each, Attention | CausalAttention) for each in module.modules())


def clip(batch: int) -> list[Tower]:
    """Return the towers of CLIP ViT-L/14 for ``batch`` pairs per GPU."""
    told, system = zoo.summarize("clip_vit_l14"), zoo.create_model("clip_vit_l14", device="meta")
    towers = []
    for modality in ("image", "text"):
        parameters = told.parts[f"encoders.{modality}"]
        tokens = batch * told.tokens[modality]
        towers.append(Tower(parameters, batch * told.flops[modality], tokens, layers_by_width(system.encoders[modality])))
    return towers


def multimodal(name: str, *, images: int, sequences: int, length: int) -> list[Tower]:
    """Return the frozen image tower and the trained language model of a system, with packs of ``length`` tokens.

    Args:
        images: on one GPU in one step.
        sequences: the same.
    """
    told, system = zoo.summarize(name), zoo.create_model(name, device="meta")
    language = system.head.language
    width = layers_by_width(language)
    # Scores and weighted values: 4 x length x channels per token and layer, half of it behind the causal mask.
    flops = sequences * length * (told.flops["language, each token"] + 2 * length * width)
    trained = told.parts["head.language"] + told.parts["head.connectors"]
    return [
        Tower(told.parts["encoders.image"], images * told.flops["image"], images * told.tokens["image"], 0, trained=False),
        Tower(trained, flops, sequences * length, width, vocabulary=language.vocab_size),
    ]


def jobs() -> dict[str, list[Tower]]:
    """Return the three trainings with what one GPU does in one step."""
    return {
        "CLIP L/14, 256 pairs": clip(256),
        "LLaVA-1.5 7B, 16 x 832 tokens": multimodal("llava_1_5_7b", images=16, sequences=16, length=832),
        # Of 2,048 tokens 5/12 are text, 5/12 pairs of 84 tokens and 2/12 pages with an image for each 140: 12.5 images.
        "Kosmos 1.6B, 8 x 2,048 tokens": multimodal("kosmos_1", images=100, sequences=8, length=2048),
    }


def meshes(gpus: int) -> dict[str, int]:
    """Return the meshes: name -> number of GPUs that divide one copy of the state among them."""
    found = {"ddp": 1, "fsdp": gpus}
    return found | ({f"hybrid {gpus // NODE} x {NODE}": NODE} if gpus > NODE else {})


def communication(parameters: int, gpus: int, shards: int) -> float:
    """Return the seconds of communication of a step: weights are gathered in bf16, gradients reduced in fp32.

    A ring over n GPUs moves (n - 1) / n of the bytes for a gather or a reduction, and twice that for both together (all-reduce).
    """
    inside, between = NVLINK * LINK, NETWORK * LINK
    seconds = 0.0
    if shards > 1:  # gather for the forward and for the backward pass, reduce the gradients: 2 + 2 + 4 bytes per parameter
        seconds += 8 * parameters * (shards - 1) / shards / (inside if shards <= NODE else between)
    copies = gpus // shards
    if copies > 1:  # all-reduce of the gradients of one shard; with one shard per GPU first inside the node, then between
        inner = NODE if shards == 1 else 1
        outer = copies // inner
        seconds += 8 * parameters / shards * (inner - 1) / inner / inside
        seconds += 8 * parameters / shards / inner * (outer - 1) / outer / between
    return seconds


def plan(job: str, towers: list[Tower], gpus: int, mesh: str, shards: int, recomputed: bool) -> Plan:
    """Return the costs of one training on one mesh."""
    trained = sum(tower.parameters for tower in towers if tower.trained)
    frozen = sum(tower.parameters for tower in towers if not tower.trained)
    useful = sum(tower.work() for tower in towers)
    compute = (useful + sum(tower.extra(recomputed) for tower in towers)) / (PEAK * EFFICIENCY)
    moved = communication(trained, gpus, shards)
    step = compute + max((1 - OVERLAP) * moved, moved - compute)
    state = trained * (WORK / shards + (2 if shards == 1 else 0)) + frozen * 2
    held = state + sum(tower.activations(recomputed) for tower in towers)
    return Plan(job, gpus, mesh, recomputed, held / 1e9, compute, moved, step, useful / step / PEAK, held < USABLE * MEMORY)


def plans() -> Iterator[Plan]:
    """Yield each training on each mesh; activations are recomputed only where they do not fit otherwise."""
    for job, towers in jobs().items():
        for gpus in (NODE, 64):
            for mesh, shards in meshes(gpus).items():
                whole = plan(job, towers, gpus, mesh, shards, recomputed=False)
                yield whole if whole.fits else plan(job, towers, gpus, mesh, shards, recomputed=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    as_json = parser.parse_args().json
    if not as_json:
        print("| job (per GPU and step) | GPUs | mesh | recomputed | memory, GB | compute, s | communication, s | step, s | MFU |")
        print("|---|---|---|---|---|---|---|---|---|")
    for found in plans():
        if as_json:
            print(json.dumps(vars(found)))
            continue
        memory = f"{found.memory_gb:.0f}" + ("" if found.fits else " (too much)")
        times = f"{found.compute_s:.3f} | {found.communication_s:.3f} | {found.step_s:.3f}"
        again = "yes" if found.recomputed else "no"
        print(f"| {found.job} | {found.gpus} | {found.mesh} | {again} | {memory} | {times} | {100 * found.mfu:.0f} % |")


if __name__ == "__main__":
    main()
