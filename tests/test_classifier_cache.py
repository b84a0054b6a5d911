"""Classifier weights on disk: reused if everything that they depend on is equal, recomputed otherwise."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.commands.cli import main
from zoo.evaluation.measures import classifier_weights as classifier_cache
from zoo.evaluation.measures.classifier_weights import classifier_key, classifier_vectors, hash_weights
from zoo.evaluation.zero_shot import ZeroShot
from zoo.registry.construct import build_part

PROMPTS = [["a photo of the digit three", "three"], ["seven"]]


@pytest.fixture
def system():
    return zoo.load("clip_vit_nano")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier_cache, "cache_directory", lambda: tmp_path)
    return tmp_path / classifier_cache.FOLDER


@pytest.fixture
def computed(system):
    """Grows with every call of the text tower."""
    calls = []
    system.encoders["text"].register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_what_was_computed_once_is_read(system, folder, computed):
    first = classifier_vectors(system, PROMPTS)
    assert len(computed) == 1 and len(list(folder.iterdir())) == 1
    assert torch.equal(first, system.prompt_vectors(PROMPTS))
    assert torch.equal(classifier_vectors(zoo.load("clip_vit_nano"), PROMPTS), first)
    assert torch.equal(classifier_vectors(system, PROMPTS), first) and len(computed) == 2  # the second was asked for by this test


def change_weight(system):
    system.encoders["text"].norm.bias.data[3] += 1e-6


def change_projection(system):
    system.head.projections["text"].weight.data[0, 0] *= 1.001


def change_architecture(system):
    system.config = {**system.config, "encoders": {**system.config["encoders"], "text": "another"}}


def change_processor(system):
    system.processor["text"].lowercase = not system.processor["text"].lowercase


def change_tokenizer(system):
    system.processor["text"].tokenizer.add_tokens(["seventy"])


CHANGES = [change_weight, change_projection, change_architecture, change_processor, change_tokenizer]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_anything_that_counts_gives_another_key(system, change):
    before = classifier_key(system, PROMPTS)
    assert before == classifier_key(zoo.load("clip_vit_nano"), PROMPTS)
    change(system)
    assert classifier_key(system, PROMPTS) not in (before, None)


def test_prompts_and_their_grouping_count_and_the_image_tower_does_not(system):
    before = classifier_key(system, PROMPTS)
    others = [[["three"], ["seven"]], [[*PROMPTS[0], *PROMPTS[1]]], PROMPTS[::-1], [["a photo of the digit three"], ["three", "seven"]]]
    assert len({before, *(classifier_key(system, prompts) for prompts in others)}) == 5
    system.encoders["image"].norm.bias.data += 1
    assert classifier_key(system, PROMPTS) == before


def test_types_and_shapes_of_weights_count():
    a, b, c = torch.nn.Linear(4, 2, bias=False), torch.nn.Linear(2, 4, bias=False), torch.nn.Linear(4, 2, bias=False).bfloat16()
    for layer in (a, b, c):
        layer.weight.data.zero_()
    assert len({hash_weights(layer) for layer in (a, b, c)}) == 3


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def strange(path):
    path.write_text("not what it was", encoding="utf-8")


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, flip, empty, strange, replaced_by_a_folder], ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_computed_again(system, folder, computed, damage):
    first = classifier_vectors(system, PROMPTS)
    (path,) = folder.iterdir()
    damage(path)
    assert torch.equal(classifier_vectors(system, PROMPTS), first) and len(computed) == 2
    assert list(folder.iterdir()) == [path]  # nothing half-written stays


def test_a_cache_that_cannot_be_written_is_none(system, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setattr(classifier_cache, "cache_directory", lambda: tmp_path / "file")
    assert classifier_vectors(system, PROMPTS).shape == (2, 64)


def test_a_system_without_config_or_tokenizer_is_not_cached(system, folder):
    system.config = {}
    assert classifier_key(system, PROMPTS) is None and classifier_vectors(system, PROMPTS).shape == (2, 64)
    assert classifier_key(zoo.create_model("clip_vit_nano"), PROMPTS) is None  # its tokenizer is not trained yet
    assert not folder.exists()


def test_those_not_used_for_longest_are_removed(system, folder, monkeypatch):
    monkeypatch.setattr(classifier_cache, "LARGEST", 2)
    paths = {}
    for age, word in ((30, "three"), (20, "seven")):
        classifier_vectors(system, [[word]])
        (paths[word],) = set(folder.iterdir()) - set(paths.values())
        os.utime(paths[word], (1e9 - age, 1e9 - age))
    classifier_vectors(system, [["three"]])  # is used now
    classifier_vectors(system, [["nine"]])
    assert paths["three"].exists() and not paths["seven"].exists() and len(list(folder.iterdir())) == 2


def test_the_command_keeps_them_unless_told_not_to(folder, tmp_path, capsys):
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / "black.png")
    command = ["classify", str(tmp_path / "black.png"), "--labels", "three,seven", "--model", "clip_vit_nano", "--json"]
    assert main([*command, "--no-cache"]) == 0 and not folder.exists()
    plain = capsys.readouterr().out
    for _ in range(2):
        assert main(command) == 0 and len(list(folder.iterdir())) == 1
        assert capsys.readouterr().out == plain


def test_an_evaluation_keeps_them_unless_told_not_to(system, folder, computed):
    source = build_part("source", {"name": "digits"}, "data.source")
    results = []
    for cache, calls in ((False, 1), (True, 2), (True, 2)):
        results.append(ZeroShot(limit=20, cache=cache)(system, source, "test").metrics)
        assert len(computed) == calls and folder.exists() == cache
    assert results[0] == results[1] == results[2]
