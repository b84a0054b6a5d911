"""Exact resume over tar shards with broken samples: counts continue, and batches stay equal."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resuming import OVERRIDES, assert_a_killed_run_is_the_whole_one, killed_at, train

from zoo.training.log import read_lines


def write_shards(folder: Path) -> str:
    """Three shards of 20 samples, one of seven of them without a picture that can be read; returns their pattern."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as file:
            for i in range(20):
                picture = io.BytesIO()
                Image.fromarray(generator.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(picture, "JPEG")
                whole = picture.getvalue()
                for suffix, content in (("jpg", whole[:200] if i % 7 == 3 else whole), ("txt", b"number %d" % i), ("cls", b"%d" % (i % 3))):
                    member = tarfile.TarInfo(f"{shard}{i:03d}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
    return f"{folder}/{{0..2}}.tar"


@pytest.mark.heavy
@pytest.mark.parametrize(("processes", "num_workers"), [(1, 0), (1, 2), (2, 0)])
def test_a_killed_run_over_shards_with_broken_samples_resumes_exactly(processes, num_workers, tmp_path, monkeypatch, launcher, once):
    """The result does not depend on the number of worker processes."""
    words = ["data=shards", "data.source.class_names=[a,b,c]", "data.max_bad_share=0.5", "data.source.shuffle_window=32", *OVERRIDES]

    def run_whole(folder):
        path = write_shards(folder / "shards")
        more = [f"data.source.path={path}", f"data.source.validation={path}", "data.num_workers=0", f"run_dir={folder / 'whole'}"]
        monkeypatch.setenv("ZOO_CACHE", str(folder / "cache"))
        train(launcher, [*words, *more], folder / "whole.log", processes)

    folder = once(f"shards_{processes}", run_whole)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path, whole, killed = f"{folder}/shards/{{0..2}}.tar", folder / "whole", tmp_path / "killed"
    words += [f"data.source.path={path}", f"data.source.validation={path}", f"data.num_workers={num_workers}"]
    assert_a_killed_run_is_the_whole_one(launcher, words, tmp_path, killed_at(), whole=whole, processes=processes)
    counts = [json.loads((run / "skipped.json").read_text()) for run in (whole, killed)]
    skipped = counts[0]["skipped"]
    assert counts[0] == counts[1] and skipped.keys() == {"image"} and skipped["image"] > 40
    assert [line["skipped"] for line in read_lines(whole / "metrics.jsonl") if line["kind"] == "train"][-1] == skipped["image"]
    assert f"skipped: {skipped['image']} of" in (tmp_path / "resumed.log").read_text()
