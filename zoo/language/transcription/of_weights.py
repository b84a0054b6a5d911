"""Settings of transcription that came with the weights, where the caller gives none.

The order is: the caller's keyword or option; ``generation_config.json``; the default of openai-whisper.
"""

from collections.abc import Sequence
from dataclasses import replace

from zoo.errors import ConfigError
from zoo.language.transcription.search import room
from zoo.language.transcription.settings import Settings
from zoo.layers.whisper_decoder import WhisperDecoder
from zoo.processors.tokenizers.whisper_generation import Generation
from zoo.processors.tokenizers.whisper_languages import AUTO
from zoo.processors.transcript import TranscriptProcessor

USUAL = -1  # among suppressed ids: openai-whisper's list


def settings_of_weights(settings: Settings, symbols: TranscriptProcessor, vocab_size: int) -> Settings:
    """Return the settings with every open one taken from the weights; a language of None then asks for detection.

    Args:
        vocab_size: of the decoder; larger than that of the transcripts if a fine-tuning added tokens.

    Raises:
        ConfigError: a suppressed id is beyond the vocabulary.
    """
    own = symbols.generation
    language = own.language if settings.language is None else settings.language
    return replace(
        settings,
        language=None if language == AUTO else language,
        task=settings.task or own.task or "transcribe",
        timestamps=own.timestamps if settings.timestamps is None else settings.timestamps,
        suppress_tokens=_known("suppress_tokens", settings.suppress_tokens, vocab_size, symbols.unspoken),
        begin_suppress_tokens=_known("begin_suppress_tokens", settings.begin_suppress_tokens, vocab_size, ()),
    )


def without_added_tokens(settings: Settings, symbols: TranscriptProcessor, vocab_size: int) -> Settings:
    """Return settings that never generate the tokens after the timestamps, if there are timestamps.

    A fine-tuning adds its tokens there, and their ids would be taken for times.
    """
    if not settings.timestamps or vocab_size <= symbols.ids.end:
        return settings
    ids = symbols.suppressed if settings.suppress_tokens is None else settings.suppress_tokens
    return replace(settings, suppress_tokens=(*ids, *range(symbols.ids.end, vocab_size)))


def _known(key: str, ids: Sequence[int] | None, vocab_size: int, usual: Sequence[int]) -> tuple[int, ...] | None:
    """Return given ids with -1 replaced by the usual ones; None stays."""
    if ids is None:
        return None
    if ids and max(ids) >= vocab_size:
        raise ConfigError(f"{key}: {max(ids)}; the ids of this vocabulary are 0 to {vocab_size - 1}")
    return tuple(sorted({*(each for each in ids if each != USUAL), *(usual if USUAL in ids else ())}))


def most_tokens(decoder: WhisperDecoder, generation: Generation, prompt_length: int) -> int:
    """Return the maximum number of tokens of a text after a prompt.

    A ``max_length`` below the decoder's context counts, as in transformers. One of the whole context stands in every published file and
    limits nothing; then half the context is for the text, as in openai-whisper.
    """
    free = decoder.context_length - prompt_length + 1  # + 1: the last token is not fed to the decoder
    if generation.max_new_tokens is not None:
        return max(1, min(generation.max_new_tokens, free))
    if generation.max_length is not None and generation.max_length < decoder.context_length:
        # transformers adds the prompt, or half the context less one, whichever is smaller.
        return max(1, min(generation.max_length + min(prompt_length, decoder.context_length // 2 - 1) - prompt_length, free))
    return room(decoder, prompt_length)
