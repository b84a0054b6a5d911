"""Contrastive head with an anchor: pairs with the anchor only, items that lack modalities, and retrieval between all pairs."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import zoo
from zoo.errors import ConfigError, DataError
from zoo.evaluation.retrieval import Retrieval
from zoo.heads.bases.anchored import AnchoredPairs
from zoo.heads.clip import CLIPHead
from zoo.losses import directed_info_nce, info_nce
from zoo.sources.aligned import Aligned
from zoo.testing import check_source
from zoo.types import PRESENT, Batch, EncoderSpec

NAMES = ("image", "text", "audio")


def sheet_vectors():
    """Unit rows of sin(.7 i + j), j = 0 image, 1 text, 2 audio."""
    flat = torch.arange(12, dtype=torch.float64)
    return {name: F.normalize(torch.sin(0.7 * flat + j).view(3, 4), dim=-1) for j, name in enumerate(NAMES)}


def pairs(**fixed):
    return AnchoredPairs(NAMES, anchor="image", initial=1 / 0.07, fixed=fixed).double()


def test_losses_are_the_golden_ones():
    total, metrics = pairs(audio=20.0)(sheet_vectors(), {})
    assert metrics["loss_text"].item() == pytest.approx(1.749288, abs=1e-6)
    assert metrics["loss_audio"].item() == pytest.approx(17.342545, abs=1e-6)
    assert total.item() == pytest.approx(1.749288 + 17.342545, abs=2e-6)


def test_only_items_with_both_sides_count():
    vectors = sheet_vectors()
    vectors["audio"] = vectors["audio"][:2]
    present = {PRESENT + name: torch.tensor([True, True, name != "audio"]) for name in NAMES}
    _, metrics = pairs(audio=20.0)(vectors, present)
    assert metrics["loss_audio"].item() == pytest.approx(12.815561, abs=1e-6)  # of the sheet: rows 0 and 1
    assert metrics["loss_text"].item() == pytest.approx(1.749288, abs=1e-6)


def test_without_a_common_item_the_loss_is_0_and_touches_everything():
    module, vectors = pairs(), {name: rows.requires_grad_() for name, rows in sheet_vectors().items()}
    held = {"image": [True, False, False], "text": [False, True, False], "audio": [False, False, True]}
    features = {name: vectors[name][:1] for name in NAMES}
    total, _ = module(features, {PRESENT + name: torch.tensor(mask) for name, mask in held.items()})
    total.backward()
    assert total.item() == 0
    touched = [*vectors.values(), *module.parameters()]
    assert len(touched) == 5 and all(tensor.grad is not None and not tensor.grad.any() for tensor in touched)


def test_equal_scales_give_info_nce_and_two_scales_weigh_two_directions():
    first, second, _ = sheet_vectors().values()
    one, two = torch.tensor(5.0).double(), torch.tensor(9.0).double()
    groups = torch.tensor([4, 7, 4])
    for each in (None, groups):
        torch.testing.assert_close(directed_info_nce(first, second, one, one, each), info_nce(first, second, one, each))
    rows = F.cross_entropy(5 * first @ second.T, torch.arange(3)) + F.cross_entropy(9 * second @ first.T, torch.arange(3))
    torch.testing.assert_close(directed_info_nce(first, second, one, two), rows / 2)


def test_masks_that_contradict_the_rows_are_refused():
    present = {PRESENT + "audio": torch.tensor([True, False, False])}
    with pytest.raises(DataError, match=r"marks 1 items, but the batch holds 3 of audio"):
        pairs()(sheet_vectors(), present)
    with pytest.raises(DataError, match="holds 3 of image and 2 of audio; without masks"):
        pairs()({**sheet_vectors(), "audio": sheet_vectors()["audio"][:2]}, {})


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "anchor: missing with 3 encoders"),
        ({"anchor": "imag"}, "anchor: there is no 'imag' among the encoders"),
        ({"anchor": "image", "loss": "sigmoid"}, "anchor: needs loss=info_nce"),
        ({"anchor": "image", "two_scales": True}, "two_scales: true with an anchor"),
        ({"anchor": "image", "fixed_scales": {"image": 2.0}}, "fixed_scales.image: 2.0"),
    ],
)
def test_keywords_that_contradict_each_other_are_refused(keywords, message):
    with pytest.raises(ConfigError, match=message):
        CLIPHead(inputs={name: EncoderSpec(name, 8) for name in NAMES}, **keywords)


@pytest.fixture
def folder(tmp_path):
    """A table of five items: one without an image, one without a recording."""
    rows = []
    for i, name in enumerate(("bell", "drum", "horn", "harp", "flute")):
        Image.new("RGB", (32, 32), (50 * i, 10, 200)).save(tmp_path / f"{name}.png")
        np.save(tmp_path / f"{name}.npy", np.zeros(1))
        sides = {"image": f"{name}.png", "audio": f"{name}.wav", "text": name}
        rows.append({key: value for key, value in sides.items() if (name, key) not in (("harp", "image"), ("flute", "audio"))})
        write_tone(tmp_path / f"{name}.wav", 200 + 90 * i)
    lines = [json.dumps({**row, "split": split}) for split in ("train", "validation") for row in rows]
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    return tmp_path


def write_tone(path, pitch):
    import wave

    samples = (8000 * np.sin(np.arange(4000) * pitch / 2500)).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


def trained(folder):
    system = zoo.create_model("bind_vit_nano")
    system.processor.fit(Aligned(path=folder).captions())
    return system


def test_a_batch_of_items_that_lack_sides_has_the_loss_of_its_pairs_and_trains_every_tower(folder):
    system = trained(folder).train()
    split = Aligned(path=folder).split("train")
    samples = [split.sample(i) for i in range(5)]
    batch = system.processor.collate(samples, [system.processor.items(sample) for sample in samples])
    assert len(batch.inputs["image"]) == len(batch.inputs["audio"]) == 4 and len(batch) == 5
    assert batch.targets["present_image"].tolist() == [True, True, True, False, True]
    output = system(batch)
    output.loss.backward()
    assert all(p.grad is not None for p in system.parameters())
    with torch.no_grad():
        vectors = system.eval().head.features(system.encode_batch(batch))
        scale = torch.tensor(1 / 0.07)
        expected = info_nce(vectors["image"][:3], vectors["audio"][:3], scale) + info_nce(
            vectors["image"], vectors["text"][[0, 1, 2, 4]], scale
        )
        torch.testing.assert_close(system(batch).loss, expected)
    alone = system.processor.collate(samples[:1], [system.processor.items(samples[0])])
    assert set(alone.inputs) == set(NAMES) and alone.targets["present_audio"].tolist() == [True]


def test_retrieval_compares_all_pairs_and_counts_the_rows_that_have_both(folder):
    system, source = trained(folder), Aligned(path=folder)
    result = Retrieval(batch_size=3)(system, source, "validation")
    ways = [
        f"{a}_to_{b}"
        for a, b in (("audio", "image"), ("image", "audio"), ("audio", "text"), ("text", "audio"), ("image", "text"), ("text", "image"))
    ]
    assert sorted(result.curves) == sorted(ways) and result.num_items == 5
    assert (result.details["num_image"], result.details["num_audio"], result.details["num_text"]) == (4, 4, 5)
    images, sounds = system.embed("image", [folder / f"{n}.png" for n in ("bell", "drum", "horn", "flute")]), None
    sounds = system.embed("audio", [folder / f"{n}.wav" for n in ("bell", "drum", "horn", "harp")])
    best = (images[:3] @ sounds.T).argmax(1)
    assert result.metrics["image_to_audio_recall@1"] == pytest.approx((best == torch.arange(3)).float().mean().item())
    again = Retrieval(batch_size=2, modalities=["audio", "image", "text"])(system, source, "validation")
    assert again.metrics == pytest.approx(result.metrics)


def test_the_towers_of_a_two_tower_model_load_and_keep_their_vectors():
    system = zoo.create_system("bind_vit_nano", ["encoder@system.encoders.text=text_nano"])
    two = zoo.load("clip_vit_nano")
    parts = ["encoders.image", "encoders.text", "head.projections.image", "head.projections.text"]
    bound = zoo.create_system("bind_vit_nano", weights="clip_vit_nano", weights_parts=parts)
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(bound.embed("image", pixels), two.embed("image", pixels))
    assert not torch.allclose(system.embed("image", pixels), two.embed("image", pixels))


def test_scales_are_clamped_and_a_sound_is_classified_by_its_pairs_scale(folder):
    system = trained(folder)
    with torch.no_grad():
        system.head.pairs.logit_scales["audio"].fill_(9.0)
    system.head.after_step()
    assert system.head.scale_of("audio").item() == pytest.approx(100)
    assert system.head.scale_of("image").item() == pytest.approx(1 / 0.07)
    found = system.classify([folder / "bell.wav"], ["bell", "drum"], modality="audio")
    vectors = system.class_vectors(["bell", "drum"], ["a photo of a {}."])
    logits = 100 * system.embed("audio", [folder / "bell.wav"]) @ vectors.T
    torch.testing.assert_close(found, logits.softmax(-1), atol=1e-5, rtol=1e-4)


def test_the_table_keeps_the_contract_of_sources_and_names_its_faults(folder):
    check_source(Aligned(path=folder))
    table = folder / "table.jsonl"
    table.write_text('{"split": "train"}\n{"text": "a", "split": "tests"}\n{"text": 3}\n')
    with pytest.raises(DataError) as caught:
        Aligned(path=folder)
    for words in ("row 1: has none of image, audio, text", "row 2: split is 'tests'", "row 3: text is 3"):
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="allowed are two or three of"):
        Aligned(path=folder, modalities=["image"])


def test_a_system_of_two_towers_refuses_an_item_that_lacks_a_side(folder):
    system = zoo.create_model("clip_vit_nano")
    system.processor.fit(["bell"])
    split = Aligned(path=folder).split("train")
    samples = [split.sample(i) for i in range(5)]
    with pytest.raises(DataError, match="row 4: has no image, which other items have"):
        system.processor.collate(samples, [system.processor.items(sample) for sample in samples])
    assert isinstance(system.processor.collate(samples[:3], [system.processor.items(s) for s in samples[:3]]), Batch)
