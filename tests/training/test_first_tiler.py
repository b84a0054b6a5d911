"""The tiler of a run that begins with the weights of a run with another tiler."""

import pytest

import zoo
from zoo.runs.first_weights import start_from
from zoo.sources.digits import load_digits


def system_of(tiler):
    return zoo.create_system("llava_nano", [] if tiler is None else [f"+system.processor.image.tiler={tiler}"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiled")
    system = system_of("canvas")
    system.processor.fit(["what is it? a digit"])
    zoo.save(system, folder)
    return str(folder)


@pytest.mark.parametrize(("tiler", "expected"), [("square", "square"), ("canvas", "canvas"), (None, "canvas")])
def test_the_tiler_of_the_config_stays_unless_it_names_none(weights, tiler, expected):
    system = system_of(tiler)
    start_from(system, {"": weights})
    assert system.processor["image"].tiler_config == expected
    per_tile = 1 if expected == "square" else 5  # a picture of 64 x 64 pixels is four tiles and an overview
    conversation = system.processor["conversation"]
    image = system.processor["image"].item(load_digits()[0][0].repeat(8, 0).repeat(8, 1))
    assert conversation.count("image", image) == 16 * per_tile


def test_encoder_weights_of_another_tiler_are_taken(weights):
    system = system_of("square")
    start_from(system, {"encoders.image": weights})
    assert system.processor["image"].tiler_config == "square"
