"""Memory and open files of long commands over time, which must stay flat.

    python scripts/benchmarks/steady.py train --size 2000        # steps of clip_vit_nano on the digits
    python scripts/benchmarks/steady.py embed --size 20000       # pictures of 32 x 32 pixels
    python scripts/benchmarks/steady.py classify --size 20000
    python scripts/benchmarks/steady.py transcribe --size 60     # minutes of sound; --model DIR for another Whisper than whisper_nano

The table has one line for each tenth of the time that the command ran: resident memory and number of open files. The last line has the
peak of the memory, as Linux counts it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np
from PIL import Image

LINES = 10
RATE_HZ = 16000


def command_of(job: str, size: int, model: str | None, folder: Path) -> list[str]:
    """Write the input of a job, and return the arguments of zoo."""
    if job == "train":
        steps = f"training.max_steps={size} training.batch_size=16 training.evaluate_every=500 training.checkpoint_every=250"
        return ["train", "system=clip_vit_nano", "data=digits", *steps.split(), "training.log_every=10", f"run_dir={folder / 'run'}"]
    if job == "transcribe":
        write_recording(folder / "long.wav", size)
        given = model or save_whisper(folder / "whisper")
        return ["transcribe", str(folder / "long.wav"), "--model", given, "-o", str(folder / "texts"), "--temperatures", "0"]
    write_pictures(folder / "pictures", size)
    if job == "embed":
        return ["embed", str(folder / "pictures"), "--model", model or "clip_vit_nano", "-o", str(folder / "index")]
    given = ["--model", model or "clip_vit_nano", "--labels", "one,two,three", "--output", str(folder / "classes.csv")]
    return ["classify", str(folder / "pictures"), *given]


def write_pictures(folder: Path, count: int) -> None:
    """Write small pictures, all different."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(draw.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / f"{number:06d}.png", compress_level=0)


def write_recording(path: Path, minutes: int) -> None:
    """Write a recording of noise and silence in turn."""
    draw = np.random.default_rng(0)
    minute = np.zeros(60 * RATE_HZ, dtype="<i2")
    for start in range(0, 60, 6):  # three seconds of sound, three of silence
        minute[start * RATE_HZ : (start + 3) * RATE_HZ] = draw.normal(size=3 * RATE_HZ) * 3000
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        for _ in range(minutes):
            file.writeframes(minute.tobytes())


def save_whisper(folder: Path) -> str:
    """Save an untrained whisper_nano with a tokenizer."""
    import zoo

    system = zoo.create_system("whisper_nano")
    assert system.processor is not None
    system.processor.fit(["one two three"])
    zoo.save(system, folder)
    return str(folder)


def watch(arguments: list[str]) -> list[tuple[float, int, int, int]]:
    """Run a command of zoo; return seconds, resident MB, peak MB and open files of its process, twice a second."""
    seen, start = [], time.monotonic()
    running = subprocess.Popen([sys.executable, "-m", "zoo", *arguments], stdout=subprocess.DEVNULL)
    while running.poll() is None:
        try:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{running.pid}/status").read_text().splitlines())
            resident, peak = (int(status[key].split()[0]) // 1024 for key in ("VmRSS", "VmHWM"))
            files = len(list(Path(f"/proc/{running.pid}/fd").iterdir()))
            seen.append((time.monotonic() - start, resident, peak, files))
        except (OSError, KeyError):  # it ended in between
            pass
        time.sleep(0.5)
    if running.returncode:
        raise SystemExit(f"zoo {' '.join(arguments)}: exit status {running.returncode}")
    return seen


def main() -> int:
    """Run one job and print its memory and open files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["train", "embed", "classify", "transcribe"])
    parser.add_argument("--size", type=int, required=True, help="steps, pictures or minutes")
    parser.add_argument("--model", help="another model than the nano one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoo-steady-") as folder:
        seen = watch(command_of(options.job, options.size, options.model, Path(folder)))
    print("seconds  resident MB  open files")
    for at in (round(len(seen) * part / LINES) - 1 for part in range(1, LINES + 1)):
        seconds, resident, _, files = seen[max(at, 0)]
        print(f"{seconds:7.0f}  {resident:11d}  {files:10d}")
    print(f"peak {max(peak for _, _, peak, _ in seen)} MB, at most {max(files for *_, files in seen)} open files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
