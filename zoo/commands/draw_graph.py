"""``zoo draw-graph``: plot the graph neighbours of an image patch in several layers of a Vision GNN.

Source: Han et al. 2022 (arXiv 2206.00272), figure 5.
"""

import io
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

from zoo.assembly.create import create_model
from zoo.assembly.save_load import load
from zoo.assembly.system import System
from zoo.commands.display import print_json, table
from zoo.commands.model_options import placement
from zoo.commands.plain import say
from zoo.encoders.vig import ViG
from zoo.errors import ConfigError
from zoo.evaluation.results.plots import text_as_written
from zoo.interop.base.checkpoint_directory import bundled_names
from zoo.processors.image import ImageProcessor
from zoo.registry import list_models
from zoo.storage.files import create_folder_of

DEFAULT_MODEL = "clip_vig_nano"  # bundled; trained only on handwritten digits
SUFFIXES = (".png", ".pdf", ".svg", ".jpg")


@dataclass(frozen=True)
class Edge:
    """Neighbour of a node: its row and column on ``Neighbourhood.candidate_grid``, its distance and its share of the channels."""

    row: int
    column: int
    distance: float
    share: float  # fraction of channels whose maximum over neighbours is from this one


@dataclass(frozen=True)
class Neighbourhood:
    """One node in one layer, and its neighbours, nearest first.

    Attributes:
        layer: index of the block, from 0.
        node: row and column on ``grid``.
        grid: rows and columns of the layer's nodes.
        candidate_grid: rows and columns of the nodes from which neighbours are chosen; coarser than ``grid`` in pyramid models.
    """

    layer: int
    node: tuple[int, int]
    grid: tuple[int, int]
    candidate_grid: tuple[int, int]
    edges: list[Edge]


def draw_graph_command(options: Namespace) -> int:
    """Run the command and return the exit status."""
    output = Path(options.output)
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output: {output} ends in {output.suffix or 'nothing'!r}; allowed are {' '.join(SUFFIXES)}")
    create_folder_of(output)
    encoder, processor = find_encoder(options)
    image = processor.item(options.image)
    pixels, _ = processor.collate([image])
    found = neighbourhoods(encoder, pixels, read_layers(options.layer, len(encoder.blocks)), read_nodes(options.node))
    draw(image, found, output, title=f"{Path(options.image).name}, {options.model or DEFAULT_MODEL}")
    _show(found, output, as_json=options.json)
    return 0


def find_encoder(options: Namespace) -> tuple[Any, Any]:
    """Load the Vision GNN in eval mode, and the image processor that it needs.

    Raises:
        ConfigError: the model has no Vision GNN.
        WeightsError: the weights cannot be loaded.
    """
    name, place = options.model or DEFAULT_MODEL, placement(options)
    if options.model is None:
        say(f"zoo: no --model given; using the bundled {name!r}, which was trained only on handwritten digits", file=sys.stderr)
    if options.weights is None and (name in bundled_names() or Path(name).exists()):
        model: nn.Module = load(name, **place)  # type: ignore[assignment]
    else:
        model = create_model(name, weights=options.weights, weights_parts=options.weights_parts, **place)
        if options.weights is None:
            say(f"zoo: {name} has random weights, so its graph is not meaningful; give --weights", file=sys.stderr)
    return graph_encoder(model, name)


def graph_encoder(model: Any, name: str) -> tuple[Any, Any]:
    """Return the Vision GNN of a model, and the image processor that it needs.

    Raises:
        ConfigError: the model has no Vision GNN.
    """
    encoder: Any = model.encoders["image"] if isinstance(model, System) and "image" in model.encoders else model
    if not isinstance(encoder, ViG) or encoder.image_size is None:
        raise ConfigError(f"--model: {name} has no graph; choose a model with a Vision GNN: {', '.join(list_models('*vig*'))}")
    saved = model.processor["image"] if isinstance(model, System) and model.processor is not None else None
    return encoder, saved or ImageProcessor(image_size=encoder.image_size, **encoder.preprocessing)


def read_layers(text: str | None, depth: int) -> list[int]:
    """Parse block indices: ``0,5,-1`` -> [0, 5, -1]; None selects the first, the middle and the last block.

    Raises:
        ConfigError: the text is not a list of integers.
    """
    if text is None:
        return sorted({0, depth // 2, depth - 1})
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--layer: {text!r}; give numbers separated by commas, 0 to {depth - 1}, for example --layer 0,{depth - 1}"
        ) from None


def read_nodes(texts: Sequence[str] | None) -> list[tuple[int, int]] | None:
    """Parse patch positions: ``["3,4"]`` -> ``[(3, 4)]``; None stays None and means the centre.

    Raises:
        ConfigError: a text is not ROW,COL.
    """
    nodes = []
    for text in texts or ():
        words = text.split(",")
        if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
            raise ConfigError(f"--node: {text!r}; give row and column of a patch, counted from 0 at the top left, for example --node 3,4")
        nodes.append((int(words[0]), int(words[1])))
    return nodes or None


@torch.inference_mode()
def neighbourhoods(
    encoder: Any, pixels: Tensor, layers: Sequence[int], nodes: Sequence[tuple[int, int]] | None
) -> list[list[Neighbourhood]]:
    """Return one list per node, with a neighbourhood per layer.

    Args:
        encoder: a Vision GNN (an encoder with ``graphs``).
        pixels: [1, 3, height, width].
        layers: block indices; negative ones count from the last block.
        nodes: row and column on the grid of ``layers[0]``. In a coarser layer, the node that covers this position is used. None takes
            the centre.

    Raises:
        ConfigError: a layer or a node does not exist.
    """
    graphs = encoder.graphs(pixels.to(next(encoder.parameters())), layers)  # device and type of the weights
    finest = graphs[0].grid
    rows = []
    for row, column in nodes or [(finest[0] // 2, finest[1] // 2)]:
        if row >= finest[0] or column >= finest[1]:
            raise ConfigError(
                f"--node: {row},{column} is outside the grid; layer {layers[0]}: rows 0 to {finest[0] - 1}, columns 0 to {finest[1] - 1}"
            )
        rows.append(
            [_neighbourhood(graph, layer % len(encoder.blocks), (row, column), finest) for graph, layer in zip(graphs, layers, strict=True)]
        )
    return rows


def _neighbourhood(graph: Any, layer: int, place: tuple[int, int], finest: tuple[int, int]) -> Neighbourhood:
    node = (place[0] * graph.grid[0] // finest[0], place[1] * graph.grid[1] // finest[1])
    index = node[0] * graph.grid[1] + node[1]
    columns = graph.candidate_grid[1]
    numbers = zip(graph.neighbours[0, index].tolist(), graph.distances[0, index].tolist(), graph.shares[0, index].tolist(), strict=True)
    edges = [Edge(j // columns, j % columns, distance, share) for j, distance, share in numbers]
    return Neighbourhood(layer, node, graph.grid, graph.candidate_grid, edges)


@text_as_written()
def draw(image: UInt8[Tensor, "3 height width"], rows: Sequence[Sequence[Neighbourhood]], output: Path, *, title: str) -> None:
    """Plot one panel per node and layer: the node has a white frame, its neighbours are coloured by their share of the channels."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    array = image.permute(1, 2, 0).numpy()  # [height, width, 3]
    most = max(edge.share for row in rows for found in row for edge in found.edges)
    colours = ScalarMappable(Normalize(0, most), colormaps["plasma"])
    figure = Figure(figsize=(3.6 * len(rows[0]) + 0.9, 3.9 * len(rows) + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, found in zip(panels.flat, (found for row in rows for found in row), strict=True):
        _draw_panel(axes, array, found, colours)
    figure.colorbar(colours, ax=panels, label="share of the channels taken from this neighbour", shrink=0.8)
    figure.suptitle(title)
    figure.savefig(output, dpi=130)


def draw_node(image: UInt8[Tensor, "3 height width"], found: Neighbourhood, *, width: int) -> Image.Image:
    """Draw one node and its neighbours onto the image, without a margin: a position on the drawing is the same position on the image."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    array = image.permute(1, 2, 0).numpy()  # [height, width, 3]
    colours = ScalarMappable(Normalize(0, max(edge.share for edge in found.edges)), colormaps["plasma"])
    figure = Figure(figsize=(width / 100, width / 100 * array.shape[0] / array.shape[1]), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_panel(axes, array, found, colours)
    axes.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


def _draw_panel(axes: Any, image: UInt8[np.ndarray, "height width 3"], found: Neighbourhood, colours: Any) -> None:
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    axes.imshow(image, alpha=0.75)
    node_height, node_width = height / found.grid[0], width / found.grid[1]
    x, y = (found.node[1] + 0.5) * node_width, (found.node[0] + 0.5) * node_height
    cell_height, cell_width = height / found.candidate_grid[0], width / found.candidate_grid[1]
    for edge in sorted(found.edges, key=lambda edge: edge.share):  # draw the strongest last, on top
        colour, strength = colours.to_rgba(edge.share), edge.share / colours.norm.vmax
        left, top = edge.column * cell_width, edge.row * cell_height
        axes.add_patch(Rectangle((left, top), cell_width, cell_height, facecolor=(*colour[:3], 0.45), edgecolor=colour, linewidth=1.5))
        axes.plot([x, left + cell_width / 2], [y, top + cell_height / 2], color=colour, linewidth=0.8 + 2.5 * strength)
    corner = (found.node[1] * node_width, found.node[0] * node_height)
    axes.add_patch(Rectangle(corner, node_width, node_height, fill=False, edgecolor="black", linewidth=4))
    axes.add_patch(Rectangle(corner, node_width, node_height, fill=False, edgecolor="white", linewidth=2))
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_title(f"layer {found.layer}, node {found.node[0]},{found.node[1]}: {len(found.edges)} neighbours", fontsize=10)


def _show(rows: Sequence[Sequence[Neighbourhood]], output: Path, *, as_json: bool) -> None:
    flat = [found for row in rows for found in row]
    if as_json:
        for found in flat:
            print_json({**vars(found), "edges": [vars(edge) for edge in found.edges], "output": str(output)})
        return
    for found in flat:
        lines = [[f"{e.row},{e.column}", f"{max(0.0, e.distance):.3f}", f"{100 * e.share:.1f} %"] for e in found.edges]
        table(f"layer {found.layer}, node {found.node[0]},{found.node[1]}", ["neighbour", "distance", "share of channels"], lines)
    say(f"written: {output}")
