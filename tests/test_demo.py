"""``zoo demo``: wrong options, one event per model, and the page in Debian's chromium."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from quickstart import ROOT

import zoo
from zoo.commands.cli import main
from zoo.commands.demo.faults import on_page, on_page_in_pieces
from zoo.commands.demo.live import LiveSession
from zoo.commands.demo.microphone import MOST, Microphones
from zoo.commands.demo.models import LazyModel
from zoo.commands.demo.tab import Tab
from zoo.commands.demo.transcribe import _download, _lines
from zoo.commands.serve.limits import Limits
from zoo.errors import DataError, WeightsError
from zoo.types import Segment, Transcript

PICTURES = ROOT / "assets" / "pictures"
LETTERS = "abcdefghijklmnopqrstuvwxyz ?."
SWITCHES = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a microphone that beeps, and leave to use it
SWITCHES += ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]  # a container's root has no sandbox
MAX_PIXELS = 1_000_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "classifier=clip_vit_nano"], "did you mean 'classify'"),
        (["--model", "clip_vit_nano"], "write TAB=MODEL"),
        (["--model", "classify=clip_vit_nanno"], "clip_vit_nanno: no such directory or file"),
        (["--model", "classify=clip_vit_b99:openai"], "clip_vit_b99"),
        (["--index", "nowhere"], "zoo embed FOLDER -o nowhere"),
        (["--model", "search=clip_vit_nano"], "--index DIR"),
        (["--port", "70000"], "allowed is 0 to 65535"),
        (["--max-pixels", "0"], "allowed is a number above 0"),
    ],
)
def test_a_wrong_option_ends_with_a_line_and_status_2(words, said, capsys):
    assert main(["demo", *words]) == 2
    assert said in capsys.readouterr().err


def test_one_event_at_a_time_uses_a_model():
    model, inside, leave = LazyModel("clip", object, timeout=0.05), threading.Event(), threading.Event()

    def hold():
        with model.held():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(30)
    with pytest.raises(DataError, match="busy for 0.05 s"), model.held():
        pass
    leave.set()
    thread.join()
    with model.held() as first, pytest.raises(DataError, match="busy"), model.held():
        pass
    with model.held() as second:
        assert second is first  # loaded once


def test_a_model_that_could_not_be_loaded_is_tried_again():
    found = [WeightsError("gone"), "a model"]

    def load():
        if isinstance(one := found.pop(0), Exception):
            raise one
        return one

    model = LazyModel("clip", load, timeout=1.0)
    with pytest.raises(WeightsError), model.held():
        pass
    with model.held() as loaded:
        assert loaded == "a model"


@pytest.fixture
def errors(monkeypatch):
    """Stand-in of gradio, whose import has side effects: its error keeps the message."""

    class Error(Exception):
        def __init__(self, message, **options):
            super().__init__(message)

    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(Error=Error))
    return Error


def test_errors_become_messages_without_markup_or_details_of_the_machine(errors, caplog):
    def fail(text):
        raise (DataError if text else KeyError)(text or "/home/someone/secret")

    def fail_later(text):
        yield "one"
        fail(text)

    with pytest.raises(errors, match="&lt;b&gt;"):
        on_page(fail)("<b>")
    with pytest.raises(errors, match="&lt;b&gt;"):
        list(on_page_in_pieces(fail_later)("<b>"))
    with pytest.raises(errors) as found:
        on_page(fail)("")
    assert "secret" not in str(found.value) + caplog.text
    assert "KeyError" in caplog.text


def test_subtitles_are_offered_if_there_is_text(tmp_path):
    def segment(text):
        return Segment(id=0, start=0.0, end=1.5, text=text, token_ids=[], temperature=0.0, average_log_probability=0.0,
                       compression_ratio=1.0, no_speech_probability=0.0)  # fmt: skip

    gradio = SimpleNamespace(DownloadButton=lambda **options: options)
    tab = Tab(gradio, None, LazyModel("whisper", object, timeout=1.0), Limits(), tmp_path, is_given=False)
    spoken = Transcript(" Hello.", [segment(" Hello."), segment(" ")], "en", 2.0)
    assert _lines(spoken.segments) == "[00:00.000 --> 00:01.500] Hello."
    shown = _download(tab, spoken)
    assert shown["visible"]
    (file,) = tmp_path.rglob("*.srt")
    assert str(file) == shown["value"]
    assert "00:00:00,000 --> 00:00:01,500\nHello." in file.read_text(encoding="utf-8")
    assert _download(tab, Transcript("", [segment(" ")], "en", 2.0)) == {"visible": False}


class Session(LiveSession):
    """Stub of a live transcription that only keeps the sound."""

    def __init__(self):
        self.sound = []

    def take(self, samples):
        self.sound += [round(float(32768 * value)) for value in samples]

    def finish(self):
        return self.sound


@pytest.fixture
def microphones():
    return Microphones(Session, lambda session: str(len(session.sound)), lambda sound: {"text": str(sound)})


def piece(number, *samples, session="a", rate=16000):
    return {"session": session, "number": number, "rate": rate, "sound": base64.b64encode(np.array(samples, "<i2").tobytes()).decode()}


def test_every_piece_of_a_microphone_is_taken_once_and_in_order(microphones):
    assert microphones.hear(piece(0, 1, -2)) == {"text": "2"}
    assert microphones.hear(piece(0, 1, -2)) == {"text": "2"}  # its answer was lost
    assert microphones.hear(piece(0, 7, session="b")) == {"text": "1"}
    assert microphones.hear(piece(1, 3)) == {"text": "3"}
    assert microphones.end({"session": "a"}) == {"text": "[1, -2, 3]"}
    assert microphones.hear(piece(0, 5)) == {"text": "1"}  # the next recording of this page
    assert len(microphones.hear(piece(0, *[0] * 480, session="c", rate=48000))["text"]) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"number": 2}, "piece 0 is missing"),
        ({"number": "x"}, "number: got"),
        ({"rate": 1}, "sample rate 1; allowed is 8000"),
        ({"sound": "!"}, "not base64"),
        ({"session": ""}, "1 to 64 characters, got 0"),
    ],
)
def test_a_wrong_piece_gets_a_message(microphones, changes, said):
    assert said in microphones.hear({**piece(0, 1), **changes})["error"]
    assert "microphone" in microphones.hear(["x"])["error"]


def test_only_some_pages_record_at_once_and_those_that_have_gone_are_dropped(microphones, monkeypatch):
    for number in range(MOST):
        assert "text" in microphones.hear(piece(0, 1, session=str(number)))
    assert "8 pages record already" in microphones.hear(piece(0, 1))["error"]
    monkeypatch.setattr("zoo.commands.demo.microphone.IDLE_S", -1.0)
    assert "text" in microphones.hear(piece(0, 1))


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, installed where it is missing and this user may install it."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if shutil.which("chromium") is None:
        if os.getuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip("chromium is not installed, and only root on Debian can install it here")
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]):
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            )
            if done.returncode != 0:
                pytest.skip(f"chromium is not installed, and apt-get does not give it: {done.stderr[-200:]}")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=SWITCHES)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of ``zoo demo`` in a process of its own, with a model in every tab."""
    folder = tmp_path_factory.mktemp("demo")
    torch.manual_seed(2)
    llava = zoo.create_system("llava_nano", ["system.processor.conversation.tokenizer=characters"])
    llava.processor.fit([LETTERS, "user", "assistant", "system", "\n"])
    with torch.no_grad():
        for parameter in llava.parameters():  # without this the random model answers nothing
            parameter.add_(torch.randn_like(parameter) * 0.15)
    zoo.save(llava, folder / "llava")
    whisper = zoo.create_system("whisper_nano", ["system.head.context_length=24"])
    whisper.processor["transcript"].fit(["some words to learn letters from"])
    zoo.save(whisper, folder / "whisper")
    assert main(["embed", str(PICTURES), "-o", str(folder / "index"), "--model", "clip_vit_nano"]) == 0
    words = ["--port", "0", "--json", "--index", str(folder / "index"), "--max-pixels", str(MAX_PIXELS), "--max-body-mb", "1"]
    for tab, model in (("chat", folder / "llava"), ("transcribe", folder / "whisper")):
        words += ["--model", f"{tab}={model}"]
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "zoo", "demo", *words], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder
        )
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            yield json.loads(line)["address"]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, log.read_text()
            process.stdout.close()
    assert "Traceback" not in log.read_text(encoding="utf-8")


@pytest.fixture
def page(browser, address):
    """The page, which may load nothing from any other address."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(180_000)
    page, outside = context.new_page(), []
    page.on("request", lambda request: None if request.url.startswith((address, "data:", "blob:")) else outside.append(request.url))
    page.goto(address)
    yield page
    assert not outside
    context.close()


def open_tab(page, title):
    page.get_by_role("tab", name=title).click()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def upload(page, file):
    page.locator("[role=tabpanel]:visible input[type=file]").first.set_input_files(file)


def message(page):
    """Return the text of the error on the page, and close it."""
    text = page.locator(".toast-body").first.inner_text()
    page.locator(".toast-close").first.click()
    page.locator(".toast-body").first.wait_for(state="detached")
    return text


@pytest.mark.heavy
@pytest.mark.xdist_group("demo")
def test_a_picture_is_classified_and_wrong_input_gets_a_message(page, tmp_path):
    labels = page.get_by_label("Labels, separated by commas")

    def refused(file, text):
        if file is not None:
            remove = page.get_by_label("Remove Image")
            if remove.count():
                remove.first.click()
            upload(page, file)
            page.get_by_label("Remove Image").first.wait_for()
        labels.fill(text)
        press(page, "Classify")
        return message(page)

    press(page, "Classify")
    assert "there is no picture" in message(page)
    upload(page, PICTURES / "dog.png")
    page.get_by_label("Remove Image").first.wait_for()
    labels.fill("a pizza, a dog")
    press(page, "Classify")
    shown = page.locator(".confidence-set")
    shown.first.wait_for()
    assert [text.split("\n")[0] for text in shown.all_inner_texts()] == ["a dog", "a pizza"]
    assert "labels: empty" in refused(None, " ")
    assert "label 2 of 3 is empty" in refused(None, "a,,b")
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    assert "text.png: not an image" in refused(tmp_path / "text.png", "a, b")
    Image.new("RGB", (2000, 600)).save(tmp_path / "huge.png")
    assert f"at most {MAX_PIXELS:,} are allowed" in refused(tmp_path / "huge.png", "a, b")


@pytest.mark.heavy
@pytest.mark.xdist_group("demo")
def test_search_chat_speech_and_graph(page, tmp_path):
    open_tab(page, "Search")
    page.locator("[role=tabpanel]:visible").get_by_label("Text").fill("a dog")
    press(page, "Search")
    wait_for(lambda: page.locator(".grid-container img").count() == len(list(PICTURES.glob("*.png"))))

    open_tab(page, "Chat")
    upload(page, PICTURES / "dog.png")
    page.locator("[role=tabpanel]:visible").get_by_label("Remove Image").first.wait_for()
    page.get_by_label("Question").fill("what is this ?")
    press(page, "Ask")
    page.locator(".bot.message").first.wait_for()
    wait_for(lambda: page.locator(".bot.message").first.inner_text().strip())  # it comes word by word

    open_tab(page, "Transcribe")
    soundfile.write(tmp_path / "silence.wav", torch.zeros(16000).numpy(), 16000)
    press(page, "Transcribe")
    assert "there is no recording" in message(page)
    upload(page, tmp_path / "silence.wav")
    page.locator("[role=tabpanel]:visible .waveform-container, [role=tabpanel]:visible audio").first.wait_for(state="attached")
    press(page, "Transcribe")
    text = page.locator("[role=tabpanel]:visible textarea").first
    wait_for(lambda: text.input_value() == "(no speech)")

    live = page.locator("#live")
    live.get_by_role("button", name="Record").click()
    live.get_by_role("button", name="Stop").wait_for()
    page.wait_for_timeout(1500)
    live.get_by_role("button", name="Stop").click()
    wait_for(lambda: live.locator("textarea").input_value() and not live.locator(".state").inner_text())

    open_tab(page, "Speak")
    page.locator("[role=tabpanel]:visible textarea").first.fill("12")
    press(page, "Speak")
    page.locator("#alignment img").wait_for()
    wait_for(lambda: "1 sentence" in page.locator("[role=tabpanel]:visible").first.inner_text())

    open_tab(page, "Graph")
    page.locator("#drawing img").wait_for()
    sentence = page.get_by_text("neighbours. A neighbour's colour")
    assert "Layer 0 of 4, patch in row 4, column 4" in sentence.first.inner_text()
    page.locator("#drawing img").click(position={"x": 5, "y": 5})
    page.get_by_text("patch in row 0, column 0").first.wait_for()


def wait_for(condition):
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.heavy
@pytest.mark.xdist_group("demo")
def test_files_addresses_and_large_bodies_are_refused(address):
    for path in ("/etc/passwd", "log", str(PICTURES / "dog.png")):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)
    body = b"x" * 1_200_000
    assert httpx.post(f"{address}gradio_api/queue/join", content=body).status_code == 413
    assert httpx.post(f"{address}gradio_api/queue/join", content=iter([b"{}"])).status_code == 413
    picture = {"path": "http://127.0.0.1:9/picture.png", "meta": {"_type": "gradio.FileData"}}
    with httpx.stream("POST", f"{address}gradio_api/run/classify", json={"data": [picture, "a, b", 2]}, timeout=60) as answer:
        answer.read()
    assert answer.status_code == 500
    assert "addresses are not fetched" in answer.text
