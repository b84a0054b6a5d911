"""Tables of ``assets/guide`` are true."""

import json
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


def test_the_page_of_models_is_made_from_counts_of_todays_configs(models):
    counts = models.stored()
    old = [row.name for kind in models.KINDS for row in models.listed(kind) if not models.is_current(row, counts[kind])]
    assert not old, "run: python scripts/update_models.py"
    assert models.page(counts) == models.PAGE.read_text(encoding="utf-8"), "run: python scripts/update_models.py"


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "vig_tiny", "llama_digits", "classifier_vit_small_patch16_224"])
def test_the_page_of_models_has_todays_figures(models, name):
    ((kind, row),) = [(kind, rows(kind)[name]) for kind in models.KINDS if name in rows(kind)]
    assert models.stored()[kind][name].items() >= models.counted(row).items(), "run: python scripts/update_models.py --all"


def test_only_models_whose_config_changed_are_counted_again(models, tmp_path, capsys):
    counts = json.loads(json.dumps(models.stored()))
    del counts["system"]["classifier_vit_small_patch16_224"], counts["encoder"]["vig_tiny"]["config"]
    (tmp_path / "models.json").write_text(models.as_json(counts))
    models.update_counts.__globals__["COUNTS"] = tmp_path / "models.json"
    expected = models.COUNTS.read_text(encoding="utf-8")
    models.update_counts(anew=False)
    assert (tmp_path / "models.json").read_text(encoding="utf-8") == expected
    assert capsys.readouterr().err.split("\n")[:-1] == ["encoder 1 of 1: vig_tiny", "system 1 of 1: classifier_vit_small_patch16_224"]
