"""LLaVA and Kosmos with pictures of any size: any tiler by one word, one plan for pixels, placeholders and features."""

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError
from zoo.types import PLACEHOLDER_IDS

TILERS = ["square", "anyres", "{kind: anyres, most_tiles: 1}", "split", "canvas"]
SIZES = [(20, 90), (40, 40), (64, 33), (7, 7), (100, 60), (31, 200)]


def picture(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed + height * width).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def systems():
    made = {}

    def make(tiler, name="llava_nano"):
        if (tiler, name) not in made:
            torch.manual_seed(0)
            override = [f"+system.processor.image.tiler={tiler}"]
            system = zoo.create_system(name, override + LONG)
            system.processor.fit(["What is there? a cat and two dogs"])
            made[tiler, name] = system.eval()
        return made[tiler, name]

    return make


LONG = ["system.head.language.context_length=1200", "system.processor.conversation.tokenizer=characters"]


@pytest.mark.parametrize("tiler", TILERS)
def test_placeholders_are_as_many_as_features_and_a_step_trains_everything(systems, tiler):
    system = systems(tiler)
    asked = [{"images": [picture(*size) for size in group], "messages": message("there" + " <image>" * len(group))} for group in PAIRS]
    batch = system.processor(conversation=asked)
    plans = [system.processor["image"].item(picture(*size)) for group in PAIRS for size in group]
    assert batch.sizes["image"].tolist() == [list(size) for group in PAIRS for size in group]
    assert len(batch.inputs["image"]) == sum(len(each.pixels) for each in plans)
    counts = [system.processor["conversation"].count("image", each) for each in plans]
    assert int((batch.inputs["text"] == PLACEHOLDER_IDS["image"]).sum()) == sum(counts)
    system.zero_grad()
    system(batch).loss.backward()
    assert not [name for name, each in system.named_parameters() if each.requires_grad and each.grad is None]
    system.zero_grad()


PAIRS = [SIZES[:2], SIZES[2:3], [], SIZES[3:]]


def message(question, answer="a cat"):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("tiler", TILERS)
def test_a_picture_alone_gives_what_it_gives_in_a_batch(systems, tiler):
    system = systems(tiler)
    prompts = [[picture(*size), "What is there?"] for size in SIZES]
    answers = ["a cat"] * len(SIZES)
    alone = torch.cat([system.score([prompt], answers[:1]) for prompt in prompts])
    torch.testing.assert_close(system.score(prompts, answers), alone, rtol=1e-5, atol=1e-5)
    batch = system.processor(conversation=[{"images": [p[0]], "messages": message("What is there?<image>")} for p in prompts])
    assert system(batch).loss is not None
    assert system.generate(prompts, max_new_tokens=3) == [system.generate([prompt], max_new_tokens=3)[0] for prompt in prompts]


def test_training_and_prompts_lay_features_out_alike(systems):
    system = systems("anyres")
    batch = system.processor(conversation=[{"images": [picture(20, 90), picture(64, 33)], "messages": message("<image> or <image>?")}])
    trained = system.head._connected(system.encode_batch(batch), batch)["image"]
    kept = {}
    from zoo.heads.bases.media_features import features_of

    asked = features_of(system.head, system, batch, kept)["image"]
    torch.testing.assert_close(asked, trained)
    again = features_of(system.head, system, batch, kept)["image"]  # from the cache
    assert torch.equal(again[0], asked[0]) and len(kept) == 2


def test_the_newline_vector_comes_with_the_tiler_and_is_saved(systems, tmp_path):
    system = systems("anyres")
    assert system.head.connectors["image"].newline is not None and systems("canvas").head.connectors["image"].newline is None
    zoo.save(system, tmp_path)
    again = zoo.load(tmp_path)
    assert torch.equal(again.head.connectors["image"].newline, system.head.connectors["image"].newline)
    prompt = [[picture(20, 90), "What is there?"]]
    assert again.generate(prompt, max_new_tokens=3) == system.generate(prompt, max_new_tokens=3)
    torch.testing.assert_close(again.score(prompt, ["a cat"]), system.score(prompt, ["a cat"]))


def test_a_batch_without_pictures_still_touches_every_parameter(systems):
    system = systems("anyres")
    batch = system.processor(conversation=[{"messages": message("hello")}])
    assert batch.inputs["image"].shape[0] == 0 and batch.sizes["image"].shape == (0, 2)
    system(batch).loss.backward()
    assert not [name for name, each in system.named_parameters() if each.requires_grad and each.grad is None]
    system.zero_grad()


def test_kosmos_takes_tiles_too(systems):
    system = systems("canvas", "kosmos_nano")
    assert len(system.generate([["Seen:", picture(20, 90), "so"]], max_new_tokens=2)) == 1


def test_misuse_is_named(systems):
    with pytest.raises(ConfigError, match=r"^system.processor.image.tiler: there is no 'anyress'.*anyres"):
        zoo.create_system("llava_nano", ["+system.processor.image.tiler=anyress"])
    with pytest.raises(ConfigError, match="needs a language model with a connector"):
        zoo.create_system("clip_vit_nano", ["+system.processor.image.tiler=canvas"])
    with pytest.raises(ConfigError, match=r"^system.processor.image.tiler.max_tiles: 0"):
        zoo.create_system("llava_nano", ["+system.processor.image.tiler={kind: canvas, max_tiles: 0}"])
    with pytest.raises(ConfigError, match="class_token: true puts a token before the patches"):
        zoo.create_system("kosmos_nano", ["system.head.connectors.image=mlp", "+system.processor.image.tiler=budget"])
    system = systems("canvas")
    with pytest.raises(DataError, match="hold no sizes"):
        system.processor["image"](torch.zeros(1, 3, 32, 32))
    batch = system.processor(conversation=[{"images": [picture(9, 9)], "messages": message("<image>")}])
    system.use_processor(Processor({**system.processor.parts, "image": type(system.processor["image"])(image_size=32)}))
    with pytest.raises(DataError, match="no tiler"):
        system(batch)
