"""Delay of the text of ``zoo transcribe --live``: how long after a sound the text that covers it is shown.

    python scripts/benchmarks/live.py speech.wav --model whisper_tiny_en_directory

The recording is played on a simulated clock: while a pass of the model computes, sound goes on coming in, and the next pass covers it. A
pass costs its CPU seconds on one thread, so that other jobs on the machine do not count.
"""

import argparse
import time

import numpy as np
import torch

import zoo
from zoo.language.transcription.live import LEAST_S, LiveTranscription
from zoo.language.transcription.settings import Settings
from zoo.language.transcription.transcribe import recogniser_of
from zoo.processors.media.audio_file import read_audio, resample

RATE_HZ = 16000


def delays(live: LiveTranscription, sound: np.ndarray) -> list[float]:
    """Play the sound; return for each pass the seconds from its oldest new sample to the text."""
    clock, heard, found = LEAST_S, 0.0, []
    while heard < len(sound) / RATE_HZ:
        new = sound[round(heard * RATE_HZ) : round(clock * RATE_HZ)]
        begun = time.process_time()
        text = live.take(new)
        clock += time.process_time() - begun
        if text is not None:
            found.append(clock - heard)
        heard += len(new) / RATE_HZ
        clock = max(clock, heard + LEAST_S)
    live.finish()
    return found


def main() -> None:
    """Print the delays of one recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording")
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sound = resample(*read_audio(options.recording), RATE_HZ)
    found = delays(LiveTranscription(recogniser_of(zoo.load(options.model), Settings())), sound)
    middle, most, worst = np.quantile(found, [0.5, 0.95, 1.0])
    print(
        f"{len(sound) / RATE_HZ:.0f} s of sound, {len(found)} passes: delay median {middle:.2f} s, 95 % {most:.2f} s, largest {worst:.2f} s"
    )


if __name__ == "__main__":
    main()
