"""Settings of sharded training, and refusals of what it cannot do."""

from dataclasses import dataclass, field
from typing import Any

from zoo.errors import ConfigError, name_choices

PARALLELS = ("none", "ddp", "fsdp")
POLICIES = ("root", "per_layer", "replicated")
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}  # ours -> torch's; a config is checked without torch


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Settings of ``training.parallel=fsdp``.

    Attributes:
        shard_size: number of processes that divide the weights among them, for example those of one machine; groups of this size hold
            copies of each other (hybrid sharding). It divides the number of processes. None divides the weights over all processes.
        param_dtype: "fp32" or "bf16", the type in which weights are gathered and used. "bf16" halves the communication; each process keeps
            its part of the weights in fp32.
        reduce_dtype: "fp32" or "bf16", the type in which gradients are summed over processes.
        cpu_offload: keep weights, gradients and optimizer state in the memory of the CPU, and copy weights to the device for each use.
        parts: policy by part of the model, for example ``{encoders.image: replicated}``; the innermost part that contains a block or weight
            decides. "per_layer": each block is gathered just before its use, and released after it. "root": gathered with the weights that
            belong to no block, for the whole step. "replicated": every process holds all weights of the part, as with ddp. Default:
            "root" for an encoder that is frozen as a whole, "per_layer" for all others.

    Raises:
        ConfigError: an unknown type or policy, or a size below 1.
    """

    shard_size: int | None = None
    param_dtype: str = "fp32"
    reduce_dtype: str = "fp32"
    cpu_offload: bool = False
    parts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shard_size is not None and self.shard_size < 1:
            raise ConfigError(f"shard_size: {self.shard_size}; allowed is 1 or more, or null for all processes")
        for key, value in (("param_dtype", self.param_dtype), ("reduce_dtype", self.reduce_dtype)):
            if value not in DTYPES:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, DTYPES)}")
        for part, policy in self.parts.items():
            if policy not in POLICIES:
                raise ConfigError(f"parts.{part}: there is no {policy!r}; {name_choices(policy, POLICIES)}")


def check_checkpointing(value: str | int) -> None:
    """Raise ConfigError unless the value is "none", "full" or a number of blocks."""
    if value not in ("none", "full") and not (isinstance(value, int) and value >= 1):
        raise ConfigError(f"checkpoint_activations: {value!r}; allowed is none, full, or a number n of 1 or more for every n-th block")


def is_sharded(settings: Any, processes: int) -> bool:
    """Return True if the run divides its weights over several processes.

    Raises:
        ConfigError: the settings do not fit the number of processes, or each other.
    """
    if settings.parallel == "none" and processes > 1:
        raise ConfigError(
            f"training.parallel: 'none' trains in one process, but {processes} were started; start one, or set training.parallel=ddp"
        )
    if settings.parallel != "fsdp":
        return False
    if settings.accumulation == "grad_cache":
        raise ConfigError(
            "training.accumulation: 'grad_cache' runs the encoders apart from the model, which sharded weights do not allow; set "
            "training.parallel=ddp, or training.accumulation=independent"
        )
    if settings.precision == "fp16":
        raise ConfigError(
            "training.precision: 'fp16' scales the loss, which sharded training does not support; set training.precision=bf16"
        )
    size = settings.sharding.get("shard_size")
    if size is not None and processes % size:
        raise ConfigError(f"training.sharding.shard_size: {size} does not divide the {processes} processes; give a divisor")
    return processes > 1


def refuse_shared_reference(shares_weights: bool) -> None:
    """Raise ConfigError if the reference model of a sharded run uses the weights of the trained model."""
    if shares_weights:
        raise ConfigError(
            "training.parallel: 'fsdp' divides the weights, but the reference model of the objective reads those of the trained model; "
            "name a separate one with teacher=DIR, or set training.parallel=ddp"
        )
