"""``zoo answer``: generate a teacher model's answers to the questions of a data source, as training data for another model.

Source: sequence-level knowledge distillation, Kim and Rush 2016 (arXiv 1606.07947), section 3.2: a student trained on the teacher's answers
needs neither the teacher's tokenizer nor its weights. The output is a JSON-lines file for data=instruct. Images and audio clips that exist
only in memory are written to a folder beside it.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.assembly.save_load import load
from zoo.commands.best_of import BestOf, Chosen, best_of_options, report
from zoo.commands.display import counting_progress, print_json
from zoo.commands.plain import say
from zoo.commands.worker_options import shares_work
from zoo.commands.workers import Advance, ListJob, has_parts, parts_folder, run_shared
from zoo.data.loader import spread
from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError, DataError
from zoo.evaluation.results.html_report import wav_of
from zoo.interop.base.checkpoint_directory import find_checkpoint
from zoo.interop.base.source import weights_on_disk
from zoo.processors.chat.messages import Conversation
from zoo.processors.media.image_file import open_image
from zoo.registry.construct import build_part
from zoo.storage.files import create_folder_of, write_text_atomically, write_whole
from zoo.storage.lock import alone
from zoo.training.fingerprint import hash_parameters
from zoo.types import Split, part_of, verbs_of

SAMPLE_RATE_HZ = 16000
FAULTS_SHOWN = 3


@dataclass
class Written:
    """Result of a job: number of answers written, number of empty answers left out, errors of unusable items, rewards by question."""

    answers: int = 0
    empty: int = 0
    faults: list[str] = field(default_factory=list)
    rewards: list[list[float]] = field(default_factory=list)


def answer_command(options: argparse.Namespace, config: Mapping[str, Any]) -> int:
    """Run ``zoo answer``.

    Raises:
        ConfigError: the model cannot generate text, ``data`` is missing, or a count is below 1.
        DataError: the output file belongs to another job.
    """
    for key in ("batch_size", "max_new_tokens", "limit"):
        if getattr(options, key) is not None and getattr(options, key) < 1:
            raise ConfigError(f"--{key.replace('_', '-')}: {getattr(options, key)}; allowed is 1 or more")
    if not config.get("data"):
        raise ConfigError("data: missing; name the source of the questions, for example data=digit_questions")
    precision, best_of = config.get("precision"), best_of_options(options)
    if shares_work(options) or has_parts(Path(options.output)):
        return run_shared(AnswerJob(options, config), options)
    model = _load_generator(config)
    split = build_part("source", config["data"]["source"], "data.source").split(options.split)
    job = _job_of(options, config)
    if precision not in (None, "fp32", "auto"):  # the answers differ, so that it is another job
        job["precision"] = precision
    sampling = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature}
    with counting_progress("answer", len(split), as_json=options.json) as advance:
        writer = AnswerWriter(Path(options.output), {**job, **sampling, "seed": options.seed, "batch_size": options.batch_size, **best_of})
        writer.best_of = BestOf(options.best_of, options.reward, config.get("device")) if best_of else None
        found = writer.run(model, split, sampling, options.limit, seed=options.seed, batch_size=options.batch_size, advance=advance)
    return _show(found, options)


def _load_generator(config: Mapping[str, Any]) -> Any:
    """Load the model of a config.

    Raises:
        ConfigError: it cannot generate text.
    """
    model: Any = load(
        find_checkpoint(Path(weights_on_disk(str(config["checkpoint"])))), device=config.get("device"), precision=config.get("precision")
    )
    if "generate" not in verbs_of(model):
        raise ConfigError(f"checkpoint: {config['checkpoint']} cannot generate text; name a model with a language model, for example llava")
    return model


def _job_of(options: argparse.Namespace, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that identify the questions and the model of a job."""
    data = dict(config["data"]["source"])
    return {"checkpoint": str(config["checkpoint"]), "data": data, "split": options.split, "limit": options.limit}


def _show(found: Written, options: argparse.Namespace) -> int:
    """Print the result of a job and return the exit status: 0, or 1 if an item could not be used."""
    if options.json:
        plain = {name: value for name, value in vars(found).items() if name != "rewards"}
        print_json({"output": options.output, **plain, **({"best_of": report(found.rewards)} if found.rewards else {})})
    else:
        say(f"written: {options.output}, {found.answers} answers" + (f"; {found.empty} were empty and left out" if found.empty else ""))
        if found.rewards:
            said = report(found.rewards)
            means = ", ".join(f"{k}: {mean:.4f}" for k, mean in said["mean_reward"].items())
            say(f"mean reward of the best of k answers ({means}); KL to one answer at most {said['divergence_bound']:.4f} nats")
        for fault in found.faults[:FAULTS_SHOWN]:
            say(f"left out: {fault}")
    return 1 if found.faults else 0


class AnswerJob(ListJob):
    """Generation of answers shared among workers; a part holds whole batches, so that each batch is sampled as by one worker.

    Raises:
        DataError: the output does not end in ``.jsonl``, or its folder cannot be created.
        ConfigError: finished parts belong to another job.
    """

    def __init__(self, options: argparse.Namespace, config: Mapping[str, Any]) -> None:
        self.config, self.sampling = config, {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature}
        self.split = build_part("source", config["data"]["source"], "data.source").split(options.split)
        self.rows = spread(len(self.split), options.limit)
        job = {**_job_of(options, config), **self.sampling, "seed": options.seed, "batch_size": options.batch_size}
        job |= {"precision": config.get("precision"), **best_of_options(options)}
        self.writer = AnswerWriter(Path(options.output), job)
        if self.writer.unfinished.exists():
            raise DataError(
                f"output: {self.writer.unfinished} belongs to one worker, which was interrupted; remove it, or end that job first"
            )
        folder = parts_folder(Path(options.output))
        super().__init__("answer", folder, job, list(map(str, self.rows)), options, multiple=options.batch_size)

    def open(self) -> Callable[[range, Advance], Iterator[dict[str, Any]]]:
        """Load the model; return a function that generates answers."""
        model, options = _load_generator(self.config), self.options
        if options.best_of is not None:
            self.writer.best_of = BestOf(options.best_of, options.reward, self.config.get("device"))
        self.parts.agree("weights", hash_parameters(model))

        def run(span: range, advance: Advance) -> Iterator[dict[str, Any]]:
            for lines in self.writer.batches(
                model, self.split, self.rows[: span.stop], self.sampling, self.options.seed, self.options.batch_size, start=span.start
            ):
                yield from lines
                advance(len(lines))

        return run

    @staticmethod
    def is_fault(line: Mapping[str, Any]) -> bool:
        """Return True for the line of an item that could not be used; an empty answer is none."""
        return line.get("fault") is not None

    def join(self) -> int:
        """Write the output from all parts."""
        found = Written()
        write_whole(self.writer.output, lambda file: file.writelines(final_lines(self.parts.lines(), found)))
        status = _show(found, self.options)
        self.parts.remove()
        return status


class AnswerWriter:
    """Resumable writer of generated answers, in the order of the split.

    Answers are appended batch by batch to a hidden file; the output file is created in one step at the end.

    Args:
        output: JSON-lines file to write.
        job: plain values that identify the job. An unfinished file of a job with other values is refused.

    Raises:
        DataError: the output does not end in ``.jsonl``, or its folder cannot be created.
    """

    def __init__(self, output: Path, job: Mapping[str, Any]) -> None:
        if output.suffix != ".jsonl":
            raise DataError(f"--output: {output} ends in {output.suffix or 'no suffix'}; give a file that ends in .jsonl")
        create_folder_of(output)
        self.output, self.job = output, json.loads(json.dumps(job, default=str))
        self.unfinished = output.with_name(f".{output.name}.unfinished")
        self.lock = output.with_name(f".{output.name}.lock")
        self.media = output.with_name(f"{output.stem}_media")
        self.best_of: BestOf | None = None

    def run(
        self,
        model: Any,
        split: Split,
        sampling: Mapping[str, Any],
        limit: int | None,
        *,
        seed: int,
        batch_size: int,
        advance: Callable[[int], None] = lambda items: None,
    ) -> Written:
        """Generate the missing answers and write the output file.

        Args:
            sampling: keyword arguments of ``System.generate``.
            limit: maximum number of items, spread evenly over the split; None takes all.
            seed: random seed for sampling. Batch ``i`` uses ``seed + i``, so a resumed job samples the same answers.
            advance: progress callback, called with the number of items that were completed.

        Raises:
            DataError: the unfinished file belongs to another job.
        """
        try:
            with alone(self.lock, f"output: {self.output}: another zoo answer is writing to this file"):
                found = self._run(model, split, sampling, spread(len(split), limit), seed, batch_size, advance)
        except OSError as error:
            raise DataError(
                f"output: {error.filename or self.output} cannot be written ({error.strerror or error}); finished answers are kept. Make "
                "room or set the folder's permissions, then run the same command again"
            ) from error
        return found

    def _run(
        self,
        model: Any,
        split: Split,
        sampling: Mapping[str, Any],
        rows: Sequence[int],
        seed: int,
        batch_size: int,
        advance: Callable[[int], None],
    ) -> Written:
        done = self._done(batch_size)
        advance(done)
        with self.unfinished.open("a", encoding="utf-8") as file:
            for lines in self.batches(model, split, rows, sampling, seed, batch_size, start=done):
                file.write("".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines))
                file.flush()
                advance(len(lines))
        found = Written()
        with self.unfinished.open(encoding="utf-8") as file:
            next(file)
            write_whole(self.output, lambda output: output.writelines(final_lines(map(json.loads, file), found)))
        self.unfinished.unlink()
        return found

    def batches(
        self,
        model: Any,
        split: Split,
        rows: Sequence[int],
        sampling: Mapping[str, Any],
        seed: int,
        batch_size: int,
        *,
        start: int,
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield one JSON object per row, batch by batch: ``answer`` (the conversation) or ``fault`` (the error; None if empty).

        Args:
            rows: of the split; the first ``start`` of them are answered already.
            start: a multiple of ``batch_size``.
        """
        rate = SAMPLE_RATE_HZ if (audio := part_of(model, "audio")) is None else audio.sample_rate_hz
        for begin in range(start, len(rows), batch_size):
            keywords = {**sampling, "seed": seed + begin // batch_size, "batch_size": batch_size}
            yield self._answered(model, split, rows[begin : begin + batch_size], keywords, rate)

    def _done(self, batch_size: int) -> int:
        """Return the number of answered items, in whole batches; an incomplete last batch is removed from the file.

        Raises:
            DataError: the unfinished file belongs to another job.
        """
        first = json.dumps(self.job) + "\n"
        if not self.unfinished.exists():
            write_text_atomically(self.unfinished, first)
            return 0
        lines = [line for line in self.unfinished.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        if lines[:1] != [first]:
            raise DataError(f"output: {self.unfinished} belongs to another job, which was interrupted; remove it, or name another output")
        done = (len(lines) - 1) // batch_size * batch_size
        write_text_atomically(self.unfinished, "".join(lines[: done + 1]))
        return done

    def _answered(self, model: Any, split: Split, rows: Sequence[int], keywords: Mapping[str, Any], rate: int) -> list[dict[str, Any]]:
        """Return one JSON object per row: ``answer`` (the conversation with the model's answer) or ``fault`` (the error; None if empty)."""
        questions: dict[int, Conversation] = {}
        references: list[list[str]] = []
        lines: dict[int, dict[str, Any]] = {}
        for row in rows:
            try:
                sample = split.sample(row)
                questions[row] = conversation_of(sample).question()
                references.append(sample.answers or [conversation_of(sample).answer])
            except DataError as fault:
                lines[row] = {"fault": str(fault)}
        asked = list(questions.values())
        if self.best_of is None or not asked:
            answers = [Chosen(text.strip(), []) for text in (model.generate(asked, **keywords) if asked else [])]
        else:
            answers = self.best_of.choose(model, asked, references, keywords)
        for (row, question), chosen in zip(questions.items(), answers, strict=True):
            lines[row] = {"answer": self._line(row, question, chosen.text, rate)} if chosen.text else {"fault": None}
            lines[row] |= {"rewards": chosen.rewards} if chosen.rewards else {}
        return [lines[row] for row in rows]

    def _line(self, row: int, question: Conversation, answer: str, rate: int) -> dict[str, Any]:
        messages = [{"role": message.role, "content": message.text} for message in question.messages]
        line: dict[str, Any] = {"id": question.id, "messages": [*messages, {"role": "assistant", "content": answer}]}
        for key, media in (("images", question.images), ("audio", question.audio)):
            if media:
                line[key] = [self._file(raw, f"{row}_{number}", rate) for number, raw in enumerate(media)]
        return line

    def _file(self, raw: Any, name: str, rate: int) -> str:
        """Return the path of an image or audio clip, absolute or relative to the output's folder; write it first if it is not a file."""
        if isinstance(raw, str | Path):
            return str(Path(raw).resolve())
        self.media.mkdir(exist_ok=True)
        is_audio = isinstance(raw, tuple) or (not isinstance(raw, bytes | Image.Image) and np.asarray(raw).dtype != np.uint8)
        path = self.media / f"{name}{'.wav' if is_audio else '.png'}"
        if is_audio:
            path.write_bytes(wav_of(raw, rate))
        else:
            image = open_image(raw) if isinstance(raw, bytes | Image.Image) else Image.fromarray(np.asarray(raw))
            image.save(path)
        return f"{self.media.name}/{path.name}"


def final_lines(lines: Iterable[dict[str, Any]], found: Written) -> Iterator[str]:
    """Yield the lines of the output file and count them in ``found``."""
    for line in lines:
        if "rewards" in line:
            found.rewards.append(line["rewards"])
        if "answer" in line:
            found.answers += 1
            yield json.dumps(line["answer"], ensure_ascii=False) + "\n"
        elif line["fault"] is None:
            found.empty += 1
        else:
            found.faults.append(line["fault"])
