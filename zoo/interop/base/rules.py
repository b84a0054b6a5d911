"""Key rules: which tensors of a reference stand for which of ours, and how one becomes the other, in both directions.

A rule names tensors by patterns. ``{i}`` stands for a number (the block), ``{w}`` for ``weight`` or ``bias``; what they
match in a rule's first name holds for its other names. So the rule ``layers.{i}.ln.{w} -> blocks.{i}.norm.{w}`` turns
``layers.3.ln.bias`` into ``blocks.3.norm.bias``, and back.

Nothing is lost on the way: a tensor that no rule takes, and one that a rule lacks, is an error that names it. To take a
reference's older spelling too, import with the rules of both (``RULES + OLD``) and export with ``RULES``.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import WeightsError

Turn = Callable[[Sequence[Tensor]], Sequence[Tensor]]
PLACES = {"i": r"\d+", "w": "weight|bias"}


def keep(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Change nothing."""
    return tensors


@dataclass(frozen=True)
class Rule:
    """Tensors ``theirs`` together become ``ours`` through ``into``, and ``ours`` become ``theirs`` through ``back``."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    into: Turn = keep
    back: Turn = keep


def named(names: Mapping[str, str]) -> list[Rule]:
    """Tensors that only change their name, theirs to ours."""
    return [Rule((theirs,), (ours,)) for theirs, ours in names.items()]


def transposed(theirs: str, ours: str) -> Rule:
    """A matrix that the reference multiplies from the other side."""

    def turn(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0].T.contiguous()]

    return Rule((theirs,), (ours,), turn, turn)


def lifted(theirs: str, ours: str, axes: int = 1) -> Rule:
    """A tensor that has ``axes`` more leading axes of length one here."""
    return Rule((theirs,), (ours,), lambda t: [t[0][(None,) * axes]], lambda t: [t[0].reshape(t[0].shape[axes:])])


def scalar(theirs: str, ours: str, their_shape: tuple[int, ...] = ()) -> Rule:
    """One number: a scalar here, perhaps ``[1]`` there."""
    return Rule((theirs,), (ours,), lambda t: [t[0].reshape(())], lambda t: [t[0].reshape(their_shape)])


def joined(theirs: Sequence[str], ours: str) -> Rule:
    """Equal tensors there (q, k, v) whose rows follow each other in one here."""
    return Rule(tuple(theirs), (ours,), lambda t: [torch.cat(list(t))], lambda t: t[0].chunk(len(theirs)))


def split(theirs: str, ours: Sequence[str], shares: Sequence[int]) -> Rule:
    """Rows of one tensor there that belong to several here, in the proportion of ``shares``."""

    def into(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        unit = tensors[0].size(0) // sum(shares)
        return tensors[0].split([unit * share for share in shares])

    return Rule((theirs,), tuple(ours), into, lambda t: [torch.cat(list(t))])


def under(theirs: str, ours: str, rules: Iterable[Rule]) -> list[Rule]:
    """The same rules below a prefix on each side."""
    return [Rule(tuple(theirs + name for name in r.theirs), tuple(ours + name for name in r.ours), r.into, r.back) for r in rules]


def to_zoo(tensors: Mapping[str, Tensor], rules: Iterable[Rule], *, origin: str, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Turn a reference's tensors into ours.

    Args:
        origin: the reference's name, for messages.
        drop: names that are left out, each with everything below it (``head`` drops ``head.weight``).

    Raises:
        WeightsError: tensors that no rule takes or that a rule lacks; the message counts them and names the first.
    """
    left = {name: tensor for name, tensor in tensors.items() if not any(name == d or name.startswith(d + ".") for d in drop)}
    return _apply(left, [(rule.theirs, rule.ours, rule.into) for rule in rules], f"{origin} -> zoo")


def from_zoo(tensors: Mapping[str, Tensor], rules: Iterable[Rule], *, origin: str) -> dict[str, Tensor]:
    """Turn our tensors into a reference's; the other way round of ``to_zoo``, with the same errors."""
    return _apply(dict(tensors), [(rule.ours, rule.theirs, rule.back) for rule in rules], f"zoo -> {origin}")


def _apply(left: dict[str, Tensor], rules: Sequence[tuple[tuple[str, ...], tuple[str, ...], Turn]], way: str) -> dict[str, Tensor]:
    """Let each rule take from ``left`` what it matches; in the end nothing may be left or lacking."""
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
