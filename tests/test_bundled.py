"""Bundled default model of the commands, and its documentation."""

import pytest

from zoo.assembly import bundled
from zoo.assembly.bundled import DEFAULT_MODEL, caption_of, chosen_model
from zoo.interop.zoo_checkpoint import bundled_names


def test_the_default_model_is_bundled_and_its_readme_says_what_it_knows():
    assert DEFAULT_MODEL in bundled_names()
    assert len(caption_of(DEFAULT_MODEL)) > len(DEFAULT_MODEL) + 10


def test_only_a_model_that_nobody_named_is_told(capsys):
    assert chosen_model("clip_vig_nano") == "clip_vig_nano" and capsys.readouterr().err == ""
    assert chosen_model(None) == DEFAULT_MODEL and caption_of(DEFAULT_MODEL) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\n\nKnows cats.\nAnd more.\n", "mine: Knows cats."),
        ("---\nlicense: mit\n---\n# Title\n![](x.png)\n\nKnows dogs.\n", "mine: Knows dogs."),
        ("# Title\n", "mine"),
    ],
)
def test_the_first_line_of_text_is_taken(tmp_path, monkeypatch, text, expected):
    monkeypatch.setattr(bundled, "packaged_directory", lambda name: tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text(text)
    assert caption_of("mine") == expected and caption_of("/some/where/else") == "/some/where/else"
