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


def built(row):
    """Return a row as a parameter: timm's models are built and tried twice on the meta device, which takes seconds."""
    return pytest.param(row, id=row.full_name, marks=[pytest.mark.heavy] if '"timm"' in json.dumps(row.build) else [])


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


@pytest.mark.parametrize("row", [built(row) for row in ARCHITECTURES.values()])
def test_each_architecture_has_the_parameters_that_its_reference_library_counts(row):
    model = on_meta(row)
    assert count(model) == row.parameters
    assert all(parameter.is_meta for parameter in model.parameters())
    assert row.build or not model.training


# Use. The sources are local directories of tiny models: the hub's own way is tested with it.

SIZES = {"hidden_size": 60, "num_attention_heads": 5, "num_hidden_layers": 2, "intermediate_size": 100}
SEEN = {**SIZES, "image_size": 42, "patch_size": 14}


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Replace the table by two rows: a tiny CLIP, and an encoder whose source has a classifier too."""
    text = {**SIZES, "vocab_size": 99, "max_position_embeddings": 11, "eos_token_id": 98}
    CLIPModel(CLIPConfig(text_config=text, vision_config=SEEN, projection_dim=20)).save_pretrained(tmp_path / "clip")
    ViTForImageClassification(ViTConfig(**SEEN)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 42, "width": 42}).save_pretrained(tmp_path / "vit")
    made = [Pretrained("clip_vit_b32", "openai", str(tmp_path / "clip"), "MIT", 1, ("zero-shot", 63.3, "a table"))]
    made += [Pretrained("vit_base_patch16_224", "google", str(tmp_path / "vit"), "Apache-2.0", 1)]
    monkeypatch.setattr(pretrained, "pretrained_rows", lambda: {row.full_name: row for row in made})
    return tmp_path


def test_name_and_tag_give_the_model_that_its_source_is(table):
    expected, pixels = zoo.load(table / "clip"), torch.randn(2, 3, 42, 42)
    ways = [zoo.create_model("clip_vit_b32", pretrained="openai"), zoo.create_model("clip_vit_b32:openai"), zoo.load("clip_vit_b32:openai")]
    for system in ways:
        assert torch.equal(system.embed("image", pixels), expected.embed("image", pixels)) and not system.training
    again = zoo.create_system(expected.config, weights="clip_vit_b32:openai")
    assert torch.equal(again.embed("image", pixels), expected.embed("image", pixels))


def test_of_an_encoders_source_the_classifier_is_left_out(table, tmp_path):
    encoder = zoo.create_model("vit_base_patch16_224:google")
    pixels = torch.randn(1, 3, 42, 42)
    assert torch.equal(encoder(pixels).pooled, zoo.load(table / "vit").encoders["image"](pixels).pooled)
    assert encoder.processor["image"].image_size == 42
    zoo.save(encoder, tmp_path / "saved")
    assert torch.equal(zoo.load(tmp_path / "saved")(pixels).pooled, encoder(pixels).pooled)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.load("clip_vit_b32:opnai"), "clip_vit_b32 has no pretrained weights 'opnai'; did you mean 'openai'"),
        (lambda: zoo.create_model("clip_vit_b23:openai"), "no pretrained weights of 'clip_vit_b23'; did you mean 'clip_vit_b32'"),
        (lambda: zoo.create_model("clip_vit_b32", pretrained="x"), "clip_vit_b32 has no pretrained weights 'x'; known: openai"),
        (lambda: zoo.create_model("clip_vit_b32:openai", head={"embed_dim": 3}), "head: cannot be chosen together with pretrained weights"),
    ],
)
def test_wrong_tags_and_names_give_near_matches(call, message, table):
    with pytest.raises(zoo.ConfigError, match=message):
        call()


def test_the_commands_list_and_show_rows_and_take_them_as_models(table, capsys):
    assert main(["list", "clip*", "--pretrained"]) == 0
    assert capsys.readouterr().out.split() == ["clip_vit_b32:openai", "system", "0.0M", "MIT", str(table / "clip"), "zero-shot", "63.3"]
    assert main(["info", "clip_vit_b32:openai", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figure"] == "zero-shot 63.3 (a table)" and told["source"] == str(table / "clip")
    assert zoo.list_models("vit*", pretrained=True) == ["vit_base_patch16_224:google"]
    assert main(["export", "clip_vit_b32:openai", str(table / "out"), "--format", "open_clip"]) == 0


def test_classify_tells_of_a_real_clip_and_takes_it_from_the_hubs_cache(monkeypatch, capsys):
    from zoo.assembly import bundled

    monkeypatch.setattr(bundled, "in_hub_cache", lambda name: False)
    assert bundled.chosen_photo_model("x") == "x" and bundled.chosen_photo_model(None) == bundled.DEFAULT_MODEL
    assert "for photos take a real CLIP: --model clip_vit_b32:openai (605 MB" in capsys.readouterr().err
    monkeypatch.setattr(bundled, "in_hub_cache", lambda name: True)
    assert bundled.chosen_photo_model(None) == "clip_vit_b32:openai" == bundled.PHOTO_MODEL
    assert "which the hub's cache holds" in capsys.readouterr().err
