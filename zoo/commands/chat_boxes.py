"""Bounding boxes in chat answers (Kosmos-2): request them with ``<grounding>``, parse them, draw them onto the image."""

import io
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, DataError
from zoo.processors.chat.grounding import GROUNDING, Phrase, draw_boxes, read_boxes
from zoo.processors.media.image_file import open_image
from zoo.storage.files import create_folder_of, write_whole


class Boxes:
    """Parser and drawing of the bounding boxes in a model's answers.

    Args:
        system: the chat model.
        output: image file to write, ``.png`` or ``.jpg``; each answer with boxes replaces it.

    Raises:
        ConfigError: the model has no location tokens.
        DataError: the output is not a ``.png`` or ``.jpg`` file, or its folder cannot be created.
    """

    def __init__(self, system: Any, output: Path) -> None:
        tokenizer = system.processor["conversation"].tokenizer
        if tokenizer is None or tokenizer.token_to_id(GROUNDING) is None:
            raise ConfigError(f"--boxes: this model has no token {GROUNDING}, so it predicts no boxes; omit --boxes, or use a Kosmos-2")
        if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise DataError(f"--boxes: {output} ends in {output.suffix or 'no suffix'}; give an image file that ends in .png or .jpg")
        create_folder_of(output, "--boxes")
        self.output = output

    def ask_for(self, text: str) -> str:
        """Prefix a question with ``<grounding>``, which makes Kosmos-2 put bounding boxes into its answer."""
        return text if text.lstrip().startswith(GROUNDING) else f"{GROUNDING} {text}"

    def take(self, answer: str, image: str | None) -> tuple[str, list[Phrase]]:
        """Parse an answer and draw its boxes onto the image, if there is one.

        Args:
            answer: text of the model, with location tokens.
            image: path of the last image in the conversation; None draws nothing.

        Returns:
            The answer without tags, and its phrases with their boxes.

        Raises:
            DataError: the drawing cannot be written.
        """
        plain, phrases = read_boxes(answer)
        if phrases and image is not None:
            drawn = draw_boxes(open_image(image), phrases)
            drawn.save(file := io.BytesIO(), format="PNG" if self.output.suffix.lower() == ".png" else "JPEG")
            write_whole(self.output, file.getvalue())
        return plain, phrases


def lines_of(phrases: list[Phrase]) -> list[str]:
    """Format boxes for a terminal: ``a fire: left 0.17, top 0.02, right 0.48, bottom 0.89``, as fractions of width and height."""
    names = ("left", "top", "right", "bottom")
    return [
        f"{phrase.text or '(no phrase)'}: " + ", ".join(f"{name} {share:.2f}" for name, share in zip(names, box, strict=True))
        for phrase in phrases
        for box in phrase.boxes
    ]
