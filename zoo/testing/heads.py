"""Check of heads."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.registry import part_names
from zoo.testing.rules.comparison import refuse, require, require_close
from zoo.testing.rules.parts import check_gradients, check_keywords, check_state
from zoo.types import IGNORED, PLACEHOLDER_IDS, Accepts, Batch, Encoded, FeatureHead, Head, HeadOutput, LanguageHead, Wiring

READS = ("pooled", "tokens", "patches")
MODALITIES = ("image", "audio", "text")


def check_head(
    head: Any,
    encoded: Mapping[str, Encoded],
    batch: Batch,
    *,
    wiring: Wiring | None = None,
    without_gradient: Collection[str] = (),
) -> None:
    """Check every rule of ``zoo.types.Head``; the head is left in the mode and with the weights that it came with.

    Args:
        head: a small one, with random weights.
        encoded: outputs of its encoders for at least two items, by modality.
        batch: with the targets that the head reads.
        wiring: what ``System`` connects it with; None leaves that out.
        without_gradient: beginnings of the names of parameters that get no gradient on purpose.

    Raises:
        ContractError: a rule is broken.
    """
    require(isinstance(head, Head), head, "a head is a subclass of zoo.types.Head", "it is none", "Head", "write class X(Head)")
    check_keywords(type(head), supplied=("inputs", "language"))
    _check_words(head)
    was_training, given = head.training, {m: _detached(each) for m, each in encoded.items()}
    head.eval()
    with torch.no_grad():
        prepared = head.prepare(batch)
        output = _checked_output(head, head(given, prepared))
        _check_again(head, given, prepared, output, wiring)
        _check_missing(head, given, prepared)
        _check_state(head, given, prepared, output)
        _check_parts(head, given, prepared, output)
    if output.loss is not None:
        trained = copy.deepcopy(head).train()
        check_gradients(trained, trained(given, trained.prepare(batch)).loss, exempt=without_gradient)
        _check_no_items(head, given, batch, without_gradient)
    head.train(was_training)


def _detached(encoded: Encoded) -> Encoded:
    return Encoded(encoded.tokens.detach(), None if encoded.pooled is None else encoded.pooled.detach(), encoded.mask)


def _check_words(head: Head) -> None:
    accepts = vars(type(head)).get("accepts") or next((vars(b)["accepts"] for b in type(head).__mro__ if "accepts" in vars(b)), None)
    fits = isinstance(accepts, Accepts) and set(accepts.modalities) <= set(MODALITIES) and 0 <= accepts.minimum <= accepts.maximum
    remedy = 'write accepts = Accepts(modalities=("image",), reads="pooled") in the class'
    require(fits, head, "a head must say accepts", f"it is {accepts!r}", "Accepts with modalities and 0 <= minimum <= maximum", remedy)
    unknown = [name for name in head.reads if name not in READS]
    require(
        bool(head.reads) and not unknown, head, "reads names outputs of encoders", f"it is {tuple(head.reads)}", f"of {READS}", "correct it"
    )
    known = {name for base in type(head).__mro__ for name in vars(base)}
    missing = [verb for verb in head.verbs if verb not in known]
    require(not missing, head, "each of verbs is a method", f"there is no {missing}", "def VERB(self, system, ...)", "define it")
    if head.evaluation is not None:
        legal = part_names("evaluation")
        require(
            head.evaluation in legal, head, "evaluation is a registered name", f"it is {head.evaluation!r}", f"of {legal}", "correct it"
        )
    unknown = [name for name in head.processors if name not in part_names("processor")]
    require(not unknown, head, "processors are registered names", f"there is no {unknown}", f"of {part_names('processor')}", "correct it")


def _checked_output(head: Head, output: Any) -> HeadOutput:
    found = type(output).__name__
    if not isinstance(output, HeadOutput):
        refuse(head, "forward returns HeadOutput", f"it returns a {found}", "HeadOutput(loss, metrics, outputs)", "return one")
    loss = output.loss
    fits = loss is None or (isinstance(loss, Tensor) and loss.ndim == 0 and loss.is_floating_point())
    described = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
    require(fits, head, "loss is a scalar or None", f"it is {described}", "a float tensor []", "take the mean over items")
    wrong = [name for name, value in output.metrics.items() if not isinstance(value, Tensor) or value.ndim or value.requires_grad]
    require(not wrong, head, "metrics are detached scalars", f"{wrong} are none", "tensors []", "detach them")
    return output


def _same(head: Head, found: HeadOutput, expected: HeadOutput, rule: str, remedy: str) -> None:
    if found.loss is not None and expected.loss is not None:
        require_close(found.loss, expected.loss, head, rule, remedy)


def _check_again(head: Head, encoded: dict[str, Encoded], batch: Batch, output: HeadOutput, wiring: Wiring | None) -> None:
    """In evaluation mode the loss is the same again, also after the head was connected twice."""
    _same(head, head(encoded, batch), output, "the loss in evaluation mode is the same again", "draw random numbers in training only")
    if wiring is None:
        return
    names = list(head.state_dict())
    for _ in range(2):
        head.connect(wiring)
    same = names == list(head.state_dict())
    require(same, head, "connect adds no weights", "state_dict has other names", "references only", "keep other parts in a tuple")
    _same(head, head(encoded, batch), output, "connecting twice is the same as once", "replace references in connect")


def _check_missing(head: Head, encoded: dict[str, Encoded], batch: Batch) -> None:
    """Without a modality or a target that it reads, a head says so in an error of zoo; it may also do without."""
    for modality in encoded:
        _refused(head, {m: e for m, e in encoded.items() if m != modality}, batch, f"encoded[{modality!r}]")
    for name in batch.targets:
        without = replace(batch, targets={n: t for n, t in batch.targets.items() if n != name})
        _refused(head, encoded, without, f"batch.targets[{name!r}]")


def _refused(head: Head, encoded: dict[str, Encoded], batch: Batch, missing: str) -> None:
    try:
        head(encoded, batch)
    except ZooError:
        return
    except Exception as error:  # noqa: BLE001  # whatever it is, it is no error of zoo
        remedy = "use batch.need(...) and zoo.types.need_encoded(...)"
        found = f"without it forward raises {type(error).__name__}: {error}"
        refuse(head, f"a missing {missing} is a DataError that names it", found[:200], "DataError", remedy)


def _check_state(head: Head, encoded: dict[str, Encoded], batch: Batch, output: HeadOutput) -> None:
    other = check_state(head, "head", None)
    _same(head, other(encoded, batch), output, "saved and loaded weights give the same loss", "register every tensor that forward reads")


def _check_parts(head: Head, encoded: dict[str, Encoded], batch: Batch, output: HeadOutput) -> None:
    """Check the rules of ``FeatureHead`` and ``LanguageHead``."""
    if isinstance(head, FeatureHead):
        found = head.loss_of(head.features(encoded), batch.targets)
        _same(head, found, output, "loss_of(features(encoded), targets) is the loss of forward", "let forward call both")
    if isinstance(head, LanguageHead):
        made = head.predictions(encoded, batch)
        lengths = {len(each) for each in (made.hidden, made.logits, made.labels, made.rows)}
        rule, remedy = "predictions has one row for each supervised token", "select all four in one way"
        require(len(lengths) == 1, head, rule, f"lengths are {sorted(lengths)}", "one length", remedy)


def _check_no_items(head: Head, encoded: dict[str, Encoded], batch: Batch, exempt: Collection[str]) -> None:
    """A batch of conversations without images or clips, and one without supervised tokens, still reach every parameter."""
    if not isinstance(head, LanguageHead):
        return
    token_ids = batch.inputs["text"]
    for placeholder in PLACEHOLDER_IDS.values():
        token_ids = token_ids.masked_fill(token_ids == placeholder, 1)
    inputs = {m: x if m == "text" else x[:0] for m, x in batch.inputs.items()}
    masks = {m: x if m == "text" else x[:0] for m, x in batch.masks.items()}
    none = {m: Encoded(e.tokens[:0], None if e.pooled is None else e.pooled[:0], e.mask[:0]) for m, e in encoded.items()}
    empty = replace(batch, inputs={**inputs, "text": token_ids}, masks=masks)
    silent = replace(
        batch, targets={n: torch.zeros_like(t) if t.dtype == torch.bool else t.new_full(t.shape, IGNORED) for n, t in batch.targets.items()}
    )
    spans = copy.deepcopy(head)
    spans.connect(Wiring({}))  # symbols around items that are not there would be refused
    for what, given, other in (("no items", none, empty), ("nothing supervised", encoded, silent)):
        trained = (spans if what == "no items" else copy.deepcopy(head)).train()
        loss = trained(given, other).loss
        if loss is None:
            refuse(head, f"a batch with {what} has a loss of 0", "loss is None", "a scalar that depends on every parameter", "return a sum")
        check_gradients(trained, loss, exempt=exempt, rule=f"a batch with {what} gives every parameter a gradient")
