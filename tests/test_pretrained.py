"""Names with tags of published weights: the table, what its architectures count, and the ways to use a name."""

import json
import re

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification, ViTImageProcessor

import zoo
from zoo.assembly.create import create_model, create_system
from zoo.assembly.described import build_described
from zoo.assembly.summary import count
from zoo.commands.cli import main
from zoo.layers.meta import meta_device
from zoo.registry import pretrained, rows
from zoo.registry.pretrained import Pretrained, pretrained_rows

ROWS = pretrained_rows()
SOURCE = re.compile(r"hf://[\w-]+/[\w.-]+|timm://[\w.]+")
ARCHITECTURES = {json.dumps([row.name if not row.build else "", row.build]): row for row in ROWS.values()}  # each is built once


def on_meta(row):
    """Build what a row says on the meta device."""
    if not row.build:
        return create_model(row.name, device="meta")
    with meta_device():
        if row.kind != "system":
            return build_described(dict(row.build), row.full_name)
        text = row.build["encoders"].get("text")
        end = {"eot_token_id": text.get("eot_token_id", 49407)} if isinstance(text, dict) else {}
        words = row.build["head"].get("vocab_size", 51865) if isinstance(row.build["head"], dict) else 0
        transcript = {"tokenizer": "given", "multilingual": words > 51864, "num_languages": 100 if words > 51865 else 99}
        parts = {"text": {"tokenizer": "given", **end}, "audio": {}, "image": {}, "conversation": {"tokenizer": "given"}}
        named = [*row.build["encoders"], *(["conversation"] if "language" in row.build else [])]
        processor = {name: parts[name] for name in named} | ({"transcript": transcript} if "audio" in row.build["encoders"] else {})
        return create_system({**row.build, "processor": processor})


def test_the_table_has_a_source_a_licence_and_a_published_figure_with_its_source_by_row():
    assert len(ROWS) >= 60
    for row in ROWS.values():
        assert SOURCE.fullmatch(row.source) and row.licence and row.parameters > 0, row
        assert row.build or any(row.name in rows(kind) for kind in ("encoder", "language", "system")), row
        assert not row.figure or (row.figure[1] > 0 and len(row.figure[2]) > 3), row
        assert row.source.startswith("hf://") or not row.build, row  # timm's weights are loaded into a row of ours


@pytest.mark.parametrize("row", ARCHITECTURES.values(), ids=lambda row: row.full_name)
def test_each_architecture_has_the_parameters_that_its_reference_library_counts(row):
    assert count(on_meta(row)) == row.parameters
