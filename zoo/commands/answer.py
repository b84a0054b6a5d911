"""``zoo answer``: a model answers the questions of a source, and its answers become data to train another on.

Source: Kim and Rush 2016 (arXiv 1606.07947), section 3.2: a student that learns its teacher's answers needs neither its tokenizer nor its
weights. The file is one of JSON lines for data=instruct; pictures and clips that are no files are written beside it.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.assembly.save_load import load
from zoo.commands.display import counting_progress, print_json
from zoo.data.loader import Split, spread
from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError, DataError
from zoo.evaluation.results.html_report import wav_of
from zoo.interop.zoo_checkpoint import find_checkpoint
from zoo.processors.chat.messages import Conversation
from zoo.processors.media.image_file import open_image
from zoo.registry.construct import build_part
from zoo.storage.files import write_whole

SAMPLE_RATE_HZ = 16000
FAULTS_SHOWN = 3


@dataclass
class Written:
    """What came of it: answers that were written, empty ones that were not, and items that could not be used."""

    answers: int = 0
    empty: int = 0
    faults: list[str] = field(default_factory=list)


def answer_command(options: argparse.Namespace, config: Mapping[str, Any]) -> int:
    """Run ``zoo answer``.

    Raises:
        ConfigError: a model that does not talk, or no data.
        DataError: an output that belongs to another job.
    """
    for key in ("batch_size", "max_new_tokens", "limit"):
        if getattr(options, key) is not None and getattr(options, key) < 1:
            raise ConfigError(f"--{key.replace('_', '-')}: {getattr(options, key)}; allowed is 1 or more")
    if not config.get("data"):
        raise ConfigError("data: is missing; say whose questions are answered, for example data=digit_questions")
    model: Any = load(find_checkpoint(Path(config["checkpoint"])), device=config.get("device"))
    if "generate" not in getattr(getattr(model, "head", None), "verbs", ()):
        raise ConfigError(f"checkpoint: {config['checkpoint']} does not talk; name a model whose head has the verb generate (llava)")
    split = build_part("source", config["data"]["source"], "data.source").split(options.split)
    told = {"checkpoint": str(config["checkpoint"]), "data": dict(config["data"]["source"]), "split": options.split, "limit": options.limit}
    sampling = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature}
    with counting_progress("answer", len(split), as_json=options.json) as advance:
        writer = AnswerWriter(Path(options.output), {**told, **sampling, "seed": options.seed, "batch_size": options.batch_size})
        found = writer.run(model, split, sampling, options.limit, seed=options.seed, batch_size=options.batch_size, advance=advance)
    if options.json:
        print_json({"output": options.output, **vars(found)})
    else:
        print(f"written: {options.output}, {found.answers} answers" + (f"; {found.empty} were empty and left out" if found.empty else ""))
        for fault in found.faults[:FAULTS_SHOWN]:
            print(f"left out: {fault}")
    return 1 if found.faults else 0


class AnswerWriter:
    """Answers in the order of the split, a batch at a time, in a file that appears whole; a job that was stopped goes on.

    Args:
        output: the file of JSON lines.
        job: plain values that say which job it is; an unfinished file of another one is refused.

    Raises:
        DataError: the output's folder is not there, or holds the unfinished file of another job.
    """

    def __init__(self, output: Path, job: Mapping[str, Any]) -> None:
        if not output.parent.is_dir() or output.suffix != ".jsonl":
            raise DataError(f"output: {output}; name a file that ends in .jsonl, in a folder that is there")
        self.output, self.job = output, json.loads(json.dumps(job, default=str))
        self.unfinished = output.with_name(f".{output.name}.unfinished")
        self.media = output.with_name(f"{output.stem}_media")

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
        """Answer what is not answered yet, and write the file.

        Args:
            sampling: keywords of the verb ``generate``.
            limit: only so many items, spread evenly; None takes all.
            seed: of drawn answers; each batch has one of its own, so that a job that goes on draws what it would have drawn.
        """
        done = self._done(batch_size)
        advance(done)
        rows = spread(len(split), limit)
        rate = getattr(getattr(model.processor, "parts", {}).get("audio"), "sample_rate_hz", SAMPLE_RATE_HZ)
        with self.unfinished.open("a", encoding="utf-8") as file:
            for start in range(done, len(rows), batch_size):
                some, number = rows[start : start + batch_size], start // batch_size
                lines = self._answered(model, split, some, {**sampling, "seed": seed + number, "batch_size": batch_size}, rate)
                file.writelines(json.dumps(line, ensure_ascii=True) + "\n" for line in lines)
                file.flush()
                advance(len(some))
        found = Written()
        write_whole(self.output, lambda file: file.writelines(self._final(found)))
        self.unfinished.unlink()
        return found

    def _done(self, batch_size: int) -> int:
        """How many items of whole batches are answered; what stands behind these is cut off.

        Raises:
            DataError: the unfinished file is of another job.
        """
        first = json.dumps(self.job) + "\n"
        if not self.unfinished.exists():
            self.unfinished.write_text(first, encoding="utf-8")
            return 0
        lines = [line for line in self.unfinished.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        if lines[:1] != [first]:
            raise DataError(f"output: {self.unfinished} is of another job, which was stopped; remove it, or name another output")
        done = (len(lines) - 1) // batch_size * batch_size
        self.unfinished.write_text("".join(lines[: done + 1]), encoding="utf-8")
        return done

    def _answered(self, model: Any, split: Split, rows: Sequence[int], keywords: Mapping[str, Any], rate: int) -> list[dict[str, Any]]:
        """One line for each row: the conversation with the model's answer, or why there is none."""
        asked: dict[int, Conversation] = {}
        lines: dict[int, dict[str, Any]] = {}
        for row in rows:
            try:
                asked[row] = conversation_of(split.sample(row)).question()
            except DataError as fault:
                lines[row] = {"fault": str(fault)}
        said = model.generate(list(asked.values()), **keywords) if asked else []
        for (row, question), text in zip(asked.items(), said, strict=True):
            lines[row] = {"answer": self._line(row, question, text.strip(), rate)} if text.strip() else {"fault": None}
        return [lines[row] for row in rows]

    def _line(self, row: int, question: Conversation, answer: str, rate: int) -> dict[str, Any]:
        messages = [{"role": message.role, "content": message.text} for message in question.messages]
        line: dict[str, Any] = {"id": question.id, "messages": [*messages, {"role": "assistant", "content": answer}]}
        for key, media in (("images", question.images), ("audio", question.audio)):
            if media:
                line[key] = [self._file(raw, f"{row}_{number}", rate) for number, raw in enumerate(media)]
        return line

    def _file(self, raw: Any, name: str, rate: int) -> str:
        """Where a picture or clip lies, from the output's folder; one that is no file is written."""
        if isinstance(raw, str | Path):
            return str(Path(raw).resolve())
        self.media.mkdir(exist_ok=True)
        is_clip = isinstance(raw, tuple) or (not isinstance(raw, bytes | Image.Image) and np.asarray(raw).dtype != np.uint8)
        path = self.media / f"{name}{'.wav' if is_clip else '.png'}"
        if is_clip:
            path.write_bytes(wav_of(raw, rate))
        else:
            picture = open_image(raw) if isinstance(raw, bytes | Image.Image) else Image.fromarray(np.asarray(raw))
            picture.save(path)
        return f"{self.media.name}/{path.name}"

    def _final(self, found: Written) -> Iterator[str]:
        """The lines of the file, counted as they go by."""
        with self.unfinished.open(encoding="utf-8") as file:
            next(file)
            for line in map(json.loads, file):
                if "answer" in line:
                    found.answers += 1
                    yield json.dumps(line["answer"], ensure_ascii=False) + "\n"
                elif line["fault"] is None:
                    found.empty += 1
                else:
                    found.faults.append(line["fault"])
