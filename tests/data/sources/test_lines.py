"""Lines of a text file as samples."""

import numpy as np
import pytest

from zoo.errors import ConfigError, DataError
from zoo.sources.lines import Lines


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"text {i % 900}\n" for i in range(1000)), encoding="utf-8")
    return path


def test_every_text_stands_once_and_about_one_in_a_hundred_is_for_validation(file):
    source = Lines(path=file)
    train, validation = set(source.split("train").texts), set(source.split("validation").texts)
    assert len(train | validation) == 900 and not train & validation and 1 <= len(validation) <= 30
    assert len(source.split("train")) + len(source.split("validation")) == 900


def test_a_folder_is_read_by_its_lines_and_templates_are_drawn(file):
    split = Lines(path=file.parent, templates=["{}", "a picture of {}"]).split("train")
    plain = split.sample(3).inputs["text"]
    drawn = {split.sample(3, np.random.default_rng(seed)).inputs["text"] for seed in range(20)}
    assert drawn == {plain, f"a picture of {plain}"}


def test_bad_input_is_refused(file, tmp_path):
    with pytest.raises(ConfigError, match="templates"):
        Lines(path=file, templates=["no place"])
    with pytest.raises(DataError, match="nothing.txt: no such file"):
        Lines(path=tmp_path / "nothing.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no text"):
        Lines(path=tmp_path / "empty.txt")
    with pytest.raises(ConfigError, match="there is no 'test'"):
        Lines(path=file).split("test")
