"""Tab "Graph": the neighbours of an image patch in a Vision GNN; a click chooses the patch."""

from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from zoo.commands.demo.faults import on_page
from zoo.commands.demo.tab import Tab
from zoo.commands.draw_graph import Neighbourhood, draw_node, graph_encoder, neighbourhoods
from zoo.storage.places import packaged_directory

WIDTH = 480  # pixels of the drawing
EXAMPLE = "samples/digit_81.png"  # the bundled model knows digits


@dataclass(frozen=True)
class Chosen:
    """Patch that is drawn.

    Attributes:
        node: row and column on ``grid``.
        grid: rows and columns of the patches of the first layer.
        size: width and height of the drawing in pixels.
    """

    node: tuple[int, int]
    grid: tuple[int, int]
    size: tuple[int, int]


def add_graph(tab: Tab) -> None:
    """Add the components and events."""
    gradio = tab.gradio

    def draw(path: str | None, layer: float, chosen: Chosen | None) -> tuple[Image.Image, list[list[Any]], str, Any, Chosen]:
        picture = tab.read_picture(path)
        with tab.model.held() as model:
            encoder, processor = graph_encoder(model, tab.model.name)
            depth = len(encoder.blocks)
            image = processor.item(picture)
            pixels, _ = processor.collate([image])
            number = min(int(layer), depth - 1)
            ((first, found),) = neighbourhoods(encoder, pixels, [0, number], None if chosen is None else [chosen.node])
        drawing = draw_node(image, found, width=WIDTH)
        chosen = Chosen(first.node, first.grid, drawing.size)
        slider = gradio.Slider(maximum=max(1, depth - 1), value=number, interactive=depth > 1)
        return drawing, _rows(found), _sentence(found, depth), slider, chosen

    def draw_centre(path: str | None, layer: float) -> tuple[Image.Image | None, list[list[Any]], str, Any, Chosen | None]:
        return draw(path, layer, None) if path is not None else (None, [], "", gradio.skip(), None)

    def draw_clicked(path: str | None, layer: float, chosen: Chosen, event: gradio.SelectData) -> Any:  # pyright: ignore[reportInvalidTypeForm]  # Gradio reads it
        (x, y), (width, height), (rows, columns) = event.index, chosen.size, chosen.grid
        node = (min(int(y * rows / height), rows - 1), min(int(x * columns / width), columns - 1))
        return draw(path, layer, replace(chosen, node=node))

    tab.show_title()
    with gradio.Row():
        with gradio.Column():
            picture = tab.picture("Picture", value=str(packaged_directory("assets") / EXAMPLE))
            layer = gradio.Slider(0, 1, value=0, step=1, label="Layer")
            sentence = gradio.Markdown("Click on a patch of the drawing to see its neighbours.")
        drawing = gradio.Image(show_label=False, interactive=False, buttons=[], elem_classes="drawing", elem_id="drawing")
    table = gradio.Dataframe(
        headers=["row", "column", "distance", "share"], datatype="number", label="Neighbours, nearest first", interactive=False
    )
    chosen = gradio.State(None)
    shown = [drawing, table, sentence, layer, chosen]
    gradio.on([tab.area.select, picture.change], on_page(draw_centre), [picture, layer], shown)
    layer.release(on_page(draw), [picture, layer, chosen], shown)
    drawing.select(on_page(draw_clicked), [picture, layer, chosen], shown)


def _rows(found: Neighbourhood) -> list[list[Any]]:
    return [[edge.row, edge.column, round(edge.distance, 3), round(edge.share, 3)] for edge in found.edges]


def _sentence(found: Neighbourhood, depth: int) -> str:
    return (
        f"Layer {found.layer} of {depth}, patch in row {found.node[0]}, column {found.node[1]} of {found.grid[0]} x {found.grid[1]}: "
        f"{len(found.edges)} neighbours. A neighbour's colour is its share: the part of the channels that is taken from it. "
        "Click on another patch."
    )
