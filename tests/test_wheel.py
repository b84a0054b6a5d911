"""Distributions built from the checkout work outside it: from the sdist, as a wheel, in a separate environment."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.wheel


def run(*command: str | Path, folder: Path) -> str:
    """Run a command offline and return its standard output; its standard error is in the message where it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files_of(*folders: str) -> set[str]:
    """The files of the checkout under these folders, as paths from its root."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in paths if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from that sdist."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment with the wheel, and with our dependencies but not our editable install."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    inside = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (wheel,) = built.glob("*.whl")
    pip = ("-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index")
    run(sys.executable, *pip, wheel, folder=folder)
    # A folder named in a .pth file is searched for packages, but its own .pth files, such as an editable install's, are not read.
    outside = dict.fromkeys(sysconfig.get_path(key) for key in ("purelib", "platlib"))
    (inside / "dependencies.pth").write_text("\n".join(outside), encoding="utf-8")
    return folder / "bin"


def test_wheel_carries_package_configs_and_assets(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    expected = files_of("zoo") | {f"zoo/{path}" for path in files_of("conf", "assets")}
    assert expected <= carried
    assert {path.split("/")[0] for path in carried} == {"zoo", "multimodal_zoo-0.1.0.dist-info"}


def test_what_is_built_can_be_uploaded(built: Path) -> None:
    """The metadata are valid, and README is rendered."""
    said = run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()), folder=built)
    assert said.count("PASSED") == 2


def test_sdist_carries_tests_and_scripts(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    carried = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    assert files_of("zoo", "conf", "assets", "tests", "scripts") | {"README.md", "LICENSE", "constraints.txt"} <= carried


def test_library_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = """
        import zoo
        print(zoo.__file__)
        assert "vit_nano" in zoo.list_models(), zoo.list_models()
        assert not zoo.create_model("vit_nano").training
    """
    output = run(installed / "python", "-I", "-c", "if True:" + program, folder=tmp_path)
    assert Path(output.splitlines()[0]).is_relative_to(installed.parent)


def test_command_line_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert "clip_vit_nano" in run(installed / "zoo", "list", folder=tmp_path)
    assert "clip_vit_nano" in run(installed / "python", "-I", "-m", "zoo", "list", folder=tmp_path)


def test_training_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    run(installed / "zoo", "train", "run_dir=trained", "training.max_steps=2", folder=tmp_path)
    assert list((tmp_path / "trained").rglob("model.safetensors"))
