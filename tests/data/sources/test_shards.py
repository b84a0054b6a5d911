"""Tar shards: random access to the samples that webdataset reads, and clear messages about broken ones."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from skimage import data as photos

from zoo.assembly.compose import compose
from zoo.data.augmentation import Augmentation
from zoo.data.loader import ProcessedSplit, StepSampler, training_loader
from zoo.data.readers import shard_index, tar
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError, ItemError
from zoo.processors.image import ImageProcessor
from zoo.sources.shards import Shards, find_shards

PHOTO = Image.fromarray(photos.chelsea())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Indexes of the test lie in its own folder."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


def picture(number, kind="JPEG", size=(48, 36)):
    """A piece of a real photo as the bytes of a file; another for each number."""
    left, top = 7 * number % 300, 11 * number % 200
    file = io.BytesIO()
    PHOTO.crop((left, top, left + 90, top + 70)).resize(size).save(file, kind)
    return file.getvalue()


def sample(number, **members):
    text = f"photo {number}"
    plain = {"jpg": picture(number), "txt": text, "json": json.dumps({"caption": text, "all": [text, f"{text} again"]}).encode()}
    return {"__key__": f"{number:09d}", **plain, "cls": str(number % 3), **members}


def shards(folder, sizes=(5, 7, 4), change=lambda item: item):
    """Shards as img2dataset writes them, by webdataset's writer; returns their pattern."""
    folder.mkdir(exist_ok=True)
    number = 0
    for i, size in enumerate(sizes):
        with webdataset.TarWriter(str(folder / f"{i:03d}.tar")) as writer:
            for _ in range(size):
                writer.write({key: value for key, value in change(sample(number)).items() if value is not None})
                number += 1
    return str(folder / f"{{000..{len(sizes) - 1:03d}}}.tar")


def broken(item):
    """Shards in which four of sixteen samples are bad: a truncated image, no image, an empty caption, no caption."""
    changes = {2: {"jpg": item["jpg"][:300]}, 6: {"jpg": None}, 9: {"txt": " "}, 13: {"txt": None}}
    return item | changes.get(int(item["__key__"]), {})


def train(path, **options):
    return Shards(path=path, **options).split("train")


def streamed(path):
    return list(webdataset.WebDataset(path, shardshuffle=False))


leaves_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@leaves_files_open
def test_members_are_those_that_webdataset_reads(tmp_path):
    path = shards(tmp_path / "x")
    split, theirs = train(path), streamed(path)
    assert len(split) == len(theirs) == 16
    for i, expected in enumerate(theirs):
        name, found = split.contents(i)
        assert name == f"{os.path.basename(expected['__url__'])}:{expected['__key__']}"
        assert found == {key: value for key, value in expected.items() if not key.startswith("__")}


@leaves_files_open
def test_pictures_captions_and_classes_are_webdatasets(tmp_path):
    path = shards(tmp_path / "x", change=lambda item: item if int(item["__key__"]) % 2 else item | {"jpg": None, "png": picture(1, "PNG")})
    split = train(path, class_names=["a", "b", "c"])
    decoded = webdataset.WebDataset(path, shardshuffle=False).decode("rgb8").to_tuple("jpg;png", "txt", "cls")
    for i, (image, text, label) in enumerate(decoded):
        found = split.sample(i)
        assert (found.inputs["image"] == image).all() and found.inputs["text"] == text and found.label == label


@leaves_files_open
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_writers_names_are_grouped_as_webdataset_does(tar_format, tmp_path):
    deep = "/".join(["folder" * 4] * 5) if tar_format == tarfile.USTAR_FORMAT else "/".join(["folder" * 6] * 8)
    names = ["a.JPG", "a.txt", "./b.jpg", "./b.input.txt", "b.txt", "sub/a.jpg", "sub/a.txt", f"{deep}/c.jpg", f"{deep}/c.txt"]
    names += ["noextension", "__index__", "__meta__/x.txt", "d.jpg", ".hidden", "d.seg.png", "d.txt", "a.jpg"]
    names += [] if tar_format == tarfile.USTAR_FORMAT else ["\u00fcmlaut.jpg"]
    with tarfile.open(tmp_path / "x.tar", "w", format=tar_format) as file:
        for name in names:
            folder = tarfile.TarInfo("sub")
            folder.type = tarfile.DIRTYPE
            file.addfile(folder)
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(name.encode()) * 100, 1.5  # a fraction makes a pax header
            file.addfile(member, io.BytesIO(name.encode() * 100))
    split, theirs = train(str(tmp_path / "x.tar"), on_bad="error"), streamed(str(tmp_path / "x.tar"))
    found = [split.contents(i) for i in range(len(split))]
    assert [(name.partition(":")[2], members) for name, members in found] == [
        (expected["__key__"], {key: value for key, value in expected.items() if not key.startswith("__")}) for expected in theirs
    ]


def test_an_offset_beyond_8_gib_is_read():
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\x80" + (9 * 2**30).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    (member,) = tar.walk(lambda offset, count: bytes(header), 2**34, 2**34 + 512 + 9 * 2**30, trusted=True)
    assert (member.offset, member.size, member.end) == (2**34 + 512, 9 * 2**30, 2**34 + 512 + 9 * 2**30)


def loaded(split, start, stop, num_workers):
    data = ProcessedSplit(split, Processor({"image": ImageProcessor(image_size=16)}), Augmentation(crop_scale=(0.5, 1.0)))
    sampler = StepSampler(len(split), batch_size=4, seed=5, start=start, stop=stop, order=data.order)
    batches = list(training_loader(data, sampler, num_workers=num_workers))
    return [(batch.ids, batch.inputs["image"], batch.targets["groups"]) for batch in batches], data.skips


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("window", [5, None])
def test_batches_follow_from_seed_and_step_also_where_samples_are_broken(num_workers, window, tmp_path):
    path = shards(tmp_path / "x", change=broken)
    splits = [train(path, shuffle_window=window) for _ in range(2)]
    for split in splits:
        split.max_bad_share = 0.5
    (whole, counted), (tail, _) = loaded(splits[0], 0, 12, 0), loaded(splits[1], 7, 12, num_workers)
    for one, other in zip(whole[7:], tail, strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1]) and torch.equal(one[2], other[2])
    assert all(len(ids) == 4 for ids, *_ in whole) and whole[0][0] != whole[4][0]  # an epoch has four steps
    assert counted.state()["skipped"] == {"image": 6, "caption": 6}  # three epochs


@pytest.mark.parametrize(
    ("number", "reason", "message"),
    [
        (2, "image", "item 000.tar:000000002.jpg: the image is damaged or cut short"),
        (6, "image", "item 001.tar:000000006: has no image, only cls, json, txt"),
        (9, "caption", "item 001.tar:000000009: txt is ' ', where a caption is expected"),
        (13, "caption", "item 002.tar:000000013: has no txt, only cls, jpg, json"),
    ],
)
def test_a_broken_sample_says_what_it_lacks(number, reason, message, tmp_path):
    with pytest.raises(ItemError) as caught:
        train(shards(tmp_path / "x", change=broken)).sample(number)
    assert caught.value.reason == reason and str(caught.value).startswith(message)


def test_a_field_of_the_json_may_hold_one_caption_or_several(tmp_path):
    path = shards(tmp_path / "x")
    assert train(path, caption_key="json.caption").sample(3).inputs["text"] == "photo 3"
    split, generator = train(path, caption_key="json.all"), np.random.default_rng(0)
    assert {split.sample(3, generator).inputs["text"] for _ in range(20)} == {"photo 3", "photo 3 again"}
    assert split.sample(3).inputs["text"] == "photo 3"
    assert Shards(path=path, caption_key="json.all").captions()[:3] == ["photo 0", "photo 0 again", "photo 1"]


def test_class_names_make_captions_and_labels(tmp_path):
    (tmp_path / "names.txt").write_text("ant\nbee\n\ncat\n")
    source = Shards(path=shards(tmp_path / "x"), caption_key=None, class_names=str(tmp_path / "names.txt"), templates=["a {}", "the {}"])
    found = source.split("train").sample(4)
    assert source.class_names == ["ant", "bee", "cat"] and (found.label, found.inputs["text"]) == (1, "a bee")
    assert source.captions() == ["a ant", "the ant", "a bee", "the bee", "a cat", "the cat"]
    assert found.group == source.split("train").sample(7, np.random.default_rng(0)).group
    with pytest.raises(ItemError, match=r"cls is '2'; allowed is 0 to 1"):
        train(shards(tmp_path / "x"), class_names=["ant", "bee"]).sample(2)


def test_without_captions_and_classes_there_are_pictures_alone(tmp_path):
    found = train(shards(tmp_path / "x"), caption_key=None).sample(0)
    assert list(found.inputs) == ["image"] and found.group is found.label is None


def test_small_pictures_are_left_out(tmp_path):
    path = shards(tmp_path / "x", change=lambda item: item | {"jpg": picture(0, size=(60, 40 + int(item["__key__"])))})
    assert len(train(path, min_size=45)) == 11 and len(train(path)) == 16
    with pytest.raises(DataError, match=r"min_size: 65 leaves no sample, all 16 images are smaller"):
        train(path, min_size=65)


def test_patterns_name_files_once_and_in_order(tmp_path):
    shards(tmp_path / "x")
    every = [tmp_path / "x" / f"{i:03d}.tar" for i in range(3)]
    assert find_shards(str(tmp_path / "x" / "{000..002}.tar"), "k") == find_shards(str(tmp_path / "x" / "*.tar"), "k") == every
    assert find_shards([str(every[2]), f"{tmp_path}/x/00[0-1].tar", f"{tmp_path}/x/{{002,000}}.tar"], "k") == [every[2], *every[:2]]


def test_an_index_is_made_once_and_again_where_a_shard_changed(tmp_path, monkeypatch):
    path, read = shards(tmp_path / "x"), []
    real = shard_index.read_shard
    monkeypatch.setattr(shard_index, "read_shard", lambda path, **options: read.append(path.name) or real(path, **options))
    first = train(path)
    assert isinstance(first.index.entries, np.memmap) and first.index.entries.itemsize == 12
    assert len(train(path)) == 16 and read == ["000.tar", "001.tar", "002.tar"]
    shards(tmp_path / "y", sizes=(1,))
    os.replace(tmp_path / "y" / "000.tar", tmp_path / "x" / "001.tar")
    assert len(train(path)) == 10 and read[3:] == ["001.tar"]
    with pytest.raises(ItemError, match=r"001.tar: has changed since the run began"):
        first.sample(7)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"samples": 3}', b'{"samples": 16, "sizes": [16]}'])
def test_a_damaged_cache_is_made_again(damage, tmp_path, cache):
    path = shards(tmp_path / "x")
    before = train(path).index.sizes.tolist()
    for file in cache.glob("*.json"):
        file.write_bytes(damage)
    assert train(path).index.sizes.tolist() == before == [5, 7, 4]


def test_without_a_place_for_the_cache_the_index_is_in_memory(tmp_path):
    (tmp_path / "file").touch()
    path = shards(tmp_path / "x")
    assert train(path, index_directory=str(tmp_path / "file" / "below")).contents(9) == train(path).contents(9)


def test_many_shards_are_read_by_several_processes(tmp_path, monkeypatch, capfd):
    path, alone = shards(tmp_path / "x"), None
    alone = train(path, index_directory=str(tmp_path / "one")).index
    monkeypatch.setattr(shard_index, "PARALLEL_FROM", 2)
    together = train(path, index_directory=str(tmp_path / "two")).index
    assert (alone.entries == together.entries).all() and (alone.sizes == together.sizes).all()
    assert f"indexing 3 shards; the index is kept in {tmp_path / 'two'}" in capfd.readouterr().err


@pytest.mark.parametrize("share", [0.3, 0.31, 0.55, 0.81])  # 0.3 and 0.55 fall between blocks
def test_a_cut_shard_is_refused_or_its_whole_samples_are_used(share, tmp_path):
    path = shards(tmp_path / "x", sizes=(6,))
    shard = tmp_path / "x" / "000.tar"
    whole = [train(path).contents(i) for i in range(6)]
    shard.write_bytes(shard.read_bytes()[: int(share * os.path.getsize(shard))])
    with pytest.raises(DataError, match=r"1 bad shard; .*on_bad=skip\n.*000.tar: cut short"):
        train(path)
    source = Shards(path=path, on_bad="skip")
    kept = source.split("train")
    assert 1 <= len(kept) < 6 and source.skipped[0].startswith(str(shard))
    assert [kept.contents(i) for i in range(len(kept))] == whole[: len(kept)]


def test_a_damaged_header_is_found(tmp_path):
    path = shards(tmp_path / "x", sizes=(6,))
    shard = tmp_path / "x" / "000.tar"
    content, third = bytearray(shard.read_bytes()), train(path).index.entries[2]["offset"]
    content[third + 100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"damaged at byte {third}: there is no tar header"):
        train(path)
    assert len(train(path, on_bad="skip")) == 1  # of the second sample nobody knows whether there was more


def test_random_damage_gives_samples_or_a_data_error(tmp_path):
    path = shards(tmp_path / "x", sizes=(3,))
    shard, generator = tmp_path / "x" / "000.tar", np.random.default_rng(0)
    whole = shard.read_bytes()
    for _ in range(40):
        content = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        for place in generator.integers(len(content), size=8):
            content[place] = generator.integers(256)
        shard.write_bytes(content)
        try:
            split = train(path, on_bad="skip")
        except DataError:
            continue
        for i in range(len(split)):
            try:
                assert split.sample(i).inputs["image"].shape[2] == 3
            except ItemError as error:
                assert "000.tar" in str(error)


def wrong_paths(folder):
    """Paths that are not shards, each with its error message."""
    (folder / "empty.tar").touch()
    (folder / "text.tar").write_text("no tar" * 200)
    (folder / "x.tar.gz").write_bytes(b"\x1f\x8b" + bytes(600))
    with tarfile.open(folder / "none.tar", "w"):
        pass
    return {
        "empty.tar": r"empty.tar: the file is empty \(0 bytes\)",
        "text.tar": "text.tar: not a tar file",
        "x.tar.gz": "compressed with gzip; .*decompress it first",
        "none.tar": "none.tar: holds no samples",
        "absent.tar": "absent.tar: no such file",
        "*.tgz": "matches no file",
        "{0..3.tar": "unbalanced braces",
        ".": r"is a folder, .* give a pattern, .*/\*\.tar",
    }


def test_what_is_no_shard_is_refused_and_named(tmp_path):
    for name, expected in wrong_paths(tmp_path).items():
        with pytest.raises(DataError, match=rf"(?s)data.source.*{expected}"):
            train(str(tmp_path / name))
    with pytest.raises(DataError, match="random access, which a pipe lacks"):
        train("pipe:cat 0.tar")
    with pytest.raises(DataError, match="gives no shards"):
        train([])


def test_a_split_without_shards_says_what_to_do(tmp_path):
    source = Shards(path=shards(tmp_path / "x"), test=str(tmp_path / "x" / "002.tar"))
    assert len(source.split("test")) == 4
    with pytest.raises(DataError, match=r"data.source.validation=PATTERN, or train without validation \(training.evaluate_every=0\)"):
        source.split("validation")
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        source.split("tain")


def test_a_caption_key_that_no_sample_has_is_refused(tmp_path):
    path = shards(tmp_path / "x")
    with pytest.raises(DataError, match=r"caption_key: no sample has a caption under this key; item 000.tar: cannot read json.text"):
        Shards(path=path, caption_key="json.text").captions()
    for key in ("json", "txt.", "json.", ""):
        with pytest.raises(ConfigError, match="caption_key"):
            train(path, caption_key=key)


@pytest.mark.parametrize("options", [{"on_bad": "skpi"}, {"min_size": -1}, {"shuffle_window": 0}, {"templates": ["x"]}])
def test_wrong_options_are_refused(options, tmp_path):
    with pytest.raises(ConfigError, match=next(iter(options))):
        train(shards(tmp_path / "x"), **options)


def test_braces_need_no_quotes_beyond_the_shells():
    for given in ("/x/{000..004}.tar", "/x/{train,val}/*.tar", "'/x/{000..004}.tar'"):
        config = compose("train", ["data=shards", f"data.source.path={given}", "data.source.validation=[a,b]"])
        assert config["data"]["source"]["path"] == given.strip("'")
        assert config["data"]["source"]["validation"] == ["a", "b"]


def test_more_shards_than_may_be_open_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "MOST_OPEN", 1)
    split = train(shards(tmp_path / "x"))
    assert [split.sample(i).inputs["text"] for i in (0, 15, 6, 1)] == ["photo 0", "photo 15", "photo 6", "photo 1"]
    assert len(split.files._open) == 1
