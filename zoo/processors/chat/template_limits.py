"""Limits of chat templates from outside: a template is a program, and a file must not keep a process busy or fill its memory.

Loops take steps from a budget, texts have a longest length, and numbers that texts are repeated or padded with have a largest value. The
longest templates in use have a few hundred lines and take a few thousand steps for a conversation.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import BuiltinMethodType
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 1_000_000  # of all loops and calls of a rendering together: less than a second
MAX_CHARACTERS = 50_000_000  # of a text, and of the output
MAX_NUMBER = 1_000_000  # argument of a call or filter, for example a width
MAX_SOURCE = 1_000_000  # characters of a template
MAX_EXPONENT = 64

MAX_MADE = 4 * MAX_CHARACTERS  # characters that all calls and filters of a rendering make together

_steps: ContextVar[int] = ContextVar("steps", default=0)
_made_so_far: ContextVar[int] = ContextVar("made_so_far", default=0)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Sandbox of Jinja, in which loops, texts and numbers have limits."""

    intercepted_binops = frozenset(["*", "**", "%", "+", "//"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = {name: _limited_filter(name, call) for name, call in self.filters.items()}
        self.filters |= {"_counted": _counted, "_joined": _joined}
        self.globals.pop("lipsum", None)  # makes texts of any length

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MAX_SOURCE:
            raise SecurityError(f"the template has {len(source):,} characters; at most {MAX_SOURCE:,} are allowed")
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None, lineno=loop.lineno)
        return _with_limited_concatenation(tree)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right``, unless the result could be too large."""
        if operator == "*":
            count, text = (left, right) if isinstance(left, int) else (right, left)
            if isinstance(text, str | list | tuple) and isinstance(count, int):
                _refuse_longer(len(text) * max(count, 0))
            elif isinstance(left, int) and isinstance(right, int):
                _refuse_large(left, right, most=10**100)
        elif operator == "**":
            _refuse_large(right, most=MAX_EXPONENT)
            _refuse_large(left, most=10**9)
        elif operator == "%" and isinstance(left, str):
            _refuse_wide_format(left)
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _refuse_longer(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as in Jinja: a template may pass "self")
        """Call a function or method of a text, unless a number or the result could be too large."""
        _step()
        _refuse_large(*args, *kwargs.values())
        owner = __obj.__self__ if isinstance(__obj, BuiltinMethodType) else None
        if isinstance(owner, str):
            longest = max((len(value) for value in (*args, *kwargs.values()) if isinstance(value, str)), default=1)
            _refuse_longer((len(owner) + 1) * max(longest, 1) if __obj.__name__ in ("replace", "join", "translate") else 0)
        return _made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        """Return the sandbox's form of ``"...".format``, unless the text holds an absurd width."""
        if isinstance(value, BuiltinMethodType) and isinstance(value.__self__, str) and value.__name__ in ("format", "format_map"):
            _refuse_wide_format(value.__self__)
        return super().wrap_str_format(value)


def rendered(template: Any, values: Mapping[str, Any]) -> str:
    """Return the text of a template, within the limits.

    Raises:
        SecurityError: a limit was reached.
    """
    token, made = _steps.set(0), _made_so_far.set(0)
    try:
        pieces, length = [], 0
        for piece in template.generate(**values):
            length += len(piece)
            _refuse_longer(length)
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _steps.reset(token)
        _made_so_far.reset(made)


def _step() -> None:
    done = _steps.get() + 1
    if done > MAX_STEPS:
        raise SecurityError(f"the template takes more than {MAX_STEPS:,} steps")
    _steps.set(done)


def _made(result: Any) -> Any:
    """Return the result of a call or filter, after its length is taken from the budget."""
    if isinstance(result, str | list | tuple):
        total = _made_so_far.get() + len(result)
        if total > MAX_MADE:
            raise SecurityError(f"the template makes more than {MAX_MADE:,} characters in all")
        _made_so_far.set(total)
    return result


def _counted(found: Iterable[Any]) -> Iterator[Any]:
    """Yield the elements of a loop, each as one step of the budget."""
    for element in found:
        _step()
        yield element


def _joined(values: Iterable[Any]) -> str:
    """Return the texts of ``a ~ b ~ c`` together."""
    texts = [str(value) for value in values]
    _refuse_longer(sum(map(len, texts)))
    return "".join(texts)


class _Concatenation:
    """Replacement of ``a ~ b`` nodes, at any depth, by the filter ``_joined``."""

    def visit(self, node: nodes.Node) -> nodes.Node:
        for name, value in list(node.iter_fields()):
            if isinstance(value, list):
                setattr(node, name, [self.visit(each) if isinstance(each, nodes.Node) else each for each in value])
            elif isinstance(value, nodes.Node):
                setattr(node, name, self.visit(value))
        if isinstance(node, nodes.Concat):
            return nodes.Filter(nodes.List(node.nodes, lineno=node.lineno), "_joined", [], [], None, None, lineno=node.lineno)
        return node


def _with_limited_concatenation(tree: nodes.Template) -> nodes.Template:
    changed = _Concatenation().visit(tree)
    assert isinstance(changed, nodes.Template)
    changed.set_environment(tree.environment if isinstance(tree.environment, Environment) else Environment())
    return changed


def _limited_filter(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that refuses arguments above ``MAX_NUMBER`` and counts as a step."""

    @functools.wraps(call)  # keeps Jinja's marks of filters that get the context or the environment
    def limited(*args: Any, **keywords: Any) -> Any:
        _step()
        args = _with_counted_elements(args, keywords) if name == "join" else args
        values = [value for value in (*args, *keywords.values()) if isinstance(value, int | str)]
        _refuse_large(*(value for value in values if isinstance(value, int)))
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) > 1:  # replace, join, indent, format
            _refuse_longer((len(texts[0]) + 1) * max(map(len, texts[1:])) if len(texts[0]) > 1 else 0)
            _refuse_wide_format(texts[0])
        return _made(call(*args, **keywords))

    return limited


def _with_counted_elements(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the arguments of ``join`` with its elements as a list, unless their text would be too long."""
    at = 1 if args and isinstance(args[0], EvalContext) else 0
    found = list(args[at])
    separators = [value for value in (*args[at + 1 :], *keywords.values()) if isinstance(value, str)]
    _refuse_longer(len(found) * max(map(len, separators), default=0) + sum(len(each) for each in found if isinstance(each, str)))
    return (*args[:at], found, *args[at + 1 :])


def _refuse_longer(length: int) -> None:
    if length > MAX_CHARACTERS:
        raise SecurityError(f"the template makes a text of {length:,} characters; at most {MAX_CHARACTERS:,} are allowed")


def _refuse_large(*numbers: Any, most: int = MAX_NUMBER) -> None:
    for number in numbers:
        if isinstance(number, int) and abs(number) > most:
            raise SecurityError(f"the template uses a number above {most:,}")


def _refuse_wide_format(text: str) -> None:
    """Refuse a format such as ``%99999999999d`` or ``{:>99999999999}``, which would make a text of this length."""
    digits = 0
    for letter in text:
        digits = digits + 1 if letter.isdigit() else 0
        if digits > len(str(MAX_NUMBER)) and ("%" in text or "{" in text):
            raise SecurityError("the template formats a text with a width of more than seven digits")
