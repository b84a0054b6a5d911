"""Settings of a training run; the keys of ``training`` in a config."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from zoo.errors import ConfigError, name_choices
from zoo.registry.construct import construct
from zoo.training.durations import seconds_of
from zoo.training.schedule import SCHEDULES
from zoo.training.sharding.settings import PARALLELS, Sharding, check_checkpointing

MONITOR_MODES = {"max": 1, "min": -1}  # to the factor that makes higher values better
ACCUMULATIONS = ("independent", "grad_cache")
QUANTISED = ("int8", "int4")
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # ours -> Accelerate's


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of a training run.

    Attributes:
        max_steps: number of optimizer steps of the whole run.
        batch_size: number of items per batch, over all processes together.
        learning_rate: peak learning rate.
        schedule: "cosine", "linear", "constant" or "inverse_sqrt", after the warmup.
        warmup_steps: number of steps of linear warmup.
        final_learning_rate: learning rate at the end of "cosine" and "linear".
        weight_decay: decoupled weight decay (AdamW); applied to matrices only, not to gains, biases, temperatures, positions or class
            tokens.
        betas: the two betas of AdamW.
        eps: epsilon of AdamW.
        layer_decay: factor on the learning rate from each layer of an encoder to the layer below (0.75 in BEiT and MAE, for
            fine-tuning); the head and the layers after the blocks have the full rate. None uses one rate for all.
        freeze: names of modules and parameters that are not trained, including everything below them (``encoders.image``,
            ``encoders.*.blocks.0``); frozen modules are in evaluation mode.
        adapters: PEFT adapters by part: ``{head.language: {kind: lora, rank: 16}}``; see ``zoo.layers.adapters.Adapter``. The
            weights of these parts are frozen.
        learning_rates: peak learning rates by part, where they differ from ``learning_rate``: ``{encoders.image: 2e-6}``. They follow
            the same schedule. A parameter uses the rate of the innermost part that contains it.
        cache_features: feature cache for frozen encoders: run the encoders this many times over the data before training, with a new
            augmentation each time, and train on the stored features. By modality if the numbers differ (``{image: 1, text: 4}``).
            Needs every encoder to be frozen up to its features. 0 runs the encoders in every step.
        clip_gradients: maximum norm of all gradients together; None disables clipping.
        accumulate: number of batches per optimizer step.
        accumulation: loss over the batches of a step. "independent": mean of the losses of each batch; a contrastive loss compares only
            items of the same batch. "grad_cache": one loss over all batches, as with one batch of ``accumulate * batch_size`` items, at the
            memory of one batch; trained encoders run twice (GradCache).
        precision: "fp32", "bf16" or "fp16" (autocast).
        quantise: quantisation-aware training for "int8" or "int4": the layers that this precision rounds in inference round in training
            too, and the gradient passes the rounding unchanged. The saved weights are ordinary ones; load them with ``precision=int8`` or
            int4. None trains without rounding.
        parallel: "none": one process. "ddp": every process holds the whole model. "fsdp": weights, gradients and optimizer state are
            divided over the processes (``sharding``). None uses ddp if several processes were started.
        sharding: options of "fsdp"; see ``zoo.training.sharding.settings.Sharding``.
        checkpoint_activations: "none"; "full" computes the activations of each block again in the backward pass instead of keeping them,
            which takes less memory and about a third more time; n does so for every n-th block.
        compile: compile each block by ``torch.compile``.
        ema_decay: decay of an exponential moving average of the weights, which is evaluated and saved instead of the weights. None
            disables it.
        checkpoint_every: steps between saved states that a run can resume from.
        keep_states: number of saved states to keep.
        evaluate_every: steps between evaluations on the validation split; 0 disables evaluation.
        monitor: metric of the evaluation that selects ``best/``, of equal ones the later. None uses the main metric of the evaluation,
            or its first.
        monitor_mode: "max" if higher values of ``monitor`` are better, "min" if lower ones are.
        patience: early stopping: number of evaluations without a better value of ``monitor`` after which the run ends. None trains all
            ``max_steps``.
        min_delta: smallest change of ``monitor`` that counts as better for ``patience``.
        max_time: time after which the run saves its state and ends with status 75, to be queued again: ``HH:MM:SS``, ``DD:HH:MM:SS``
            or a number of seconds. A resumed run has it anew. Leave room for a step, an evaluation and a state before the limit of
            the job. None has no limit.
        log_every: steps between lines of ``metrics.jsonl``.
        threads: number of CPU threads per process; None keeps torch's default. Small models are fastest with one thread.
        deterministic: use deterministic algorithms, so that equal runs give equal bits with any number of threads. None uses them on a CPU,
            where they cost next to nothing, and not on CUDA, where some operations become slower or are refused.
        trackers: further loggers that Accelerate supports: "tensorboard", "wandb", "mlflow" and others; each must be installed.
        peak_flops: peak floating-point operations per second of one device in the run's precision, for ``model_flops_utilisation`` in
            ``timing.jsonl``. None takes it from a table by the name of the GPU (``zoo/training/peak_flops.py``); on other devices and in
            fp32, the utilisation is then left out.
        profile: number of steps to profile, after two steps of warm-up; the trace is ``profile/trace_0.json`` in the run directory, which
            chrome://tracing and ui.perfetto.dev show. 0 profiles nothing.
        verify_resume: save a hash of the state with each checkpoint and compare it with the restored state.
        trace: write hashes of every step (batch, random state, gradients, parameters), to find the step at which two runs differ.

    Raises:
        ConfigError: a value is outside its range.
    """

    renamed: ClassVar[dict[str, str]] = {"frozen_passes": "cache_features"}  # old names, until the next release
    renamed_values: ClassVar[dict[str, dict[str, str]]] = {"accumulation": {"cached": "grad_cache"}}

    max_steps: int
    batch_size: int
    learning_rate: float
    schedule: str = "cosine"
    warmup_steps: int = 0
    final_learning_rate: float = 0.0
    weight_decay: float = 0.1
    betas: Sequence[float] = (0.9, 0.98)
    eps: float = 1e-6
    layer_decay: float | None = None
    freeze: Sequence[str] = ()
    adapters: dict[str, Any] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=dict)
    cache_features: int | dict[str, int] = 0
    clip_gradients: float | None = 1.0
    accumulate: int = 1
    accumulation: str = "independent"
    precision: str = "fp32"
    quantise: str | None = None
    parallel: str | None = None
    sharding: dict[str, Any] = field(default_factory=lambda: asdict(Sharding()))
    checkpoint_activations: str | int = "none"
    compile: bool = False
    ema_decay: float | None = None
    checkpoint_every: int = 100
    keep_states: int = 1
    evaluate_every: int = 100
    monitor: str | None = None
    monitor_mode: str = "max"
    patience: int | None = None
    min_delta: float = 0.0
    max_time: str | int | float | None = None
    log_every: int = 10
    threads: int | None = None
    deterministic: bool | None = None
    trackers: Sequence[str] = ()
    peak_flops: float | None = None
    profile: int = 0
    verify_resume: bool = True
    trace: bool = False

    def __post_init__(self) -> None:
        for key in ("max_steps", "batch_size", "accumulate", "checkpoint_every", "keep_states", "log_every"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}: {getattr(self, key)}; allowed is 1 or more")
        if isinstance(self.cache_features, int) and self.cache_features < 0:
            raise ConfigError(f"cache_features: {self.cache_features}; allowed is 0 or more, or a number for each modality")
        if self.peak_flops is not None and not self.peak_flops > 0:
            raise ConfigError(f"peak_flops: {self.peak_flops}; allowed is above 0, or null")
        if self.profile < 0:
            raise ConfigError(f"profile: {self.profile}; allowed is 0 (no profile) or the number of steps to profile")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate: {self.learning_rate}; allowed is above 0")
        for part, rate in self.learning_rates.items():
            if not rate > 0:
                raise ConfigError(f"learning_rates.{part}: {rate}; allowed is above 0 (use training.freeze=[{part}] to keep it fixed)")
        self._check_stops()
        if self.accumulation not in ACCUMULATIONS:
            raise ConfigError(f"accumulation: there is no {self.accumulation!r}; {name_choices(self.accumulation, ACCUMULATIONS)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision: there is no {self.precision!r}; {name_choices(self.precision, PRECISIONS)}")
        if self.quantise is not None and self.quantise not in QUANTISED:
            raise ConfigError(f"quantise: there is no {self.quantise!r}; {name_choices(str(self.quantise), QUANTISED)}, or null")
        if self.quantise is not None and self.adapters:
            raise ConfigError("quantise: adapters are merged after the rounding that training sees; train without training.adapters")
        if self.parallel is not None and self.parallel not in PARALLELS:
            raise ConfigError(f"parallel: there is no {self.parallel!r}; {name_choices(self.parallel, PARALLELS)}")
        check_checkpointing(self.checkpoint_activations)
        construct(Sharding, self.sharding, "sharding")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule: there is no {self.schedule!r}; {name_choices(self.schedule, SCHEDULES)}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay: {self.layer_decay}; allowed is above 0 to 1, or null")
        if isinstance(self.freeze, str):
            raise ConfigError(f"freeze: {self.freeze!r} is one string; give a list, training.freeze=[{self.freeze}]")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"ema_decay: {self.ema_decay}; allowed is between 0 and 1, or null")

    def _check_stops(self) -> None:
        if self.monitor_mode not in MONITOR_MODES:
            raise ConfigError(f"monitor_mode: there is no {self.monitor_mode!r}; {name_choices(self.monitor_mode, MONITOR_MODES)}")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"patience: {self.patience}; allowed is 1 or more, or null")
        if self.patience is not None and not self.evaluate_every:
            raise ConfigError(f"patience: {self.patience}, but evaluate_every is 0, so that no metric is watched; set one of the two")
        if not 0 <= self.min_delta < math.inf:
            raise ConfigError(f"min_delta: {self.min_delta}; allowed is 0 or more")
        if self.max_time is not None:
            seconds_of(self.max_time)
