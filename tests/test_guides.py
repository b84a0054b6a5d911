"""Tables of ``assets/guide`` are true."""

from pathlib import Path

import zoo
from zoo.interop.base.recognise import formats

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
