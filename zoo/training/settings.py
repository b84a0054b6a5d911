"""Settings of a training run; the keys of ``training`` in a config."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import ConfigError, name_choices
from zoo.training.schedule import SCHEDULES

ACCUMULATIONS = ("independent", "cached")
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # ours -> Accelerate's


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train.

    Attributes:
        max_steps: optimizer steps of the whole run.
        batch_size: items of one batch over all processes together.
        accumulate: batches of one optimizer step.
        accumulation: what the loss sees of the batches of a step. "independent": one batch at a time, and their mean counts; a
            contrastive loss has only each batch's own negatives. "cached": all of them together, as if they were one batch of
            ``accumulate * batch_size`` items, at the memory of one; trained towers are computed twice (GradCache).
        learning_rate: peak value.
        schedule: "cosine", "linear", "constant" or "inverse_sqrt", after ``warmup_steps`` of linear warmup.
        final_learning_rate: where cosine and linear end.
        weight_decay: decoupled, on matrices only: no gains, biases, temperatures, positions or class tokens.
        layer_decay: factor on the learning rate from each layer of an encoder to the one below it (0.75 in BEiT and MAE, for
            fine-tuning); the head and what follows the blocks have the full rate. None: one rate for all.
        freeze: names of modules and parameters that are not trained, with everything below them (``encoders.image``,
            ``encoders.*.blocks.0``); they behave as in evaluation.
        adapters: by part, what PEFT puts beside its weights, which are then frozen: ``{head.language: {kind: lora, rank: 16}}`` with
            the keywords of ``zoo.layers.adapters.Adapter``.
        learning_rates: peak values of parts that have another one, by part: ``{encoders.image: 2e-6}``. The innermost part counts,
            and they follow the schedule of ``learning_rate``.
        frozen_passes: where every encoder is frozen (but for what follows its features), run them this often over the data before
            training, each time varied anew, and train on what they gave; by modality where they differ (``{image: 1, text: 4}``).
            0 runs them in every step.
        clip_gradients: largest norm of all gradients; None leaves them.
        precision: "fp32", "bf16" or "fp16" (autocast).
        ema_decay: keep an exponential moving average of the weights; it is what is evaluated and saved. None: off.
        checkpoint_every: steps between states that a run resumes from.
        keep_states: how many of them to keep.
        evaluate_every: steps between evaluations on the validation split; 0 evaluates never.
        monitor: metric of the evaluation that chooses ``best/``; higher is better, of equal ones the later. None: the
            one that the evaluation names, or its first.
        log_every: steps between lines of ``metrics.jsonl``.
        threads: of the CPU for each process; None leaves torch's choice. Small models are fastest on one thread.
        trackers: further loggers that Accelerate knows, for example "tensorboard".
        verify_resume: hash the state at each checkpoint and hold the restored one against it.
        trace: write hashes of every step (batch, random state, gradients, parameters), to find where two runs part.

    Raises:
        ConfigError: a value outside its range.
    """

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
    frozen_passes: int | dict[str, int] = 0
    clip_gradients: float | None = 1.0
    accumulate: int = 1
    accumulation: str = "independent"
    precision: str = "fp32"
    ema_decay: float | None = None
    checkpoint_every: int = 100
    keep_states: int = 1
    evaluate_every: int = 100
    monitor: str | None = None
    log_every: int = 10
    threads: int | None = None
    trackers: Sequence[str] = ()
    verify_resume: bool = True
    trace: bool = False

    def __post_init__(self) -> None:
        for key in ("max_steps", "batch_size", "accumulate", "checkpoint_every", "keep_states", "log_every"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}: {getattr(self, key)}; allowed is 1 or more")
        if isinstance(self.frozen_passes, int) and self.frozen_passes < 0:
            raise ConfigError(f"frozen_passes: {self.frozen_passes}; allowed is 0 or more, or a number for each modality")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate: {self.learning_rate}; allowed is above 0")
        for part, rate in self.learning_rates.items():
            if not rate > 0:
                raise ConfigError(f"learning_rates.{part}: {rate}; allowed is above 0 (training.freeze=[{part}] trains it not at all)")
        if self.accumulation not in ACCUMULATIONS:
            raise ConfigError(f"accumulation: there is no {self.accumulation!r}; {name_choices(self.accumulation, ACCUMULATIONS)}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision: there is no {self.precision!r}; {name_choices(self.precision, PRECISIONS)}")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule: there is no {self.schedule!r}; {name_choices(self.schedule, SCHEDULES)}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay: {self.layer_decay}; allowed is above 0 to 1, or null")
        if isinstance(self.freeze, str):
            raise ConfigError(f"freeze: {self.freeze!r} is one string; give a list, training.freeze=[{self.freeze}]")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"ema_decay: {self.ema_decay}; allowed is between 0 and 1, or null")
