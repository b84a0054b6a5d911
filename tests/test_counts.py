"""Parameters and operations of the shipped sizes against the papers' models, without weights."""

import pytest

from zoo.assembly.create import create_model
from zoo.assembly.summary import count, summarize

# Computed from open_clip (CLIP) and transformers (SigLIP): in all, image tower and text tower with their projections.
SYSTEMS = {
    "clip_vit_b32": (151_277_313, 87_849_216, 63_428_096, 4.409, 2.980),
    "clip_vit_b16": (149_620_737, 86_192_640, 63_428_096, 17.563, 2.980),
    "clip_vit_l14": (427_616_513, 303_966_208, 123_650_304, 81.013, 6.650),
    "clip_vit_l14_336": (427_944_193, 304_293_888, 123_650_304, 190.960, 6.650),
}
SIGLIP_B16 = 203_155_970

# Computed from timm with num_classes=0: parameters, and GMAC of one image, products of attention included.
VITS = {
    "vit_tiny_patch16_224": (5_524_416, 1.254),
    "vit_small_patch32_224": (22_493_952, 1.143),
    "vit_small_patch16_224": (21_665_664, 4.599),
    "vit_base_patch32_224": (87_455_232, 4.409),
    "vit_base_patch16_224": (85_798_656, 17.564),
    "vit_base_patch16_384": (86_859_496 - 769_000, 55.484),  # with its classifier of 1000 in the table
    "vit_base_patch8_224": (85_807_872, 78.148),
    "vit_large_patch32_224": (305_510_400, 15.38),
    "vit_large_patch16_224": (303_301_632, 61.555),
    "vit_large_patch16_384": (304_715_752 - 1_025_000, 191.066),
    "vit_huge_patch14_224": (630_764_800, 167.294),
}

# Of the sheets of the papers' models: with a classifier of 1000 classes.
CLASSIFIERS = {
    "classifier_vit_tiny_patch16_224": 5_717_416,
    "classifier_vit_small_patch32_224": 22_878_952,
    "classifier_vit_small_patch16_224": 22_050_664,
    "classifier_vit_base_patch32_224": 88_224_232,
    "classifier_vit_base_patch16_224": 86_567_656,
    "classifier_vit_base_patch16_384": 86_859_496,
    "classifier_vit_base_patch8_224": 86_576_872,
    "classifier_vit_large_patch32_224": 306_535_400,
    "classifier_vit_large_patch16_224": 304_326_632,
    "classifier_vit_large_patch16_384": 304_715_752,
    "classifier_vit_huge_patch14_224": 632_045_800,
}


# Published sizes of language models, computed from transformers 5.17.
LANGUAGE = {
    "qwen2_0_5b": 494_032_768,
    "qwen2_1_5b": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "qwen2_7b": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "gemma3_4b": 3_880_263_168,
    "phi3_mini_4k": 3_821_079_552,
    "phi4": 14_659_507_200,
}
# By the formula of its shapes, (V + 2048) d + L (12 d^2 + 13 d) + 2 d, and the paper's rounded figure. The heads of 13B (40 of 128) leave
# out 20 of its 5,140 channels: 80 d + 60 parameters fewer in each of its 40 blocks.
GPT3 = {
    "125m": (125_226_240, 125e6),
    "350m": (355_871_744, 350e6),
    "760m": (760_300_032, 760e6),
    "1_3b": (1_315_723_264, 1.3e9),
    "2_7b": (2_651_553_280, 2.7e9),
    "6_7b": (6_658_404_352, 6.7e9),
    "13b": (12_952_938_780 - 40 * (80 * 5140 + 60), 13e9),
    "175b": (174_604_259_328, 175e9),
}


@pytest.mark.parametrize("name", LANGUAGE)
def test_parameters_of_language_models(name):
    assert count(create_model(name, device="meta")) == LANGUAGE[name]


@pytest.mark.parametrize("name", GPT3)
def test_parameters_of_gpt3_are_those_of_the_paper(name):
    found, (exact, rounded) = count(create_model(f"gpt3_{name}", device="meta")), GPT3[name]
    assert found == exact == pytest.approx(rounded, rel=0.03)


@pytest.mark.parametrize("name", SYSTEMS)
def test_parameters_of_clip_equal_the_reference(name):
    system, (total, image, text, _, _) = create_model(name, device="meta"), SYSTEMS[name]
    by_tower = {m: count(encoder) + count(system.head.projections[m]) for m, encoder in system.encoders.items()}
    assert by_tower == {"image": image, "text": text}
    assert count(system) == total == image + text + 1  # the temperature


@pytest.mark.parametrize("name", SYSTEMS)
def test_operations_of_clip_are_within_half_a_percent(name):
    flops = summarize(name).flops
    assert [flops["image"] / 2e9, flops["text"] / 2e9] == pytest.approx(SYSTEMS[name][3:], rel=0.005)


def test_parameters_of_siglip_equal_the_reference():
    assert summarize("siglip_vit_b16").parameters == SIGLIP_B16


@pytest.mark.parametrize("name", VITS)
def test_parameters_and_operations_of_vit(name):
    found = summarize(name)
    assert found.parameters == VITS[name][0]
    assert found.flops["image"] / 2e9 == pytest.approx(VITS[name][1], rel=0.005)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_parameters_with_a_classifier(name):
    assert summarize(name).parameters == CLASSIFIERS[name]
