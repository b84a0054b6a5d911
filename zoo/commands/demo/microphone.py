"""Live text of a microphone: our own recorder on the page, and the functions of the server that it calls.

Gradio's streaming microphone replaces a piece of sound that the server has not taken by the next one. Here the page keeps the sound and
sends it in numbered pieces, one request at a time. It repeats a piece whose answer was lost, so every sample arrives once and in order.
"""

import base64
import binascii
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from zoo.commands.demo.faults import text_of
from zoo.commands.demo.live import LiveSession
from zoo.errors import DataError
from zoo.language.transcription.live import RATE_HZ
from zoo.processors.media.audio_file import resample
from zoo.storage.checked import check
from zoo.types import Transcript

MOST = 8  # microphones in use at once
IDLE_S = 60.0  # without a piece for so long, a page has gone
RATES_HZ = (8_000, 192_000)
LONGEST_ID = 64  # characters


class Piece(TypedDict, total=False):
    """Message of the page: ``sound`` holds 16-bit samples in base64, absent at the end of a recording."""

    session: str
    number: int
    rate: int
    sound: str


@dataclass
class Microphone:
    """One recording: its text, and the number of the piece that comes next."""

    live: LiveSession
    expected: int = 0
    used: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Microphones:
    """Recordings in progress, by the id that a page has drawn.

    Args:
        start: begins a recording.
        text_of_live: text of a recording in progress.
        ended: what the page shows of a finished recording: the keys ``text`` and ``subtitles``.
    """

    def __init__(
        self, start: Callable[[], LiveSession], text_of_live: Callable[[LiveSession], str], ended: Callable[[Transcript], dict[str, str]]
    ) -> None:
        self._start, self._text_of_live, self._ended = start, text_of_live, ended
        self._open: dict[str, Microphone] = {}
        self._lock = threading.Lock()

    def hear(self, piece: Any) -> dict[str, str]:
        """Take a piece of sound, and return the text so far, or ``error``."""
        return self._answer(piece, self._hear)

    def end(self, piece: Any) -> dict[str, str]:
        """End a recording, and return its text and subtitles, or ``error``."""
        return self._answer(piece, self._end)

    def _answer(self, piece: Any, act: Callable[[Piece], dict[str, str]]) -> dict[str, str]:
        try:
            return act(check(piece, Piece, "microphone", DataError, "load the page again"))
        except Exception as error:  # the page shows a sentence for every fault
            if isinstance(piece, dict):
                self._open.pop(str(piece.get("session")), None)
            return {"error": text_of(error)}

    def _hear(self, piece: Piece) -> dict[str, str]:
        microphone = self._find(piece)
        with microphone.lock:
            number = piece.get("number", -1)
            if number > microphone.expected or number < 0:
                raise DataError(f"microphone: got piece {number}, but piece {microphone.expected} is missing; record again")
            if number == microphone.expected:  # a smaller number is a repetition
                microphone.live.take(_samples(piece))
                microphone.expected += 1
            microphone.used = time.monotonic()
        return {"text": self._text_of_live(microphone.live)}

    def _end(self, piece: Piece) -> dict[str, str]:
        microphone = self._find(piece)
        with microphone.lock:
            found = microphone.live.finish()
        self._open.pop(piece.get("session", ""), None)
        return self._ended(found)

    def _find(self, piece: Piece) -> Microphone:
        """Return the recording of a piece; the first piece begins one.

        Raises:
            DataError: the id is not allowed, or too many pages record.
        """
        session = piece.get("session", "")
        if not 0 < len(session) <= LONGEST_ID:
            raise DataError(f"microphone: the id of a recording has 1 to {LONGEST_ID} characters, got {len(session)}; load the page again")
        with self._lock:
            now = time.monotonic()
            for name in [name for name, each in self._open.items() if now - each.used > IDLE_S]:
                del self._open[name]
            if session not in self._open:
                if len(self._open) >= MOST:
                    raise DataError(f"microphone: {MOST} pages record already; try again later")
                self._open[session] = Microphone(self._start())
            return self._open[session]


def _samples(piece: Piece) -> np.ndarray:
    """Return the samples of a piece at the rate of Whisper."""
    rate = piece.get("rate", 0)
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise DataError(f"microphone: sample rate {rate}; allowed is {RATES_HZ[0]} to {RATES_HZ[1]} Hz")
    try:
        numbers = np.frombuffer(base64.b64decode(piece.get("sound", ""), validate=True), dtype="<i2")
    except (binascii.Error, ValueError) as error:
        raise DataError(f"microphone: the sound is not base64 of 16-bit samples ({error}); load the page again") from error
    return resample(numbers.astype(np.float32) / 32768, rate, RATE_HZ)


HTML = """
<div class="live">
  <button type="button" class="record">Record</button> <span class="state" role="status"></span>
  <textarea rows="8" readonly aria-label="Live text"></textarea>
  <a class="subtitles" download="live.srt" hidden>Subtitles (SRT)</a>
</div>
"""
CSS = """
.record {padding: 6px 16px; border: 1px solid var(--border-color-primary); border-radius: var(--radius-md)}
textarea {width: 100%; margin: 8px 0; padding: 8px; color: var(--body-text-color); background: var(--input-background-fill);
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-md)}
a {text-decoration: underline}
"""
# `element`, `server`: see gradio.HTML. The audio thread posts blocks of 128 samples, which no busy page delays or drops.
SCRIPT = """
const [button, state, text, link] = ['.record', '.state', 'textarea', '.subtitles'].map((name) => element.querySelector(name));
const TAP = `registerProcessor('tap', class extends AudioWorkletProcessor {
  process(inputs) { if (inputs[0].length) this.port.postMessage(inputs[0][0].slice()); return true; }
})`;
const LEAST_S = 1, MOST_S = 8, TRIES = 5;  // sound of one request
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
let recording = false, waiting = [];

function encoded(limit) {  // removes at most `limit` samples
  const blocks = [];
  for (let count = 0; waiting.length && count < limit; count += blocks.at(-1).length) blocks.push(waiting.shift());
  const bytes = new DataView(new ArrayBuffer(2 * blocks.reduce((sum, block) => sum + block.length, 0)));
  let place = 0;
  for (const block of blocks) for (const value of block) {
    bytes.setInt16(place, Math.max(-32768, Math.min(32767, Math.round(32768 * value))), true);
    place += 2;
  }
  let letters = '';
  const all = new Uint8Array(bytes.buffer);
  for (let from = 0; from < all.length; from += 8192) letters += String.fromCharCode(...all.subarray(from, from + 8192));
  return btoa(letters);
}

async function ask(name, piece) {
  for (let number = 1; ; number++) {
    let found;
    try { found = await server[name](piece); }
    catch (fault) {
      if (number >= TRIES) throw new Error('zoo demo does not answer');
      await sleep(number);
      continue;
    }
    if (found.error) throw new Error(found.error);
    return found;
  }
}

async function record() {
  link.hidden = true; text.value = ''; waiting = [];
  if (!navigator.mediaDevices) throw new Error('browsers allow the microphone only on 127.0.0.1, localhost and https://');
  const stream = await navigator.mediaDevices.getUserMedia({audio: {channelCount: 1}});
  const context = new AudioContext();
  try {
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([TAP], {type: 'text/javascript'})));
    const tap = new AudioWorkletNode(context, 'tap');
    tap.port.onmessage = (message) => waiting.push(message.data);
    context.createMediaStreamSource(stream).connect(tap).connect(context.destination);  // the tap gives silence
    const rate = context.sampleRate, session = crypto.randomUUID();
    recording = true; button.textContent = 'Stop'; button.disabled = false; state.textContent = 'recording';
    let number = 0, open = true;
    while (open || waiting.length) {
      if (open && !recording) {
        stream.getTracks().forEach((track) => track.stop());
        await context.suspend(); await sleep(0.1);  // the last blocks arrive
        open = false; state.textContent = 'transcribing the rest'; button.disabled = true;
      }
      const ready = waiting.reduce((sum, block) => sum + block.length, 0);
      if (open && ready < LEAST_S * rate) { await sleep(0.1); continue; }
      if (ready) text.value = (await ask('hear', {session, number: number++, rate, sound: encoded(MOST_S * rate)})).text;
    }
    const found = await ask('end', {session});
    text.value = found.text;
    if (found.subtitles) { link.href = URL.createObjectURL(new Blob([found.subtitles], {type: 'text/plain'})); link.hidden = false; }
    state.textContent = '';
  } finally {
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
  }
}

button.addEventListener('click', async () => {
  if (recording) { recording = false; return; }
  button.disabled = true; state.textContent = 'allow the page to use the microphone';
  try { await record(); }
  catch (fault) { state.textContent = fault.message; }
  recording = false; button.textContent = 'Record'; button.disabled = false;
});
"""


def add_microphone(gradio: Any, microphones: Microphones) -> None:
    """Add the recorder to the page."""

    def hear(piece: Any) -> dict[str, str]:
        return microphones.hear(piece)

    def end(piece: Any) -> dict[str, str]:
        return microphones.end(piece)

    gradio.Markdown("**Live: text while you speak.** The text of the last seconds may still change.")
    gradio.HTML(html_template=HTML, css_template=CSS, js_on_load=SCRIPT, server_functions=[hear, end], elem_id="live")
