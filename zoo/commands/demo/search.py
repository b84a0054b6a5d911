"""Tab "Search": an index that ``zoo embed`` wrote, searched with a text or a picture."""

from pathlib import Path
from typing import Any

from PIL import Image

from zoo.commands.demo.faults import on_page
from zoo.commands.demo.tab import Tab
from zoo.commands.index.search_report import Hit
from zoo.errors import DataError
from zoo.processors.media.image_file import IMAGE_SUFFIXES, open_image

THUMBNAIL = 320  # pixels


def add_search(tab: Tab) -> None:
    """Add the components and events."""
    gradio = tab.gradio

    @on_page
    def search(text: str, path: str | None, top_k: float) -> tuple[Any, Any, str]:
        if bool(text.strip()) == (path is not None):
            raise DataError("search: give a text or a picture, but not both")
        query: Any = text if path is None else tab.read_picture(path)
        with tab.model.held() as searcher:
            hits = searcher.search(query, modality="text" if path is None else "image", top_k=int(top_k))
            manifest, count = searcher.index.manifest, len(searcher.index)
        pictures = [
            (found, f"{each.score:.3f}  {_name(each, manifest.origin)}") for each in hits if (found := _thumbnail(each)) is not None
        ]
        rows = [[_name(each, manifest.origin), round(each.score, 4)] for each in hits]
        shown = f"{len(hits)} of {count} items, the most similar first."
        if manifest.modality == "image" and len(pictures) < len(hits):
            shown += f" {len(hits) - len(pictures)} pictures were moved or cannot be read."
        return gradio.Gallery(pictures, visible=bool(pictures)), gradio.Dataframe(rows, visible=True), shown

    gradio.Markdown(f"Index: {tab.model.name}")
    with gradio.Row():
        with gradio.Column():
            text = gradio.Textbox(label="Text", placeholder="a dog on the beach")
            top_k = gradio.Slider(1, 50, value=10, step=1, label="Items shown")
            button = gradio.Button("Search", variant="primary")
        picture = tab.picture("Or a picture")
    shown = gradio.Markdown()
    gallery = gradio.Gallery(label="Pictures", visible=False, columns=3, height="auto", object_fit="contain", buttons=[])
    table = gradio.Dataframe(headers=["item", "similarity"], datatype=["str", "number"], label="Items", visible=False, interactive=False)
    gradio.on([button.click, text.submit], search, [text, picture, top_k], [gallery, table, shown])


def _name(hit: Hit, origin: str) -> str:
    """Return a file's path below the embedded folder: the page shows no other paths of this machine."""
    path = Path(hit.name)
    return str(path.relative_to(origin)) if hit.is_file and path.is_relative_to(origin) else path.name if hit.is_file else hit.name


def _thumbnail(hit: Hit) -> Image.Image | None:
    """Return a small copy of a picture; None if the hit is none, or it cannot be read any more."""
    if not hit.is_file or Path(hit.name).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    try:
        image = open_image(hit.name)
    except DataError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
