"""Requests of the server, checked while they are parsed.

A field that is not listed is refused: an option that a server ignores changes answers without a word. Fields of OpenAI's API that have one
possible value here allow that value alone.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from zoo.commands.serve.faults import RequestError
from zoo.data.zero_shot_prompts import DEFAULT_TEMPLATES

T = TypeVar("T")
Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1)]


class Request(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fields that every request may have; ``user`` and ``metadata`` change nothing and are not logged."""

    model: str
    user: str | None = None
    metadata: dict[str, str] | None = None


class EmbeddingRequest(Request, forbid_unknown_fields=True, kw_only=True):
    """Body of ``/v1/embeddings``; an input that begins with ``data:image/`` or ``data:audio/`` is an image or a recording."""

    input: str | Annotated[list[str], Meta(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None


class ClassificationRequest(Request, forbid_unknown_fields=True, kw_only=True):
    """Body of ``/v1/classifications``: images or recordings as data URLs; labels for a zero-shot model alone."""

    input: str | Annotated[list[str], Meta(min_length=1)]
    labels: Annotated[list[str], Meta(min_length=1)] | None = None
    templates: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=lambda: list(DEFAULT_TEMPLATES))
    top_k: Count | None = None


class SpeechRequest(Request, forbid_unknown_fields=True, kw_only=True):
    """Body of ``/v1/audio/speech``."""

    input: Text
    voice: str = "default"
    response_format: Literal["mp3", "wav", "flac", "opus", "ogg", "pcm"] = "mp3"
    speed: Annotated[float, Meta(ge=1, le=1)] = 1.0
    stream_format: Literal["audio"] | None = None


class ImageURL(Struct, forbid_unknown_fields=True):
    """Address of an image, a data URL."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None  # one resolution per model


class InputAudio(Struct, forbid_unknown_fields=True):
    """Recording in base64; its format is read from the file itself."""

    data: str
    format: str | None = None


class TextPart(Struct, forbid_unknown_fields=True, tag="text"):
    """Text of a message."""

    text: str


class ImagePart(Struct, forbid_unknown_fields=True, tag="image_url"):
    """Image of a message."""

    image_url: ImageURL


class AudioPart(Struct, forbid_unknown_fields=True, tag="input_audio"):
    """Recording of a message."""

    input_audio: InputAudio


class ChatMessage(Struct, forbid_unknown_fields=True, kw_only=True):
    """Message of a chat; the empty fields are those of answers that clients send back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart | ImagePart | AudioPart], Meta(min_length=1)]
    name: str | None = None
    refusal: None = None
    annotations: None | list[Any] = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


class StreamOptions(Struct, forbid_unknown_fields=True, kw_only=True):
    """Options of a stream."""

    include_usage: bool = False


class TextFormat(Struct, forbid_unknown_fields=True, kw_only=True):
    """Form of an answer: text, the only one."""

    type: Literal["text"] = "text"


class ChatRequest(Request, forbid_unknown_fields=True, kw_only=True):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Count | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] = 1.0
    seed: Annotated[int, Meta(ge=0)] | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = 1
    presence_penalty: Annotated[float, Meta(ge=0, le=0)] | None = 0
    frequency_penalty: Annotated[float, Meta(ge=0, le=0)] | None = 0
    logprobs: Literal[None] = None
    response_format: TextFormat | None = None
    store: bool | None = None  # nothing is stored


class TranscriptionRequest(Request, forbid_unknown_fields=True, kw_only=True):
    """Fields of the form of ``/v1/audio/transcriptions`` and ``/v1/audio/translations``, beside the file."""

    language: str | None = None
    prompt: str | None = None
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    timestamp_granularities: Annotated[list[Literal["word", "segment"]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["segment"]
    )


def read_json(body: bytes, kind: type[T]) -> T:
    """Parse the body of a request.

    Raises:
        RequestError: the body is not JSON, or not of this form; the error names the field.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError as error:
        raise RequestError("the body is nested too deep; send a flat object") from error
    except msgspec.ValidationError as error:
        raise _refusal(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not JSON ({error}); send an object with Content-Type: application/json") from error


def read_form(fields: dict[str, Any], kind: type[T]) -> T:
    """Check the fields of a form, whose values are texts.

    Raises:
        RequestError: a field is unknown, missing, or has a value that is not allowed.
    """
    try:
        return msgspec.convert(fields, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: msgspec.ValidationError) -> RequestError:
    """Return the error of a field, named without the mark of the root: ``$.messages[0].role`` is ``messages[0].role``."""
    text = str(error)
    place = re.search(r"at `\$\.?([^`]*)`", text)
    unknown = re.search(r"unknown field `([^`]*)`", text)
    name = ".".join(part[1] for part in (place, unknown) if part and part[1]) or None
    return RequestError(text.replace("`$.", "`"), param=name)
