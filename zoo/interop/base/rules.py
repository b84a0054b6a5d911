"""Key rules: pairs of tensor names of a reference and of ours, with the conversion in both directions.

A rule names tensors by patterns. ``{i}`` and ``{j}`` stand for numbers (the block, or stage and block), ``{w}`` for ``weight`` or ``bias``;
the text that they match in a rule's first name is used in its other names. So the rule ``layers.{i}.ln.{w} -> blocks.{i}.norm.{w}`` turns
``layers.3.ln.bias`` into ``blocks.3.norm.bias``, and back.

A tensor that no rule takes, and one that a rule lacks, is an error that names it. To read a reference's older spelling too, import
with the rules of both (``RULES + OLD``) and export with ``RULES``.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import WeightsError

Turn = Callable[[Sequence[Tensor]], Sequence[Tensor]]
PLACES = {"i": r"\d+", "j": r"\d+", "w": "weight|bias"}


def keep(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Change nothing."""
    return tensors


@dataclass(frozen=True)
class Rule:
    """Tensors ``theirs``, which ``into`` converts to ``ours`` and ``back`` converts back."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    into: Turn = keep
    back: Turn = keep


def named(names: Mapping[str, str]) -> list[Rule]:
    """Return rules for tensors that only change their name, theirs to ours."""
    return [Rule((theirs,), (ours,)) for theirs, ours in names.items()]


def transposed(theirs: str, ours: str) -> Rule:
    """Return the rule for a matrix that the reference multiplies from the other side."""

    def turn(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0].T.contiguous()]

    return Rule((theirs,), (ours,), turn, turn)


def lifted(theirs: str, ours: str, axes: int = 1) -> Rule:
    """Return the rule for a tensor of ours with ``axes`` more leading axes of length one."""
    return Rule((theirs,), (ours,), lambda t: [t[0][(None,) * axes]], lambda t: [t[0].reshape(t[0].shape[axes:])])


def scalar(theirs: str, ours: str, their_shape: tuple[int, ...] = ()) -> Rule:
    """Return the rule for one number: a scalar in ours, perhaps ``[1]`` in theirs."""
    return Rule((theirs,), (ours,), lambda t: [t[0].reshape(())], lambda t: [t[0].reshape(their_shape)])


def joined(theirs: Sequence[str], ours: str) -> Rule:
    """Return the rule that concatenates equal tensors of theirs (q, k, v) along rows into one of ours."""
    return Rule(tuple(theirs), (ours,), lambda t: [torch.cat(list(t))], lambda t: t[0].chunk(len(theirs)))


def split(theirs: str, ours: Sequence[str], shares: Sequence[int]) -> Rule:
    """Return the rule that splits the rows of one tensor of theirs into several of ours, in the proportion of ``shares``."""

    def into(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        unit = tensors[0].size(0) // sum(shares)
        return tensors[0].split([unit * share for share in shares])

    return Rule((theirs,), tuple(ours), into, lambda t: [torch.cat(list(t))])


def under(theirs: str, ours: str, rules: Iterable[Rule]) -> list[Rule]:
    """Return the same rules with a prefix on each side."""
    return [Rule(tuple(theirs + name for name in r.theirs), tuple(ours + name for name in r.ours), r.into, r.back) for r in rules]


def to_zoo(tensors: Mapping[str, Tensor], rules: Iterable[Rule], *, origin: str, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert a reference's tensors to ours.

    Args:
        origin: the reference's name, for messages.
        drop: names to leave out, each with everything below it (``head`` drops ``head.weight``).

    Raises:
        WeightsError: no rule takes a tensor, or a rule lacks one; the message counts them and names the first.
    """
    left = {name: tensor for name, tensor in tensors.items() if not any(name == d or name.startswith(d + ".") for d in drop)}
    return _apply(left, [(rule.theirs, rule.ours, rule.into) for rule in rules], f"{origin} -> zoo")


def takes(rules: Iterable[Rule], name: str) -> bool:
    """Return True if a rule takes a tensor of this name of the reference."""
    return any(_compile(pattern).fullmatch(name) for rule in rules for pattern in rule.theirs)


def from_zoo(tensors: Mapping[str, Tensor], rules: Iterable[Rule], *, origin: str) -> dict[str, Tensor]:
    """Convert our tensors to a reference's; the inverse of ``to_zoo``, with the same errors."""
    return _apply(dict(tensors), [(rule.ours, rule.theirs, rule.back) for rule in rules], f"zoo -> {origin}")


def _apply(left: dict[str, Tensor], rules: Sequence[tuple[tuple[str, ...], tuple[str, ...], Turn]], way: str) -> dict[str, Tensor]:
    """Let each rule take the tensors that it matches out of ``left``; at the end no tensor may be left or missing."""
    found: dict[str, Tensor] = {}
    lacking: list[str] = []
    for sources, targets, turn in rules:
        pattern = _compile(sources[0])
        for match in [m for m in map(pattern.fullmatch, list(left)) if m]:
            names = [source.format(**match.groupdict()) for source in sources]
            absent = [name for name in names if name not in left]
            lacking += absent
            if not absent:
                values = _turn([left.pop(name) for name in names], turn, names, way)
                _add(found, [target.format(**match.groupdict()) for target in targets], values, way)
    if left or lacking:
        raise WeightsError(f"{way}: the weights do not fit: " + "; ".join(filter(None, [_say("unknown", left), _say("missing", lacking)])))
    return found


def _compile(name: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", name)  # text, place, text, place, ..., text
    return re.compile("".join(f"(?P<{p}>{PLACES[p]})" if n % 2 else re.escape(p) for n, p in enumerate(pieces)))


def _turn(tensors: list[Tensor], turn: Turn, names: list[str], way: str) -> Sequence[Tensor]:
    try:
        return turn(tensors)
    except (RuntimeError, IndexError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in zip(names, tensors, strict=True))
        raise WeightsError(f"{way}: shapes that cannot be converted: {shapes}") from error


def _add(found: dict[str, Tensor], targets: list[str], values: Sequence[Tensor], way: str) -> None:
    twice = [target for target in targets if target in found]
    if twice or len(values) != len(targets):
        raise WeightsError(f"{way}: {'two tensors' if twice else 'wrong shapes'} for {', '.join(twice or targets)}")
    found.update(zip(targets, values, strict=True))


def _say(word: str, names: Collection[str]) -> str:
    listed = sorted(names)
    return f"{len(listed)} {word} ({', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''})" if listed else ""
