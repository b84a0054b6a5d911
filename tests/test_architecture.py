"""Rules of the house: order of imports, mirrored names, file sizes, plain English, and probes of objects."""

import ast
import re
import subprocess
import sys
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

import zoo
from zoo.registry import KINDS, TABLES, find_part, part_names, rows

ROOT = Path(zoo.__file__).parent.parent
MODULES = sorted(path for path in (ROOT / "zoo").rglob("*.py"))

# The rooms from bottom to top, and the rooms below that each may import besides itself and ``errors``. None: all below.
ROOMS: dict[str, set[str] | None] = {
    "errors": set(),
    "types": set(),
    "storage": set(),
    "registry": {"storage"},
    "layers": {"types", "registry"},
    "losses": set(),
    "processors": {"types", "storage", "registry", "layers"},  # of layers the feature extractors of transformers
    "encoders": {"types", "registry", "layers"},
    "language": {"types", "registry", "layers", "processors"},
    "heads": {"types", "registry", "layers", "losses", "language"},
    "data": {"types", "storage", "registry", "processors"},
    "sources": {"types", "storage", "registry", "processors", "data"},
    "interop": {"types", "storage", "registry", "layers", "processors", "data"},
    "assembly": {
        *("types", "storage", "registry", "layers", "processors", "encoders", "language", "heads"),
        *("data", "interop"),
    },
    "training": {"types", "storage", "registry", "losses", "data"},
    "evaluation": {"types", "storage", "registry", "losses", "processors", "data"},  # of losses the exchange between processes
    "runs": None,
    "downloads": {"storage"},
    "commands": None,
    "testing": {"types", "registry", "interop", "assembly", "runs"},  # of interop what opens a directory
}
# ``getattr`` and ``hasattr`` with a literal name, by file: only on objects of other libraries. Our own base classes (``zoo.types``) declare
# every attribute with a default, so that none of our objects has to be probed.
PROBES = {
    "zoo.encoders.timm": 9,  # models of timm
    "zoo.encoders.transformers": 8,  # configs and outputs of transformers
    "zoo.language.transformers": 2,  # configs and modules of transformers
    "zoo.layers.adapters": 2,  # layers of PEFT
    "zoo.layers.hosted_transformers": 1,  # models of transformers
    "zoo.processors.media.image_file": 1,  # images of Pillow
    "zoo.processors.tokenizers.whisper_tokens": 1,  # models of the tokenizers library
}
# Phrases that a newcomer has to read twice; each stood in this code once. Write who does what, with the field's words.
RIDDLES = re.compile(
    r"\b(heads? that talks?|(is|are) (told(?! apart)|asked|said)|whatever it is asked|who asks|whom|nobody|says nothing"
    r"|says? of (itself|themselves)"
    r"|whose it stays|may be none|cannot be \w+ is none|begins? anew|goes on|hears (how|what|of)|listens|not at all trained|trains it not"
    r"|what (is said|is drawn|comes|stands|stood|lies|goes)|in place of an inner|tensors there|likewise|thereof|left lying"
    r"|where (there|it|they) (is|are) (one|none|any))\b",
    re.IGNORECASE,
)
QUESTIONS = re.compile(r"(What|Where|Whether|How|Which|Who|Whose|The one)\b")
DOORS = {"__init__", "__main__", "cli"}  # the package's front doors; cli is the old path of commands/cli
APART = ("encoders", "heads")  # rooms whose parts never import one another


def place(module: str) -> str:
    """``zoo.layers.mlp`` -> ``layers``."""
    return (module.split(".") + ["__init__"])[1]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("zoo.")}


def wrong_imports(path: Path) -> list[str]:
    here, order, wrong = place(dotted(path)), list(ROOMS), []
    for name in imports_of(path):
        there = place(name)
        if there in (here, "errors"):
            if here in APART and name.count(".") == 2 and dotted(path).count(".") == 2:
                wrong.append(
                    f"{dotted(path)} imports its neighbour {name}; code that two parts share belongs to layers/ or a folder beside"
                )
            continue
        allowed = ROOMS[here] if ROOMS[here] is not None else set(order[: order.index(here)])
        if there not in allowed or order.index(there) > order.index(here):
            wrong.append(f"{dotted(path)} may not import {name}")
    return wrong


def test_imports_run_one_way():
    assert not [fault for path in MODULES if place(dotted(path)) not in DOORS for fault in wrong_imports(path)]


def test_the_top_of_the_package_holds_the_rooms_alone():
    assert {place(dotted(path)) for path in MODULES} - DOORS == set(ROOMS)
    assert len(ROOMS) <= 20


def module_level(path: Path) -> set[str]:
    """Modules of zoo that are imported while a module is: its imports outside functions, and the packages they lie in."""
    tree, names, here = ast.parse(path.read_text(encoding="utf-8")), {dotted(each) for each in MODULES}, dotted(path)
    statements, found = list(tree.body), set()
    while statements:
        node = statements.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) or isinstance(node, ast.FunctionDef):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names} & names
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        statements += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler)]
    found = {name for name in found if name in names}
    packages = {name.rsplit(".", depth)[0] for name in found for depth in range(1, name.count("."))}
    outside = {name for name in packages if not f"{here}.".startswith(f"{name}.")}
    return (found | outside) - {here, "zoo"}


def test_every_module_imports_alone():
    """No circle among files: each can be the first that is imported. Then all of them are imported once, for names that do not exist."""
    list(TopologicalSorter({dotted(path): module_level(path) for path in MODULES}).static_order())
    code = f"import importlib\nfor name in {[dotted(path) for path in MODULES]!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("kind", ["encoder", "language", "head"])
def test_table_part_and_test_share_one_name(kind):
    for path in (ROOT / "conf" / kind).glob("*.yaml"):
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert table["name"] == path.stem
        assert find_part(kind, path.stem)
        folder = KINDS[kind].rpartition(".")[2]
        assert (ROOT / "tests" / folder / f"test_{path.stem}.py").is_file(), f"{path.stem} has no test file"
    assert {path.stem for path in (ROOT / "conf" / kind).glob("*.yaml")} == set(part_names(kind))


def test_there_are_at_most_80_yaml_files():
    assert len(list((ROOT / "conf").rglob("*.yaml"))) <= 80


def test_every_family_has_a_nano_form():
    for kind in TABLES:
        for family in {row.family for row in rows(kind).values()}:
            assert any("nano" in row.name for row in rows(kind).values() if row.family == family), family


def test_listing_imports_nothing_heavy():
    heavy = ["torch", "torchvision", "transformers", "timm", "omegaconf", "hydra", "numpy"]
    code = f"import sys, zoo.commands.cli; zoo.commands.cli.main(['list']); assert not (found := set({heavy!r}) & set(sys.modules)), found"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_zoo_leaves_torch_and_its_company_alone():
    code = "import sys, zoo; assert not {'torch', 'torchvision', 'transformers', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_file_calls_scaled_dot_product_attention():
    callers = [dotted(p) for p in MODULES if "scaled_dot_product_attention(" in p.read_text(encoding="utf-8")]
    assert callers == ["zoo.layers.attention"]


def test_files_can_be_read_in_a_sitting():
    long = {dotted(p): n for p in MODULES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 420}
    assert not long


def documented(path: Path) -> list[tuple[str, str]]:
    """Return the places and texts of a module's docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    return [(f"{dotted(path)}.{getattr(node, 'name', '')}", text) for node in found if (text := ast.get_docstring(node))]


def test_docstrings_begin_with_a_verb_or_a_noun():
    assert not [place for path in MODULES for place, text in documented(path) if QUESTIONS.match(text)]


def comments(path: Path) -> list[tuple[str, str]]:
    with path.open("rb") as file:
        return [(f"{dotted(path)}:{t.start[0]}", t.string) for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT]


def test_docstrings_and_comments_are_plain_english():
    found = [(where, match[0]) for path in MODULES for where, text in documented(path) + comments(path) for match in RIDDLES.finditer(text)]
    assert not found, "say who does what to what, with the terms of the field (.github/CONTRIBUTING.md)"


def test_every_room_says_what_lives_there():
    for path in MODULES:
        if path.name == "__init__.py" and path.parent != ROOT / "zoo":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            assert len(text.split()) >= 10, f"{dotted(path)}: say what lives there, what it may import, and how one is added"
            if dotted(path).count(".") == 1:
                assert "import" in text and re.search(r"\b[Aa]dd", text), f"{dotted(path)}: say what it may import, and how one is added"


def probes(path: Path) -> int:
    """Count the calls of getattr and hasattr whose name is written out."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("getattr", "hasattr") and len(call.args) > 1]
    return sum(isinstance(call.args[1], ast.Constant) for call in named)


def test_only_objects_of_other_libraries_are_probed():
    assert {dotted(path): count for path in MODULES if (count := probes(path))} == PROBES
    assert sum(PROBES.values()) <= 26
