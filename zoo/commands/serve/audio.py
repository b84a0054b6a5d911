"""Transcriptions, translations of recordings into English, and speech."""

import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np

from zoo.commands.serve.batching import Job
from zoo.commands.serve.faults import RequestError
from zoo.commands.serve.schemas import SpeechRequest, TranscriptionRequest
from zoo.commands.serve.service import Reply, ServedModel, Service
from zoo.commands.speak import joined, plan_speech
from zoo.errors import ConfigError, DataError
from zoo.language.transcription.settings import Settings
from zoo.language.transcription.subtitles import Layout
from zoo.language.transcription.transcribe import recogniser_of
from zoo.language.transcription.windows import transcribe_each
from zoo.language.transcription.writers import written
from zoo.processors.media.audio_file import read_audio, resample
from zoo.processors.tokenizers.whisper_tokens import LANGUAGES
from zoo.types import Speech, Transcript

MEDIA_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac", "opus": "audio/ogg", "ogg": "audio/ogg", "pcm": "audio/pcm"}
FORMATS = {  # container and coding of libsndfile; pcm has no header
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
    "ogg": ("OGG", "VORBIS"),
    "pcm": ("RAW", "PCM_16"),
}
OPUS_RATE_HZ = 48_000  # Opus knows five rates; decoders play this one
FRAMES_PER_SECOND = 100
TEXT_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


class _GivenUp(Exception):  # noqa: N818  # no error, but the end of work without a client
    """No client waits for any recording of a batch."""


async def transcriptions(
    service: Service, request: TranscriptionRequest, file: bytes, facts: dict[str, Any], *, task: str = "transcribe"
) -> Reply:
    """Transcribe a recording.

    Args:
        task: "transcribe", or "translate" into English.

    Raises:
        RequestError: a field has no effect in this combination.
        ConfigError: the model does not support a setting.
        DataError: the recording cannot be read, or is too long.
    """
    served = service.find(request.model, "transcriptions")
    words = "word" in request.timestamp_granularities
    if words and request.response_format != "verbose_json":
        raise RequestError(
            "timestamp_granularities: words are written with response_format=verbose_json alone", param="timestamp_granularities"
        )
    temperatures = (request.temperature,) if request.temperature else Settings.temperatures  # 0 is raised step by step if a text fails
    settings = Settings(
        language=request.language,
        task=task,
        temperatures=temperatures,
        initial_prompt=request.prompt or None,
        word_timestamps=words,
    )
    sound = await service.read(partial(read_audio, file, max_seconds=service.limits.max_audio_seconds))
    facts["audio_seconds"] = round(len(sound[0]) / sound[1], 2)
    work = partial(_transcribe, served, settings)
    transcript: Transcript = await served.batcher.run(("transcribe", settings), work, sound)
    form = request.response_format
    if form in TEXT_TYPES:
        text = transcript.text.strip() + "\n" if form == "text" else written(form, transcript, Layout())
        return Reply(text.encode("utf-8"), f"{TEXT_TYPES[form]}; charset=utf-8")
    return Reply(msgspec.json.encode(_verbose(transcript, task, words) if form == "verbose_json" else {"text": transcript.text.strip()}))


def _transcribe(served: ServedModel, settings: Settings, jobs: Sequence[Job]) -> list[Transcript | DataError]:
    """Transcribe the recordings of all jobs, windows of different ones together."""

    def look(*_: Any) -> None:
        if not any(job.is_wanted for job in jobs):
            raise _GivenUp

    recogniser = recogniser_of(served.model, settings)
    found: dict[int, Transcript | DataError] = {}
    sounds = [job.payload for job in jobs]
    found.update(transcribe_each(recogniser, sounds, batch_size=served.batcher.max_items, on_progress=look))
    return [found[number] for number in range(len(jobs))]


def _verbose(transcript: Transcript, task: str, words: bool) -> dict[str, Any]:
    """Return OpenAI's object with segments; ``seek`` is the segment's start in frames of 10 ms."""
    segments = [
        {
            "id": segment.id,
            "seek": round(segment.start * FRAMES_PER_SECOND),
            "start": segment.start,
            "end": segment.end,
            "text": segment.text,
            "tokens": segment.token_ids,
            "temperature": segment.temperature,
            "avg_logprob": segment.average_log_probability,
            "compression_ratio": segment.compression_ratio,
            "no_speech_prob": segment.no_speech_probability,
        }
        for segment in transcript.segments
    ]
    spoken = [word for segment in transcript.segments for word in segment.words or ()]
    listed = {"words": [{"word": word.text.strip(), "start": word.start, "end": word.end} for word in spoken]} if words else {}
    language = LANGUAGES.get(transcript.language, transcript.language)
    facts = {"task": task, "language": language, "duration": transcript.duration_s, "text": transcript.text.strip()}
    return {**facts, "segments": segments, **listed}


async def speech(service: Service, request: SpeechRequest, facts: dict[str, Any]) -> Reply:
    """Speak a text.

    Raises:
        RequestError: the text is too long, nothing of it can be spoken, or the model has no such voice.
    """
    served = service.find(request.model, "speech")
    if len(request.input) > service.limits.max_characters:
        raise RequestError(
            f"input: {len(request.input)} characters; at most {service.limits.max_characters} are allowed; send several requests",
            param="input",
        )
    speaker = _speaker(served, request.voice)
    plan = await service.read(lambda: plan_speech(request.input, served.part("text")))
    if not plan.pieces:
        raise RequestError("input: contains nothing that can be spoken; give words or numbers in Latin letters", param="input")
    pieces = [text for _, text in plan.pieces]
    facts |= {"characters": len(request.input), "sentences": len(pieces)}
    work = partial(_speak, served, speaker, service.limits.max_sentence_seconds)
    spoken: list[Speech] = await served.batcher.run(("speak", speaker), work, pieces, size=len(pieces))
    samples, rate = joined(spoken).numpy(), spoken[0].sample_rate_hz
    facts["audio_seconds"] = round(len(samples) / rate, 2)
    content, rate = await service.read(lambda: _encoded(samples, rate, request.response_format))
    headers = {"X-Sample-Rate": str(rate), "X-Sentences-Failed": str(sum(bool(each.faults) for each in spoken) + plan.unspoken)}
    return Reply(content, MEDIA_TYPES[request.response_format], headers)


def _speaker(served: ServedModel, voice: str) -> int | None:
    """Return the number of a voice; None for the voice of a model that has one."""
    voices = [str(number) for number in range(served.model.head.num_speakers)] or ["default"]
    if voice not in voices:
        raise RequestError(f"voice: {served.name} has no {voice[:40]!r}; allowed are {', '.join(voices)}", param="voice")
    return None if voice == "default" else int(voice)


def _speak(served: ServedModel, speaker: int | None, max_seconds: float, jobs: Sequence[Job]) -> list[list[Speech]]:
    """Speak the sentences of all jobs, in batches; the sound of a sentence does not depend on its neighbours."""
    texts = [text for job in jobs for text in job.payload]
    spoken = iter(served.model.synthesize(texts, batch_size=served.batcher.max_items, max_seconds=max_seconds, speaker=speaker))
    return [[next(spoken) for _ in job.payload] for job in jobs]


def _encoded(samples: np.ndarray, rate: int, form: str) -> tuple[bytes, int]:
    """Return the bytes of a sound file and its sample rate; "pcm" is 16-bit little-endian without a header."""
    try:
        import soundfile
    except ImportError as error:
        raise ConfigError("response_format: soundfile is not installed on the server; install it with: zoo install audio") from error
    if form == "opus":
        samples, rate = resample(samples, rate, OPUS_RATE_HZ), OPUS_RATE_HZ
    container, subtype = FORMATS[form]
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype, endian="LITTLE" if form == "pcm" else "FILE")
    return file.getvalue(), rate
