"""Invalid settings are refused by their constructor."""

import pytest

from zoo.errors import ConfigError
from zoo.language.transcription.settings import Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "transcribes"}, "task: there is no 'transcribes'; did you mean"),
        ({"windows": "sliding"}, "windows: there is no 'sliding'"),
        ({"temperatures": ()}, "temperatures"),
        ({"temperatures": (0.0, -1.0)}, "temperatures"),
        ({"num_beams": 0}, "num_beams: 0; allowed is 1 or more"),
        ({"best_of": 0}, "best_of: 0"),
        ({"num_beams": 2, "patience": 0.0}, "patience: 0.0; allowed is above 0"),
        ({"patience": 2.0}, "has no effect without beams"),
        ({"num_beams": 2, "temperatures": (0.5,)}, "add temperature 0"),
        ({"best_of": 2, "temperatures": (0.0,)}, "has no effect at temperature 0"),
        ({"length_penalty": 2.0}, "0 to 1"),
        ({"no_speech_threshold": float("nan")}, "no_speech_threshold"),
        ({"seed": -1}, "seed: -1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**settings)


def test_one_temperature_is_a_list_of_one():
    assert Settings(temperatures=0.4).tries == (0.4,)
