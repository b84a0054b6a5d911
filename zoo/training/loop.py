"""Training loop, in reading order from top to bottom.

Accelerate handles devices, processes, precision and saved states; this module defines the steps of a run.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn

from zoo.data.loader import ProcessedSplit
from zoo.data.planned import Planned
from zoo.errors import ConfigError, WeightsError, ZooError
from zoo.losses.distributed import share_buffers, share_object, wait_for_ranks
from zoo.training import feature_cache, fingerprint, grad_cache
from zoo.training.accelerator import make_accelerator
from zoo.training.batches import StepBatches
from zoo.training.best import BestModel
from zoo.training.curves import draw_curves
from zoo.training.durations import seconds_of
from zoo.training.finite import FiniteLosses
from zoo.training.freeze import train_mode
from zoo.training.log import RunLog, cut_lines
from zoo.training.meter import Meter
from zoo.training.optim import set_learning_rate
from zoo.training.parallel import ParallelModel
from zoo.training.profile import profiled
from zoo.training.progress import Progress
from zoo.training.reference import Reference
from zoo.training.rollouts import Rollouts
from zoo.training.schedule import learning_rate_at
from zoo.training.settings import MONITOR_MODES, TrainingSettings
from zoo.training.state import known_best, load_state, remove_older, save_state, saving
from zoo.training.step_values import StepValues
from zoo.training.stops import Patience, StopRequests
from zoo.types import Batch, HeadOutput, Objective, Part, unchanged_generators

log = logging.getLogger("zoo")


class Trainer:
    """One training run.

    Args:
        model: module that maps a ``Batch`` to a ``HeadOutput``.
        data: training split with augmentation and processor.
        run_dir: directory of states, logs and saved models.
        seed: seed of the order and augmentation of the data.
        save_model: function that writes a model to a directory, atomically.
        evaluate: function from a model to metrics; every process calls it at the same step. None disables evaluation.
        progress: display that is updated after every step.
        num_workers: number of processes that load data.
        complete: function that adds further targets to each batch, such as a teacher's embeddings.
        rollouts: samples answers to the prompts of the data; the batches of the run are then these answers, and ``complete`` is not used.
        objective: loss in place of the head's own; None trains the head's.
        accelerator: of ``make_accelerator``, if something else of the run needs it before the trainer; None makes one.

    Raises:
        ConfigError: the settings do not fit the model or this machine.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ProcessedSplit | Planned,
        settings: TrainingSettings,
        *,
        run_dir: Path,
        seed: int,
        save_model: Callable[[nn.Module, Path], Any],
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        progress: Progress | None = None,
        num_workers: int = 0,
        complete: Callable[[Batch], Batch] = lambda batch: batch,
        rollouts: Rollouts | None = None,
        objective: Objective | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.objective = objective
        self.settings, self.run_dir, self.seed = settings, run_dir, seed
        self.save_model, self.evaluate, self.progress = save_model, evaluate, progress
        self.accelerator = accelerator or make_accelerator(settings, run_dir)
        self.batches = StepBatches(
            data, settings, self.accelerator, seed=seed, num_workers=num_workers, complete=complete, rollouts=rollouts
        )
        if settings.trackers:
            self.accelerator.init_trackers("tracked")
        frozen = complete if rollouts is None else rollouts.reference
        shares = isinstance(frozen, Reference) and frozen.tensors is not None
        self.parallel = ParallelModel(model, settings, self.accelerator, is_reference=shares)
        self.plain_model, self.model, self.optimizer = self.parallel.plain, self.parallel.wrapped, self.parallel.optimizer
        self.frozen, self.average = self.parallel.frozen, self.parallel.average
        self.trace = fingerprint.Trace(run_dir, self.accelerator.process_index, settings.trace)
        self.step, self.best = 0, BestModel(run_dir)
        self.log, self.finite = RunLog(run_dir), FiniteLosses(self.accelerator.device)
        self.meter = Meter(self.plain_model, settings, self.accelerator.device)
        self.stops = StopRequests(None if settings.max_time is None else seconds_of(settings.max_time))
        self.patience = Patience(settings.patience, settings.min_delta)

    def run(self, *, resume: bool = False, record: Callable[[], dict[str, Any]] = dict) -> dict[str, float]:
        """Train to ``max_steps``, or until ``patience`` ends the run, and return the last metrics.

        Args:
            resume: start from the newest saved state of the run directory.
            record: function that writes the config of a resumed run, if it changed, and returns the changes; the main process calls it
                when the state is restored and verified.

        Raises:
            Interrupted: a signal (Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2) or ``max_time`` ended the run; the state is saved first.
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
        profiling = profiled(self.settings.profile, self.run_dir, self.accelerator.process_index, self.accelerator.device)
        with self.stops.listening(), profiling as step_done:
            for batches in self._steps():
                made = self._train_step(batches)
                self.step += 1
                step_done()
                values = self._after_step(made) or values
        if self.accelerator.is_main_process:
            with saving(self.run_dir):
                draw_curves(self.log.metrics, self.run_dir / "curves.png", self.log.timing)
        for tracker in self.accelerator.trackers:
            tracker.finish()  # not end_training: it destroys the process group, which the next job of a sweep needs
        self.accelerator.wait_for_everyone()  # other ranks may read the files of the main process afterwards
        return values

    @property
    def data(self) -> ProcessedSplit | Planned | feature_cache.FeatureSplit:
        """Training data of the run."""
        return self.batches.data

    @property
    def stopped_early(self) -> str | None:
        """Sentence about the end of a run by ``patience``; None if it trains all steps."""
        if not self.patience.exhausted or self.step == self.settings.max_steps:
            return None
        name = self.settings.monitor or "the metric"
        return (
            f"stopped early at step {self.step} of {self.settings.max_steps}: {name} did not improve in {self.patience.waited} evaluations"
        )

    def _use_cached_features(self) -> None:
        """Run the frozen encoders over the data, only once per run, and replace the data by their features."""
        passes, folder = self.settings.cache_features, feature_cache.cache_folder(self.run_dir)
        assert isinstance(self.data, ProcessedSplit)
        with self.parallel.whole() as model:
            if self.accelerator.is_main_process:
                feature_cache.keep_features(
                    model.eval(),
                    self.data,
                    folder,
                    passes=passes,
                    batch_size=self.settings.batch_size,
                    seed=self.seed,
                    num_workers=self.batches.num_workers,
                    autocast=lambda: self.accelerator.autocast(),
                    tell=self.progress.prepare if self.progress is not None else None,
                )
        wait_for_ranks()  # as long as the main process encodes
        self.batches.replace_data(feature_cache.FeatureSplit(folder, len(self.data), self.data.order))

    def _steps(self) -> Iterator[list[Batch]]:
        """Yield the batches of each remaining optimizer step."""
        steps = self.batches.steps(self.step, self.meter)
        for _ in range(self.step, self.settings.max_steps):
            if self.patience.exhausted:
                return
            yield next(steps)

    def _train_step(self, batches: list[Batch]) -> StepValues:
        """Run forward, backward, clipping and optimizer step; returns the values to log, which are still on the device."""
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
        with self.meter.counting():
            outputs = self._forward_backward(batches)
        self.finite.observe(self.step + 1, [output.loss for output in outputs], batches)
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
        self.meter.count(batches)
        return StepValues(outputs, rate, norm)

    def _forward_backward(self, batches: list[Batch]) -> list[HeadOutput]:
        """Run forward and backward; returns the output of each batch (with gradient caching the common output, once per batch)."""
        if self.settings.accumulation == "grad_cache" and len(batches) > 1:
            return [grad_cache.forward_backward_together(self.plain_model, batches, self.accelerator)] * len(batches)  # type: ignore[arg-type]
        outputs = [self._forward_backward_alone(batch, last=batch is batches[-1]) for batch in batches]
        self.parallel.finish_backward()
        return outputs

    def _forward_backward_alone(self, batch: Batch, *, last: bool) -> HeadOutput:
        # Gradients are averaged over processes only with the last batch, to communicate once per step.
        synchronise = self.accelerator.no_sync(self.model) if not last else nullcontext()
        with synchronise:
            with self.accelerator.autocast():
                output = self.model(batch) if self.objective is None else self.model(batch, self.objective)
            if output.loss is not None:
                self.accelerator.backward(output.loss / self.settings.accumulate)
        return output

    def _clip(self) -> Tensor | None:
        limit = self.settings.clip_gradients  # None: clipping at infinity only measures the norm
        return self.accelerator.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit)

    def _after_step(self, made: StepValues) -> dict[str, float]:
        """Log, evaluate and save a checkpoint if they are due at this step; raise Interrupted if a stop was requested.

        Returns:
            The values of the step; nothing if they were left on the device, because no log line is due.
        """
        settings, last = self.settings, self.step == self.settings.max_steps
        logs = self.step % settings.log_every == 0 or last
        values = made.read(self.finite) if logs or not self.finite.is_late else {}
        if values and self.progress is not None and self.accelerator.is_main_process:
            self.progress.update(self.step, values)
        if logs:
            self._write("train", {**values, **self._skipped()})
            self._write("speed", self.meter.line())
        if settings.evaluate_every and self.evaluate is not None and (self.step % settings.evaluate_every == 0 or last):
            self._evaluate()
        done, stop = last or self.patience.exhausted, self.stops.agreed()
        if self.step % settings.checkpoint_every == 0 or done or stop is not None:
            self._checkpoint()
        if stop is not None and not done:
            if self.accelerator.is_main_process:
                self.log.write_event(self.step, "stopped", {"reason": stop.reason, "status": stop.status})
            self.stops.end(stop, self.step, settings.max_steps, self.run_dir)
        return values

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
        if self.settings.trackers:
            self.accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=self.step)

    def _evaluate(self) -> None:
        """Evaluate on all processes; the main process saves the best model by ``monitor``, the later of equal ones.

        Raises:
            ZooError: the evaluation has no metric named ``monitor``.
        """
        assert self.evaluate is not None
        self.finite.refuse()
        with self.parallel.whole(everywhere=True) as model, unchanged_generators(self.accelerator.device):
            share_buffers(model)  # all processes must evaluate the model that the main process saves
            model.eval()
            metrics = share_object(self.evaluate(model))
            train_mode(self.model, self.frozen)
            self._write("evaluation", metrics)
            monitor = self.settings.monitor or next(iter(metrics))
            if monitor not in metrics:
                raise ZooError(f"training.monitor: the evaluation has no metric {monitor!r}; known: {', '.join(metrics)}")
            score = MONITOR_MODES[self.settings.monitor_mode] * metrics[monitor]
            self.patience.observe(score)
            if self.accelerator.is_main_process:
                with saving(self.run_dir):
                    self.best.offer(score, self.step, lambda folder: self.save_model(model, folder))
        wait_for_ranks()

    def _checkpoint(self) -> None:
        """Save the state to resume from, and then what follows from it."""
        self.finite.refuse()
        share_buffers(self.plain_model)
        position = self._position()
        with saving(self.run_dir):
            if self.accelerator.is_main_process:
                self.log.sync()  # a state must not be on disk before the log lines of its steps
            save_state(self.accelerator, self.run_dir, position, self._save_further)
            self._publish()

    def _save_further(self, folder: Path) -> None:
        """Write into a state what Accelerate does not hold."""
        if self.parallel.sharded is not None:
            self.parallel.state().save(folder)
        if self.batches.rollouts is not None:
            self.batches.rollouts.save(folder)

    def _position(self) -> dict[str, Any]:
        """Return the position of the run and what a resumed run compares itself with."""
        skips, settings = self.data.skips, self.settings
        return {
            "step": self.step,
            **self.best.position(),
            "patience": self.patience.state(),
            "cursor": list(self.batches.cursor),
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
        with self.parallel.whole(torch.device("cpu")) as model:
            if self.accelerator.is_main_process:
                self.save_model(model, self.run_dir / "last")
        if self.accelerator.is_main_process:
            remove_older(self.run_dir, keep=self.settings.keep_states)
            self.best.settle(known_best(self.run_dir))

    def _restore(self) -> None:
        """Load the newest state, if there is one, and verify it.

        Raises:
            ConfigError: the state was saved with other parameter groups.
            WeightsError: the restored state differs from the saved one.
        """
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            position = load_state(self.accelerator, self.run_dir, self.parallel.state, is_sharded=self.parallel.sharded is not None)
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
        self.patience.restore(position.get("patience"))
        if self.batches.rollouts is not None:
            self.batches.rollouts.load(Path(position["folder"]), self.accelerator.device)
        batch_size = self.batches.restore(position, self.step)
        if self.data.skips is not None and position.get("skips") is not None:
            self.data.skips.restore(position["skips"])
        different = fingerprint.first_difference(position["hashes"], self._hashes(batch_size)) if position["hashes"] else None
        if different is not None:
            raise WeightsError(
                f"{self.run_dir}: the restored state differs from the saved one; the first part that differs is: {different}. Check that "
                "data, config and library versions are those of the run (environment.json)"
            )
        if "ranks" in position:  # saved by another number of processes
            set_seed(fingerprint.seed_of(self.seed, self.step, self.accelerator.process_index, self.accelerator.num_processes))
        with saving(self.run_dir):
            self.best.restore(position, main=self.accelerator.is_main_process)
            self._publish()

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
            hashes["batch"] = fingerprint.hash_batch(self.batches.first(batch_size))
        return hashes
