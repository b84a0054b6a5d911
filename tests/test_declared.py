"""pyproject.toml declares what the code imports, and constraints.txt pins all of it."""

import re
from functools import cache

import pytest
from declared import ROOT, foreign_imports, installed_packages, modules_of, project, quickstart_extras, requirements_of
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import zoo
from zoo.storage import distribution

EXTRAS = sorted(project()["optional-dependencies"])
NOT_TESTED = {
    "bench",
    "demo",
    "gcs",
    "microphone",
    "ray",
    "vocoder",
}  # not in the extra test; demo only until it is tested
BY_NAME = {  # packages that no import statement names
    "bitsandbytes": "import_module in zoo.layers.quantised",
    "soxr": "audio_file imports it by name",
    "simplejpeg": "need in scripts/benchmarks/decode_jpeg",
    "jiwer": "measures.wer imports it by name",
    "whisper-normalizer": "the same",
    "open_clip_torch": "its file of merges is read",
    "silero-vad": "its file of weights is read",
    "protobuf": "transformers reads SentencePiece models with it",
    "tensorboard": "Accelerate logs to it",
    "s3fs": "fsspec reads s3:// with it",
    "aiohttp": "fsspec reads https:// with it",
    "python-multipart": "Starlette reads forms with it",
    "hydra-joblib-launcher": "a plug-in of Hydra",
    "hydra-submitit-launcher": "a plug-in of Hydra",
    "hydra-optuna-sweeper": "a plug-in of Hydra",
    "mkdocs-material": "a theme of mkdocs",
    "mkdocstrings": "a plug-in of mkdocs",
}
TESTED = [extra for extra in EXTRAS if extra not in NOT_TESTED | {"all", "test"}]


@cache
def imports() -> set[str]:
    return {name for path in (ROOT / "zoo").rglob("*.py") for name in foreign_imports(path)}


def test_every_import_is_declared():
    absent = {"ray", "gradio", "sounddevice", "vocos"}  # of extras that the test environment lacks
    absent |= {"mteb", "lmms_eval"}  # these call zoo.evaluation.adapters, and are therefore installed
    assert not imports() - modules_of([*requirements_of(), *(each for extra in TESTED for each in requirements_of(extra))]) - absent


def test_every_package_of_an_extra_is_used():
    used = imports() | {name for path in (ROOT / "scripts").rglob("*.py") for name in foreign_imports(path)}
    idle = {each.name for extra in TESTED for each in requirements_of(extra) if not modules_of([each]) & used}
    assert idle <= set(BY_NAME), "no module of zoo imports these packages"


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_package_has_a_pin(extra):
    pins = {canonicalize_name(name) for name in distribution.tested_versions()}
    assert not {each.name for each in [*requirements_of(), *requirements_of(extra)] if canonicalize_name(each.name) not in pins}


def test_pins_are_within_the_bounds():
    pins = {canonicalize_name(name): version for name, version in distribution.tested_versions().items()}
    for each in [*requirements_of(), *(each for extra in EXTRAS for each in requirements_of(extra))]:
        assert each.specifier.contains(pins[canonicalize_name(each.name)], prereleases=True), each


@pytest.mark.parametrize("extra", ["audio", "all"])
def test_sound_comes_with_the_torch_that_torchaudio_was_built_for(extra):
    wanted = {each.name: [str(each.specifier)] for each in requirements_of(extra) if each.name in ("torch", "torchaudio")}
    assert wanted == {"torch": ["==2.11.*"], "torchaudio": ["==2.11.*"]}


def test_hints_name_extras_and_not_their_packages():
    """pip install PACKAGE could replace the tested torch; zoo install EXTRA cannot."""
    ours = {canonicalize_name(each.name) for each in requirements_of("all")}
    for path in (ROOT / "zoo").rglob("*.py"):
        named = re.findall(r"pip install '?([A-Za-z][\w-]*)", path.read_text(encoding="utf-8"))
        assert not ours & {canonicalize_name(name) for name in named}, path


def test_the_version_has_one_value():
    version = project()["version"]
    assert zoo.__version__ == version
    assert f"## {version}" in (ROOT / "assets" / "guide" / "changelog.md").read_text(encoding="utf-8")
    assert f'version: "{version}"' in (ROOT / ".github" / "CITATION.cff").read_text(encoding="utf-8")


def test_types_of_the_package_are_for_others_too():
    assert (ROOT / "zoo" / "py.typed").is_file() and "Typing :: Typed" in project()["classifiers"]


def test_the_container_holds_what_quickstart_installs():
    assert f"ARG EXTRAS={','.join(quickstart_extras())}\n" in (ROOT / "scripts" / "Dockerfile").read_text(encoding="utf-8")


def test_every_package_accepts_the_lowest_python_that_we_allow():
    lowest = project()["requires-python"].removeprefix(">=") + ".0"
    packages = installed_packages([*requirements_of(), *(each for extra in TESTED for each in requirements_of(extra))])
    wanted = {name: package.metadata["Requires-Python"] for name, package in packages.items()}
    assert not {name: text for name, text in wanted.items() if text and not SpecifierSet(text).contains(lowest)}
