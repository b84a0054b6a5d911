"""Data and results elsewhere: a server that speaks S3, web servers that break connections, and copies that are whole or absent."""

import csv
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from flaky_server import FlakyServer
from PIL import Image

import zoo
from zoo.commands.cli import main
from zoo.registry.construct import build_part
from zoo.sources.shards import Shards
from zoo.storage import copies, remote
from zoo.storage.copies import local_file, local_folder, localised, place_of
from zoo.storage.remote import is_remote_data, read_range

fsspec = pytest.importorskip("fsspec", reason="fsspec is an extra")
BUCKET = "s3://zoo-test"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, and no waiting between tries."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.0)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def s3():
    """A bucket of a server on this machine; gives the file system."""
    pytest.importorskip("s3fs", reason="s3fs is an extra")
    server = pytest.importorskip("moto.server", reason="moto is of the test extra").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    settings["AWS_DEFAULT_REGION"] = "us-east-1"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        files = fsspec.filesystem("s3")
        files.mkdir(BUCKET)
        yield files
    server.stop()


@pytest.fixture
def serve():
    """Start web servers, which end with the test."""
    started = []

    def start(files, **settings):
        started.append(FlakyServer(files, **settings))
        return started[-1]

    yield start
    for server in started:
        server.close()


def png(seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def shard(start, count=4):
    return tar({f"{i:04d}.{end}": data for i in range(start, start + count) for end, data in (("png", png(i)), ("txt", b"text %d" % i))})


def left(folder):
    """Return all files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def test_names_of_this_disk_are_left_alone(tmp_path):
    for name in ("a/b", "/a/b.csv", "C:\\x", "hf://OWNER/NAME", "timm://vit", "a:b", "clip_vit_b32:openai"):
        assert not is_remote_data(name) and localised(name) == name
    for name in ("s3://b/k", "gs://b/k", "https://h/x.tar", "hf://datasets/o/n/x.tar", "memory://x"):
        assert is_remote_data(name)
    assert place_of("https://h/a/../x?y=1", tmp_path).is_relative_to(tmp_path / "remote" / "https" / "h")


def test_a_broken_connection_is_tried_again_and_the_copy_is_whole(serve, cache, monkeypatch):
    monkeypatch.setattr(copies, "PIECE_BYTES", 1000)
    data = np.random.default_rng(0).bytes(2500)
    server = serve({"x.bin": data}, breaks=3)
    copy = local_file(f"{server.url}/x.bin")
    assert copy.read_bytes() == data and copy.is_relative_to(cache)
    count = len(server.requests)
    assert local_file(f"{server.url}/x.bin") == copy and len(server.requests) == count, "nothing is copied twice"
    server.files["x.bin"] = data[::-1]
    assert local_file(f"{server.url}/x.bin").read_bytes() == data[::-1], "another version is copied again"


def test_a_connection_that_always_breaks_is_one_line_and_leaves_nothing(serve, cache):
    server = serve({"x.bin": b"0123456789" * 100}, breaks=10**9)
    with pytest.raises(zoo.DataError, match=rf"x.bin: cannot be read after {remote.TRIES} tries \(.*\); check the network") as caught:
        local_file(f"{server.url}/x.bin")
    assert "\n" not in str(caught.value) and not left(cache)


def test_a_server_without_ranges_serves_too(serve):
    data = bytes(range(200))
    server = serve({"x.bin": data}, ranges=False)
    assert read_range(f"{server.url}/x.bin", 50, 20) == data[50:70]
    assert local_file(f"{server.url}/x.bin").read_bytes() == data


def test_what_is_missing_is_named(serve, monkeypatch):
    server = serve({})
    with pytest.raises(zoo.DataError, match="there is no such file or folder"):
        local_file(f"{server.url}/x.bin")
    with pytest.raises(zoo.ConfigError, match="there is no scheme 's4'; "):
        local_file("s4://b/k")
    monkeypatch.setitem(os.sys.modules, "fsspec.core", None)
    with pytest.raises(zoo.ConfigError, match=r"zoo install remote"):
        local_file("s3://b/k")


def test_shards_of_a_web_server_are_read_in_ranges_through_broken_connections(serve, tmp_path):
    (tmp_path / "local.tar").write_bytes(shard(0))
    server = serve({"local.tar": shard(0)}, breaks=2)
    ours, local = Shards(path=f"{server.url}/local.tar").split("train"), Shards(path=str(tmp_path / "local.tar")).split("train")
    server.breaks = 1
    for i in range(4):
        a, b = ours.sample(i), local.sample(i)
        assert a.id == b.id and a.inputs["text"] == b.inputs["text"] and np.array_equal(a.inputs["image"], b.inputs["image"])
    assert all(asked for _, asked in server.requests), "never the whole file"
    again = pickle.loads(pickle.dumps(ours))
    server.files["local.tar"] = shard(4)
    with pytest.raises(zoo.DataError, match="local.tar: has changed since the run began"):
        again.sample(0)
    server.breaks = 10**9
    with pytest.raises(zoo.DataError, match="cannot be read after"):
        ours.sample(0)


def test_what_is_no_remote_shard_is_refused(serve):
    server = serve({"a.tar": b"x" * 600, "empty.tar": b"", "cut.tar": shard(0)[:2000]})
    for name, message in {"a.tar": "not a tar file", "empty.tar": "0 bytes", "cut.tar": "cut short", "no.tar": "no such file"}.items():
        with pytest.raises(zoo.DataError, match=message):
            Shards(path=f"{server.url}/{name}")


def test_shards_of_a_bucket_by_pattern_are_those_of_the_disk(s3, tmp_path):
    for number in range(3):
        s3.pipe_file(f"{BUCKET}/shards/{number}.tar", shard(4 * number))
        (tmp_path / f"{number}.tar").write_bytes(shard(4 * number))
    local = Shards(path=str(tmp_path / "{0..2}.tar"), min_size=8)
    for pattern in (f"{BUCKET}/shards/*.tar", f"{BUCKET}/shards/{{0..2}}.tar"):
        found = Shards(path=pattern, min_size=8).split("train")
        assert [found.sample(i).id for i in range(len(found))] == [local.split("train").sample(i).id for i in range(12)]
    assert found.captions(12) == local.split("train").captions(12)
    with pytest.raises(zoo.DataError, match="matches no file"):
        Shards(path=f"{BUCKET}/none/*.tar")


def test_a_folder_of_a_bucket_is_mirrored(s3, cache):
    s3.pipe({f"{BUCKET}/pics/cat/1.png": png(1), f"{BUCKET}/pics/dog/2.png": png(2)})
    folder = local_folder(f"{BUCKET}/pics")
    assert {path.relative_to(folder).as_posix() for path in left(folder) if not path.name.startswith(".")} == {"cat/1.png", "dog/2.png"}
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    s3.pipe({f"{BUCKET}/pics/dog/3.png": png(3)})
    s3.rm(f"{BUCKET}/pics/cat/1.png")
    source = build_part("source", {"name": "folder", "path": f"{BUCKET}/pics", "split_fractions": [1, 0, 0]}, "data.source")
    assert [entry.relative for entry in source.split("train").entries] == ["dog/2.png", "dog/3.png"]
    assert (folder / "dog/2.png").stat().st_mtime_ns == times[folder / "dog/2.png"]
    with pytest.raises(zoo.DataError, match="there is no such f"):
        localised(f"{BUCKET}/nothing")


def test_a_table_brings_the_files_that_it_names_and_no_others(s3):
    s3.pipe({f"{BUCKET}/speech/{name}": b"RIFF" + name.encode() for name in ("a.wav", "b.wav", "unused.wav")})
    s3.pipe_file(f"{BUCKET}/speech/table.csv", b'path,text\n"a.wav",hello\nb.wav,"good, day"\nmissing.wav,x\n')
    table = localised(f"{BUCKET}/speech/table.csv")
    names = {path.name for path in left(place_of(f"{BUCKET}/speech")) if not path.name.startswith(".")}
    assert names == {"table.csv", "a.wav", "b.wav"} and table.endswith("table.csv")


def test_a_table_of_a_web_server_brings_its_media(serve):
    server = serve({"d/t.jsonl": b'{"path": "a/1.png", "caption": "x"}\n{"path": "no.png", "caption": "y"}\n', "d/a/1.png": png(1)})
    table = localised(f"{server.url}/d/t.jsonl")
    assert (place_of(f"{server.url}/d") / "a" / "1.png").read_bytes() == png(1) and table.endswith("t.jsonl")
    with pytest.raises(zoo.DataError, match="a web server has no folders"):
        local_folder(f"{server.url}/d")


def test_a_model_is_loaded_from_a_bucket_without_the_states_of_its_training(s3, tmp_path):
    model = zoo.create_model("vit_nano")
    saved = zoo.save(model, tmp_path / "model")
    for path in left(saved):
        s3.put_file(str(path), f"{BUCKET}/run/best/{path.name}")
    s3.pipe_file(f"{BUCKET}/run/state/optimizer.bin", b"much")
    again = zoo.load(f"{BUCKET}/run")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert not [path for path in left(place_of(f"{BUCKET}/run")) if "optimizer" in path.name]
    with pytest.raises(zoo.WeightsError, match="there is no such folder"):
        zoo.load(f"{BUCKET}/nothing")


def test_commands_read_from_a_bucket_and_write_into_it(s3, tmp_path, capsys):
    for seed in range(3):
        (tmp_path / "pics").mkdir(exist_ok=True)
        (tmp_path / "pics" / f"{seed}.png").write_bytes(png(seed))
        s3.pipe_file(f"{BUCKET}/in/{seed}.png", png(seed))
    words = ["--labels", "a,b", "--model", "clip_vit_nano", "--no-cache", "--output"]
    assert main(["classify", str(tmp_path / "pics"), *words, str(tmp_path / "out.csv")]) == 0
    assert main(["classify", f"{BUCKET}/in", *words, f"{BUCKET}/results/out.csv"]) == 0
    assert f"uploaded: {BUCKET}/results/out.csv" in capsys.readouterr().out
    rows = [
        list(csv.reader(io.StringIO(text)))
        for text in ((tmp_path / "out.csv").read_text(), s3.cat_file(f"{BUCKET}/results/out.csv").decode())
    ]
    assert [row[1:] for row in rows[0]] == [row[1:] for row in rows[1]]
    assert main(["embed", f"{BUCKET}/in", "-o", f"{BUCKET}/index", "--model", "clip_vit_nano"]) == 0
    assert main(["embed", str(tmp_path / "pics"), "-o", str(tmp_path / "index"), "--model", "clip_vit_nano"]) == 0
    assert s3.cat_file(f"{BUCKET}/index/embeddings.npy") == (tmp_path / "index" / "embeddings.npy").read_bytes()
    capsys.readouterr()
    assert main(["search", "a cat", "--index", f"{BUCKET}/index", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "https://host/index"], "results can be written to this disk, s3:// and gs://"),
        (["-o", "s3://b/index", "--shard", "0/2"], "need a folder that all of them see"),
        (["-o", "s3://b/index", "--workers", "2", "--launcher", "ray"], "need a folder that all of them see"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused(words, message, tmp_path, capsys):
    (tmp_path / "1.png").write_bytes(png(1))
    assert main(["embed", str(tmp_path), "--model", "clip_vit_nano", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_result_that_cannot_be_uploaded_is_whole_on_this_disk(tmp_path, capsys, monkeypatch):
    (tmp_path / "1.png").write_bytes(png(1))
    memory = fsspec.filesystem("memory")

    def refuse(*words, **options):
        raise OSError("connection refused")

    monkeypatch.setattr(type(memory), "put_file", refuse)
    words = ["classify", str(tmp_path / "1.png"), "--labels", "a,b", "--model", "clip_vit_nano", "--no-cache", "--output"]
    assert main([*words, "memory://out/x.csv"]) == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said and "the result is whole in" in said
    assert len(list((tmp_path / "cache" / "uploads").rglob("x.csv"))) == 1
