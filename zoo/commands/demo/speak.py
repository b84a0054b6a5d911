"""Tab "Speak": text to speech, with the alignment of the attention."""

import io
import time
from typing import Any

from PIL import Image

from zoo.commands.demo.faults import on_page
from zoo.commands.demo.tab import Tab
from zoo.commands.speak import joined, num_sentences, plan_speech
from zoo.errors import ConfigError, DataError
from zoo.evaluation.results.html_report import draw_speech, wav_of
from zoo.types import Speech, verbs_of

DRAWN = 6  # sentences whose alignment is drawn
EXAMPLE = "4307. 2019."  # the bundled voice says numbers


def add_speak(tab: Tab) -> None:
    """Add the components and events."""
    gradio = tab.gradio

    @on_page
    def speak(text: str, speaker: float | None) -> tuple[bytes, Image.Image, str]:
        if len(text) > tab.limits.max_characters:
            raise DataError(f"the text has {len(text)} characters; at most {tab.limits.max_characters} are allowed")
        deadline = time.monotonic() + tab.limits.timeout
        with tab.model.held() as model:
            if "synthesize" not in verbs_of(model):
                raise ConfigError(f"{tab.model.name} cannot speak; start zoo demo with a Tacotron: --model speak=M")
            plan = plan_speech(text, model.processor["text"])
            if not plan.pieces:
                raise DataError("the text holds nothing that can be spoken; write words or numbers in Latin letters")
            speeches: list[Speech] = []
            for _, piece in plan.pieces:
                if time.monotonic() > deadline:
                    raise DataError(f"the text took longer than {tab.limits.timeout:g} s to speak; give a shorter one")
                number = None if speaker is None else int(speaker)
                speeches += model.synthesize([piece], max_seconds=tab.limits.max_sentence_seconds, speaker=number)
        file = io.BytesIO()
        draw_speech(speeches[:DRAWN], file)
        sound = wav_of(joined(speeches).numpy(), speeches[0].sample_rate_hz)
        return sound, Image.open(file), _summary(speeches, plan.left_out)

    tab.show_title()
    with gradio.Row():
        with gradio.Column():
            text = gradio.Textbox("" if tab.is_given else EXAMPLE, label="Text", lines=3)
            speaker = gradio.Number(
                None, label="Speaker", info="For a model with several voices.", precision=0, minimum=0, visible=tab.is_given
            )
            button = gradio.Button("Speak", variant="primary")
        with gradio.Column():
            sound = gradio.Audio(label="Speech", interactive=False, buttons=["download"])
            summary = gradio.Markdown()
    gradio.Markdown("Alignment: the character that each step attends to. A line from corner to corner is right.")
    alignment = gradio.Image(show_label=False, interactive=False, buttons=["fullscreen"], elem_id="alignment")
    gradio.on([button.click], speak, [text, speaker], [sound, alignment, summary])


def _summary(speeches: list[Speech], left_out: list[Any]) -> str:
    seconds = sum(speech.seconds for speech in speeches)
    lines = [
        f"{seconds:.1f} s, {num_sentences(len(speeches))}" + (f"; the alignment of the first {DRAWN}" if len(speeches) > DRAWN else "")
    ]
    failed = sum(bool(speech.faults) for speech in speeches)
    if failed:
        lines.append(f"{failed} with a failed alignment: words may be missing or repeated.")
    if left_out:
        lines.append(f"Not spoken, at least in part: {len(left_out)} sentences hold symbols that the model does not know.")
    return "\n\n".join(lines)
