"""transformers' models with tiles (Idefics3, LLaVA-NeXT, OneVision, InternVL, ...) and PaliGemma against our systems, in and out."""

import json
import warnings

import numpy as np
import pytest
import torch
import transformers as reference
from PIL import Image
from sines import fill
from tiny_vlms import MAKERS

import zoo
from zoo.errors import ConfigError, WeightsError
from zoo.heads.bases.media_features import laid_out
from zoo.interop.base.recognise import find_format, unknown_files
from zoo.interop.base.source import read_source
from zoo.interop.vlm.families import FAMILIES
from zoo.processors.media.video_file import Frame, Video
from zoo.storage.tensors import read_tensors, write_tensors

SIZES = [(20, 30), (33, 33), (40, 90), (97, 31), (64, 48), (150, 64)]
MARKERS = {"internvl": 7}  # ids of theirs that stand for features; of the others it is 2
KINDS = pytest.mark.parametrize("kind", MAKERS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that saves a family's random model once; it gives model, processor and directory."""
    made = {}

    def save(kind):
        if kind not in made:
            torch.manual_seed(0)
            (model, processor), directory = MAKERS[kind](kind), tmp_path_factory.mktemp(kind)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.15)
            model.eval().save_pretrained(directory)
            processor.save_pretrained(directory)
            made[kind] = model, processor, directory
        return made[kind]

    return save


def picture(height, width):
    rows, columns = np.mgrid[:height, :width]
    colours = [127.5 + 100 * np.sin(0.2 * rows + 0.3 * columns + channel + height) for channel in range(3)]
    return Image.fromarray(np.stack(colours, axis=2).round().astype(np.uint8))


def their_inputs(processor, pictures, text):
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": text}]
    prompt = "<image>" * len(pictures) + text
    if processor.chat_template is not None:  # PaliGemma has none
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # two of their processors give tensors to numpy
        found = processor(images=[pictures], text=[prompt], return_tensors="pt", add_special_tokens=False)
    return {key: value for key, value in found.items() if key != "labels"}


def our_inputs(system, pictures, text):
    return system.processor(conversation=[[*pictures, text]], for_generation=True)


@torch.no_grad()
def our_logits(system, batch):
    head, ids = system.head, batch.inputs["text"]
    vectors = head.spliced(ids, batch.masks["text"], head._connected(system.encode_batch(batch), batch), batch.ids)
    seen = head.prefix_lengths(list(vectors))
    return head.language.logits(head.language(vectors, prefix_lengths=None if seen is None else torch.tensor(seen)))


def ids_of(batch, kind):
    return batch.inputs["text"].masked_fill(batch.inputs["text"] < 0, MARKERS.get(kind, 2))


@KINDS
def test_six_pictures_give_the_ids_pixels_and_greedy_text_of_theirs(kind, saved):
    model, processor, directory = saved(kind)
    system, texts = zoo.load(directory), set()
    # Lanczos is PIL's in both; bicubic filters of torch and PIL differ by two grey levels at most.
    atol = {"llava_next": 2.1 / 255 / 0.26, "llava_onevision": 2.1 / 255 / 0.26, "internvl": 2.1 / 255 / 0.26}
    atol |= {"paligemma": 2.1 / 127.5, "paligemma2": 2.1 / 127.5}
    for size in SIZES:
        given = [picture(*size)]
        theirs, ours = their_inputs(processor, given, "what is there?"), our_inputs(system, given, "what is there?")
        assert torch.equal(ids_of(ours, kind), theirs["input_ids"])
        pixels = theirs["pixel_values"].flatten(0, -4)
        torch.testing.assert_close(ours.inputs["image"], pixels, rtol=0, atol=atol.get(kind, 1e-5))
        found = model.generate(**theirs, max_new_tokens=6, do_sample=False)[0, theirs["input_ids"].shape[1] :]
        said = system.processor["conversation"].decode(found.tolist())
        texts.add(said)
        assert system.generate([[*given, "what is there?"]], max_new_tokens=6) == [said]
        ours.inputs["image"] = pixels  # the same values, so that the models alone are compared
        with torch.no_grad():
            torch.testing.assert_close(our_logits(system, ours), model(**theirs).logits, rtol=0, atol=1e-5)
    assert len(texts) > 1 or kind in ("smolvlm", "paligemma", "paligemma2")  # a tied table repeats the last word


@KINDS
def test_two_pictures_in_a_prompt_are_theirs(kind, saved):
    model, processor, directory = saved(kind)
    system, given = zoo.load(directory), [picture(20, 30), picture(97, 31)]
    theirs, ours = their_inputs(processor, given, "which?"), our_inputs(system, given, "which?")
    assert torch.equal(ids_of(ours, kind), theirs["input_ids"])
    with torch.no_grad():
        found = model(**theirs).logits[0, -1]
    torch.testing.assert_close(our_logits(system, ours)[0, -1], found, rtol=0, atol=2e-2)  # grey levels differ by two at most


@pytest.mark.parametrize("kind", ["paligemma", "paligemma2"])
def test_training_of_paligemma_is_theirs(kind, saved):
    model, processor, directory = saved(kind)
    system, questions, answers = zoo.load(directory), ["what is there?", "which?"], ["a picture", "the user is"]
    given = [picture(20, 30), picture(97, 31)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        words = {"images": [[each] for each in given], "text": [f"<image>{each}" for each in questions], "suffix": answers}
        theirs = processor(**words, padding="longest", return_tensors="pt")
    content = [[{"type": "image", "image": i}, {"type": "text", "text": text}] for i, text in zip(given, questions, strict=True)]
    rows = [[{"role": "user", "content": c}, {"role": "assistant", "content": a}] for c, a in zip(content, answers, strict=True)]
    ours = system.processor(conversation=rows)
    ours.inputs["image"] = theirs["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(system(ours).loss, model(**theirs).loss, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "number"), [("llava_onevision", 6), ("internvl", 7)])
@torch.no_grad()
def test_a_video_is_theirs(kind, number, saved):
    """``number`` is the id of theirs that stands for the features of a frame."""
    model, processor, directory = saved(kind)
    side = model.config.vision_config.image_size
    side = side if isinstance(side, int) else side[0]
    system, frames = zoo.load(directory), [np.asarray(picture(34, 34 + each).resize((side, side))) for each in range(3)]
    content = [{"type": "video"}, {"type": "text", "text": "what?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    theirs = processor(videos=[np.stack(frames)], text=[prompt], return_tensors="pt", add_special_tokens=False)
    video = Video(tuple(Frame(torch.from_numpy(frame.copy()).permute(2, 0, 1)) for frame in frames))
    ours = our_inputs(system, [video], "what?")
    assert torch.equal(ours.inputs["text"].masked_fill(ours.inputs["text"] < 0, number), theirs["input_ids"])
    pixels = theirs.get("pixel_values_videos", theirs.get("pixel_values"))
    torch.testing.assert_close(ours.inputs["image"], pixels.flatten(0, -4), rtol=0, atol=1e-5)
    torch.testing.assert_close(our_logits(system, ours), model(**theirs).logits, rtol=0, atol=1e-5)


TINY_VIT = {"name": "vit", "image_size": 32, "patch_size": 8, "dim": 16, "depth": 1, "num_heads": 2, "pool": "none"}
TINY_WORDS = {"name": "causal_lm", "vocab_size": 320, "context_length": 256, "dim": 16, "depth": 1, "num_heads": 2, "hidden_dim": 24}
TINY_GEMMA = {**TINY_WORDS, "norm": "rms_offset", "activation": "geglu_tanh", "embed_scale": 4.0, "tied": True}
SHUFFLE = {"kind": "pixel_shuffle", "norm": True, "depth": 2}
BUILT = {  # encoder, head, processors
    "internvl": (
        {"layer_scale": 0.1, "final_norm": False},
        {"language": TINY_WORDS, "connectors": {"image": SHUFFLE}, "feature_layer": -1},
        {"image": {"resize": "squash", "tiler": "canvas"}, "conversation": {"spans": {"image": ["<img>", "</img>"]}}},
    ),
    "paligemma": (
        {"class_token": False},
        {"language": TINY_GEMMA, "connectors": {"image": "linear"}, "feature_layer": None, "prefix": True},
        {"image": {"resize": "squash"}, "conversation": {"template": "paligemma"}},
    ),
}


@pytest.mark.parametrize("kind", BUILT)
def test_a_system_built_by_config_is_written_and_read(kind, tmp_path):
    torch.manual_seed(0)
    encoder, head, processor = BUILT[kind]
    config = {"encoders": {"image": {**TINY_VIT, **encoder}}, "head": {"name": "llava", **head}, "processor": processor}
    system = zoo.create_system({"name": kind, **config}).eval()
    system.processor.fit(["what is there? a cat"])
    zoo.export(system, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == kind
    again, prompt = zoo.load(tmp_path / "out"), [[picture(40, 90), "what is there?"]]
    torch.testing.assert_close(again.score(prompt, ["a cat"]), system.score(prompt, ["a cat"]), rtol=0, atol=1e-5)
    reference.AutoModelForImageTextToText.from_pretrained(tmp_path / "out")


@KINDS
def test_what_came_from_there_goes_back(kind, saved, tmp_path):
    model, processor, directory = saved(kind)
    zoo.export(zoo.load(directory), tmp_path / "out")
    again = reference.AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processed = reference.AutoProcessor.from_pretrained(tmp_path / "out")
    processed.image_processor = reference.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    inputs, others = (their_inputs(each, [picture(40, 90)], "what?") for each in (processor, processed))
    assert torch.equal(inputs["input_ids"], others["input_ids"]) and torch.equal(inputs["pixel_values"], others["pixel_values"])
    with torch.no_grad():
        torch.testing.assert_close(again(**others).logits, model(**inputs).logits, rtol=0, atol=1e-5)
    first, second = (zoo.load(path) for path in (directory, tmp_path / "out"))
    assert first.processor["image"].settings == second.processor["image"].settings
    assert first.processor["conversation"].settings == second.processor["conversation"].settings


@KINDS
def test_every_file_is_explained_and_names_in_memory_are_read(kind, saved, tmp_path):
    model, _, directory = saved(kind)
    source = read_source(directory)
    assert find_format(source).name == "vlm" and unknown_files(source) == []
    expected = zoo.load(directory).state_dict()
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_tensors({key: tensor.clone() for key, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    found = zoo.load(tmp_path).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    tensors = read_tensors(directory / "model.safetensors")
    write_tensors({**tensors, "more": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 unknown \(more\)"):
        zoo.load(tmp_path)


def changed(directory, tmp_path, name, change):
    """Copy a directory and change one of its JSON files; what is None is left out."""
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = json.loads((tmp_path / name).read_text())
    inner = found.get("image_processor", found)
    inner.update(change)
    (tmp_path / name).write_text(json.dumps(found))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("idefics3", {"do_image_splitting": False}, "do_image_splitting: false .*kind: split, side_tiles: 1"),
        ("idefics3", {"size": {"longest_edge": 100}}, "longest_edge 100 .* allowed is a multiple of 32 up to 4096"),
        ("idefics3", {"max_image_size": {"longest_edge": 48}}, "tiles have 48 pixels, but the image tower takes 32"),
        ("idefics3", {"max_image_size": 48}, "max_image_size: got 48"),
        ("llava_next", {"image_grid_pinpoints": [[32, 65]]}, r"image_grid_pinpoints: got \[\[32, 65\]\]; allowed are pairs of multiples"),
        ("llava_next", {"size": {"shortest_edge": 40}}, "size: got .* the same number of pixels in both"),
        ("llava_onevision", {"size": {"height": 40, "width": 40}}, "image_grid_pinpoints: got"),
        ("internvl", {"size": {"height": 32, "width": 40}}, "size: got .* allowed are equal height and width"),
        ("internvl", {"size": {"height": 40, "width": 40}}, "tiles have 40 pixels, but the image tower takes 32"),
        ("paligemma", {"do_pad": True}, "do_pad: True cannot be done"),
        ("llava_next", {"resample": 9}, "resample: got 9; allowed are"),
    ],
)
def test_settings_that_ours_does_not_have_are_refused(kind, change, message, saved, tmp_path):
    directory = saved(kind)[2]
    name = "preprocessor_config.json" if (directory / "preprocessor_config.json").is_file() else "processor_config.json"
    with pytest.raises(ConfigError, match=message):
        zoo.load(changed(directory, tmp_path, name, change))


@pytest.mark.parametrize(
    ("tiler", "message"),
    [
        ("square", "cuts pictures by 'square'"),
        ("canvas", r"spans: got \{\}, .* allowed is .*<img>"),
        ("split", r"head.connectors.image.kind: got 'linear'"),
        ("{kind: anyres, most_tiles: 2}", "kind: got 'linear'"),
    ],
)
def test_systems_that_theirs_is_not_are_refused(tiler, message, tmp_path):
    more = ["+system.processor.image.tiler=" + tiler, "system.head.connectors.image={kind: linear}"]
    if "anyres" in tiler:
        more[1] = "system.head.connectors.image={kind: linear, newline: true}"
    system = zoo.create_system("llava_nano", more)
    with pytest.raises(ConfigError, match=message):
        zoo.export(system, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("llava_onevision", {"vision_aspect_ratio": "square"}, "vision_aspect_ratio: got 'square'; allowed is anyres_max_"),
        ("internvl", {"downsample_ratio": 0.4}, "downsample_ratio: got 0.4; allowed is 1 divided by"),
        ("internvl", {"vision_feature_layer": -2}, "vision_feature_layer: got -2"),
        ("internvl", {"vision_config": {"use_qk_norm": True}}, "use_qk_norm: got True"),
        ("paligemma", {"text_config": {"model_type": "gemma3_text"}}, "text_config.model_type: got 'gemma3_text'"),
        ("paligemma", {"text_config": {"use_bidirectional_attention": False}}, "use_bidirectional_attention: got False"),
    ],
)
def test_configs_that_ours_does_not_have_are_refused(kind, change, message, saved, tmp_path):
    directory = saved(kind)[2]
    config = json.loads((directory / "config.json").read_text())
    merged = {key: {**config[key], **value} if isinstance(value, dict) else value for key, value in change.items()}
    with pytest.raises(ConfigError, match=message):
        zoo.load(changed(directory, tmp_path, "config.json", merged))


SMALL = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2}
SMALL_WORDS = {**SMALL, "vocab_size": 16, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "model_type": "llama", "pad_token_id": 0}
ONEVISION = {
    **{"kind": "anyres", "canvases": 6, "most_tiles": 9, "several": "whole", "frame_pool": 2},
}
SPLIT_VISION = {**SMALL, "image_size": 16, "patch_size": 4}
NEXT_VISION = {**SMALL, "num_hidden_layers": 3, "image_size": 56, "patch_size": 14, "model_type": "clip_vision_model"}
QWEN = {**SMALL_WORDS, "rms_norm_eps": 1e-6, "model_type": "qwen2"}
VISION_58 = {**SMALL, "image_size": 58, "patch_size": 14, "model_type": "siglip_vision_model", "vision_use_head": False}
VISION_8 = {**VISION_58, "image_size": 8, "patch_size": 4}
GEMMA = {**SMALL_WORDS, "rms_norm_eps": 1e-6, "model_type": "gemma", "head_dim": 4}
# kind: config; ids, pictures, size and tiler; number of parameters, features[0], logits of the last token, their absolute sum
GOLDENS = {
    **dict.fromkeys(
        ("Idefics3", "SmolVLM"),
        (
            {"vision_config": SPLIT_VISION, "text_config": SMALL_WORDS, "scale_factor": 2, "image_token_id": 14},
            ([1, 5, *[-200] * 4, 6, *[-200] * 4, 7, 3], (2, 3, 16, 16), None, "split"),
            (3112, [2.793934, -2.956925, 2.632484, -1.874095], [1.523447, 1.299930, 0.492916, -0.535353], 127.60795),
        ),
    ),
    "LlavaNext": (
        {
            "vision_config": NEXT_VISION,
            "text_config": SMALL_WORDS,
            "image_token_index": 14,
            "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]],
        },
        ([1, 5, *[-200] * 44, 7, 3], (3, 3, 56, 56), (50, 80), "anyres"),
        (7884, [-0.320912, -0.806672, -0.927644, -0.633925], [1.217729, 1.398309, 0.951233, 0.077178], 768.18589),
    ),
    "LlavaOnevision": (
        {
            **{"vision_config": VISION_58, "text_config": QWEN, "image_token_index": 14, "video_token_index": 15},
            "image_grid_pinpoints": [[58 * rows, 58 * columns] for rows in range(1, 7) for columns in range(1, 7)],
        },
        ([1, 5, *[-200] * 44, 7, 3], (3, 3, 58, 58), (50, 80), ONEVISION),
        (7360, [-0.155732, -0.431387, -0.509183, -0.358321], [-0.404715, -1.087434, -1.282039, -0.901177], 504.39614),
    ),
    "InternVL": (
        {"vision_config": SPLIT_VISION, "text_config": QWEN, "image_token_id": 14, "tie_word_embeddings": False},
        ([1, 5, *[-200] * 8, 7, 3], (2, 3, 16, 16), None, "canvas"),
        (3272, [0.281780, 1.224101, 1.615158, 1.275864], [-0.287062, 0.211130, 0.614553, 0.742123], 109.07681),
    ),
    "PaliGemma": (
        {"vision_config": VISION_8, "text_config": GEMMA, "image_token_index": 14, "projection_dim": 8, "hidden_size": 8},
        ([*[-200] * 4, 2, 5, 9, 7, 3], (1, 3, 8, 8), None, None),
        (2704, None, [1.294311, 0.559998, -0.425680, -1.220284], 81.27130),
    ),
}


@pytest.mark.parametrize("kind", GOLDENS)
@torch.no_grad()
def test_weights_of_sines_give_the_recorded_outputs(kind):
    """Outputs of transformers 5.17 in float64; images are sin(0.1 i) at place i."""
    config, (ids, shape, size, tiler), (number, first, last, total) = GOLDENS[kind]
    model = getattr(reference, f"{kind}ForConditionalGeneration")(getattr(reference, f"{kind}Config")(**config)).double()
    tensors = fill({name: parameter.detach() for name, parameter in model.named_parameters()})
    assert sum(tensor.numel() for tensor in tensors.values()) == number
    family = next(each for each in FAMILIES if model.config.model_type in each.model_types)
    parts = family.system({**config, "model_type": model.config.model_type}, tensors.keys())
    settings = {"image": {} if tiler is None else {"tiler": tiler}, "conversation": {"tokenizer": "given"}}
    system = zoo.create_system({**parts, "processor": settings}).double().eval()
    system.load_state_dict(family.to_zoo(tensors, tied=kind == "PaliGemma"))
    pixels = torch.sin(0.1 * torch.arange(int(np.prod(shape)), dtype=torch.float64)).view(shape)
    encoded = system.encode_ready("image", pixels)
    features = system.head.connectors["image"](encoded.tokens, encoded.mask)[0]
    sizes = torch.tensor([size or (16, 32)])
    laid = features.flatten(0, 1) if size is None else laid_out(system.head, "image", features, sizes)[0][0]
    assert first is None or laid[0, :4].tolist() == pytest.approx(first, abs=2e-6)
    token_ids = torch.tensor([ids])
    vectors = system.head.language.embed(token_ids.clamp(min=0))
    vectors[token_ids < 0] = laid
    words = {"prefix_lengths": torch.tensor([len(ids) - 2])} if system.head.prefix else {}
    logits = system.head.language.logits(system.head.language(vectors, **words))
    assert logits[0, -1, :4].tolist() == pytest.approx(last, abs=2e-6)
    assert float(logits.abs().sum()) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "number", "tower", "connector"),
    [
        ("smolvlm_256m", 256_484_928, 86_433_024, 7_077_888),
        ("smolvlm_500m", 507_482_304, 86_433_024, 11_796_480),
        ("smolvlm_2_2b", 2_246_272_880, 412_987_248, 21_233_664),
        ("idefics3_8b", 8_462_086_384, 412_926_192, 18_874_368),
        ("llava_onevision_0_5b", 893_675_552, 397_747_744, 1_837_696),
        ("llava_onevision_7b", 8_030_807_584, 397_747_744, 16_984_576),
        ("internvl3_1b", 938_193_024, 304_012_288, 4_482_816),
        ("paligemma_3b_224", 2_923_466_480, 412_442_352, 2_361_344),
        ("paligemma2_3b_224", 3_032_242_416, 412_442_352, 2_656_512),
        ("llava_next_7b", 7_063_431_168 - 2 * 64 * 4096, 303_507_456, 20_983_808),  # transformers' files have 64 words more
    ],
)
def test_rows_have_the_published_sizes(name, number, tower, connector):
    model = zoo.create_model(name, device="meta")
    assert sum(each.numel() for each in model.parameters()) == number
    assert sum(each.numel() for each in model.encoders.parameters()) == tower
    assert sum(each.numel() for each in model.head.connectors.parameters()) == connector
