"""Commands and evaluations on recordings: classify, embed, zero-shot, and the sounds of Sonic Pi."""

import json
import wave

import numpy as np
import pytest
import torch

import zoo
from zoo.commands.classify import find_inputs
from zoo.commands.cli import main
from zoo.commands.index.store import Index
from zoo.errors import ConfigError, DataError
from zoo.evaluation.retrieval import Retrieval
from zoo.evaluation.zero_shot import ZeroShot
from zoo.sources.aligned import Aligned

LABELS = ["bell", "drum"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three tones of half a second in a folder, with a table of their labels."""
    folder = tmp_path_factory.mktemp("sounds")
    rows = []
    for i, name in enumerate(("high", "low", "middle")):
        samples = (8000 * np.sin(np.arange(8000) * (0.3 + i / 5))).astype(np.int16)
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        rows.append({"audio": f"{name}.wav", "text": f"{name} tone", "label": LABELS[i % 2], "split": "test"})
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved CLAP with random weights, and the system."""
    system = zoo.create_model("clap_htsat_nano")
    system.processor.fit(["the sound of a bell", "the sound of a drum"])
    directory = tmp_path_factory.mktemp("models") / "clap"
    zoo.save(system, directory)
    return directory, system


def test_classify_takes_a_folder_of_recordings(folder, model, capsys):
    directory, system = model
    words = [str(folder), "--model", str(directory), "--labels", ",".join(LABELS), "--templates", "simple", "--json", "--no-cache"]
    assert main(["classify", *words]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    paths = sorted(folder.glob("*.wav"))
    assert [line["path"] for line in found] == list(map(str, paths))
    expected = system.classify(paths, LABELS, templates=["a photo of a {}."])
    assert {frozenset(line["labels"]) for line in found} == {frozenset(LABELS)} and expected.shape == (3, 2)
    assert all(sum(line["probabilities"]) == pytest.approx(1, abs=1e-5) for line in found)


def test_paths_of_recordings_alone_are_sounds_and_any_image_makes_them_images(folder, tmp_path):
    assert find_inputs([str(folder)])[1] == find_inputs([str(folder / "low.wav")])[1] == "audio"
    with pytest.raises(DataError, match=r"gone.wav: no such file"):
        find_inputs([str(folder / "gone.wav")])
    (tmp_path / "a.png").write_bytes(b"")
    assert find_inputs([str(tmp_path), str(folder / "low.wav")])[1] == "image"


def test_a_model_of_images_does_not_classify_recordings(folder, capsys):
    assert main(["classify", str(folder), "--model", "clip_vit_nano", "--labels", "a,b"]) == 2
    assert "has no 'audio' encoder; it has image, text" in capsys.readouterr().err


def test_embed_gives_the_vectors_of_recordings(folder, model, tmp_path):
    directory, system = model
    assert main(["embed", str(folder), "--modality", "audio", "--model", str(directory), "-o", str(tmp_path / "index")]) == 0
    index = Index(tmp_path / "index")
    vectors = torch.from_numpy(np.concatenate(list(index.chunks(2))))
    names = [item["path"] for item in index.items()]
    torch.testing.assert_close(vectors, system.embed("audio", [folder / name for name in names]), atol=1e-5, rtol=0)


def test_zero_shot_and_retrieval_take_recordings(folder, model):
    system, source = model[1], Aligned(path=folder, modalities=["audio", "text"], templates=["the sound of a {}"])
    assert source.class_names == LABELS
    result = ZeroShot(cache=False)(system, source, "test")
    paths = [folder / f"{name}.wav" for name in ("high", "low", "middle")]
    best = system.classify(paths, LABELS, templates=["the sound of a {}"]).argmax(1)
    assert result.metrics["top1"] == pytest.approx((best == torch.tensor([0, 1, 0])).float().mean().item())
    assert "audio_to_text_recall@1" in Retrieval()(system, source, "test").metrics
    with pytest.raises(ConfigError, match="the source has no 'image'"):
        Retrieval()(zoo.create_model("bind_vit_nano"), source, "test")


def test_the_sounds_of_sonic_pi_have_labels_by_their_prefixes(real, model):
    source = Aligned(path=real("sonic_pi_samples"), modalities=["audio", "text"], templates=["the sound of a {}"])
    split = source.split("test")
    assert (len(split), len(source.class_names)) == (165, 14)
    sample = split.sample(0)
    assert sample.inputs["text"].startswith("ambient sound: ") and source.class_names[sample.label] == "ambient sound"
    assert ZeroShot(cache=False, limit=4)(model[1], source, "test").num_items == 4
