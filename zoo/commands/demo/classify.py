"""Tab "Classify": a picture, labels of the user's own, and a bar for each of the most probable."""

import re

from zoo.commands.classify import find_scorer
from zoo.commands.demo.faults import on_page
from zoo.commands.demo.tab import Tab
from zoo.data.zero_shot_prompts import DEFAULT_TEMPLATES, plain_labels
from zoo.errors import ConfigError, DataError
from zoo.storage.places import packaged_directory
from zoo.types import is_system

LABELS = "a dog, a pizza, a guitar, an octopus, an airplane"
TOP_K = 5


def add_classify(tab: Tab) -> None:
    """Add the components and events."""
    gradio = tab.gradio

    @on_page
    def classify(path: str | None, text: str, top_k: float) -> dict[str, float]:
        picture = tab.read_picture(path)
        words = [word.strip() for word in re.split(r"[,\n]", text)] if text.strip() else None
        if words is not None and len(words) * len(DEFAULT_TEMPLATES) > tab.limits.max_inputs:
            raise DataError(f"labels: {len(words)} are too many; at most {tab.limits.max_inputs // len(DEFAULT_TEMPLATES)} are allowed")
        labels = None if words is None else plain_labels(words, "labels")
        with tab.model.held() as model:
            if not is_system(model) or model.processor is None or "image" not in model.processor.parts:
                raise ConfigError(f"{tab.model.name} cannot classify pictures; start zoo demo with another --model classify=M")
            if labels is None and "class_vectors" in model.head.verbs:
                raise DataError("labels: empty; write some, separated by commas")
            names, score = find_scorer(model, labels, DEFAULT_TEMPLATES, tab.model.name)
            part = model.processor["image"]
            found = score(part.ready([part.item(picture)]))[0].float().cpu()
        best = found.topk(min(int(top_k), len(names)))
        return {names[int(i)]: p for i, p in zip(best.indices, best.values.tolist(), strict=True)}

    tab.show_title()
    with gradio.Row():
        with gradio.Column():
            picture = tab.picture("Picture")
            text = gradio.Textbox(
                "" if tab.is_given else LABELS, label="Labels, separated by commas", info="Leave empty for a classifier with fixed classes."
            )
            top_k = gradio.Slider(1, 20, value=TOP_K, step=1, label="Labels shown")
            button = gradio.Button("Classify", variant="primary")
        with gradio.Column():
            bars = gradio.Label(label="Probabilities", num_top_classes=20)
    gradio.Examples([str(path) for path in sorted((packaged_directory("assets") / "pictures").glob("*.png"))], picture)
    gradio.on([button.click, text.submit], classify, [picture, text, top_k], bars)
