"""Smaller encoders cut out of a trained one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from zoo.assembly.shrink import low_rank, shrink

SCRIPT = Path(zoo.__file__).parent.parent / "scripts" / "shrink.py"


def test_low_rank_is_exact_at_full_rank_and_the_best_below():
    torch.manual_seed(0)
    table = torch.randn(30, 8)
    rows, matrix = low_rank(table, 8)
    torch.testing.assert_close(rows @ matrix.T, table, rtol=0, atol=1e-5)
    rows, matrix = low_rank(table, 3)
    lost = torch.linalg.svdvals(table)[3:].square().sum()
    torch.testing.assert_close((rows @ matrix.T - table).square().sum(), lost)


def test_shrinking_keeps_what_is_kept_and_refuses_what_would_not_fit():
    model = zoo.create_model("vit_nano")
    smaller = shrink(model, depth=1, pool="concat", pool_layers=[0], image_size=model.image_size // 2)
    assert len(smaller.blocks) == 1 and torch.equal(smaller.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)
    with pytest.raises(zoo.ConfigError, match="would change its shape"):
        shrink(model, mlp_ratio=2.0)
    with pytest.raises(zoo.ConfigError, match="is not an encoder that zoo built on its own"):
        shrink(zoo.create_model("clip_vit_nano").encoders["image"])


def test_positions_of_a_shorter_context_are_the_first_and_of_another_image_size_resized():
    text, image = zoo.create_model("bert_nano"), zoo.create_model("vit_nano")
    assert torch.equal(shrink(text, context_length=8).positions, text.positions[:8])
    smaller = shrink(image, image_size=image.image_size // 2)
    pixels = torch.randn(1, 3, image.image_size // 2, image.image_size // 2)
    with torch.no_grad():
        torch.testing.assert_close(smaller(pixels).tokens, image(pixels).tokens, rtol=0, atol=1e-5)


@pytest.mark.heavy
def test_the_script_writes_an_encoder_that_loads_and_refuses_in_one_line(tmp_path):
    zoo.save(zoo.create_model("bert_nano"), tmp_path / "big")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "big")]
    subprocess.run([*command, str(tmp_path / "small"), "depth=1", "embedding_dim=8"], check=True, capture_output=True)
    assert len(zoo.load(tmp_path / "small").blocks) == 1
    done = subprocess.run([*command, str(tmp_path / "other"), "dim=32"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "would change its shape" in done.stderr and "Traceback" not in done.stderr
