"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL of transformers against our systems, in and out."""

import json

import numpy as np
import pytest
import torch
import transformers as reference
from sines import fill
from tiny_qwens import IDS, KINDS, MROPE, TOWER, WORDS, picture, saving

import zoo
from zoo.commands.chat_session import ChatSession
from zoo.errors import ConfigError, DataError, WeightsError
from zoo.interop.base.recognise import find_format, unknown_files
from zoo.interop.base.source import read_source
from zoo.interop.vlm.families import FAMILIES
from zoo.language.decoding.sampling import Sampling
from zoo.layers.picture_positions import picture_positions
from zoo.processors.media.tiles import Tiles
from zoo.storage.tensors import read_tensors, write_tensors
from zoo.types import PLACEHOLDER_IDS, Batch

SIZES = [(20, 30), (33, 33), (40, 90), (97, 31), (64, 48), (150, 64)]
EACH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return saving(tmp_path_factory.mktemp)


def their_inputs(processor, prompts):
    """Inputs of prompts, each a list of pictures and a question, padded on the left."""
    contents = [[*({"type": "image"} for _ in pictures), {"type": "text", "text": text}] for *pictures, text in prompts]
    texts = [processor.apply_chat_template([{"role": "user", "content": each}], add_generation_prompt=True) for each in contents]
    pictures = [each for *given, _ in prompts for each in given]
    return processor(images=pictures, text=texts, return_tensors="pt", padding=True, padding_side="left")


def as_ours(theirs):
    """Their patches, doubled and by squares, as ours: once, and row by row."""
    found = []
    for part, (_, rows, columns) in zip(
        theirs["pixel_values"].split(theirs["image_grid_thw"].prod(1).tolist()), theirs["image_grid_thw"].tolist(), strict=True
    ):
        order = torch.arange(rows * columns).view(rows // 2, 2, columns // 2, 2).transpose(1, 2).flatten()
        found.append(torch.empty(len(part), 48).index_copy(0, order, part.view(len(part), 3, 2, 16)[:, :, 0].flatten(1)))
    return torch.cat(found)


@torch.no_grad()
def our_logits(system, batch):
    """Logits of each prompt alone, as a list."""
    head, ids, mask = system.head, batch.inputs["text"], batch.masks["text"]
    vectors = head.spliced(ids, mask, head._connected(system.encode_batch(batch), batch), batch.ids)
    hidden = head.language(vectors, mask)
    return [head.language.logits(row[real]) for row, real in zip(hidden, mask, strict=True)]


PROMPTS = [
    *([picture(*size), "what is there?"] for size in SIZES),
    [picture(20, 30), picture(97, 31), "which?"],
    ["no picture"],
]


@EACH
def test_pictures_of_six_sizes_give_ids_patches_logits_and_greedy_text_of_theirs(kind, saved):
    model, processor, _, system = saved(kind)
    theirs, ours = their_inputs(processor, PROMPTS), system.processor(conversation=PROMPTS, for_generation=True)
    for row, (ids, real) in enumerate(zip(ours.inputs["text"], ours.masks["text"], strict=True)):
        expected = theirs["input_ids"][row][theirs["attention_mask"][row].bool()]
        assert torch.equal(ids[real].masked_fill(ids[real] < 0, IDS["image_token_id"]), expected)
    assert torch.equal(ours.grids["image"], theirs["image_grid_thw"][:, 1:])
    patches = as_ours(theirs)
    torch.testing.assert_close(ours.inputs["image"], patches, rtol=0, atol=2.1 / 255 / 0.26)  # filters of torch and PIL: two grey levels
    ours.inputs["image"] = patches  # the same values, so that the models alone are compared
    with torch.no_grad():
        expected = model(**theirs).logits
    for row, found in enumerate(our_logits(system, ours)):
        real = theirs["attention_mask"][row].bool()
        torch.testing.assert_close(found, expected[row][real], rtol=0, atol=1e-5)
    written = model.generate(**theirs, max_new_tokens=6, do_sample=False)[:, theirs["input_ids"].shape[1] :]
    said = [system.processor["conversation"].decode(row[row != 0].tolist()) for row in written]
    assert system.generate(PROMPTS, max_new_tokens=6) == said and len(set(said)) > 1
    assert [system.generate([prompt], max_new_tokens=6)[0] for prompt in PROMPTS[4:]] == said[4:]


@EACH
def test_what_came_from_there_goes_back(kind, saved, tmp_path):
    model, processor, directory, system = saved(kind)
    zoo.export(system, tmp_path / "out")
    before, after = (read_tensors(path / "model.safetensors") for path in (directory, tmp_path / "out"))
    assert set(before) == set(after) and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    again = reference.AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processed = reference.AutoProcessor.from_pretrained(tmp_path / "out")
    processed.image_processor = type(processor.image_processor).from_pretrained(tmp_path / "out")  # of PIL, as in the first one
    inputs, others = (their_inputs(each, PROMPTS[:2]) for each in (processor, processed))
    assert torch.equal(inputs["input_ids"], others["input_ids"]) and torch.equal(inputs["pixel_values"], others["pixel_values"])
    with torch.no_grad():
        torch.testing.assert_close(again(**others).logits, model(**inputs).logits, rtol=0, atol=1e-5)
    second = zoo.load(tmp_path / "out")
    assert system.processor["image"].settings == second.processor["image"].settings
    assert system.processor["conversation"].settings == second.processor["conversation"].settings


@EACH
def test_files_are_explained_and_other_spellings_are_read(kind, saved, tmp_path):
    model, _, directory, system = saved(kind)
    source = read_source(directory)
    assert find_format(source).name == "vlm" and unknown_files(source) == []
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items() if kind != "2.5" or key != "lm_head.weight"}
    write_tensors(tensors, tmp_path / "model.safetensors")
    if kind != "3":  # older files: the language model's keys beside vision_config, and rope_scaling
        config = json.loads((tmp_path / "config.json").read_text())
        text = {key: value for key, value in config.pop("text_config").items() if key != "model_type"}
        text |= {"rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]}, "rope_theta": text.pop("rope_parameters")["rope_theta"]}
        (tmp_path / "config.json").write_text(json.dumps({**text, **config}))
    found = zoo.load(tmp_path).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in system.state_dict().items())
    write_tensors({**tensors, "more": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 unknown \(more\)"):
        zoo.load(tmp_path)


@EACH
def test_training_touches_every_weight_and_answers_do_not_depend_on_the_batch(kind, saved, tmp_path):
    system = zoo.load(saved(kind)[2])
    asked = [{"images": given[:-1], "messages": talk("<image>" * (len(given) - 1) + given[-1])} for given in PROMPTS[3:]]
    batch = system.processor(conversation=asked)
    whole = system(batch)
    whole.loss.backward()
    assert not [name for name, each in system.named_parameters() if each.requires_grad and each.grad is None]
    answers = ["a cat"] * len(PROMPTS)
    alone = torch.cat([system.score([prompt], answers[:1]) for prompt in PROMPTS])
    torch.testing.assert_close(system.score(PROMPTS, answers), alone, rtol=1e-5, atol=1e-5)
    system.zero_grad()
    empty = system.processor(conversation=[{"messages": talk("hello")}])
    assert empty.inputs["image"].shape == (0, 48) and empty.grids["image"].shape == (0, 2)
    system(empty).loss.backward()
    assert not [name for name, each in system.named_parameters() if each.requires_grad and each.grad is None]
    zoo.save(system, tmp_path)
    again = zoo.load(tmp_path)
    assert again.generate(PROMPTS[:2], max_new_tokens=3) == system.generate(PROMPTS[:2], max_new_tokens=3)


def talk(question, answer="a cat"):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_a_chat_keeps_its_cache_between_turns_with_pictures(saved):
    system = saved("3")[3]
    session = ChatSession(system, Sampling(max_new_tokens=5))
    session.show("image", picture(40, 90))
    first = session.ask("what is there?")
    session.show("image", picture(33, 33))
    second = session.ask("and there?")
    assert first.computed_tokens == first.prompt_tokens and second.computed_tokens < second.prompt_tokens
    fresh = ChatSession(system, Sampling(max_new_tokens=5))
    fresh.messages, fresh.shown = session.messages[:-2], {"image": session.shown["image"][:1], "audio": []}
    fresh.show("image", picture(33, 33))
    third = fresh.ask("and there?")
    assert (third.text, third.computed_tokens) == (second.text, third.prompt_tokens)


def test_lora_learns_one_batch(saved):
    system = zoo.load(saved("3")[2])
    from zoo.assembly.build import add_adapters

    add_adapters(system, {"head.language": {"kind": "lora", "rank": 4}}, "adapters")
    batch = system.processor(conversation=[{"images": [picture(20, 30)], "messages": talk("<image>what?")}])
    trained = [each for each in system.head.language.parameters() if each.requires_grad]
    optimizer, losses = torch.optim.Adam(trained, lr=0.02), []
    for _ in range(12):
        loss = system(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_placeholders_are_as_many_as_features_for_a_thousand_sizes(saved):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    system = saved("2")[3]
    count, connector, tiler = (
        system.processor["conversation"].counts["image"],
        system.head.connectors["image"],
        system.processor["image"].tiler,
    )
    generator = np.random.default_rng(0)
    sizes = [(int(height), int(width)) for height, width in np.exp(generator.uniform(np.log(3), np.log(500), (1000, 2))).astype(int)]
    for start in range(0, 1000, 100):
        part = sizes[start : start + 100]
        plans = [tiler.plan(*size) for size in part]
        assert [plan.canvas for plan in plans] == [smart_resize(*size, 8, 64, 2048) for size in part]
        grids = torch.tensor([plan.grid for plan in plans])
        most = int(grids.prod(1).max())
        mask = torch.arange(most)[None] < grids.prod(1)[:, None]
        _, real = connector.on_grids(torch.zeros(100, most, 16), mask, grids)
        assert real.sum(1).tolist() == [
            count(Tiles(torch.empty(0, 3, 4, 4, dtype=torch.uint8), torch.tensor(size), grid))
            for size, grid in zip(part, grids, strict=True)
        ]


def test_positions_are_those_of_transformers_with_padding_on_either_side():
    config = reference.Qwen2VLConfig(vision_config={"spatial_merge_size": 2}, text_config={"num_hidden_layers": 0, "hidden_size": 8})
    model = reference.Qwen2VLModel.get_rope_index
    rows = [torch.tensor(row) for row in ([0, 0, 1, 3, 3, 2, 3, 3, 0], [0, 1, 0, 1, 3, 2, 3, 2, 3, 2, 3, 0, 0], [0] * 5)]
    for side in ("left", "right"):
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)
        real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side).bool()
        grids = torch.tensor([[1, 4, 6], [1, 2, 2], [1, 8, 4]])
        holder = type("Holder", (), {"config": config, "get_vision_position_ids": reference.Qwen2VLModel.get_vision_position_ids})()
        theirs, delta = model(holder, padded, (padded > 0).int(), image_grid_thw=grids, attention_mask=real)
        ours, ends = picture_positions(padded, real)
        assert torch.equal(ours[:, real], theirs[:, real])
        assert torch.equal(ends - real.sum(1), delta[:, 0])


def changed(directory, tmp_path, name, change):
    """Copy a directory and change one of its JSON files."""
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    name = name if (directory / name).is_file() else "processor_config.json"
    found = json.loads((tmp_path / name).read_text())
    found.get("image_processor", found).update(change)
    (tmp_path / name).write_text(json.dumps(found))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "name", "change", "message"),
    [
        ("2", "preprocessor_config.json", {"patch_size": 8}, "patches have 8 pixels, but the image tower takes 4"),
        ("2", "preprocessor_config.json", {"merge_size": 3}, "multiples of 3, but .*joins squares of 2 x 2 patches"),
        ("2", "preprocessor_config.json", {"temporal_patch_size": 1}, "temporal_patch_size: got 1"),
        ("2", "preprocessor_config.json", {"size": {"shortest_edge": 64, "longest_edge": 32}}, "max_pixels: 32; allowed is 64 or more"),
        ("2.5", "config.json", {"text_config": {**WORDS, "rope_parameters": {**MROPE, "mrope_section": [3, 2, 2]}}}, "rope_sections: got"),
        ("2.5", "config.json", {"vision_config": {**KINDS["2.5"][2], "out_hidden_size": 20}}, "20 channels come out of the tower"),
        ("3", "config.json", {"vision_config": {**KINDS["3"][2], "num_position_embeddings": 24}}, "num_position_embeddings: got 24"),
    ],
)
def test_settings_that_do_not_fit_are_refused(kind, name, change, message, saved, tmp_path):
    with pytest.raises((ConfigError, WeightsError), match=message):
        zoo.load(changed(saved(kind)[2], tmp_path, name, change))


def test_garbage_and_misuse_are_named(saved):
    system = saved("2")[3]
    with pytest.raises(DataError, match="ratio of the sides of at most 200"):
        system.processor["image"]([np.zeros((2, 500, 3), dtype=np.uint8)])
    batch = system.processor(conversation=PROMPTS[:1], for_generation=True)
    batch.inputs["image"] = batch.inputs["image"][1:]
    with pytest.raises(DataError, match="give each picture rows x columns"):
        system.encode_batch(batch)
    config = {**system.config, "processor": {**system.config["processor"], "image": {"tiler": "budget"}}}
    with pytest.raises(ConfigError, match="joins squares of 2 x 2 patches; choose tiler .kind: fit, merge: 2"):
        zoo.create_system(config)
    head = system.config["head"]
    config = {**system.config, "head": {**head, "connectors": {"image": {"kind": "patch_merger", "deepstack": 1}}}}
    with pytest.raises(ConfigError, match="deepstack: 1, but (tokens|the language model)"):
        zoo.create_system(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": {"connectors": {"image": "mlp"}}}, "kind: got 'mlp'"),
        ({"language": {"rope_sections": None}}, "rope_sections: got None"),
        ({"image": {"eps": 1e-5}}, "encoders.image.eps: got 1e-05"),
    ],
)
def test_systems_that_theirs_is_not_are_refused(change, message, saved, tmp_path):
    config = json.loads(json.dumps(saved("2")[3].config))
    config["head"] |= change.get("head", {})
    config["head"]["language"] |= change.get("language", {})
    config["encoders"]["image"] |= change.get("image", {})
    config["processor"]["conversation"] = {"template": "chatml", "spans": {"image": ["<|vision_start|>", "<|vision_end|>"]}}
    with pytest.raises(ConfigError, match=message):
        zoo.export(zoo.create_system(config), tmp_path / "out")


SMALL = {
    **{"hidden_size": 24, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
    **{"vocab_size": 16, "rms_norm_eps": 1e-6, "max_position_embeddings": 512},
}
SMALL_TOWER = {**TOWER, "depth": 2, "patch_size": 2}
GOLDENS = {  # kind: vision_config, text_config, grid, number of parameters, features[0], logits of the last token, their absolute sum
    "2": (
        {**SMALL_TOWER, "embed_dim": 16, "hidden_size": 24, "mlp_ratio": 2},
        {"rope_parameters": MROPE},
        (4, 6),
        (16752, [-2.553875, -1.887950, -0.064903, 1.791983], [0.305988, -0.829278, 0.458073, 0.407229], 209.48548),
    ),
    "2.5": (
        {**SMALL_TOWER, "hidden_size": 16, "intermediate_size": 20, "out_hidden_size": 24, "window_size": 8, "fullatt_block_indexes": [1]},
        {"rope_parameters": MROPE},
        (6, 10),
        (16560, [-1.827385, -1.868161, -0.774585, 0.764383], [0.339588, -1.015977, 0.596489, 0.466397], 405.10136),
    ),
    "3": (
        {
            **{**SMALL_TOWER, "depth": 3, "hidden_size": 16, "intermediate_size": 20, "out_hidden_size": 24},
            **{"num_position_embeddings": 9, "deepstack_visual_indexes": [0, 1]},
        },
        {"head_dim": 12, "rope_parameters": {**MROPE, "rope_theta": 5e6, "mrope_interleaved": True}},
        (4, 6),
        (29596, [-0.720664, -0.282709, 0.348410, 0.800177], [0.247820, -0.887952, 0.570301, 0.362501], 276.59288),
    ),
}


@pytest.mark.parametrize("kind", GOLDENS)
@torch.no_grad()
def test_weights_of_sines_give_the_recorded_outputs(kind):
    """Outputs of transformers 5.17 in float64; patches are sin(0.1 i) at place i, in the order of squares, of two different frames."""
    vision, text, (rows, columns), (number, first, last, total) = GOLDENS[kind]
    name, model_type = KINDS[kind][:2]
    config = {"vision_config": vision, "text_config": {**SMALL, **text}, "image_token_id": 14}
    model = getattr(reference, f"{name}ForConditionalGeneration")(getattr(reference, f"{name}Config")(**config)).double()
    tensors = fill({key: parameter.detach() for key, parameter in model.named_parameters()})
    assert sum(tensor.numel() for tensor in tensors.values()) == number
    family = next(each for each in FAMILIES if model_type in each.model_types)
    parts = family.system({**config, "model_type": model_type}, tensors.keys())
    settings = {"image": {"tiler": {"kind": "fit", "min_pixels": 16}}, "conversation": {"tokenizer": "given"}}
    system = zoo.create_system({**parts, "processor": settings}).double().eval()
    system.load_state_dict(family.to_zoo(tensors, tied=False))
    patches = torch.sin(0.1 * torch.arange(rows * columns * 24, dtype=torch.float64)).view(-1, 24)
    order = torch.arange(rows * columns).view(rows // 2, 2, columns // 2, 2).transpose(1, 2).flatten()
    ids = torch.tensor([[1, 5, 12, *[PLACEHOLDER_IDS["image"]] * (rows * columns // 4), 13, 7, 3]])
    inputs = {"text": ids, "image": torch.empty_like(patches).index_copy(0, order, patches)}
    batch = Batch(inputs, {"text": torch.ones_like(ids, dtype=torch.bool)}, grids={"image": torch.tensor([[rows, columns]])})
    features = system.head._connected(system.encode_batch(batch), batch)["image"][0]
    assert features[0, 0, :4].tolist() == pytest.approx(first, abs=2e-6)
    logits = our_logits(system, batch)[0]
    assert logits[-1, :4].tolist() == pytest.approx(last, abs=2e-6)
    assert float(logits.abs().sum()) == pytest.approx(total, abs=1e-4)
