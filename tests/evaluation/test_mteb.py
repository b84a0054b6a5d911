"""The interface of MTEB's encoders."""

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.evaluation.adapters.mteb import MTEBEncoder
from zoo.runs.interpolation import Measurement
from zoo.sources.digits import DIGIT_NAMES, Digits

PROMPT = "a photo of the digit {}"


@pytest.fixture(scope="module")
def clip():
    return MTEBEncoder(zoo.load("clip_vit_nano"))


def batches(column, items, size=100):
    """What MTEB's loaders give: mappings of lists, with columns that an encoder does not read."""
    return [{column: items[start : start + size], "id": ["x"] * size} for start in range(0, len(items), size)]


def zero_shot_accuracy(encoder, images, labels, prompts):
    """Accuracy as MTEB's zero-shot tasks compute it, from ``encode`` and ``similarity`` alone."""
    task = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "batch_size": 100}
    similarity = encoder.similarity(encoder.encode(batches("image", images), **task), encoder.encode(batches("text", prompts), **task))
    return float(np.mean(similarity.argmax(1).numpy() == labels))


def test_a_zero_shot_task_gives_the_accuracy_of_our_evaluation(clip):
    split = Digits().split("test")
    samples = [split.sample(number) for number in range(len(split))]
    images = [Image.fromarray(sample.inputs["image"]) for sample in samples]
    found = zero_shot_accuracy(clip, images, [sample.label for sample in samples], [PROMPT.format(name) for name in DIGIT_NAMES])
    ours = Measurement(["data=digits", "evaluation=zero_shot", f"evaluation.templates=['{PROMPT}']"], clip.model)(clip.model)
    assert found == pytest.approx(ours["top1"], abs=1e-6) and found > 0.9


def test_an_item_of_two_modalities_is_the_unit_sum_of_both(clip):
    image = Image.fromarray(np.full((32, 32), 200, dtype=np.uint8))
    first, second = clip.encode([{"image": [image]}]), clip.encode([{"text": ["a handwritten three"]}])
    both = clip.encode([{"image": [image], "text": ["a handwritten three"]}])
    np.testing.assert_allclose(both, (first + second) / np.linalg.norm(first + second), atol=1e-6)


def test_recordings_of_any_rate_are_encoded():
    system = zoo.create_system("clap_whisper_nano").eval()
    encoder, samples = MTEBEncoder(system), np.sin(np.arange(8000) / 20)
    found = encoder.encode([{"audio": [{"array": samples, "sampling_rate": 8000}]}])
    with torch.inference_mode():
        expected = system.embed("audio", [(samples.astype(np.float32), 8000)])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_an_encoder_alone_gives_its_pooled_vectors(tmp_path):
    zoo.save(zoo.create_model("vit_nano"), tmp_path / "vit")
    encoder = MTEBEncoder(zoo.load(tmp_path / "vit"))
    image = Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8))
    found = encoder.encode([{"image": [image, image]}])
    assert found.shape[0] == 2 and encoder.similarity_pairwise(found, found).tolist() == pytest.approx([1, 1], abs=1e-6)


def test_a_task_of_another_modality_is_refused(clip):
    with pytest.raises(zoo.ConfigError, match="the task gives audio, but the model encodes image, text"):
        clip.encode([{"audio": []}])


def test_similarities_are_cosines(clip):
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[6.0, 8.0], [0.0, 2.0]])
    torch.testing.assert_close(clip.similarity(a, b), torch.tensor([[1.0, 0.8], [0.6, 0.0]]))
    torch.testing.assert_close(clip.similarity_pairwise(a, b), torch.tensor([1.0, 0.0]))
    assert clip.similarity(a[0], b).shape == (1, 2)
