"""``zoo embed``: rows equal the model's vectors, a killed job resumes to the same bytes, and changes of the folder are found."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.commands.cli import main
from zoo.commands.index.embedding import embed_folder
from zoo.commands.index.store import FAILED, ITEMS, MANIFEST, UNFINISHED, Index

NAMES = ["b.png", "a/2.png", "a/10.jpg", "ä ü.png", "c\nd.png", "日本.png"]


@pytest.fixture(scope="module")
def clip():
    return zoo.load("clip_vit_nano")


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def pictures(tmp_path):
    """Folder with six images with unusual names, and two files that are not images."""
    folder = tmp_path / "pictures"
    for seed, name in enumerate(NAMES):
        draw(folder / name, seed)
    (folder / "empty.png").write_bytes(b"")
    (folder / "a" / "note.png").write_text("<html>")
    return folder


def embed(model, folder, target, **settings):
    return embed_folder(model, folder, target, name="clip_vit_nano", **{"shard_rows": 3, "batch_size": 2, **settings})


def matrix(directory):
    return np.concatenate(list(Index(directory).chunks(2)))


def paths(directory):
    return [item["path"] for item in Index(directory).items()]


def files(directory):
    """Return the content of each file of an index."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_rows_are_the_models_vectors_in_the_order_of_paths(clip, pictures, tmp_path):
    done = []
    result = embed(clip, pictures, tmp_path / "index", advance=done.append)
    assert paths(tmp_path / "index") == ["a/10.jpg", "a/2.png", "b.png", "c\nd.png", "ä ü.png", "日本.png"]
    expected = clip.embed("image", [str(pictures / name) for name in paths(tmp_path / "index")])
    np.testing.assert_allclose(np.load(tmp_path / "index" / "embeddings.npy"), expected.numpy(), atol=1e-6)
    assert (result.count, result.embedded, sum(done)) == (6, 8, 8) and not (tmp_path / "index" / UNFINISHED).exists()


def test_recordings_are_embedded_as_pictures_are(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    folder, model = tmp_path / "sounds", zoo.create_system("clap_whisper_nano")
    folder.mkdir()
    for seed, name in enumerate(["b.wav", "a.flac", "c.ogg"]):
        soundfile.write(folder / name, np.random.default_rng(seed).standard_normal(3000 + 1000 * seed) * 0.1, 16000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"")
    result = embed(model, folder, tmp_path / "index", modality="audio")
    assert paths(tmp_path / "index") == ["a.flac", "b.wav", "c.ogg"] and [item["path"] for item in result.failed] == ["empty.wav"]
    expected = model.embed("audio", [folder / name for name in paths(tmp_path / "index")])
    np.testing.assert_allclose(matrix(tmp_path / "index"), expected.numpy(), atol=1e-6)


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(clip, pictures, tmp_path, capsys):
    assert main(["embed", str(pictures), "-o", str(tmp_path / "index"), "--model", "clip_vit_nano", "--json"]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["path"] for line in told[:-1]} == {"empty.png", "a/note.png"} and "0 bytes" in str(told)
    assert told[-1] == {"index": str(tmp_path / "index"), "count": 6, "failed": 2, "embedded": 8}
    assert [json.loads(line) for line in (tmp_path / "index" / FAILED).read_text().splitlines()] == told[:-1]
    assert main(["embed", str(pictures), "-o", str(tmp_path / "index"), "--model", "clip_vit_nano"]) == 1, "they are tried again"
    said = capsys.readouterr()
    assert "2 of 8 items could not be read" in said.err and "2 items were new" in said.out


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_a_stopped_job_goes_on_to_the_same_bytes(clip, pictures, tmp_path, stop):
    embed(clip, pictures, tmp_path / "whole")
    seen = []

    def count(items):
        seen.extend([None] * items)
        if len(seen) >= stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(clip, pictures, tmp_path / "index", advance=count)
    with pytest.raises(zoo.DataError, match="holds an unfinished index"):
        Index(tmp_path / "index")
    result = embed(clip, pictures, tmp_path / "index")
    assert result.embedded == 8 - (stop - 1) // 3 * 3, "whole shards are kept"
    assert files(tmp_path / "index") == files(tmp_path / "whole")


@pytest.mark.heavy
def test_kill_9_in_the_middle_loses_one_shard_at_most(clip, tmp_path):
    for seed in range(150):
        draw(tmp_path / "many" / f"{seed:03d}.png", seed)
    code = (
        "import zoo, torch, time; from zoo.commands.embed import embed_folder; torch.set_num_threads(1)\n"
        "embed_folder(zoo.load('clip_vit_nano'), 'many', 'index', name='clip_vit_nano', shard_rows=16, batch_size=8,"
        " advance=lambda items: time.sleep(0.1))"
    )
    job = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while len(list((tmp_path / "index" / UNFINISHED).glob("[0-9]*.jsonl"))) < 4 and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    result = embed(clip, tmp_path / "many", tmp_path / "index", shard_rows=16, batch_size=8)
    assert 0 < result.embedded <= 150 - 64
    embed(clip, tmp_path / "many", tmp_path / "whole", shard_rows=16, batch_size=8)
    assert files(tmp_path / "index") == files(tmp_path / "whole")


def test_a_kill_between_the_last_renames_is_noticed_and_mended(clip, pictures, tmp_path, monkeypatch):
    target = tmp_path / "index"
    embed(clip, pictures, target)
    before = files(target)
    draw(pictures / "new.png", 9)
    monkeypatch.setattr("zoo.commands.index.store.write_text_atomically", lambda path, text: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        embed(clip, pictures, target, update=True)
    monkeypatch.undo()
    assert files(target)[MANIFEST] == before[MANIFEST]
    with pytest.raises(zoo.DataError, match="writing was interrupted"):
        Index(target)
    embed(clip, pictures, target)
    embed(clip, pictures, tmp_path / "whole")
    assert paths(target) == paths(tmp_path / "whole")
    np.testing.assert_allclose(matrix(target), matrix(tmp_path / "whole"), atol=1e-6)


def test_a_finished_index_is_left_alone(clip, pictures, tmp_path):
    (pictures / "empty.png").unlink(), (pictures / "a" / "note.png").unlink()
    embed(clip, pictures, tmp_path / "index")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()}
    result = embed(clip, pictures, tmp_path / "index")
    assert (result.count, result.embedded) == (6, 0)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()} == before


@pytest.mark.parametrize("storage", ["npy", "parquet"])
def test_a_changed_folder_is_refused_until_told_and_only_the_changes_are_computed(clip, pictures, tmp_path, storage):
    target = tmp_path / "index"
    embed(clip, pictures, target, storage=storage)
    old = dict(zip(paths(target), matrix(target), strict=True))
    draw(pictures / "a" / "2.png", 50), draw(pictures / "a" / "1.png", 51)
    (pictures / "b.png").unlink(), (pictures / "empty.png").unlink()
    with pytest.raises(zoo.ConfigError, match="1 new, 1 changed and 2 removed items since the index was made; .* --update"):
        embed(clip, pictures, target, storage=storage)
    result = embed(clip, pictures, target, storage=storage, update=True)
    assert result.embedded == 3, "the new, the changed, and the one that could not be read"
    new = dict(zip(paths(target), matrix(target), strict=True))
    assert list(new) == ["a/1.png", "a/10.jpg", "a/2.png", "c\nd.png", "ä ü.png", "日本.png"]
    same = new.keys() & old.keys() - {"a/2.png"}
    assert all((new[name] == old[name]).all() for name in same) and (new["a/2.png"] != old["a/2.png"]).any()


def test_a_folder_that_changes_while_a_job_is_stopped_loses_nothing(clip, pictures, tmp_path):
    def stop_late(items, seen=[]):  # noqa: B006
        seen.append(items)
        if sum(seen) >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(clip, pictures, tmp_path / "index", advance=stop_late)
    draw(pictures / "a" / "1.png", 51)
    with pytest.raises(zoo.ConfigError, match="1 new, 0 changed and 0 removed items since the job was started"):
        embed(clip, pictures, tmp_path / "index")
    result = embed(clip, pictures, tmp_path / "index", update=True)
    assert result.embedded <= 6
    embed(clip, pictures, tmp_path / "whole")
    assert paths(tmp_path / "index") == paths(tmp_path / "whole")
    np.testing.assert_allclose(matrix(tmp_path / "index"), matrix(tmp_path / "whole"), atol=1e-6)


def test_another_model_preprocessing_or_type_is_refused_until_told(clip, pictures, tmp_path):
    embed(clip, pictures, tmp_path / "index")
    other = zoo.load("clip_vit_nano")
    with torch.no_grad():
        other.head.logit_scale.add_(1)
    with pytest.raises(zoo.ConfigError, match="holds vectors with other weights .* --restart"):
        embed(other, pictures, tmp_path / "index")
    other = zoo.load("clip_vit_nano")
    other.processor["image"].resize = "squash"
    with pytest.raises(zoo.ConfigError, match="other preprocessing"):
        embed(other, pictures, tmp_path / "index")
    with pytest.raises(zoo.ConfigError, match="other dtype"):
        embed(clip, pictures, tmp_path / "index", dtype="float16")
    embed(clip, pictures, tmp_path / "index", dtype="float16", restart=True)
    assert matrix(tmp_path / "index").dtype == np.float16


def test_parquet_holds_the_same_rows_and_an_index_can_change_its_storage(clip, pictures, tmp_path):
    import pyarrow.parquet

    embed(clip, pictures, tmp_path / "index")
    expected = matrix(tmp_path / "index")
    result = embed(clip, pictures, tmp_path / "index", storage="parquet")
    assert result.embedded == 2, "only what could not be read is tried again"
    read = pyarrow.parquet.read_table(tmp_path / "index" / "embeddings.parquet")
    assert read["path"].to_pylist() == paths(tmp_path / "index")
    assert (np.array(read["embedding"].to_pylist(), dtype=np.float32) == expected).all()
    assert (matrix(tmp_path / "index") == expected).all() and not (tmp_path / "index" / "embeddings.npy").exists()
    order = np.array([5, 0, 3, 3])
    assert (Index(tmp_path / "index").rows.take(order) == expected[order]).all()


def test_lines_of_a_text_file_are_embedded_in_their_order(clip, tmp_path):
    (tmp_path / "texts.txt").write_text("a handwritten two\n\nthe number 猫\na handwritten two\n", encoding="utf-8")
    result = embed(clip, tmp_path / "texts.txt", tmp_path / "index", modality="text")
    assert [item["text"] for item in Index(tmp_path / "index").items()] == ["a handwritten two", "the number 猫", "a handwritten two"]
    assert result.failed == [{"text": "", "error": "the line is empty"}]
    expected = clip.embed("text", ["a handwritten two", "the number 猫", "a handwritten two"])
    np.testing.assert_allclose(matrix(tmp_path / "index"), expected.numpy(), atol=1e-6)


def test_an_encoder_alone_gives_its_pooled_vector_of_length_one(pictures, tmp_path):
    encoder = zoo.load(zoo.save(zoo.create_model("vit_nano"), tmp_path / "encoder"))
    embed(encoder, pictures, tmp_path / "index")
    with torch.no_grad():
        pooled = encoder(encoder.processor["image"]([str(pictures / name) for name in paths(tmp_path / "index")])[0]).pooled
    np.testing.assert_allclose(matrix(tmp_path / "index"), torch.nn.functional.normalize(pooled, dim=1).numpy(), atol=1e-6)


def test_pictures_that_are_all_bad_leave_an_empty_index(clip, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"")
    for storage in ("npy", "parquet"):
        assert embed(clip, tmp_path / "bad", tmp_path / storage, storage=storage).count == 0
        assert len(Index(tmp_path / storage)) == 0 and list(Index(tmp_path / storage).chunks()) == []


def test_two_jobs_at_once_do_not_meet(clip, pictures, tmp_path):
    def second(items):
        with pytest.raises(zoo.ConfigError, match="another zoo embed is writing"):
            embed(clip, pictures, tmp_path / "index")

    assert embed(clip, pictures, tmp_path / "index", advance=second).count == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["EMPTY"], "no images in this folder or below"),
        (["nowhere"], "there is no such folder"),
        (["PICTURES/b.png"], "b.png: is a file; give a folder of images"),
        (["PICTURES", "--modality", "audio"], "no recordings in this folder or below"),
        (["PICTURES", "--modality", "video"], "--modality: there is no 'video'; known: audio, image, text"),
        (["PICTURES", "--modality", "text"], "cannot be opened, it is a folder"),
        (["PICTURES", "--format", "csv"], "--format: there is no 'csv'"),
        (["PICTURES", "--batch-size", "0"], "allowed is 1 or more"),
        (["PICTURES", "--model", "nowhere"], "nowhere: no such directory"),
        (["PICTURES", "--device", "gpu"], "--device: gpu cannot be used here"),
    ],
)
def test_wrong_input_is_refused(pictures, tmp_path, capsys, words, message):
    (tmp_path / "EMPTY").mkdir()
    words = [word.replace("PICTURES", str(pictures)).replace("EMPTY", str(tmp_path / "EMPTY")) for word in words]
    assert main(["embed", "-o", str(tmp_path / "index"), *words]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) <= 6
    assert not (tmp_path / "index" / MANIFEST).exists()


def test_a_folder_with_files_of_others_is_not_written_into(clip, pictures, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ITEMS).write_text("precious")
    with pytest.raises(zoo.ConfigError, match="holds items.jsonl, but no zoo index"):
        embed(clip, pictures, tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(zoo.ConfigError, match="is a file; give a folder"):
        embed(clip, pictures, tmp_path / "file")


def test_damage_is_noticed(clip, pictures, tmp_path):
    embed(clip, pictures, tmp_path / "index")
    for name, content in ((ITEMS, "{}"), ("embeddings.npy", "short"), (MANIFEST, '{"format": 7}')):
        shutil.copytree(tmp_path / "index", tmp_path / name)
        (tmp_path / name / name).write_text(content)
        with pytest.raises(zoo.DataError, match="changed|damaged|format is 7"):
            Index(tmp_path / name)


def test_shards_are_open_only_while_they_are_read(clip, tmp_path):
    for seed in range(60):
        draw(tmp_path / "many" / f"{seed}.png", seed)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, limits[1]))
    try:
        embed(clip, tmp_path / "many", tmp_path / "index", shard_rows=2, batch_size=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(matrix(tmp_path / "index")) == 60


def test_an_index_that_cannot_be_written_is_told(clip, pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(zoo.DataError, match=r"-o: .*file/index cannot be written \(Not a directory\); finished items are kept"):
        embed(clip, pictures, tmp_path / "file" / "index")
