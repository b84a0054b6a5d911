"""``zoo serve`` over loopback: OpenAI's client, raw requests, batches, limits and cut connections."""

import asyncio
import base64
import io
import json
import logging
import socket
import threading
import time

import httpx
import numpy as np
import openai
import pytest
import soundfile
import torch
import uvicorn
from PIL import Image

import zoo
from zoo.commands.serve.app import create_app
from zoo.commands.serve.command import listen
from zoo.commands.serve.limits import Limits
from zoo.commands.speak import joined
from zoo.storage.places import packaged_directory

KEY = "a-key-of-the-tests"
LIMITS = Limits(
    max_body_mb=0.3, max_pixels=40_000, max_audio_seconds=2.0, max_sentence_seconds=0.3, max_new_tokens=64, timeout=60.0, max_requests=256
)
SAMPLE = packaged_directory("assets") / "samples" / "digit_81.png"
LETTERS = "abcdefghijklmnopqrstuvwxyz ?."


def chatty():
    """Random LLaVA that answers with letters."""
    torch.manual_seed(0)
    system = zoo.create_system("llava_nano", ["system.processor.conversation.tokenizer=characters"])
    system.processor.fit([LETTERS, "user", "assistant", "system", "\n"])
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    part, scores = system.processor["conversation"], system.head.language.logits
    offset = torch.full((system.head.language.vocab_size,), -1e9)
    offset[[part.tokenizer.token_to_id(letter) for letter in "etaoins"]] = 0
    system.head.language.logits = lambda hidden: scores(hidden) + offset
    return system.eval()


def listener():
    torch.manual_seed(0)
    system = zoo.create_system("whisper_nano", ["system.head.context_length=24"])
    system.processor["transcript"].fit(["some words to learn letters from", "The End."])
    return system.eval()


class Running:
    """An application served by uvicorn in a thread."""

    def __init__(self, models, limits, key=KEY):
        self.app = create_app(models, limits, key)
        self.service = self.app.state.service
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(self.app, access_log=False, log_config=None, ws="none", timeout_graceful_shutdown=20)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.socket]), daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(30)
        self.socket.close()
        assert not self.thread.is_alive()

    def client(self, **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, **options)

    def post(self, path, body, **options):
        options.setdefault("headers", {"Authorization": f"Bearer {KEY}"})
        return httpx.post(f"{self.url}{path}", json=body, timeout=60, **options)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {
        "clip": zoo.load("clip_vit_nano"),
        "llava": chatty(),
        "whisper": listener(),
        "voice": zoo.create_system("tacotron2_nano").eval(),
        "digits": zoo.create_system("classifier_vit_nano").eval(),
    }


@pytest.fixture(scope="module")
def served(models):
    with Running(models, LIMITS) as running:
        yield running


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client


def data_url(image=None):
    file = io.BytesIO()
    (Image.open(SAMPLE) if image is None else image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def recording(seconds=0.5):
    file, noise = io.BytesIO(), np.random.default_rng(0).standard_normal(int(16000 * seconds)) * 0.1
    soundfile.write(file, noise, 16000, format="WAV")
    return file.getvalue()


def asked(text="what is it?", **more):
    return {"model": "llava", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12, **more}


def test_models_are_listed_with_their_capabilities(client):
    listed = {model.id: model.capabilities for model in client.models.list()}
    assert listed == {
        "clip": {"embeddings": ["image", "text"], "classifications": ["image"]},
        "llava": {"chat": ["text", "image"]},
        "whisper": {"transcriptions": ["audio"]},
        "voice": {"speech": ["text"]},
        "digits": {"classifications": ["image"]},
    }
    assert client.models.retrieve("clip").owned_by == "zoo"
    with pytest.raises(openai.NotFoundError, match="there is no 'clap' here"):
        client.models.retrieve("clap")


@pytest.mark.parametrize("encoding", [openai.omit, "float", "base64"])
def test_embeddings_equal_those_of_the_model(client, models, encoding):
    found = client.embeddings.create(model="clip", input=["a seven", data_url(), "a seven", "two"], encoding_format=encoding)
    texts, image = models["clip"].embed("text", ["a seven", "a seven", "two"]), models["clip"].embed("image", [SAMPLE])
    expected = torch.stack([texts[0], image[0], texts[1], texts[2]])
    vectors = [each.embedding for each in found.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(each), "<f4") for each in vectors]
    np.testing.assert_allclose(np.array(vectors), expected.numpy(), atol=1e-5)
    assert [each.index for each in found.data] == [0, 1, 2, 3] and found.usage.prompt_tokens > 3


def test_zero_shot_classification_equals_that_of_the_model(served, models):
    labels = ["zero", "seven", "nine"]
    body = {"model": "clip", "input": [data_url()], "labels": labels, "templates": ["the digit {}"], "top_k": 2}
    found = served.post("/v1/classifications", body).json()["data"][0]["labels"]
    expected = models["clip"].classify([SAMPLE], labels, templates=["the digit {}"])[0].topk(2)
    assert [each["label"] for each in found] == [labels[i] for i in expected.indices]
    np.testing.assert_allclose([each["probability"] for each in found], expected.values.numpy(), atol=1e-5)


def test_a_classifier_has_its_own_labels(served, models):
    found = served.post("/v1/classifications", {"model": "digits", "input": data_url()}).json()["data"][0]["labels"]
    expected = models["digits"].classify([SAMPLE])[0]
    assert len(found) == len(expected) and found[0]["probability"] == pytest.approx(expected.max().item(), abs=1e-5)
    refused = served.post("/v1/classifications", {"model": "digits", "input": data_url(), "labels": ["a"]})
    assert refused.status_code == 400 and "fixed classes" in refused.json()["error"]["message"]


def test_answers_equal_those_of_the_model_whole_and_streamed(client, models):
    content = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": data_url()}}]
    body = {**asked(), "messages": [{"role": "developer", "content": "be kind"}, {"role": "user", "content": content}]}
    prompt = [{"role": "system", "content": "be kind"}, {"role": "user", "content": [content[0], {"type": "image", "path": str(SAMPLE)}]}]
    (expected,) = models["llava"].generate([prompt], max_new_tokens=12)
    whole = client.chat.completions.create(**body)
    assert whole.choices[0].message.content == expected and whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 12 and whole.usage.prompt_tokens > 20
    chunks = list(client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == expected and len(pieces) > 8
    assert chunks[-1].usage == whole.usage and chunks[-2].choices[0].finish_reason == "length"


def test_stop_strings_and_seeds(client):
    whole = client.chat.completions.create(**asked()).choices[0].message.content
    stopped = client.chat.completions.create(**asked(stop=whole[4:6])).choices[0]
    assert stopped.message.content == whole[: whole.index(whole[4:6])] and stopped.finish_reason == "stop"
    drawn = [client.chat.completions.create(**asked(seed=seed) | {"temperature": 1.5}).choices[0].message.content for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_transcripts_in_every_format(client, models):
    (expected,) = models["whisper"].transcribe([recording()], temperatures=(0.4,))
    ask = client.audio.transcriptions.create
    given = {"model": "whisper", "file": ("a.wav", recording()), "temperature": 0.4}
    assert ask(**given).text == expected.text.strip()
    assert ask(**given, response_format="text") == expected.text.strip() + "\n"
    assert ask(**given, response_format="vtt").startswith("WEBVTT")
    assert isinstance(ask(**given, response_format="srt"), str)
    verbose = ask(**given, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert verbose.duration == pytest.approx(0.5) and len(verbose.segments) == len(expected.segments) and verbose.words is not None


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3", "opus", "pcm"])
def test_speech_in_every_format(client, models, form):
    """Lossless forms hold the samples of the model; the others are as long, up to the padding of their coding."""
    spoken = joined(models["voice"].synthesize(["One cat.", "Two dogs."], max_seconds=0.3)).numpy()
    content = client.audio.speech.create(model="voice", voice="default", input="One cat. Two dogs.", response_format=form).content
    raw = {"format": "RAW", "samplerate": 16000, "channels": 1, "subtype": "PCM_16", "endian": "LITTLE"} if form == "pcm" else {}
    sound, rate = soundfile.read(io.BytesIO(content), **raw)
    assert len(sound) / rate == pytest.approx(len(spoken) / 16000, abs=0.15) and len(spoken) > 4000
    if form in ("wav", "flac", "pcm"):
        np.testing.assert_allclose(sound, spoken, atol=1e-4)  # 16 bits


def test_many_requests_at_once_share_batches_and_get_their_own_answers(served, models):
    """200 requests, 40 different ones; the numbers of items per batch show that they were computed together."""
    texts = [f"digit {number}" for number in range(40)]
    expected = models["clip"].embed("text", texts)

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(client.embeddings.create(model="clip", input=texts[i % 40]) for i in range(200)))

    before = figure(served, 'zoo_batch_items_count{model="clip"}')
    found = asyncio.run(all_at_once())
    np.testing.assert_allclose([each.data[0].embedding for each in found], expected[[i % 40 for i in range(200)]].numpy(), atol=1e-5)
    assert figure(served, 'zoo_batch_items_count{model="clip"}') - before < 100
    assert figure(served, "zoo_open_requests") == 0


def test_answers_do_not_depend_on_their_batch(served, models):
    questions = [f"what is {letter}?" for letter in "abcdefgh"]
    expected = models["llava"].generate(questions, max_new_tokens=12)

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(client.chat.completions.create(**asked(text)) for text in questions))

    assert [each.choices[0].message.content for each in asyncio.run(all_at_once())] == expected


def figure(served, name):
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))


MESSAGE = {"role": "user", "content": "hi"}
REFUSED = [
    ("/v1/embeddings", {"model": "clap", "input": "a"}, 404, "there is no 'clap' here"),
    ("/v1/embeddings", {"model": "llava", "input": "a"}, 400, "cannot be used with /v1/embeddings"),
    ("/v1/embeddings", {"model": "clip"}, 400, "missing required field `input`"),
    ("/v1/embeddings", {"model": "clip", "input": [1, 2]}, 400, "Expected `str`"),
    ("/v1/embeddings", {"model": "clip", "input": []}, 400, "length >= 1"),
    ("/v1/embeddings", {"model": "clip", "input": ["a", ""]}, 400, "input[1]: is empty"),
    ("/v1/embeddings", {"model": "clip", "input": "a", "dimensions": 7}, 400, "dimensions: 7"),
    ("/v1/embeddings", {"model": "clip", "input": "a", "wrong": 1}, 400, "unknown field `wrong`"),
    ("/v1/embeddings", {"model": "clip", "input": "data:image/png;base64,@@"}, 400, "not valid base64"),
    ("/v1/embeddings", {"model": "clip", "input": "data:image/png;base64,AAAA"}, 400, "not an image"),
    ("/v1/embeddings", {"model": "clip", "input": "data:audio/wav;base64,AAAA"}, 400, "is audio, but clip takes"),
    ("/v1/embeddings", {"model": "clip", "input": ["a"] * 2049}, 400, "at most 2048"),
    ("/v1/classifications", {"model": "clip", "input": "x", "labels": ["a"]}, 400, "is text, but clip takes"),
    ("/v1/classifications", {"model": "clip", "input": "data:image/png;base64,AAAA"}, 400, "give a list of labels"),
    ("/v1/classifications", {"model": "clip", "input": "x", "labels": ["a", "a"]}, 400, "must be unique"),
    ("/v1/chat/completions", {"model": "llava", "messages": []}, 400, "length >= 1"),
    ("/v1/chat/completions", {"model": "llava", "messages": [MESSAGE], "n": 2}, 400, "n"),
    ("/v1/chat/completions", {"model": "llava", "messages": [MESSAGE], "tools": []}, 400, "unknown field `tools`"),
    ("/v1/chat/completions", {"model": "llava", "messages": [MESSAGE], "max_tokens": 65}, 400, "allows 64 at most"),
    ("/v1/chat/completions", {"model": "llava", "messages": [{"role": "tool", "content": "hi"}]}, 400, "Invalid enum value 'tool'"),
    ("/v1/chat/completions", {"model": "llava", "messages": [{"role": "user", "content": "a" * 5000}]}, 400, "context_length"),
    (
        "/v1/chat/completions",
        {"model": "llava", "stream": True, "messages": [{"role": "user", "content": "a" * 5000}]},
        400,
        "context_length",
    ),
    ("/v1/audio/speech", {"model": "voice", "voice": "alloy", "input": "a"}, 400, "has no 'alloy'; allowed are default"),
    ("/v1/audio/speech", {"model": "voice", "input": "?!"}, 400, "nothing that can be spoken"),
    ("/v1/audio/speech", {"model": "voice", "input": "a" * 5000}, 400, "at most 4096"),
    ("/v1/audio/speech", {"model": "voice", "input": "a", "response_format": "aac"}, 400, "Invalid enum value 'aac'"),
    ("/v1/none", {}, 404, "there is no such route"),
    ("/v1/models", {}, 405, "POST is not allowed here"),
    ("/v1/audio/transcriptions", {}, 400, "multipart/form-data"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), REFUSED, ids=lambda each: str(each)[:30])
def test_bad_requests_are_refused_in_the_form_of_openai(served, path, body, status, message):
    found = served.post(path, body)
    assert found.status_code == status and set(found.json()) == {"error"}
    assert set(found.json()["error"]) == {"message", "type", "param", "code"} and message in found.json()["error"]["message"]


def test_no_address_is_fetched(served):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        address = f"http://127.0.0.1:{other.getsockname()[1]}/a.png"
        for url in (address, f"file://{SAMPLE}", str(SAMPLE)):
            parts = [{"type": "image_url", "image_url": {"url": url}}]
            found = served.post("/v1/chat/completions", {"model": "llava", "messages": [{"role": "user", "content": parts}]})
            assert found.status_code == 400 and "addresses are not fetched" in found.json()["error"]["message"]
        with pytest.raises(TimeoutError):
            other.accept()


def test_a_text_cannot_name_a_file_or_stand_for_an_image(served):
    for text in (str(SAMPLE), "<image>", "look <image> and <audio>"):
        assert served.post("/v1/chat/completions", asked(text)).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"model": ' + b"[" * 50_000])
def test_bodies_that_are_no_request(served, body):
    found = httpx.post(f"{served.url}/v1/embeddings", content=body, headers={"Authorization": f"Bearer {KEY}"})
    assert found.status_code == 400 and found.json()["error"]["type"] == "invalid_request_error"


def test_limits_of_size_pixels_and_seconds(served):
    large = served.post("/v1/embeddings", {"model": "clip", "input": "a" * 400_000})
    assert large.status_code == 413 and "0.3 MB" in large.json()["error"]["message"]

    def pieces():  # without a Content-Length
        for _ in range(40):
            yield b" " * 10_000

    streamed = httpx.post(f"{served.url}/v1/embeddings", content=pieces(), headers={"Authorization": f"Bearer {KEY}"})
    assert streamed.status_code == 413
    wide = served.post("/v1/embeddings", {"model": "clip", "input": data_url(Image.new("RGB", (300, 200)))})
    assert wide.status_code == 400 and "at most 40,000" in wide.json()["error"]["message"]
    with served.client() as client, pytest.raises(openai.BadRequestError, match="lasts longer than 2 s"):
        client.audio.transcriptions.create(model="whisper", file=("a.wav", recording(2.5)))
    with served.client() as client, pytest.raises(openai.BadRequestError, match="WAV|sound|read"):
        client.audio.transcriptions.create(model="whisper", file=("a.wav", b"no sound"))


def test_the_key_is_needed_everywhere_but_for_health_and_figures(served):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer \u00e4".encode()}):
        found = served.post("/v1/embeddings", {"model": "clip", "input": "a"}, headers=headers)
        assert found.status_code == 401 and found.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{served.url}/v1/models", headers=headers).status_code == 401
    assert httpx.get(f"{served.url}/healthz").json()["status"] == "ok"
    assert "zoo_requests_total" in httpx.get(f"{served.url}/metrics").text


def test_logs_hold_counts_and_no_contents(served, caplog):
    secret = "zebra"
    with caplog.at_level(logging.INFO, "zoo.serve"):
        served.post("/v1/embeddings", {"model": "clip", "input": secret})
        served.post("/v1/embeddings", {"model": secret, "input": secret})
        served.post(f"/v1/{secret}?{secret}", {})
        served.post("/v1/chat/completions", asked(secret))
        time.sleep(0.05)
    rows = [json.loads(record.message) for record in caplog.records if record.name == "zoo.serve"]
    assert [row["status"] for row in rows] == [200, 404, 404, 200] and rows[0]["items"] == 1 and rows[3]["completion_tokens"] == 12
    assert secret not in caplog.text and KEY not in caplog.text


def raw_request(served, body):
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def eventually(true):
    for _ in range(500):
        if true():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_connection_ends_the_work(served, models, monkeypatch, stream):
    """The model writes tokens slowly; after the client has gone it writes at most a few more."""
    language, steps = models["llava"].head.language, []
    forward = language.forward
    monkeypatch.setattr(language, "forward", lambda *rest, **named: (steps.append(1), time.sleep(0.02), forward(*rest, **named))[2])
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(raw_request(served, asked(max_tokens=64, stream=stream)))
        assert eventually(lambda: len(steps) > 3)
    assert eventually(lambda: figure(served, "zoo_open_requests") == 0)
    assert len(steps) < 60
    assert served.post("/v1/chat/completions", asked()).status_code == 200


def test_a_body_that_is_cut_short_harms_nobody(served):
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(raw_request(served, asked())[:-10])
    assert eventually(lambda: figure(served, "zoo_open_requests") == 0)
    assert served.post("/v1/chat/completions", asked()).status_code == 200


def test_a_full_server_says_when_to_come_back_and_a_slow_request_ends(models, monkeypatch):
    """One request may be open; it takes longer than the server allows."""
    language = models["llava"].head.language
    forward, begun = language.forward, threading.Event()
    monkeypatch.setattr(language, "forward", lambda *rest, **named: (begun.set(), time.sleep(0.05), forward(*rest, **named))[2])
    with Running({"llava": models["llava"]}, Limits(max_requests=1, timeout=0.5, max_new_tokens=64)) as small:
        found = []
        first = threading.Thread(target=lambda: found.append(small.post("/v1/chat/completions", asked(max_tokens=64))))
        first.start()
        assert begun.wait(20)
        full = small.post("/v1/chat/completions", asked())
        assert full.status_code == 429 and full.headers["retry-after"] == "1" and full.json()["error"]["type"] == "rate_limit_error"
        assert httpx.get(f"{small.url}/healthz").status_code == 200
        first.join(30)
        assert found[0].status_code == 504 and found[0].json()["error"]["code"] == "timeout"
        with small.client() as client, pytest.raises(openai.APIError, match="longer than the server allows"):
            list(client.chat.completions.create(**asked(max_tokens=64, stream=True)))


def test_a_stopped_server_finishes_what_runs(models, monkeypatch):
    language, begun = models["llava"].head.language, threading.Event()
    forward = language.forward
    monkeypatch.setattr(language, "forward", lambda *rest, **named: (begun.set(), time.sleep(0.01), forward(*rest, **named))[2])
    found = []
    with Running({"llava": models["llava"]}, Limits()) as small:
        thread = threading.Thread(target=lambda: found.append(small.post("/v1/chat/completions", asked(max_tokens=40))))
        thread.start()
        assert begun.wait(20)
    thread.join(20)
    assert found[0].status_code == 200 and found[0].json()["usage"]["completion_tokens"] == 40
    with pytest.raises(httpx.ConnectError):
        small.post("/v1/chat/completions", asked())


def test_an_unexpected_fault_shows_nothing_of_its_text(served, models, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("zebra")

    monkeypatch.setattr(models["voice"].head, "synthesize", fail)
    found = served.post("/v1/audio/speech", {"model": "voice", "input": "one"})
    assert found.status_code == 500 and found.json()["error"]["code"] == "internal_error"
    assert "zebra" not in found.text + caplog.text and "RuntimeError" in caplog.text
