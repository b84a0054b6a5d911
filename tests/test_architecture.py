"""The house keeps its order: who imports whom, which names mirror which, and how long a file may grow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import zoo
from zoo.registry import PACKAGES, TABLES, find_part, part_names, rows

ROOT = Path(zoo.__file__).parent.parent
MODULES = sorted(path for path in (ROOT / "zoo").rglob("*.py"))

# The folder or file on the left may import those on the right (and itself, and zoo.errors, which all may).
BASE = {"types", "registry"}
ALLOWED = {
    "errors": set(),
    "types": set(),
    "backbones": set(),
    "quantised": set(),
    "adapters": {"layers", "quantised"},
    "cache": set(),
    "classifier_cache": {"cache"},
    "registry": {"backbones"},
    "distributed": set(),
    "layers": {"types"},
    "losses": {"types", "layers", "distributed"},
    "checkpoint": {"types", "layers"},
    "convert": {"types", "layers", "checkpoint"},
    "cards": {"checkpoint", *BASE},
    "data": {"cache", "construct", *BASE},
    "encoders": {"layers", *BASE},
    "language": {"layers", *BASE},
    "speech": {"types"},
    "transcription": {"language", "layers", "data", *BASE},
    "heads": {"speech", "transcription", "language", "layers", "losses", "distributed", *BASE},
    "system": {"types"},
    "training": {"types", "distributed", "checkpoint", "data"},
    "page": {"data"},
    "objectives": {"types", "losses", "registry"},
    "alignment": {"types", "data", "system", "build", "training", "objectives"},
    "evaluation": {"speech", "types", "distributed", "checkpoint", "data", "registry", "classifier_cache", "page"},
    "compose": {"registry", "backbones"},
    "weights": {"adapters", "backbones", "convert", "checkpoint", "data", "system", "compose", *BASE},
    "construct": {"compose", *BASE},
    "counting": {"layers", *BASE},
    "build": {
        "construct",
        "counting",
        "adapters",
        "layers",
        "checkpoint",
        "data",
        "encoders",
        "language",
        "heads",
        "system",
        "compose",
        "weights",
        *BASE,
    },
    "shrink": {"types", "layers", "build"},
    "exports": {"adapters", "backbones", "checkpoint", "convert", "data", "build", "system", *BASE},
    "inspection": {"construct", "alignment", "counting", "data", "layers", "system", "build", "training", *BASE},
    "run": {"alignment", "checkpoint", "data", "registry", "system", "build", "weights", "inspection", "training", "evaluation"},
    "fetched": {"checkpoint"},
    "commands": {
        "speech",
        "transcription",
        "evaluation",
        *(
            "cards",
            "cache",
            "checkpoint",
            "classifier_cache",
            "data",
            "language",
            "system",
            "training",
            "weights",
            "build",
            "fetched",
            "page",
        ),
        *BASE,
    },
    "cli": {"registry", "compose", "distributed", "inspection", "run", "build", "exports", "commands"},
}
APART = ("encoders", "heads")  # whose files never import one another


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


def test_imports_run_one_way():
    wrong = []
    for path in MODULES:
        here = place(dotted(path))
        if here == "__init__":  # the front door names every home, lazily
            continue
        for name in sorted(imports_of(path)):
            there = place(name)
            if there not in ALLOWED[here] | {here, "errors"}:
                wrong.append(f"{dotted(path)} may not import {name}")
            if here in APART and there == here:
                wrong.append(f"{dotted(path)} imports its neighbour {name}; what two share belongs to layers/")
    assert not wrong, "\n".join(wrong)


def test_every_folder_has_its_place_in_the_order():
    assert {place(dotted(path)) for path in MODULES} - {"__init__"} <= set(ALLOWED)


def test_every_module_imports_alone():
    modules = [dotted(path) for path in MODULES]
    # Each in a fresh set of zoo modules; one interpreter, because torch would be imported fifty times otherwise.
    code = (
        "import sys, importlib\n"
        f"for name in {modules!r}:\n"
        "    for loaded in [m for m in sys.modules if m == 'zoo' or m.startswith('zoo.')]: del sys.modules[loaded]\n"
        "    import zoo.registry; zoo.registry._parts.clear()\n"
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
        folder = PACKAGES[kind].rpartition(".")[2]
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
    code = f"import sys, zoo.cli; zoo.cli.main(['list']); assert not (found := set({heavy!r}) & set(sys.modules)), found"
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
