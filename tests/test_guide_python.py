"""Every block of assets/guide/python.md runs, in order, and what it says about shapes is true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "assets" / "guide" / "python.md"


def test_every_block_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    known: dict = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), known)
    said = capsys.readouterr().out
    assert "torch.Size([2, 17, 64]) torch.Size([2, 64])" in said and "[torch.Size([2, 64, 4, 4]), torch.Size([2, 64, 4, 4])]" in said
    assert "torch.Size([1, 3])" in said and "torch.Size([1, 128])" in said and len(blocks) == 7


@pytest.mark.parametrize("word", ["forward_intermediates", "features_only", "reset_classifier", "set_grad_checkpointing"])
def test_the_words_of_timm_lead_to_ours(word):
    assert word in GUIDE.read_text(encoding="utf-8")
