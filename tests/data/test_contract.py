"""Every processor keeps every rule of ``zoo.testing.check_processor``."""

import numpy as np
import pytest

from zoo.processors.audio import AudioProcessor
from zoo.processors.conversation import ConversationProcessor
from zoo.processors.image import ImageProcessor
from zoo.processors.speech import SpeechProcessor
from zoo.processors.target_text import TargetText
from zoo.processors.text import TextProcessor
from zoo.processors.transcript import TranscriptProcessor
from zoo.registry import part_names
from zoo.testing import ContractError, check_processor

TEXTS = ["a red ball lies here", "two red balls", "seven"]
NOISE = [(np.random.default_rng(n).normal(size=5000 + 900 * n).astype(np.float32) * 0.1, 16000) for n in range(3)]
IMAGES = [np.random.default_rng(n).integers(0, 256, (20 + 9 * n, 40, 3), dtype=np.uint8) for n in range(3)]


def answered(text):
    return [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": text}]


PARTS = {
    "image": (lambda: ImageProcessor(image_size=32), IMAGES),
    "audio": (lambda: AudioProcessor(context_length=100), NOISE),
    "text": (lambda: TextProcessor(vocab_size=300, context_length=32), TEXTS),
    "speech": (lambda: SpeechProcessor(sample_rate_hz=16000, linear=True), NOISE),
    "transcript": (lambda: TranscriptProcessor(vocab_size=400, context_length=64), TEXTS),
    "target_text": (lambda: TargetText(vocab_size=300, context_length=32, generation={"num_beams": 2}), TEXTS),
    "conversation": (lambda: ConversationProcessor(vocab_size=400, context_length=128), list(map(answered, TEXTS))),
}


def fitted(name):
    processor, raws = PARTS[name][0](), PARTS[name][1]
    if not processor.is_fitted:
        processor.fit(TEXTS * 3)
    return processor, raws


def test_no_processor_is_forgotten():
    assert set(PARTS) == set(part_names("processor"))


@pytest.mark.parametrize("name", PARTS)
def test_each_processor_keeps_the_contract(name):
    check_processor(*fitted(name))


@pytest.mark.parametrize(
    "words", [{"tokenizer": "word_pieces"}, {"mask_padding": False, "pad_to": "context_length"}, {"tokenizer": "characters"}]
)
def test_other_forms_of_the_text_processor_keep_the_contract(words):
    size = {"characters": 512}.get(words.get("tokenizer"), 400)
    processor = TextProcessor(vocab_size=size, context_length=32, **words)
    if not processor.is_fitted:
        processor.fit(TEXTS * 3)
    check_processor(processor, TEXTS)


def other_settings(processor):
    return {**ImageProcessor.settings.fget(processor), "mean": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"modality": ""}, "a processor must say its modality"),
        ({"__call__": lambda self, raw: self.collate([*map(self.item, raw[::-1])])}, r"p\(raws\) equals the collated items, but 0 differs"),
        (
            {"meta": lambda self, n: (ImageProcessor.meta(self, n)[0].half(), None)},
            r"meta gives the types and axes of a batch, but 0 is .*float16",
        ),
        ({"settings": property(lambda self: {"size": 3})}, "settings are the constructor's keywords, but "),
        ({"settings": property(lambda self: {"image_size": IMAGES})}, "settings are plain YAML values"),
        ({"settings": property(other_settings), "mean": (0.1, 0.1, 0.1)}, "saved and loaded it gives equal tensors, but 0 differs"),
    ],
)
def test_each_mistake_of_a_processor_is_named(words, message):
    processor = type("Mine", (ImageProcessor,), words)(image_size=32)
    with pytest.raises(ContractError, match=message):
        check_processor(processor, IMAGES)
