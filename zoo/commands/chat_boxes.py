"""Answers that name places (Kosmos-2): asked for with ``<grounding>``, read without their tags, drawn into the picture."""

import io
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, DataError
from zoo.processors.chat.grounding import GROUNDING, Phrase, draw_boxes, read_boxes
from zoo.processors.media.image_file import open_image
from zoo.storage.files import write_whole


class Boxes:
    """Where answers' boxes are drawn.

    Args:
        system: the model that is asked.
        output: the picture, ``.png`` or ``.jpg``; each answer with boxes writes it anew.

    Raises:
        ConfigError: the model has no location tokens.
        DataError: the output is no picture's name, or its folder is not there.
    """

    def __init__(self, system: Any, output: Path) -> None:
        tokenizer = getattr(system.processor["conversation"], "tokenizer", None)
        if tokenizer is None or tokenizer.token_to_id(GROUNDING) is None:
            raise ConfigError(f"this model has no token {GROUNDING} and names no places; leave --boxes out, or take a Kosmos-2")
        if output.suffix.lower() not in (".png", ".jpg", ".jpeg") or not output.parent.is_dir():
            raise DataError(f"--boxes {output}: name a picture that ends in .png or .jpg, in a folder that is there")
        self.output = output

    def ask_for(self, text: str) -> str:
        """A question that wants places in its answer."""
        return text if text.lstrip().startswith(GROUNDING) else f"{GROUNDING} {text}"

    def take(self, answer: str, picture: str | None) -> tuple[str, list[Phrase]]:
        """An answer without tags, and its phrases with their boxes, which are drawn where there is a picture.

        Args:
            picture: the file that was shown last.

        Raises:
            DataError: the drawing cannot be written.
        """
        plain, phrases = read_boxes(answer)
        if phrases and picture is not None:
            drawn = draw_boxes(open_image(picture), phrases)
            drawn.save(file := io.BytesIO(), format="PNG" if self.output.suffix.lower() == ".png" else "JPEG")
            write_whole(self.output, file.getvalue())
        return plain, phrases


def lines_of(phrases: list[Phrase]) -> list[str]:
    """What a terminal shows of them: ``a fire: left 0.17, top 0.02, right 0.48, bottom 0.89``, shares of width and height."""
    names = ("left", "top", "right", "bottom")
    return [
        f"{phrase.text or '(no phrase)'}: " + ", ".join(f"{name} {share:.2f}" for name, share in zip(names, box, strict=True))
        for phrase in phrases
        for box in phrase.boxes
    ]
