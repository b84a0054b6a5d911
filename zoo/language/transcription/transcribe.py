"""The method ``transcribe`` of systems with the head ``whisper``."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from zoo.errors import ConfigError, DataError
from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.of_weights import most_tokens, settings_of_weights, without_added_tokens
from zoo.language.transcription.rules import LATEST_START
from zoo.language.transcription.settings import Settings
from zoo.language.transcription.windows import OnProgress, transcribe_each
from zoo.processors.media.voice_activity import chosen_detector, new_detector
from zoo.types import Transcript

# 4 s. Word error rate of tiny.en on 23 prompts of Asterisk's test split, greedy: 3.6 % with 4 s of silence, 3.2 % with windows of 30 s.
# With 0, 1 and 2 s it is 959, 204 and 76 %, because the model repeats itself.
SILENT_FRAMES = 400


def transcribe(
    system: Any,
    audio: Any,
    *,
    language: str | None = Settings.language,
    task: str | None = Settings.task,
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
    suppress_tokens: Sequence[int] | None = Settings.suppress_tokens,
    begin_suppress_tokens: Sequence[int] | None = Settings.begin_suppress_tokens,
    initial_prompt: str | None = Settings.initial_prompt,
    condition_on_previous_text: bool = Settings.condition_on_previous_text,
    windows: str = Settings.windows,
    vad_filter: str | bool = Settings.vad_filter,
    short: bool | None = Settings.short,
    seed: int = Settings.seed,
    batch_size: int = 1,
    on_progress: OnProgress | None = None,
) -> Transcript | list[Transcript]:
    """Transcribe recordings.

    The keyword arguments from ``language`` to ``seed`` are those of ``zoo.language.transcription.settings.Settings``. With
    vad_filter="none" a transcript equals that of openai-whisper's ``transcribe`` with the same weights and options, except for sampled
    text; by default, that of recordings without long pauses and repetitions does as well. It does not depend on ``batch_size`` or on the
    other recordings.

    Args:
        audio: a path, the bytes of a file, samples at 16 kHz as a float array, ``(array, sample_rate_hz)``, or precomputed mels
            [num_mels, frames]; of any length. For a list of these, a list of transcripts is returned.
        batch_size: windows per call of the model: one of each recording, or several of one recording with fixed windows.
        on_progress: callback ``(number, done_seconds, total_seconds)`` of a recording.

    Raises:
        ConfigError: a setting is not allowed, or this model does not support it.
        DataError: a recording cannot be used.
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
        suppress_tokens=suppress_tokens,
        begin_suppress_tokens=begin_suppress_tokens,
        initial_prompt=initial_prompt,
        condition_on_previous_text=condition_on_previous_text,
        windows=windows,
        vad_filter=vad_filter,
        short=short,
        seed=seed,
    )
    recogniser = recogniser_of(system, settings)
    several = isinstance(audio, list)
    found: dict[int, Transcript] = {}
    for number, result in transcribe_each(recogniser, audio if several else [audio], batch_size=batch_size, on_progress=on_progress):
        if isinstance(result, DataError):
            raise result
        found[number] = result
    ordered = [found[number] for number in sorted(found)]
    return ordered if several else ordered[0]


def recogniser_of(system: Any, settings: Settings) -> Recogniser:
    """Build the recogniser of a system.

    Raises:
        ConfigError: the system has no processor or tokenizer, or does not support the settings.
    """
    if system.processor is None:
        raise ConfigError(f"{system.name} has no processor, which transcription needs; load the system from a saved directory")
    audio, symbols = system.processor["audio"], system.processor["transcript"]
    if not symbols.is_fitted:
        symbols.decode([])  # raises the error that explains how to get a tokenizer
    # A model whose training data had no timestamps has the tokens but cannot use them.
    knows_times = symbols.ids.num_timestamps > 0 and (symbols.timestamps or symbols.source == "given")
    settings = settings_of_weights(settings, symbols, system.head.vocab_size)
    settings = replace(
        settings,
        short=audio.mask if settings.short is None else settings.short,
        timestamps=knows_times if settings.timestamps is None else settings.timestamps,
    )
    settings = without_added_tokens(settings, symbols, system.head.vocab_size)
    start = symbols.generation.max_initial_timestamp_index
    vad = "none" if settings.vad_filter == "none" else chosen_detector(str(settings.vad_filter))
    settings = replace(settings, vad_filter=vad)
    detector = "energy" if vad == "none" else vad  # fixed windows are cut at pauses in any case
    return Recogniser(
        encode=lambda mels, mask: system.encode_ready("audio", mels, mask),
        decoder=system.head.decoder,
        symbols=symbols,
        num_mels=audio.num_mels,
        window_frames=audio.context_frames,
        tail_frames=0 if audio.mask else SILENT_FRAMES,  # a model with a mask was trained without silence after the recording
        alignment_heads=system.head.alignment_heads,
        new_detector=lambda: None if vad == "none" and settings.windows == "seek" else new_detector(detector),
        leaves_out_silence=vad != "none",
        settings=settings,
        latest_start=LATEST_START if start is None else start,
        most_tokens=partial(most_tokens, system.head.decoder, symbols.generation),
    )
