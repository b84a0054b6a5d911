"""Join the trained model of drawings with an ImageNet classifier: the bundled image-text model ``clip_photos_minilm``.

    python scripts/fuse_photos.py TRAINED EFFICIENTNET NOUNS DIRECTORY [--powers P Q] [--level L] [--scale S]

TRAINED is the run of ``experiment=clip_dinov2_minilm``, EFFICIENTNET and NOUNS are ``$(zoo fetch efficientnet_lite0)`` and
``$(zoo fetch wordnet)/data.noun``. Nothing is trained here: the classifier's names, with broader words of WordNet, get vectors of the
trained text encoder, and the two numbers of the gate for each member are arguments.
"""

import argparse
import math
from pathlib import Path
from typing import cast

import torch

import zoo
from zoo.assembly.joined import semantic_encoder
from zoo.assembly.system import System
from zoo.encoders.fusion import Fusion

MEMBERS = ("drawings", "classifier")
# Chosen among 400 settings by 146 photos of packages and by Twemoji: photos and drawings both as right as possible. The trained tower's
# vectors are longer for photos (median 510, drawings 280), so a negative power trusts it less there.
POWERS = (-1.5, 4.0)
LEVEL = math.log(0.85 * 350**1.5)
SCALE = 30.0  # gives about the lowest cross entropy on the same items


def nouns(path: Path) -> dict[str, tuple[list[str], str | None]]:
    """Return words and broader meaning of each meaning in WordNet's ``data.noun`` (format: wndb(5WN)), by its number."""
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields = line.split(" ")
        end = 4 + 2 * int(fields[3], 16)
        pointers = [fields[end + 1 + 4 * i : end + 3 + 4 * i] for i in range(int(fields[end]))]
        broader = next((target for sign, target in pointers if sign in ("@", "@i")), None)
        found[fields[0]] = [word.replace("_", " ") for word in fields[4:end:2]], broader
    return found


def texts_of(synset: str, table: dict[str, tuple[list[str], str | None]]) -> list[str]:
    """Return texts for a class: its words, all of them, and its first word before two and four broader ones."""
    words, broader = table[synset[1:]]
    chain = []
    while broader is not None:
        above, broader = table[broader]
        chain.append(above[0])
    return [*words, ", ".join(words), ", ".join([words[0], *chain[:2]]), ", ".join([words[0], *chain[:4]])]


def join(trained: System, classifier: System, texts: list[list[str]], options: argparse.Namespace) -> System:
    """Return the system with the fused image encoder; its head keeps the trained projection beside the text encoder's own vector."""
    system = zoo.create_system("clip_photos_minilm")
    fusion, image, text = cast(Fusion, system.encoders["image"]), trained.encoders["image"], trained.encoders["text"]
    fusion.encoders[0].load_state_dict(image.state_dict())
    semantic = semantic_encoder(classifier, trained, texts=texts)
    fusion.encoders[1].load_state_dict(semantic.state_dict())
    fusion.gate.load_state_dict({"level": torch.tensor([options.level, 0.0]), "power": torch.tensor(options.powers)})
    system.encoders["text"].load_state_dict(text.state_dict())
    system.head.get_submodule("projections.text.inner").load_state_dict(trained.head.get_submodule("projections.text").state_dict())
    system.head.load_state_dict({"logit_scale": torch.tensor(math.log(options.scale))}, strict=False)
    own = trained.processor
    assert own is not None and system.processor is not None
    system.use_processor(type(own)({"image": system.processor["image"], "text": own["text"]}))
    return system.eval()


def main() -> None:
    """Read the arguments, join and save as int8."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained")
    parser.add_argument("classifier")
    parser.add_argument("nouns", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--powers", type=float, nargs=2, default=POWERS, help=f"of the lengths of {' and '.join(MEMBERS)}")
    parser.add_argument("--level", type=float, default=LEVEL, help="logarithm of the weight of the drawings")
    parser.add_argument("--scale", type=float, default=SCALE, help="factor on the cosines")
    options = parser.parse_args()
    from timm.data import ImageNetInfo  # type: ignore[import-not-found]

    table = nouns(options.nouns)
    texts = [texts_of(synset, table) for synset in ImageNetInfo().label_names()]
    system = join(cast(System, zoo.load(options.trained)), cast(System, zoo.load(options.classifier)), texts, options)
    zoo.save(system, options.directory, storage="int8")
    print(options.directory)


if __name__ == "__main__":
    main()
