"""``zoo check`` refuses a wrong combination without torch, from what the source text of the parts declares."""

import inspect
import subprocess
import sys

import pytest

import zoo
from zoo.assembly.compose import compose
from zoo.assembly.quick_check import quick_check
from zoo.registry import KINDS, find_part, part_names
from zoo.registry.declarations import find_declaration

REFUSED = {
    "encoder@system.encoders.image=text_nano": "system.encoders.image: encoder 'text' takes text.*stands under 'image'",
    "system.processor.text.vocab_size=600": "processor.text.vocab_size: the processor has 600.*has 512",
    "~system.encoders.text": "system.encoders: has 1 .*head 'clip' takes 2",
    "head@system.head=whisper_nano_decoder": "system.encoders.image: an encoder of image does not fit; head 'whisper' takes 1",
    "data=spoken_numbers": "data.source: 'spoken_numbers' gives audio, text; system.encoders.image needs image",
    "data.source.name=digit": "data.source.name: there is no source 'digit'; did you mean 'digits'",
    "training.batch_size=0": "training.batch_size: 0; allowed is 1 or more",
}


@pytest.mark.parametrize("override", REFUSED)
def test_the_quick_and_the_complete_check_refuse_with_one_message(override):
    config = compose("train", [override])
    messages = []
    for check in (quick_check, zoo.check):
        with pytest.raises(zoo.ConfigError, match=REFUSED[override]) as raised:
            check(config)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def declared_parts() -> list[tuple[str, str]]:
    return [(kind, name) for kind in KINDS for name in part_names(kind)]


def test_declarations_equal_the_imported_classes():
    for kind, name in declared_parts():
        declared, part = find_declaration(kind, name), find_part(kind, name)
        assert declared is not None, (kind, name)
        assert declared.keywords in (None, tuple(inspect.signature(part).parameters)), (kind, name)
        for attribute, value in declared.values.items():
            real = getattr(part, attribute)
            assert real == value or vars(real) == vars(value), (kind, name, attribute)  # Accepts and its namespace


def imported(*overrides: str) -> set[str]:
    """Top-level modules that ``zoo check`` imports."""
    code = (
        "import sys; from zoo.commands.cli import main; status = main(['check', '--json', *sys.argv[1:]])\n"
        "print(); print(status, *{name.partition('.')[0] for name in sys.modules})\n"
        "print(*(name for name in sys.modules if name.startswith('zoo.interop')))"
    )
    done = subprocess.run([sys.executable, "-c", code, *overrides], capture_output=True, text=True, check=True)
    return set(" ".join(done.stdout.splitlines()[-2:]).split())


@pytest.mark.parametrize("override", ["encoder@system.encoders.image=text_nano", "system.encoders.image.drop_pat=0.1", "data=digit"])
def test_a_wrong_combination_is_refused_without_heavy_imports(override):
    modules = imported(override)
    assert "2" in modules
    assert not {"torch", "numpy", "PIL", "rich", "beartype", "accelerate", "tokenizers", "safetensors"} & modules


def test_a_right_combination_is_checked_without_engine_and_readers_of_weights():
    modules = imported()
    assert {"0", "torch"} <= modules
    assert not {"accelerate", "torchvision", "torchaudio", "torchmetrics", "transformers", "timm", "matplotlib", "scipy"} & modules
    assert not {name for name in modules if name.startswith("zoo.interop")}
