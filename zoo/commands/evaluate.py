"""``zoo evaluate``: metrics of a checkpoint on a split; with several workers, each does parts of the items."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from zoo.commands.display import counting_progress, show_evaluation
from zoo.commands.remote_options import uploaded
from zoo.commands.worker_options import share_of, shares_work
from zoo.commands.workers import Advance, SharedJob, has_parts, parts_folder, run_shared, written_to
from zoo.losses.distributed import rank
from zoo.runs.evaluate import each_evaluation, evaluate, evaluate_each, output_of
from zoo.runs.jobs.evaluation_parts import EvaluationParts, PartDoneError
from zoo.runs.jobs.parts import Parts
from zoo.runs.jobs.shares import WHOLE, Share
from zoo.storage.remote import is_remote_data
from zoo.training.fingerprint import hash_parameters

PARTS_PER_WORKER = 2  # each part repeats what an evaluation does before its items, for example the embedding of class names
KEYS = ("checkpoint", "data", "evaluation", "evaluations", "precision")


def evaluate_command(options: Namespace, config: Mapping[str, Any]) -> int:
    """Run the command and return the exit status."""
    if is_remote_data(url := config.get("output")):
        return uploaded(str(url), options, lambda staged: evaluate_command(options, {**config, "output": str(staged)}))
    if shares_work(options) or has_parts(output_of(config)):
        return run_shared(EvaluateJob(options, config), options)
    evaluate_once(config, options.json)
    return 0


def evaluate_once(config: Mapping[str, Any], as_json: bool) -> float | None:
    """Run the evaluations of a config and print them; returns the first metric of the first evaluation, by which a sweep chooses."""
    score = None
    with counting_progress("evaluate", None, as_json=as_json) as advance:
        for result, output in evaluate_each(config, advance=advance, expect=advance.expect):
            if rank() == 0:
                show_evaluation(result, output, as_json=as_json)
            score = next(iter(result.metrics.values()), None) if score is None else score
    return score


class EvaluateJob(SharedJob):
    """Evaluation whose items are shared among workers.

    Raises:
        ConfigError: finished parts belong to another job.
    """

    label, num_items = "evaluate", None

    def __init__(self, options: Namespace, config: Mapping[str, Any]) -> None:
        share = share_of(options)
        count = options.workers or (1 if share is None else share.count)
        self.options, self.config, self.each = options, config, each_evaluation(config)
        folder = parts_folder(output_of(config))
        with written_to(folder):
            self.plan = Parts(folder, {"command": "evaluate", **{key: config.get(key) for key in KEYS}}, [])
            num_parts = self.plan.agreed("parts") or self.plan.agree("parts", PARTS_PER_WORKER * count)
        self.parts, self.scratch = EvaluationParts(folder / "results", num_parts), folder / "workers"

    def num_done(self, share: Share = WHOLE) -> int:
        """Return the number of items of a share that are done."""
        return self.parts.num_done(share.holds)

    def is_done(self) -> bool:
        """Return True if the results of all parts exist, as far as the evaluations have come."""
        return self.parts.is_done(len(self.each))

    def work(self, share: Share, advance: Advance) -> int:
        """Evaluate the missing parts of a share; a bad item that the data do not tolerate is an error, so that the count is 0."""
        parts = [part for part in range(self.parts.num_parts) if share.holds(part)]
        for one in self.each if parts else ():
            try:
                evaluate(one, run=self._checked(self.parts.runner(parts, advance)))
            except PartDoneError:
                continue
        return 0

    def join(self) -> int | None:
        """Compute and show the metrics from all parts; None if an evaluation has to read once more."""
        found = []
        for one in self.each:
            try:
                found.append(evaluate(one, run=self._checked(self.parts.runner([], lambda items: None))))
            except PartDoneError:
                return None
        for result, output in found:
            show_evaluation(result, output, as_json=self.options.json)
        self.plan.remove()
        return 0

    def _checked(self, run: Any) -> Any:
        """Return a runner that refuses another model than that of the finished parts."""

        def checked(evaluation: Any, model: Any, *words: Any, **options: Any) -> Any:
            self.plan.agree("weights", hash_parameters(model))
            return run(evaluation, model, *words, **options)

        return checked
