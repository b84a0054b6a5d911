"""``zoo chat --boxes``: boxes are requested, parsed from the answer, and drawn onto the image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.commands.cli import main
from zoo.processors.chat.grounding import GROUNDING, TAGS
from zoo.processors.chat.messages import Conversation

SAID = "It is<phrase> a fire</phrase><object><patch_index_0044><patch_index_0863></object>."
WORDS = (*TAGS, "<patch_index_0044>", "<patch_index_0863>")
BOX = (0.390625, 0.046875, 0.984375, 0.828125)  # of the cells (1, 12) and (26, 31) of 32 x 32, from centre to centre


@pytest.fixture
def saying(monkeypatch):
    """Stub system that knows the location tags, always answers ``SAID``, and records its prompts in ``asked``."""
    torch.manual_seed(0)
    system = zoo.create_system("kosmos_nano", ["system.processor.conversation.tokenizer=characters"])
    part = system.processor["conversation"]
    part.fit(["Question: where is the fire? Answer: It is a fire.", "abcdefghijklmnopqrstuvwxyz"])
    part.tokenizer.add_tokens(list(WORDS))
    ids, asked = [*part.tokenizer.encode(SAID, add_special_tokens=False).ids, part.eos_token_ids[0]], []
    scores, made = system.head.language.logits, iter(ids)

    def scripted(hidden):
        logits = torch.full_like(scores(hidden), -1e9)
        logits[..., next(made)] = 0
        return logits

    render = part.render
    monkeypatch.setattr(part, "render", lambda *args, **kw: asked.append(render(*args, **kw)) or asked[-1])
    monkeypatch.setattr(system.head.language, "logits", scripted)
    monkeypatch.setattr("zoo.commands.chat.load", lambda model, **place: system.eval())
    return asked


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "fire.png"
    Image.new("RGB", (64, 64), "white").save(path)
    return path


def test_places_are_asked_for_told_and_drawn(saying, picture, tmp_path, capsys):
    out = tmp_path / "boxes.png"
    assert main(["chat", "--model", "scripted", "--image", str(picture), "--boxes", str(out), "where is the fire?"]) == 0
    prompt = "".join(piece.text for piece in saying[0])
    assert prompt == f"<s><image> {GROUNDING} Question: where is the fire? Answer:"
    assert capsys.readouterr().out == "It is a fire.\na fire: left 0.39, top 0.05, right 0.98, bottom 0.83\n"
    drawn = np.asarray(Image.open(out))
    assert drawn.shape == (64, 64, 3) and (drawn[30, 25] != 255).any() and (drawn[30, 5] == 255).all()  # its left side, and beside it


def test_json_has_the_phrases(saying, picture, tmp_path, capsys):
    main(["chat", "--model", "scripted", "--json", "--image", str(picture), "--boxes", str(tmp_path / "b.jpg"), "where is the fire?"])
    told = json.loads(capsys.readouterr().out)
    assert told["answer"] == "It is a fire." and told["phrases"] == [{"text": "a fire", "boxes": [list(BOX)]}]
    with Image.open(tmp_path / "b.jpg") as drawn:
        assert drawn.format == "JPEG"


def test_without_a_picture_places_are_told_alone(saying, tmp_path, capsys):
    assert main(["chat", "--model", "scripted", "--boxes", str(tmp_path / "b.png"), "where?"]) == 0
    assert "a fire: left" in capsys.readouterr().out and not (tmp_path / "b.png").exists()


def test_a_model_without_location_tokens_and_other_names_are_refused(saying, picture, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    for name, said in (("boxes.txt", "give an image file that ends in .png or .jpg"), ("file/boxes.png", "a file has this name")):
        assert main(["chat", "--model", "scripted", "--boxes", str(tmp_path / name), "where?"]) == 2
        assert said in capsys.readouterr().err
    plain = zoo.create_system("kosmos_nano", ["system.processor.conversation.tokenizer=characters"])
    plain.processor.fit(["where?"])
    monkeypatch.setattr("zoo.commands.chat.load", lambda model, **place: plain)
    assert main(["chat", "--model", "plain", "--boxes", str(tmp_path / "b.png"), "where?"]) == 2
    assert "no token <grounding>" in capsys.readouterr().err


def test_a_question_that_wants_places_says_so_before_it():
    system = zoo.create_system("kosmos_nano", ["system.processor.conversation.tokenizer=characters"])
    part = system.processor["conversation"]
    part.fit(["Question: what? Answer: a"])
    pieces = part.render(Conversation.of_prompt(f"{GROUNDING} what?"), for_generation=True)
    assert "".join(piece.text for piece in pieces) == f"<s>{GROUNDING} Question: what? Answer:"
