"""Facts that the source text of a part declares, read without importing the part and therefore without torch.

``zoo check`` needs a few of them to refuse a wrong combination quickly: the keywords of the constructor, and class attributes with a
literal value such as ``modality = "image"`` or ``accepts = Accepts(modalities=("text",), reads="tokens")``. A fact that this module
cannot read (a computed value, a part of another package) is absent; the complete check imports the part.
"""

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import zoo
from zoo.registry.parts import KINDS

_CONSTRUCTED = {"Accepts": "zoo.types.head"}  # dataclasses whose call is a literal too, and their modules


@dataclass(frozen=True)
class Declaration:
    """Facts of one class.

    Attributes:
        keywords: of the constructor; None if the class inherits its constructor.
        values: class attributes with a literal value, those of base classes in this package included.
    """

    keywords: tuple[str, ...] | None
    values: Mapping[str, Any]


def find_declaration(kind: str, name: str) -> Declaration | None:
    """Return the facts of a part, or None if no file of this package holds it."""
    module = f"{KINDS[kind]}.{name}"
    if not _path(module).is_file():
        return None
    registered = [node for node in ast.iter_child_nodes(_tree(module)) if isinstance(node, ast.ClassDef) and _is_registered(node)]
    return _declaration(module, registered[0].name) if registered else None


def _path(module: str) -> Path:
    folder = Path(zoo.__file__).parent.joinpath(*module.split(".")[1:])
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _is_registered(node: ast.ClassDef) -> bool:
    calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id == "register" for call in calls)


@functools.cache
def _declaration(module: str, name: str) -> Declaration | None:
    """Return the facts of a class of a module; None if the module does not define it."""
    node = next((each for each in _tree(module).body if isinstance(each, ast.ClassDef) and each.name == name), None)
    if node is None:
        return None
    values = dict(pair for base in _bases(module, node) for pair in base.values.items())
    constructor = None
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            constructor = tuple(argument.arg for argument in [*statement.args.args[1:], *statement.args.kwonlyargs])
        values.update(_literals(statement))
    return Declaration(constructor, values)


def _bases(module: str, node: ast.ClassDef) -> Iterator[Declaration]:
    """Yield the facts of the base classes in this package, the last base first, so that the first one overrides it."""
    homes = {
        alias.asname or alias.name: each.module
        for each in _tree(module).body
        if isinstance(each, ast.ImportFrom) and each.module is not None and each.module.startswith("zoo.")
        for alias in each.names
    }
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and (found := _declaration(homes.get(base.id, module), base.id)) is not None:
            yield found


def _literals(statement: ast.stmt) -> Iterator[tuple[str, Any]]:
    """Yield name and value of ``name = literal`` and ``name: type = literal``."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, value = statement.targets[0], statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target, value = statement.target, statement.value
    else:
        return
    if isinstance(target, ast.Name):
        try:
            yield target.id, _literal(value)
        except ValueError:
            return  # computed; the complete check knows it


def _literal(node: ast.expr) -> Any:
    """Evaluate a literal, or a call of a known dataclass with literal keywords.

    Raises:
        ValueError: it is neither.
    """
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CONSTRUCTED and not node.args):
        return ast.literal_eval(node)
    declared = _declaration(_CONSTRUCTED[node.func.id], node.func.id)
    assert declared is not None
    return SimpleNamespace(**{**declared.values, **{str(each.arg): ast.literal_eval(each.value) for each in node.keywords}})
