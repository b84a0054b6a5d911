"""Sampled batches of an objective such as GRPO: answers to the prompts of the data, their rewards, and the targets of the loss.

Everything depends on the weights, the data and a seed of run and step alone, so that a resumed run samples the same answers. The state of a
run that stops between two samplings holds the batches that it has not used yet, because their weights are gone.
"""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import DataError, WeightsError
from zoo.losses.distributed import mean_over_ranks, rank, world_size
from zoo.storage.tensors import read_tensors, write_tensors
from zoo.training.fingerprint import seed_of
from zoo.training.objectives.policy.token_log_probabilities import FINISHED, ITEMS, LENGTHS, REWARD, REWARD_PART, STEP_TOKENS
from zoo.training.objectives.preference.log_probabilities import answers_of, last_run
from zoo.training.reference import Reference
from zoo.types import PLACEHOLDER_IDS, SUPERVISED, Batch, SampledAnswer, SamplingObjective, on_host

log = logging.getLogger("zoo")
TABLES = ("inputs", "masks", "targets")


class Rollouts:
    """Sampling of the batches of a run.

    Args:
        model: system that is trained; it samples with its weights of the moment.
        objective: scores answers and computes targets.
        tokenizer: part "conversation" of the system's processor.
        reference: frozen model; None if the objective does not use one.
        seed: seed of the run.
        autocast: context of the precision of the forward passes in training, so that sampled and trained distribution agree.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: SamplingObjective,
        tokenizer: Any,
        reference: Reference | None,
        *,
        seed: int,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model: Any = model
        self.objective, self.tokenizer, self.reference = objective, tokenizer, reference
        self.seed, self.autocast = seed, autocast
        self.kept: list[Batch] = []  # sampled at once, in the order of use
        self.used = 0  # optimizer steps that were made on them

    @property
    def is_spent(self) -> bool:
        """True if all optimizer steps on the sampled batches were made."""
        return not self.kept or self.used >= self.objective.steps_per_sampling * self.objective.num_iterations

    @torch.no_grad()
    def sample(self, batches: Sequence[Batch], step: int) -> None:
        """Sample answers to the prompts of these batches with the current weights.

        Args:
            batches: of ``steps_per_sampling`` optimizer steps, all on the device.
            step: number of the optimizer step, which seeds the sampling.
        """
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            made = [self._sampled(batch, seed_of(self.seed, step, place)) for place, batch in enumerate(batches)]
            self.kept = self._with_step_tokens(self.objective.finish(made))
        finally:
            # Decoding stores matrices by columns; ``train`` stores them by rows again, as a resumed run has them. Outer modules come first.
            self.model.train()
            for module, training in modes.items():
                module.train(training)
        self.used = 0

    def next(self) -> list[Batch]:
        """Return the batches of the next optimizer step."""
        per_step = len(self.kept) // self.objective.steps_per_sampling
        place = self.used % self.objective.steps_per_sampling
        self.used += 1
        return self.kept[place * per_step : (place + 1) * per_step]

    def _sampled(self, batch: Batch, seed: int) -> Batch:
        """Return a batch of sampled answers with rewards and the targets of both models."""
        copies, device = self.objective.answers_per_prompt, batch.inputs["text"].device
        prompts, references = self._prompts(batch)
        first = rank() * len(prompts) * copies
        rows = range(first, first + len(prompts) * copies)
        most = self.objective.max_new_tokens
        with self.autocast():
            encoded = self.model.encode_batch(batch)
            answers = self.model.head.sample(
                encoded, _padded(batch, prompts), self.tokenizer, copies=copies, rows=rows, max_new_tokens=most, seed=seed
            )
        asked = [references[row // copies] for row in range(len(answers))]
        made = self._answered(batch, prompts, answers).to(device)
        scores = self.objective.score(answers, asked, _whole(made))
        named = {name if name == REWARD else REWARD_PART + name: torch.tensor(values, device=device) for name, values in scores.items()}
        made = replace(made, targets={**made.targets, **named})
        if self.reference is not None:
            with self.autocast():
                made = self.reference(made)
        with self.autocast():
            targets = self.objective.policy_targets(self.model.head, encoded, made)
        # Contiguous, as a resumed run reads them: kernels may round differently with another layout.
        return replace(made, targets={**made.targets, **targets}).map(Tensor.contiguous)

    def _prompts(self, batch: Batch) -> tuple[list[Tensor], list[list[str]]]:
        """Return the token ids before the last answer of each conversation, and the text of that answer as the right one."""
        token_ids, answers = on_host(batch.inputs["text"]), last_run(on_host(answers_of(batch)))
        prompts, references = [], []
        for row, answer in zip(token_ids, answers, strict=True):
            if not bool(answer.any()):
                raise DataError("a conversation of the batch has no answer, before which a prompt ends; choose data with answers")
            prompts.append(row[: int(answer.int().argmax())])
            references.append([self.tokenizer.decode(row[answer].tolist()).strip()])
        return prompts, references

    def _answered(self, batch: Batch, prompts: Sequence[Tensor], answers: Sequence[SampledAnswer]) -> Batch:
        """Return the batch of prompts with sampled answers, on the CPU; images and audio stay one per prompt."""
        copies = self.objective.answers_per_prompt
        rows = [torch.cat([prompts[row // copies], torch.tensor(answer.token_ids)]) for row, answer in enumerate(answers)]
        token_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # [answers, length]
        lengths = torch.tensor([len(row) for row in rows])
        own = torch.tensor([len(answer.token_ids) for answer in answers])
        places = torch.arange(token_ids.shape[1])
        mask = places < lengths[:, None]
        targets = {
            SUPERVISED: mask & (places >= (lengths - own)[:, None]),
            LENGTHS: own,
            FINISHED: torch.tensor([float(answer.is_finished) for answer in answers]),
            **self._items(batch, prompts),
        }
        names = batch.ids or [str(row) for row in range(len(prompts))]
        ids = [f"{names[row // copies]} answer {row % copies}" for row in range(len(answers))]
        return Batch({**batch.inputs, "text": token_ids}, {**batch.masks, "text": mask}, targets, ids)

    def _items(self, batch: Batch, prompts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the row of the encoder's output for each image and clip of the answers.

        Two prompts with one image each and two answers per prompt give ``0 0 1 1``.
        """
        found = {}
        for modality, placeholder in PLACEHOLDER_IDS.items():
            if modality not in batch.inputs or modality not in self.model.encoders:
                continue
            mask = batch.masks.get(modality)
            items = [x if mask is None else x[..., mask[row]] for row, x in enumerate(batch.inputs[modality])]
            counts, rows, start = [self.tokenizer.count(modality, item) for item in items], [], 0
            for prompt in prompts:
                left, stop = int((prompt == placeholder).sum()), start
                while left > 0:
                    left, stop = left - counts[stop], stop + 1
                rows += list(range(start, stop)) * self.objective.answers_per_prompt
                start = stop
            found[ITEMS + modality] = torch.tensor(rows, dtype=torch.int64)
        return found

    def _with_step_tokens(self, made: Sequence[Batch]) -> list[Batch]:
        """Add the mean number of sampled tokens per batch of each optimizer step, over all processes."""
        per_step = len(made) // self.objective.steps_per_sampling
        found = []
        for start in range(0, len(made), per_step):
            step = made[start : start + per_step]
            tokens = mean_over_ranks(torch.stack([batch.targets[LENGTHS].sum() for batch in step]).float().mean())
            found += [replace(batch, targets={**batch.targets, STEP_TOKENS: tokens}) for batch in step]
        return found

    def save(self, folder: Path) -> None:
        """Write the batches of this process that are not used up, and the state of the objective."""
        kept = [] if self.is_spent else self.kept
        plain = {"used": self.used, "batches": [batch.ids for batch in kept], "objective": self.objective.state(), "ranks": world_size()}
        tensors = {
            f"{number}/{table}/{name}": tensor
            for number, batch in enumerate(kept)
            for table in TABLES
            for name, tensor in vars(batch)[table].items()
        }
        if kept:
            write_tensors(tensors, folder / f"{rank()}.rollouts.safetensors")
        (folder / f"{rank()}.rollouts.json").write_text(json.dumps(plain), encoding="utf-8")

    def load(self, folder: Path, device: torch.device) -> None:
        """Take what ``save`` wrote; batches of another number of processes are left out, and new ones are sampled.

        Raises:
            WeightsError: the files are missing.
        """
        first, own = (folder / f"{number}.rollouts.json" for number in (0, rank()))
        if not first.is_file():
            raise WeightsError(f"{first}: the file with the answers that are not used yet is missing; start a new run with weights=RUN_DIR")
        plain = json.loads((own if own.is_file() else first).read_text(encoding="utf-8"))
        self.objective.restore(plain["objective"])
        self.kept, self.used = [], 0
        if plain["ranks"] != world_size():
            log.warning("%s was saved by %s processes, this run has %s: it samples new answers", folder, plain["ranks"], world_size())
            return
        tensors = read_tensors(folder / f"{rank()}.rollouts.safetensors") if plain["batches"] else {}
        for number, ids in enumerate(plain["batches"]):
            tables: dict[str, dict[str, Tensor]] = {table: {} for table in TABLES}
            for key, tensor in tensors.items():
                where, table, name = key.split("/", 2)
                if where == str(number):
                    tables[table][name] = tensor.clone()  # tensors of a file are not aligned, which changes the rounding of matrix products
            self.kept.append(Batch(**tables, ids=ids).to(device))
        self.used = plain["used"]


def _whole(batch: Batch) -> Batch:
    """Return the answers with the images and audio of each, for models that know nothing of shared prompts."""
    places = {name.removeprefix(ITEMS): rows for name, rows in batch.targets.items() if name.startswith(ITEMS)}
    inputs, masks = ({name: x[places[name]] if name in places else x for name, x in table.items()} for table in (batch.inputs, batch.masks))
    return Batch(inputs, masks, {SUPERVISED: batch.targets[SUPERVISED]}, batch.ids)


def _padded(batch: Batch, prompts: Sequence[Tensor]) -> Batch:
    """Return the prompts as a batch, padded on the right, without media: the encoders' outputs are passed beside it."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    token_ids = nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)  # [prompts, longest]
    mask = torch.arange(token_ids.shape[1]) < lengths[:, None]
    return Batch({"text": token_ids}, {"text": mask}, ids=batch.ids).to(batch.inputs["text"].device)
