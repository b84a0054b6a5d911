"""The house keeps its order: who imports whom, which names mirror which, and how long a file may grow."""

import ast
import subprocess
import sys
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
    "processors": {"types", "storage", "registry"},
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
    "evaluation": {"types", "storage", "registry", "processors", "data"},
    "runs": None,
    "downloads": {"storage"},
    "commands": None,
    "testing": {"types", "registry", "interop", "assembly", "runs"},  # of interop what opens a directory
}
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


def test_every_module_imports_alone():
    modules = [dotted(path) for path in MODULES]
    # Each in a fresh set of zoo modules; one interpreter, because torch would be imported fifty times otherwise.
    code = (
        "import sys, importlib\n"
        f"for name in {modules!r}:\n"
        "    for loaded in [m for m in sys.modules if m == 'zoo' or m.startswith('zoo.')]: del sys.modules[loaded]\n"
        "    import zoo.registry; zoo.registry.parts._parts.clear()\n"
        "    importlib.import_module(name)\n"
    )
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


def test_there_are_at_most_60_yaml_files():
    assert len(list((ROOT / "conf").rglob("*.yaml"))) <= 60


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
