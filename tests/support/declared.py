"""What pyproject.toml declares, what the code imports, and an environment that holds nothing but the declared packages."""

import ast
import importlib.metadata
import re
import sys
import sysconfig
import tomllib
import venv
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NAME = "multimodal-zoo"


@cache
def project() -> dict:
    """The table ``project`` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements_of(*extras: str) -> list[Requirement]:
    """The direct requirements: those of the core if no extra is named, else those of the extras alone."""
    lines = [line for extra in extras for line in project()["optional-dependencies"][extra]] if extras else project()["dependencies"]
    found = []
    for line in lines:
        wanted = Requirement(line)
        found += requirements_of(*wanted.extras) if wanted.name == NAME else [wanted]
    return found


def installed_packages(requirements: list[Requirement]) -> dict[str, importlib.metadata.Distribution]:
    """Canonical name -> distribution of these packages and all that they require in turn."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    rest = [(each, extra) for each in requirements for extra in ("", *each.extras)]
    while rest:
        wanted, extra = rest.pop()
        name = canonicalize_name(wanted.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found[name] = package = importlib.metadata.distribution(name)
        for each in map(Requirement, package.requires or []):
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                rest += [(each, inner) for inner in ("", *each.extras)]
    return found


def installed_paths(package: importlib.metadata.Distribution, levels: int) -> set[str]:
    """The first parts of the paths of a package's files: ``torch``, or with two levels ``torch/nn``."""
    lines = (package.read_text("RECORD") or "").splitlines()  # read as text: a path object for each of 100,000 files takes seconds
    paths = {"/".join(line.partition(",")[0].strip('"').split("/")[:levels]) for line in lines}
    return {path for path in paths if not path.startswith(("..", "__pycache__"))}


def linked_entries(package: importlib.metadata.Distribution) -> set[str]:
    """Files and folders on the first level of site-packages, and on the second of a namespace that several packages share."""
    found = set()
    for entry in installed_paths(package, 1):
        top = Path(str(package.locate_file(entry)))
        shared = top.is_dir() and top.suffix != ".dist-info" and not (top / "__init__.py").is_file()
        found |= {path for path in installed_paths(package, 2) if path.startswith(f"{entry}/")} if shared else {entry}
    return found


def modules_of(requirements: list[Requirement]) -> set[str]:
    """Names of the modules that these packages, without those that they require in turn, bring."""
    names = {
        entry.partition(".")[0]
        for each in requirements
        for entry in installed_paths(importlib.metadata.distribution(each.name), 1)
        if "." not in entry or entry.endswith((".py", ".so"))
    }
    return names


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports anywhere, in full; relative imports do not occur here."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def foreign_imports(path: Path, follow: str = " ") -> set[str]:
    """Names of the packages of others that a file imports, and of the modules below ``follow`` that it imports in turn."""
    seen, rest, found = set(), [path], set()
    while rest:
        here = rest.pop()
        seen.add(here)
        for name in imported(here):
            inner = ROOT / f"{name.replace('.', '/')}.py"
            if name.startswith(follow) and inner not in seen:
                rest.append(inner)
            found |= {name.partition(".")[0]}
    return found - sys.stdlib_module_names - {"zoo"}


def quickstart_extras() -> list[str]:
    """The extras that scripts/quickstart.sh installs."""
    found = re.search(
        r'^prepare_environment "?([\w,]+)"?( #.*)?$', (ROOT / "scripts" / "quickstart.sh").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found, "scripts/quickstart.sh calls prepare_environment with a list of extras"
    return found[1].split(",")


def make_environment(folder: Path, *extras: str) -> Path:
    """Make an environment that holds zoo, the packages of the extras and what they require: links to the packages of this environment.

    Returns:
        Its ``bin``.
    """
    venv.create(folder, symlinks=True)
    inside = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    ours = Requirement(f"{NAME}[{','.join(extras)}]")
    packages = installed_packages([*requirements_of(), *requirements_of(*extras)]) | {NAME: importlib.metadata.distribution(ours.name)}
    for package in packages.values():
        for entry in linked_entries(package):
            source, target = Path(str(package.locate_file(entry))), inside / entry
            target.parent.mkdir(exist_ok=True)
            if source.exists() and not target.exists():
                target.symlink_to(source)
    (inside / "zoo_checkout.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    command = folder / "bin" / "zoo"
    command.write_text(
        f"#!{folder / 'bin' / 'python'}\nimport sys\nfrom zoo.commands.cli import main\nsys.exit(main())\n", encoding="utf-8"
    )
    command.chmod(0o755)
    return folder / "bin"
