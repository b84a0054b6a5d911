"""Parts that the tabs share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from zoo.commands.demo.models import LazyModel, title_of
from zoo.commands.serve.limits import Limits
from zoo.errors import DataError
from zoo.processors.media.image_file import open_image


@dataclass(frozen=True)
class Tab:
    """Tab while it is built.

    Attributes:
        gradio: the module, imported after its environment variables are set.
        area: the component ``gradio.Tab``.
        model: of the tab.
        limits: of uploads, texts and answers.
        folder: for files that the page offers to download.
        is_given: True if the command line names the model.
    """

    gradio: Any
    area: Any
    model: LazyModel
    limits: Limits
    folder: Path
    is_given: bool

    def show_title(self) -> None:
        """Add the line about the model."""
        self.gradio.Markdown(title_of(self.model))

    def picture(self, label: str, **options: Any) -> Any:
        """Add a field for a picture; events receive the path of the upload, which ``read_picture`` reads."""
        return _as_path(
            self.gradio.Image(label=label, type="filepath", buttons=[], sources=["upload", "webcam", "clipboard"], height=300, **options)
        )

    def recording(self, label: str, **options: Any) -> Any:
        """Add a field for a recording; events receive the path of the upload."""
        return _as_path(self.gradio.Audio(label=label, type="filepath", buttons=[], **options))

    def read_picture(self, path: str | None) -> Image.Image:
        """Read an uploaded picture.

        Raises:
            DataError: there is none, or it cannot be read, or it is too large.
        """
        if path is None:
            raise DataError("there is no picture; choose one")
        return open_image(Path(path).read_bytes(), name=Path(path).name, max_pixels=self.limits.max_pixels)


def _as_path(component: Any) -> Any:
    """Let events receive the path of an upload: Gradio would decode it first, with other formats and messages than ours."""
    path_of: Callable[[Any], str | None] = lambda payload: None if payload is None else payload.path  # noqa: E731
    component.preprocess = path_of
    return component
