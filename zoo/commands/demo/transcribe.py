"""Tab "Transcribe": a recording or the microphone to text, with subtitles to download, and live text."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from zoo.commands.demo.faults import on_page
from zoo.commands.demo.live import LiveSession
from zoo.commands.demo.microphone import Microphones, add_microphone
from zoo.commands.demo.tab import Tab
from zoo.errors import ConfigError, DataError
from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.settings import Settings
from zoo.language.transcription.subtitles import Layout
from zoo.language.transcription.transcribe import recogniser_of
from zoo.language.transcription.windows import transcribe_each
from zoo.language.transcription.writers import format_time, written
from zoo.processors.media.audio_file import read_audio
from zoo.types import Segment, Transcript, verbs_of

SILENCE = "(no speech)"


def add_transcribe(tab: Tab) -> None:
    """Add the components and events."""
    gradio = tab.gradio

    def transcribe(path: str | None, progress: Any = gradio.Progress()) -> tuple[str, Any]:  # noqa: B008  # Gradio looks for this default
        if path is None:
            raise DataError("there is no recording; choose a file, or record one")
        deadline = time.monotonic() + tab.limits.timeout

        def on_progress(_: int, done: float, total: float) -> None:
            if time.monotonic() > deadline:
                raise DataError(f"the recording took longer than {tab.limits.timeout:g} s to transcribe; give a shorter one")
            progress(min(1.0, done / total) if total else 0.0, desc="transcribe")

        sound = read_audio(Path(path).read_bytes(), max_seconds=tab.limits.max_audio_seconds)
        with tab.model.held() as model:
            _, found = next(transcribe_each(_recogniser(tab, model), [sound], on_progress=on_progress))
        if isinstance(found, DataError):
            raise found
        return _lines(found.segments) or SILENCE, _download(tab, found)

    tab.show_title()
    with gradio.Row():
        with gradio.Column():
            recording = tab.recording("File or microphone", sources=["upload", "microphone"])
            button = gradio.Button("Transcribe", variant="primary")
        with gradio.Column():
            text = gradio.Textbox(label="Text", lines=10, max_lines=20, interactive=False)
            subtitles = gradio.DownloadButton("Subtitles (SRT)", visible=False)
    button.click(on_page(transcribe), recording, [text, subtitles])
    start = partial(LiveSession, tab.model, partial(_recogniser, tab), tab.limits.max_audio_seconds)
    add_microphone(gradio, Microphones(start, _text_so_far, _finished))


def _text_so_far(session: LiveSession) -> str:
    return "\n".join(filter(None, [_lines(session.segments), session.open_text]))


def _finished(transcript: Transcript) -> dict[str, str]:
    """Return the text of a live recording for the page, and its subtitles; empty if there was no speech."""
    text = _lines(transcript.segments)
    return {"text": text or SILENCE, "subtitles": written("srt", transcript, Layout()) if text else ""}


def _recogniser(tab: Tab, model: Any) -> Recogniser:
    """Return a recogniser of the model.

    Raises:
        ConfigError: the model cannot transcribe.
    """
    if "transcribe" not in verbs_of(model):
        raise ConfigError(f"{tab.model.name} cannot transcribe; start zoo demo with a Whisper: --model transcribe=M")
    return recogniser_of(model, Settings())


def _lines(segments: list[Segment]) -> str:
    return "\n".join(
        f"[{format_time(each.start)} --> {format_time(each.end)}] {each.text.strip()}" for each in segments if each.text.strip()
    )


def _download(tab: Tab, transcript: Transcript) -> Any:
    """Return the button with a file of subtitles; it is hidden if nothing was said."""
    if not any(each.text.strip() for each in transcript.segments):
        return tab.gradio.DownloadButton(visible=False)
    path = Path(tempfile.mkdtemp(dir=tab.folder)) / "transcript.srt"
    path.write_text(written("srt", transcript, Layout()), encoding="utf-8")
    return tab.gradio.DownloadButton(value=str(path), visible=True)
