"""Tables of ``assets/guide`` are true."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

import zoo
from zoo.interop.base.recognise import formats
from zoo.registry import rows

GUIDE = Path(__file__).parents[1] / "assets" / "guide"
MODELS = ("classifier_vit_small_patch16_224", "classifier_vig_nano", "bert_nano", "t5_nano", "llama_nano", "clip_vit_b32", "whisper_nano")
TARGETS = ("transformers", "open_clip", "timm", "vig", "openai-whisper", "onnx")


def targets_of(name):
    model = zoo.create_model(name, device="meta")
    return {t for each in formats().values() for t in each.targets if t in TARGETS and each.writes(model, t) is None}


def test_the_table_of_exports_says_what_can_be_written():
    lines = (GUIDE / "export.md").read_text(encoding="utf-8").splitlines()
    assert f"| model | {' | '.join(TARGETS)} |" in lines
    for name in MODELS:
        able = targets_of(name)
        assert f"| `{name}` | {' | '.join('yes' if target in able else '-' for target in TARGETS)} |" in lines, name


def test_every_target_is_explained():
    text = (GUIDE / "export.md").read_text(encoding="utf-8")
    assert all(f"| `{target}` |" in text for each in formats().values() for target in each.targets)


@pytest.fixture(scope="module")
def models():
    """The script that writes the table of models."""
    return SimpleNamespace(**runpy.run_path(str(GUIDE.parents[1] / "scripts" / "update_models.py")))


def test_the_page_of_models_lists_every_encoder_and_language_model(models):
    text = models.PAGE.read_text(encoding="utf-8")
    sections = dict(zip(models.TITLES, re.split(r"^## .*$", text, flags=re.MULTILINE)[1:], strict=False))
    for kind in models.TITLES:
        listed = re.findall(r"^\| `([^`]+)` \|", sections[kind], re.MULTILINE)
        assert listed == [row.name for row in models.listed(kind)], "run: python scripts/update_models.py"
    assert text.endswith(f"{models.systems()}\n{models.published()}"), "run: python scripts/update_models.py"


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "vig_tiny", "llama_digits"])
def test_the_page_of_models_has_todays_figures(models, name):
    (row,) = [rows(kind)[name] for kind in models.TITLES if name in rows(kind)]
    assert models.line(row) in models.PAGE.read_text(encoding="utf-8").splitlines(), "run: python scripts/update_models.py"
