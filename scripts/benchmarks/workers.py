"""One process against several workers of ``zoo embed``, one of which is killed: seconds, and whether the index is the same.

    python scripts/benchmarks/workers.py --size 20000            # pictures of 32 x 32 pixels, 2 workers
    python scripts/benchmarks/workers.py --size 2000 --model clip_photos_minilm --workers 4

The workers divide the cores among them, so that on one machine they can only win what one process leaves idle.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

FILES = ("embeddings.npy", "items.jsonl", "failed.jsonl", "manifest.json")


def draw(folder: Path, size: int) -> None:
    """Write random pictures, a thousand a folder."""
    generator = np.random.default_rng(0)
    for number in range(size):
        place = folder / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{number:06d}.png")


def seconds_of(words: list[str]) -> float:
    """Return the seconds of a command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "zoo", "embed", *words], check=True, capture_output=True)
    return time.perf_counter() - start


def killed_job(words: list[str], index: Path) -> float:
    """Return the seconds of a job of which one worker is killed when the first two shards are done."""
    start = time.perf_counter()
    job = subprocess.Popen([sys.executable, "-m", "zoo", "embed", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed = False
    while job.poll() is None:
        time.sleep(0.05)
        if not killed and len(list((index / ".unfinished").glob("[0-9]*.jsonl"))) >= 2:
            killed = kill_worker(index)
    if job.returncode or not killed:
        sys.exit(f"the job ended with status {job.returncode}; a worker was {'' if killed else 'not '}killed")
    return time.perf_counter() - start


def kill_worker(index: Path) -> bool:
    """Kill the first worker of a job; return False if it has ended."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(index) in command and b"--shard\x000/" in command:
            os.kill(int(path.parent.name), signal.SIGKILL)
            return True
    return False


def main() -> int:
    """Run the benchmark and print a line per job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000, help="number of pictures (default: 20000)")
    parser.add_argument("--workers", type=int, default=2, help="number of workers (default: 2)")
    parser.add_argument("--model", default="clip_vit_nano", help="model (default: clip_vit_nano)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "pictures", options.size)
        words = [str(folder / "pictures"), "--model", options.model, "-o"]
        one, several, killed = folder / "one", folder / "several", folder / "killed"
        shared = ["--workers", str(options.workers)]
        print(f"one process:            {seconds_of([*words, str(one)]):7.1f} s")
        print(f"{options.workers} workers:              {seconds_of([*words, str(several), *shared]):7.1f} s")
        print(f"{options.workers} workers, one killed:  {killed_job([*words, str(killed), *shared], killed):7.1f} s")
        same = all((one / file).read_bytes() == (other / file).read_bytes() for other in (several, killed) for file in FILES)
        print("all files are equal" if same else "files differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
