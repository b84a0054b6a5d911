"""The verb ``transcribe`` of systems with the head ``whisper``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zoo.errors import ConfigError, DataError
from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.settings import Settings
from zoo.language.transcription.transcript import Transcript
from zoo.language.transcription.windows import OnProgress, transcribe_each

# 4 s. tiny.en on 23 prompts of Asterisk's test split, greedy: 3.6 % word errors, and with 0, 1 and 2 s 959, 204 and 76 %, because it
# repeats itself; 3.2 % with windows of 30 s.
SILENT_FRAMES = 400


def transcribe(
    system: Any,
    audio: Any,
    *,
    language: str | None = Settings.language,
    task: str = Settings.task,
    temperatures: Sequence[float] | float = Settings.temperatures,
    num_beams: int | None = Settings.num_beams,
    best_of: int | None = Settings.best_of,
    patience: float | None = Settings.patience,
    length_penalty: float | None = Settings.length_penalty,
    compression_ratio_threshold: float | None = Settings.compression_ratio_threshold,
    log_probability_threshold: float | None = Settings.log_probability_threshold,
    no_speech_threshold: float | None = Settings.no_speech_threshold,
    timestamps: bool | None = Settings.timestamps,
    word_timestamps: bool = Settings.word_timestamps,
    initial_prompt: str | None = Settings.initial_prompt,
    condition_on_previous_text: bool = Settings.condition_on_previous_text,
    windows: str = Settings.windows,
    short: bool | None = Settings.short,
    seed: int = Settings.seed,
    batch_size: int = 1,
    on_progress: OnProgress | None = None,
) -> Transcript | list[Transcript]:
    """Write down what is said; the keywords up to ``seed`` are those of ``zoo.language.transcription.settings.Settings``.

    A transcript is what openai-whisper's ``transcribe`` gives with the same weights and options, apart from what is drawn; it does not
    depend on ``batch_size`` nor on the other recordings.

    Args:
        audio: a path, the bytes of a file, samples at 16 kHz as a float array, ``(array, sample_rate_hz)`` or ready mels
            [num_mels, frames]; of any length. A list of these gives a list.
        batch_size: windows that go through the model together, of several recordings, or of one with windows="fixed", which is faster
            on long recordings and knows less of what was said before.
        on_progress: told number, seconds that are done, and length in seconds of a recording.

    Raises:
        ConfigError: settings that are not allowed, or that this model cannot follow.
        DataError: a recording that cannot be used.
    """
    settings = Settings(
        language=language,
        task=task,
        temperatures=temperatures,
        num_beams=num_beams,
        best_of=best_of,
        patience=patience,
        length_penalty=length_penalty,
        compression_ratio_threshold=compression_ratio_threshold,
        log_probability_threshold=log_probability_threshold,
        no_speech_threshold=no_speech_threshold,
        timestamps=timestamps,
        word_timestamps=word_timestamps,
        initial_prompt=initial_prompt,
        condition_on_previous_text=condition_on_previous_text,
        windows=windows,
        short=short,
        seed=seed,
    )
    recogniser = recogniser_of(system, settings)
    several = isinstance(audio, list)
    found: dict[int, Transcript] = {}
    for number, heard in transcribe_each(recogniser, audio if several else [audio], batch_size=batch_size, on_progress=on_progress):
        if isinstance(heard, DataError):
            raise heard
        found[number] = heard
    ordered = [found[number] for number in sorted(found)]
    return ordered if several else ordered[0]


def recogniser_of(system: Any, settings: Settings) -> Recogniser:
    """What hears and writes in a system.

    Raises:
        ConfigError: it has no processor or tokenizer, or cannot follow the settings.
    """
    if system.processor is None:
        raise ConfigError(f"{system.name} has no processor, which reads recordings and writes texts; load it from a saved directory")
    audio, symbols = system.processor["audio"], system.processor["transcript"]
    if not symbols.is_fitted:
        symbols.decode([])  # says how one comes by a tokenizer
    knows_times = symbols.ids.num_timestamps > 0 and (symbols.timestamps or symbols.source == "given")  # or its training had none
    settings = replace(
        settings,
        short=audio.mask if settings.short is None else settings.short,
        timestamps=knows_times if settings.timestamps is None else settings.timestamps,
    )
    return Recogniser(
        encode=lambda mels, mask: system.encode_ready("audio", mels, mask),
        decoder=system.head.decoder,
        symbols=symbols,
        num_mels=audio.num_mels,
        window_frames=audio.context_frames,
        tail_frames=0 if audio.mask else SILENT_FRAMES,  # with a mask it was trained on what there is
        alignment_heads=system.head.alignment_heads,
        settings=settings,
    )
