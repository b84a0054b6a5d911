"""Chat completions: text, images and recordings in, text out, whole or as a stream."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from zoo.commands.serve.batching import Job
from zoo.commands.serve.faults import RequestError, body_of, fault_of
from zoo.commands.serve.inputs import from_base64, from_data_url, read_item
from zoo.commands.serve.schemas import AudioPart, ChatMessage, ChatRequest, ImagePart, TextPart
from zoo.commands.serve.service import Events, Reply, ServedModel, Service
from zoo.language.decoding.generate import generate
from zoo.language.decoding.sampling import Sampling, fresh_seed
from zoo.language.decoding.streaming import StopStrings, TextStream
from zoo.processors.chat.messages import Conversation, without_markers
from zoo.types import is_system

TEMPERATURE = 1.0  # OpenAI's default


@dataclass(frozen=True)
class Question:
    """A conversation that waits for an answer.

    Attributes:
        most: longest answer in tokens.
        stop: the answer ends before these strings.
        on_text: callback that receives each new piece of text, called in the thread of the model.
    """

    conversation: Conversation
    most: int
    stop: tuple[str, ...]
    on_text: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Answer:
    """Generated text, with its numbers of tokens and OpenAI's word for its end: "stop" or "length"."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """Numbers of tokens as OpenAI counts them."""
        total = self.prompt_tokens + self.completion_tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens, "total_tokens": total}


async def completions(service: Service, request: ChatRequest, facts: dict[str, Any]) -> Reply | Events:
    """Answer a conversation.

    Raises:
        RequestError: a part of a message cannot be used, or a setting is not allowed.
        DataError: an image or a recording cannot be read, or the conversation is too long.
    """
    served = service.find(request.model, "chat")
    if request.messages[-1].role != "user":
        raise RequestError("messages: the last message must be the user's", param="messages")
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options: has no effect without stream; leave it out", param="stream_options")
    sampling, most = _sampling(request, service.limits.max_new_tokens)
    conversation = await service.read(partial(_conversation, served, service, request.messages))
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    question = Question(conversation, most, stop)
    work, key = partial(answer, served.model, sampling), ("chat", sampling)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": served.name}
    if request.stream:
        wants_usage = request.stream_options is not None and request.stream_options.include_usage
        return await _stream(service, served, partial(served.batcher.add, key, work), question, head, wants_usage, facts)
    found: Answer = await served.batcher.run(key, work, question)
    _count(service, served, found, facts)
    message = {"role": "assistant", "content": found.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": found.finish_reason}
    return Reply(msgspec.json.encode({**head, "object": "chat.completion", "choices": [choice], "usage": found.usage}))


def _count(service: Service, served: ServedModel, found: Answer, facts: dict[str, Any]) -> None:
    facts |= {"prompt_tokens": found.prompt_tokens, "completion_tokens": found.completion_tokens}
    service.metrics.tokens.labels(served.name, "prompt").inc(found.prompt_tokens)
    service.metrics.tokens.labels(served.name, "answer").inc(found.completion_tokens)


async def _stream(
    service: Service,
    served: ServedModel,
    add: Callable[[Question], Job],
    question: Question,
    head: dict[str, Any],
    wants_usage: bool,
    facts: dict[str, Any],
) -> Events:
    """Begin a stream; returns once the first piece of text, or the whole answer, is there.

    Raises:
        ZooError: the question cannot be answered.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    deadline = loop.time() + service.limits.timeout
    job = add(replace(question, on_text=partial(loop.call_soon_threadsafe, pieces.put_nowait)))
    job.future.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        first = await pieces.get()
        if first is None:
            job.future.result()  # raises its error
    except BaseException:
        job.future.cancel()
        raise

    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**head, "object": "chat.completion.chunk", "choices": [choice], **({"usage": None} if wants_usage else {}), **more})

    async def events() -> AsyncIterator[bytes]:
        text = first
        try:
            yield chunk({"role": "assistant", "content": ""})
            while text is not None:
                yield chunk({"content": text})
                text = await asyncio.wait_for(pieces.get(), max(0.0, deadline - loop.time()))
            found: Answer = job.future.result()
            _count(service, served, found, facts)
            yield chunk({}, found.finish_reason)
            if wants_usage:
                yield chunk({}, choices=[], usage=found.usage)
            yield b"data: [DONE]\n\n"
        except Exception as error:  # the status has been sent, so that the error is an event
            fault = fault_of(error)
            facts["fault"] = fault.status
            yield _event(body_of(fault))
        finally:
            if not job.future.done():
                facts["gone"] = True
            job.future.cancel()  # if the client is gone or the time is over, the model stops after its current token

    return Events(events())


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _sampling(request: ChatRequest, longest: int) -> tuple[Sampling, int]:
    """Return the settings of decoding, equal for requests that may share a batch, and the longest answer.

    Raises:
        RequestError: the answer may be longer than the server allows.
    """
    most = request.max_completion_tokens or request.max_tokens or min(longest, 256)
    if most > longest:
        raise RequestError(f"max_completion_tokens: {most}; this server allows {longest} at most", param="max_completion_tokens")
    temperature = TEMPERATURE if request.temperature is None else request.temperature
    if temperature == 0:  # top_p and its like have no effect on the most probable token, and clients send them always
        return Sampling(max_new_tokens=longest, repetition_penalty=request.repetition_penalty), most
    settings = Sampling(
        max_new_tokens=longest,
        temperature=temperature,
        top_k=request.top_k,
        top_p=None if request.top_p == 1 else request.top_p,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
    )
    return settings, most


def _conversation(served: ServedModel, service: Service, messages: Sequence[ChatMessage]) -> Conversation:
    """Make a conversation whose images and recordings are decoded already."""
    rows = []
    for number, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        content = [TextPart(message.content)] if isinstance(message.content, str) else message.content
        parts = [_part(served, service, part, f"messages[{number}].content[{place}]") for place, part in enumerate(content)]
        rows.append({"role": role, "content": parts})
    return Conversation.parse(rows)


def _part(served: ServedModel, service: Service, part: TextPart | ImagePart | AudioPart, param: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": without_markers(part.text)}  # a text cannot stand for an image
    modality = "image" if isinstance(part, ImagePart) else "audio"
    if modality not in served.capabilities["chat"]:
        raise RequestError(f"{param}: {served.name} takes {' and '.join(served.capabilities['chat'])}, not {modality}", param=param)
    data = from_data_url(part.image_url.url, param) if isinstance(part, ImagePart) else from_base64(part.input_audio.data, param)
    return {"type": modality, modality: read_item(served.part(modality), modality, data, service.limits)}


def answer(model: Any, sampling: Sampling, jobs: Sequence[Job]) -> list[Answer]:
    """Generate the answers to the questions of all jobs at once; a job that is given up meanwhile ends with its current token.

    Raises:
        DataError: a conversation is too long.
    """
    assert is_system(model)
    questions: list[Question] = [job.payload for job in jobs]
    part = model.processor["conversation"]
    vectors, ids = model.prompt_vectors([question.conversation for question in questions])
    ends = [(*question.stop, *part.stop_strings) for question in questions]
    streams = [TextStream(part.decode, each) for each in ends]
    stops = [StopStrings(part.decode, each) if each else None for each in ends]
    current, counts = 0, [0] * len(jobs)

    def give(row: int, text: str) -> None:
        on_text = questions[row].on_text
        if text and on_text is not None:
            jobs[row].has_begun = True
            on_text(text)

    def push(row: int, token: int) -> None:
        nonlocal current
        current = row  # ``generate`` asks ``halt`` about this row next
        counts[row] += 1
        give(row, streams[row].push(token))

    def halt(so_far: list[int]) -> bool:
        check = stops[current]
        return not jobs[current].is_wanted or (check is not None and check(so_far))

    # A seed gives the same answer in any batch: every row draws as the first one. Without a seed the rows draw differently.
    rows = list(range(len(jobs))) if sampling.seed is None else [0] * len(jobs)
    seed = fresh_seed() if sampling.seed is None and sampling.temperature > 0 else sampling.seed
    sampling = replace(sampling, seed=seed, eos_token_ids=tuple(part.eos_token_ids))
    most = [question.most for question in questions]
    words = {"rows": rows, "most_tokens": most, "prefix_lengths": model.head.prefix_lengths(vectors)}
    found = generate(model.head.language, vectors, ids, sampling, stop=halt, on_token=push, **words)
    for row, stream in enumerate(streams):
        give(row, stream.close())
    return [
        Answer(stream.text, "stop" if one.stop_reason in ("eos", "stop") else "length", len(own), count)
        for stream, one, own, count in zip(streams, found, ids, counts, strict=True)
    ]
