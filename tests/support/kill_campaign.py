"""Kill jobs of zoo at the moments of saving, let the same command go on, and compare the ending with that of an uninterrupted job.

``tests/kill/test_kill.py`` runs a short campaign. A long one, with its figures at the end:

    python tests/support/kill_campaign.py --kills 100 --seed 0 --folder /tmp/kills

A job is killed just before a rename, a removal, a new folder or a flush of its files (``killed.py``), in its first run and again while it
goes on. The endings must be equal byte by byte, except for the files that hold times, and no temporary file may be left.
"""

import argparse
import json
import random
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from processes import Processes

KILLED = Path(__file__).parent / "killed.py"
UNLIKE = ("timing.jsonl", "curves.png", "events.jsonl", "environment.json")  # hold times; transcripts and indices hold none
SHORT = "training.max_steps=4 training.checkpoint_every=2 training.batch_size=8 training.warmup_steps=1 training.log_every=1"
SHORT += " training.threads=1 training.trace=true training.evaluate_every="
EVALUATED, PLAIN = SHORT + "3", SHORT + "0"
TEXTS = "data=documents data.source.path={docs} data.source.split_fractions=[0.8,0.1,0.1] data.masking.unit=runs"
SPEECH = "data=speech data.source.path={speech}"
SMALL = " data.source.batch_size=8"
TRAINED = {
    "clip": f"system=clip_vit_nano data=digits {EVALUATED}",
    "clip_ema": f"system=clip_vit_nano data=digits {PLAIN} training.ema_decay=0.9 training.keep_states=2",
    "clip_vig": f"system=clip_vig_nano data=digits {PLAIN}",
    "siglip": f"system=siglip_vit_nano data=digits {PLAIN}",
    "classifier": f"system=classifier_vit_nano data=digits {EVALUATED}",
    "classifier_vig": f"system=classifier_vig_nano data=digits {PLAIN}",
    "lit": f"system=clip_vit_nano data=digits {PLAIN} training.freeze=[encoders] training.frozen_passes=1",
    "bert": f"system=bert_pretraining_nano {TEXTS} data.source.pairs=next {PLAIN}",
    "roberta": f"system=roberta_pretraining_nano {TEXTS} {PLAIN}",
    "llava": f"system=llava_nano data=digit_questions {PLAIN}",
    "llava_lora": f"system=llava_nano data=digit_questions {PLAIN} training.adapters={{{{head.language: {{{{rank: 2}}}}}}}}",
    "kosmos": f"system=kosmos_nano data=digit_documents {PLAIN}",
    "whisper": f"system=whisper_nano {SPEECH}{SMALL} {PLAIN}",
    "clap": f"system=clap_whisper_nano {SPEECH} {PLAIN}",
    "tacotron2": f"system=tacotron2_nano {SPEECH} {PLAIN}",
}
JOBS = {
    "embed": "embed {pictures} --model clip_vit_nano --batch-size 4 -o {target}/index",
    "answer": "answer checkpoint={llava} data=digit_questions --limit 12 --batch-size 4 --max-new-tokens 4 -o {target}/a.jsonl",
    "transcribe": "transcribe {speech} --model {whisper} --format all --temperatures 0 -o {target}/texts",
}
KINDS = [*TRAINED, *JOBS]


@dataclass
class Ended:
    """A job that was killed and went on: the moments of its kills, and in what its ending differs."""

    kind: str
    moments: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


class Campaign:
    """Kills of jobs in a folder; the uninterrupted job of each kind runs once.

    Args:
        processes: starts the jobs, in forks of interpreters that have imported everything.
    """

    def __init__(self, folder: Path, processes: Processes, seed: int) -> None:
        self.folder, self.processes, self.random = folder, processes, random.Random(seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.places = {name: folder / name for name in ("docs", "pictures", "speech")}
        if not self.places["speech"].exists():
            make_data(self.places)

    def kill(self, kind: str, kills: int = 2) -> Ended:
        """Kill a job of this kind some times and let it go on to its end."""
        try:
            whole, count = self.whole(kind)
        except AssertionError as error:
            return Ended(kind, different=[str(error)])
        number = sum(1 for _ in self.folder.glob(f"{kind}_killed_*"))
        target, ended = self.folder / f"{kind}_killed_{number}", Ended(kind)
        for _ in range(kills):
            moment, torn = self.random.randint(1, count), self.random.random() < 0.5
            code = self.run(kind, target, moment, torn)
            if code == -9:
                ended.moments.append(f"{moment} of {count}{' torn' if torn else ''}")
            elif code:
                ended.different.append(f"exit status {code}: {self.log(target)}")
        if (code := self.run(kind, target)) != 0:
            ended.different.append(f"exit status {code}: {self.log(target)}")
        ended.different += differences(whole, target)
        return ended

    def whole(self, kind: str) -> tuple[Path, int]:
        """Return the folder of the uninterrupted job of a kind, and the number of changes of its files."""
        target = self.folder / f"{kind}_whole"
        if not target.with_suffix(".count").exists():
            assert self.run(kind, target) == 0, self.log(target)
        return target, int(target.with_suffix(".count").read_text())

    def run(self, kind: str, target: Path, moment: int = 0, torn: bool = False) -> int:
        """Run a job, or let it go on where it was killed; returns its exit status, -9 if it was killed."""
        target.mkdir(exist_ok=True)
        control = [str(target), str(moment), str(int(torn)), str(target.with_suffix(".count"))]
        run = self.processes.start([str(KILLED), *control, *self.words(kind, target)], target.with_suffix(".log"))
        return run.wait()

    def words(self, kind: str, target: Path) -> list[str]:
        if kind in JOBS:
            made = {name: self.whole(name)[0] / "run" for name in ("llava", "whisper") if f"{{{name}}}" in JOBS[kind]}
            return [word.format(target=target, **self.places, **made) for word in JOBS[kind].split()]
        if (target / "run" / "config.yaml").exists():
            return ["train", f"resume={target / 'run'}"]
        words = TRAINED[kind].format(**self.places).replace(": ", ":").split()
        return ["train", *words, f"run_dir={target / 'run'}"]

    def log(self, target: Path) -> str:
        return target.with_suffix(".log").read_text()[-600:]


def differences(one: Path, other: Path) -> list[str]:
    """Return the files in which two endings differ, and temporary files that are left."""
    ours, theirs = dict(ending(one)), dict(ending(other))
    found = [f"{name}: only in one" for name in sorted(ours.keys() ^ theirs.keys())]
    found += [f"{name}: differs" for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
    hidden = [str(path.relative_to(other)) for path in other.rglob("*") if path.name.startswith(".")]
    return found + [f"{name}: is left" for name in hidden]


def ending(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file of an ending; a run's config is given without the place of the run."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in UNLIKE:
            content = path.read_bytes()
            if path.parent.name == "run" and path.name == "config.yaml":
                content = json.dumps({**yaml.safe_load(content), "run_dir": None}).encode()
            yield str(path.relative_to(folder)), content


def make_data(places: dict[str, Path]) -> None:
    """Write a few documents, pictures and recordings."""
    draw = np.random.default_rng(0)
    for path in places.values():
        path.mkdir()
    for number in range(40):
        text = " ".join(f"Thing {number} has part {(number * i) % 11} in it." for i in range(8))
        (places["docs"] / f"{number}.txt").write_text(text)
        Image.fromarray(draw.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(places["pictures"] / f"{number}.png")
    rows = []
    for number in range(24):
        with wave.open(str(places["speech"] / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes((draw.normal(size=1600 * (4 + number % 3)) * 3000).astype("<i2").tobytes())
        rows.append({"path": f"{number}.wav", "text": f"number {number}", "split": "dev" if number < 4 else "train"})
    (places["speech"] / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))


def main() -> int:
    """Run a campaign over all kinds and print its figures."""
    parser = argparse.ArgumentParser(description="Kill jobs of zoo at the moments of saving and compare their endings.")
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the jobs; jobs that are there are not run again")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="kinds of jobs (default: all)")
    options = parser.parse_args()
    processes, kills, bad = Processes(), 0, 0
    campaign = Campaign(options.folder, processes, options.seed)
    number = 0
    while kills < options.kills and bad < options.kills:
        ended = campaign.kill(options.kinds[number % len(options.kinds)])
        kills, bad, number = kills + len(ended.moments), bad + bool(ended.different), number + 1
        print(f"{ended.kind}: killed at {', '.join(ended.moments) or 'no moment'}; {ended.different or 'same ending'}", flush=True)
    processes.close()
    print(f"{kills} kills of {number} jobs of {len(options.kinds)} kinds; {number - bad} of {number} endings are the uninterrupted one's")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
