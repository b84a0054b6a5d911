"""Training loop, in reading order from top to bottom.

Accelerate handles devices, processes, precision and saved states; this module defines the steps of a run.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.optim.swa_utils import AveragedModel

from zoo.data.loader import Cursor, ProcessedSplit, StepSampler, training_loader
from zoo.data.packs import Packs
from zoo.errors import ConfigError, DataError, WeightsError, ZooError
from zoo.training import feature_cache, fingerprint, grad_cache
from zoo.training.accelerator import make_accelerator
from zoo.training.best import BestModel
from zoo.training.curves import draw_curves
from zoo.training.freeze import freeze, train_mode
from zoo.training.log import RunLog, cut_lines
from zoo.training.optim import make_optimizer, moving_average, set_learning_rate
from zoo.training.progress import Progress
from zoo.training.schedule import learning_rate_at
from zoo.training.settings import TrainingSettings
from zoo.training.state import known_best, load_state, remove_older, save_state, saving
from zoo.training.stop_signals import stop_signals
from zoo.types import Batch, HeadOutput, Objective, Part

log = logging.getLogger("zoo")


class Interrupted(ZooError):
    """Exception raised when the user stopped the run; the state is saved."""


class Trainer:
    """One training run.

    Args:
        model: module that maps a ``Batch`` to a ``HeadOutput``.
        data: training split with augmentation and processor.
        run_dir: directory of states, logs and saved models.
        seed: seed of the order and augmentation of the data.
        save_model: function that writes a model to a directory, atomically.
        evaluate: function from a model to metrics; None disables evaluation.
        progress: display that is updated after every step.
        num_workers: number of processes that load data.
        complete: function that adds further targets to each batch, such as a teacher's embeddings.
        objective: loss in place of the head's own; None trains the head's.
        accelerator: of ``make_accelerator``, if something else of the run needs it before the trainer; None makes one.

    Raises:
        ConfigError: the settings do not fit the model or this machine.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ProcessedSplit | Packs,
        settings: TrainingSettings,
        *,
        run_dir: Path,
        seed: int,
        save_model: Callable[[nn.Module, Path], Any],
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        progress: Progress | None = None,
        num_workers: int = 0,
        complete: Callable[[Batch], Batch] = lambda batch: batch,
        objective: Objective | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.complete, self.objective = complete, objective
        self.settings, self.run_dir, self.seed = settings, run_dir, seed
        self.data: ProcessedSplit | Packs | feature_cache.FeatureSplit = data
        self.save_model, self.evaluate, self.progress, self.num_workers = save_model, evaluate, progress, num_workers
        self.accelerator = accelerator or make_accelerator(settings, run_dir)
        if settings.trackers:
            self.accelerator.init_trackers("tracked")
        self.plain_model = model.to(self.accelerator.device)
        if settings.accumulation == "grad_cache":
            grad_cache.refuse(model, self.accelerator)
        self.frozen = freeze(self.plain_model, settings.freeze)
        self.average = None
        if settings.ema_decay is not None:  # before prepare(): Accelerate wraps the model's forward, which must not be copied
            self.average = AveragedModel(self.plain_model, multi_avg_fn=moving_average(settings.ema_decay))
            self.accelerator.register_for_checkpointing(self.average)
        self.model, self.optimizer = self.accelerator.prepare(self.plain_model, make_optimizer(self.plain_model, settings))
        self.log = RunLog(run_dir)
        self.trace = fingerprint.Trace(run_dir, self.accelerator.process_index, settings.trace)
        self.step, self.best, self.cursor = 0, BestModel(run_dir), Cursor()
        self.stop_requested = False

    def run(self, *, resume: bool = False, record: Callable[[], dict[str, Any]] = dict) -> dict[str, float]:
        """Train to ``max_steps`` and return the last metrics.

        Args:
            resume: start from the newest saved state of the run directory.
            record: function that writes the config of a resumed run, if it changed, and returns the changes; the main process calls it
                when the state is restored and verified.

        Raises:
            Interrupted: Ctrl-C or a termination signal ended the run; the state is saved first.
            DataError: the loss is not finite; the message names the batch's items.
            WeightsError: the restored state differs from the saved one; the message names the first part that differs.
        """
        if self.settings.cache_features:
            self._use_cached_features()
        train_mode(self.model, self.frozen)
        if resume:
            self._restore()
        with saving(self.run_dir):
            self._cut_logs()
            if resume and self.accelerator.is_main_process:
                self.log.write_event(self.step, "resumed", {"threads": torch.get_num_threads(), "changes": record()})
        values: dict[str, float] = {}
        with stop_signals(self._request_stop):
            for batches in self._steps():
                values = self._train_step(batches)
                self.step, self.cursor = self.step + 1, self._cursor_after(len(batches))
                self._after_step(values)
        if self.accelerator.is_main_process:
            with saving(self.run_dir):
                draw_curves(self.log.metrics, self.run_dir / "curves.png")
        for tracker in self.accelerator.trackers:
            tracker.finish()  # not end_training: it destroys the process group, which the next job of a sweep needs
        self.accelerator.wait_for_everyone()  # other ranks may read the files of the main process afterwards
        return values

    def _use_cached_features(self) -> None:
        """Run the frozen encoders over the data, only once per run, and replace the data by their features."""
        passes, folder = self.settings.cache_features, feature_cache.cache_folder(self.run_dir)
        assert isinstance(self.data, ProcessedSplit)
        if self.accelerator.is_main_process:
            feature_cache.keep_features(
                self.plain_model.eval(),
                self.data,
                folder,
                passes=passes,
                batch_size=self.settings.batch_size,
                seed=self.seed,
                num_workers=self.num_workers,
                autocast=lambda: self.accelerator.autocast(),
                tell=self.progress.prepare if self.progress is not None else None,
            )
        self.accelerator.wait_for_everyone()
        self.data, self.num_workers = feature_cache.FeatureSplit(folder, len(self.data), self.data.order), 0

    @property
    def final_model(self) -> nn.Module:
        """Model to evaluate and save: the moving average of the weights if there is one, otherwise the trained model."""
        return self.average.module if self.average is not None else self.plain_model

    def _steps(self) -> Iterator[list[Batch]]:
        """Yield the batches of each remaining optimizer step."""
        accumulate = self.settings.accumulate
        sampler = self._sampler(batches=(self.settings.max_steps - self.step) * accumulate)
        loader = iter(training_loader(self.data, sampler, num_workers=self.num_workers))
        for _ in range(self.step, self.settings.max_steps):
            yield [self.complete(next(loader).to(self.accelerator.device)) for _ in range(accumulate)]

    def _sampler(self, *, batches: int, batch_size: int | None = None) -> StepSampler:
        """Return the sampler of the next batches; ``batch_size``: that of a restored state, if the run continues with another."""
        return StepSampler(
            len(self.data),
            batch_size=batch_size or self.settings.batch_size,
            seed=self.seed,
            start=0,
            stop=batches,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            order=self.data.order,
            cursor=self.cursor,
        )

    def _cursor_after(self, batches: int) -> Cursor:
        return self.cursor.after(batches, batch_size=self.settings.batch_size, length=len(self.data))

    def _train_step(self, batches: list[Batch]) -> dict[str, float]:
        """Run forward, backward, clipping and optimizer step; returns the values to log."""
        settings = self.settings
        self.trace.before(batches[0])
        rate = learning_rate_at(
            self.step,
            peak=settings.learning_rate,
            final=settings.final_learning_rate,
            warmup_steps=settings.warmup_steps,
            max_steps=settings.max_steps,
            schedule=settings.schedule,
        )
        set_learning_rate(self.optimizer, rate)
        outputs = self._forward_backward(batches)
        self._refuse_non_finite(outputs, batches)
        norm = self._clip()
        self.trace.gradients(self.plain_model)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for module in self.plain_model.modules():  # modules may react to a step, for example clamp CLIP's temperature
            if isinstance(module, Part):
                module.after_step()
        if self.average is not None:
            self.average.update_parameters(self.plain_model)
        with saving(self.run_dir):
            self.trace.after(self.step + 1, self.plain_model, self.optimizer)
        self.log.count(settings.batch_size * settings.accumulate)
        losses = [output.loss.item() for output in outputs if output.loss is not None]
        metrics = {name: float(value) for name, value in outputs[-1].metrics.items()}
        return {"loss": sum(losses) / max(len(losses), 1), "learning_rate": rate, "gradient_norm": norm, **metrics}

    def _forward_backward(self, batches: list[Batch]) -> list[HeadOutput]:
        """Run forward and backward; returns the output of each batch (with gradient caching the common output, once per batch)."""
        if self.settings.accumulation == "grad_cache" and len(batches) > 1:
            return [grad_cache.forward_backward_together(self.plain_model, batches, self.accelerator)] * len(batches)  # type: ignore[arg-type]
        return [self._forward_backward_alone(batch, last=batch is batches[-1]) for batch in batches]

    def _forward_backward_alone(self, batch: Batch, *, last: bool) -> HeadOutput:
        # Gradients are averaged over processes only with the last batch, to communicate once per step.
        synchronise = self.accelerator.no_sync(self.model) if not last else nullcontext()
        with synchronise:
            with self.accelerator.autocast():
                output = self.model(batch) if self.objective is None else self.model(batch, self.objective)
            if output.loss is not None:
                self.accelerator.backward(output.loss / self.settings.accumulate)
        return output

    def _clip(self) -> float:
        limit = self.settings.clip_gradients  # None: clipping at infinity only measures the norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit)
        return float(norm) if norm is not None else math.nan

    def _refuse_non_finite(self, outputs: list[HeadOutput], batches: list[Batch]) -> None:
        """Raise DataError on every rank if one rank's loss is not finite, before the weights change.

        Also shares a requested stop: all ranks must stop at the same step, or the others would wait for ever.
        """
        bad = [b for o, b in zip(outputs, batches, strict=True) if o.loss is not None and not bool(torch.isfinite(o.loss))]
        flags = torch.tensor([float(bool(bad)), float(self.stop_requested)], device=self.accelerator.device)
        anyone = self.accelerator.reduce(flags) if self.accelerator.num_processes > 1 else flags
        self.stop_requested = bool(anyone[1] > 0)
        if anyone[0] > 0:
            items = ", ".join(bad[0].ids[:8]) + (", ..." if len(bad[0].ids) > 8 else "") if bad else "items of another process"
            raise DataError(
                f"the loss is not finite at step {self.step + 1}; its batch holds {items}. The last saved state is kept: check "
                "these items, or resume with a lower training.learning_rate"
            )

    def _after_step(self, values: dict[str, float]) -> None:
        """Log, evaluate and save a checkpoint if they are due at this step; raise Interrupted if a stop was requested."""
        settings, last = self.settings, self.step == self.settings.max_steps
        if self.progress is not None and self.accelerator.is_main_process:
            self.progress.update(self.step, values)
        if self.step % settings.log_every == 0 or last:
            self._write("train", {**values, **self._skipped()})
        if settings.evaluate_every and self.evaluate is not None and (self.step % settings.evaluate_every == 0 or last):
            self._evaluate()
        if self.step % settings.checkpoint_every == 0 or last or self.stop_requested:
            self._checkpoint()
        if self.stop_requested and not last:
            raise Interrupted(f"stopped at step {self.step} of {settings.max_steps}; continue with: zoo train resume={self.run_dir}")

    def _skipped(self) -> dict[str, int]:
        """Return the number of items that all processes skipped so far; empty if bad items are errors."""
        if self.data.skips is None:
            return {}
        total = torch.tensor(self.data.skips.total, device=self.accelerator.device)
        everyones: Any = self.accelerator.reduce(total) if self.accelerator.num_processes > 1 else total
        return {"skipped": int(everyones)}

    def _write(self, kind: str, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with saving(self.run_dir):
                self.log.write(self.step, kind, values)
                if kind == "train":
                    self.log.write_timing(self.step)
        if self.settings.trackers:
            self.accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=self.step)

    def _evaluate(self) -> None:
        """Evaluate on the main process while the others wait; save the best model by ``monitor``, the later of equal ones.

        Raises:
            ZooError: the evaluation has no metric named ``monitor``.
        """
        assert self.evaluate is not None
        if self.accelerator.is_main_process:
            model = self.final_model
            model.eval()
            metrics = self.evaluate(model)
            train_mode(self.model, self.frozen)
            self._write("evaluation", metrics)
            monitor = self.settings.monitor or next(iter(metrics))
            if monitor not in metrics:
                raise ZooError(f"training.monitor: the evaluation has no metric {monitor!r}; known: {', '.join(metrics)}")
            with saving(self.run_dir):
                self.best.offer(metrics[monitor], self.step, lambda folder: self.save_model(model, folder))
        self.accelerator.wait_for_everyone()

    def _checkpoint(self) -> None:
        """Save the state to resume from, and then what follows from it."""
        self._share_buffers()
        position = self._position()
        with saving(self.run_dir):
            if self.accelerator.is_main_process:
                self.log.sync()  # a state must not be on disk before the log lines of its steps
            save_state(self.accelerator, self.run_dir, position)
            self._publish()

    def _position(self) -> dict[str, Any]:
        """Return the position of the run and what a resumed run compares itself with."""
        skips, settings = self.data.skips, self.settings
        return {
            "step": self.step,
            **self.best.position(),
            "cursor": list(self.cursor),
            "batch_size": settings.batch_size,
            "threads": torch.get_num_threads(),
            "hashes": self._hashes(settings.batch_size),
            "skips": None if skips is None else skips.state(),
        }

    def _publish(self) -> None:
        """Write what follows from the newest state: the counts of skipped items, and the model as ``last/``; remove older states.

        A resumed run does this first, because the process that saved the state may have been killed before.
        """
        if self.data.skips is not None:
            self.log.write_skipped(gather_object([self.data.skips.state()]), main=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            self.save_model(self.final_model, self.run_dir / "last")
            remove_older(self.run_dir, keep=self.settings.keep_states)
            self.best.settle(known_best(self.run_dir))

    def _share_buffers(self) -> None:
        """Broadcast the main process's buffers (BatchNorm statistics) to all ranks, as DDP does before its next forward.

        Only the main process saves the model, so that different buffers of the other ranks would be lost on resume.
        """
        if self.accelerator.num_processes > 1:
            for buffer in self.plain_model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def _restore(self) -> None:
        """Load the newest state, if there is one, and verify it.

        Raises:
            ConfigError: the state was saved with other parameter groups.
            WeightsError: the restored state differs from the saved one.
        """
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            position = load_state(self.accelerator, self.run_dir)
        except ZooError:
            raise
        except ValueError as error:  # raised by torch if the optimizer's parameter groups differ
            raise ConfigError(
                f"training.freeze or training.layer_decay: the state in {self.run_dir} was saved with other values ({error}); resume "
                "with the values of the run, or start a new run with weights=RUN_DIR"
            ) from error
        for group, ours in zip(self.optimizer.param_groups, groups, strict=True):
            group.update(ours)  # loading restores the old weight decay and betas; this run's config takes precedence
        if position is None:
            return  # killed before the first state: start again at step 0
        self.step = position["step"]
        batch_size = self._restore_cursor(position)
        if self.data.skips is not None and position.get("skips") is not None:
            self.data.skips.restore(position["skips"])
        different = fingerprint.first_difference(position["hashes"], self._hashes(batch_size)) if position["hashes"] else None
        if different is not None:
            raise WeightsError(
                f"{self.run_dir}: the restored state differs from the saved one; the first part that differs is: {different}. Check that "
                "data, config and library versions are those of the run (environment.json)"
            )
        with saving(self.run_dir):
            self.best.restore(position, main=self.accelerator.is_main_process)
            self._publish()

    def _restore_cursor(self, position: Mapping[str, Any]) -> int:
        """Take the position in the data from a state, warn if the run used other threads; returns the batch size of the state."""
        batch_size, threads = position.get("batch_size", self.settings.batch_size), position.get("threads")
        before = Cursor().after(self.step * self.settings.accumulate, batch_size=batch_size, length=len(self.data))
        self.cursor = Cursor(*position.get("cursor", before))  # states of older versions count steps only
        if threads not in (None, torch.get_num_threads()):
            log.warning(
                "training.threads: the state was saved with %s threads, this run has %s; it continues, but not with the same bits as an "
                "uninterrupted run (use training.threads=%s for that)",
                *(threads, torch.get_num_threads(), threads),
            )
        return batch_size

    def _cut_logs(self) -> None:
        """Remove log lines after the step that the run starts from."""
        cut_lines(self.trace.file, self.step)
        if self.accelerator.is_main_process:
            self.log.truncate(self.step)

    def _hashes(self, batch_size: int) -> dict[str, str]:
        """Return hashes of everything that the next step depends on."""
        if not self.settings.verify_resume:
            return {}
        hashes = {
            "random state": fingerprint.hash_random_state(),
            "parameters": fingerprint.hash_parameters(self.plain_model),
            "optimizer state": fingerprint.hash_optimizer(self.optimizer),
        }
        if self.step < self.settings.max_steps:
            draws = next(iter(self._sampler(batches=1, batch_size=batch_size)))
            hashes["batch"] = fingerprint.hash_batch(self.data.collate([self.data[draw] for draw in draws]))
        return hashes

    def _request_stop(self) -> None:
        self.stop_requested = True
