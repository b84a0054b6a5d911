"""Videos of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: against transformers, in and out, and in data, chats and training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as reference
from tiny_qwens import IDS, KINDS, picture, saving
from transformers.video_utils import VideoMetadata

import zoo
from zoo.commands.chat_session import ChatSession
from zoo.errors import ConfigError, DataError
from zoo.heads.bases.media_features import pictures_of_items
from zoo.language.decoding.sampling import Sampling
from zoo.layers.picture_positions import picture_marks, picture_positions
from zoo.layers.tilers.fit import Fit
from zoo.processors.media.video_file import Frame, Video
from zoo.storage.tensors import read_tensors

EACH = pytest.mark.parametrize("kind", KINDS)


def video(frames, height, width, fps=2.0):
    """A video of which all frames are shown."""
    pixels = [torch.from_numpy(np.array(picture(height, width, shift=0.7 * place))).permute(2, 0, 1) for place in range(frames)]
    return Video(tuple(Frame(each, place / fps) for place, each in enumerate(pixels)), duration=frames / fps)


# Pictures of two frames are 1 or 2 seconds apart, so that 5.17 does not round the time, and are no longer than high or wide.
PROMPTS = [
    [video(4, 40, 24), "what is there?"],
    [video(3, 40, 20, fps=1.0), "odd"],
    [picture(33, 33), "then", video(2, 20, 20), "which?"],
    ["nothing"],
    [video(1, 24, 24), picture(20, 30), "one frame"],
]


def is_video(part):
    return isinstance(part, Video)


def metadata(part):
    number = len(part.frames)
    return VideoMetadata(total_num_frames=number, fps=number / part.duration, frames_indices=list(range(number)))


def their_inputs(processor, prompts):
    """Inputs of prompts, padded on the left."""
    kinds = [["text" if isinstance(part, str) else "video" if is_video(part) else "image" for part in prompt] for prompt in prompts]
    contents = [
        [{"type": kind, **({"text": part} if kind == "text" else {})} for kind, part in zip(found, prompt, strict=True)]
        for found, prompt in zip(kinds, prompts, strict=True)
    ]
    texts = [processor.apply_chat_template([{"role": "user", "content": each}], add_generation_prompt=True) for each in contents]
    media = [part for prompt in prompts for part in prompt if not isinstance(part, str)]
    videos, pictures = [part for part in media if is_video(part)], [part for part in media if not is_video(part)]
    return processor(
        text=texts,
        images=pictures or None,
        videos=[torch.stack([frame.pixels for frame in each.frames]) for each in videos] or None,
        video_metadata=[metadata(each) for each in videos] or None,
        return_tensors="pt",
        padding=True,
        padding_side="left",
    )


def as_ours(theirs, prompts):
    """Their patches, by squares, in our order: item after item, each picture row by row."""
    by_kind = {
        name: iter(list(zip(theirs[name].split(theirs[grid].prod(1).tolist()), theirs[grid].tolist(), strict=True)))
        for name, grid in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw"))
        if name in theirs
    }
    found, grids = [], []
    for part in (part for prompt in prompts for part in prompt if not isinstance(part, str)):
        patches, (pictures, rows, columns) = next(by_kind["pixel_values_videos" if is_video(part) else "pixel_values"])
        order = torch.arange(rows * columns).view(rows // 2, 2, columns // 2, 2).transpose(1, 2).flatten()
        for picture_patches in patches.split(rows * columns):
            found.append(torch.empty_like(picture_patches).index_copy(0, order, picture_patches))
            grids.append([rows, columns])
    return torch.cat(found), torch.tensor(grids)


@torch.no_grad()
def our_logits(system, batch):
    """Logits of each prompt alone, as a list."""
    head, ids, mask = system.head, batch.inputs["text"], batch.masks["text"]
    vectors = head.spliced(ids, mask, head._connected(system.encode_batch(batch), batch), batch.ids)
    hidden = head.language(vectors, mask)
    return [head.language.logits(row[real]) for row, real in zip(hidden, mask, strict=True)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return saving(tmp_path_factory.mktemp)


@EACH
def test_videos_give_ids_patches_logits_and_greedy_text_of_theirs(kind, saved):
    model, processor, _, system = saved(kind)
    prompts = PROMPTS[:-1] if kind == "3" else PROMPTS  # theirs refuses a single frame
    theirs, ours = their_inputs(processor, prompts), system.processor(conversation=prompts, for_generation=True)
    shown = torch.isin(theirs["input_ids"], torch.tensor([IDS["image_token_id"], IDS["video_token_id"]]))
    for row, (ids, real) in enumerate(zip(ours.inputs["text"], ours.masks["text"], strict=True)):
        known = theirs["attention_mask"][row].bool()
        assert torch.equal(ids[real].masked_fill(ids[real] < 0, -1), theirs["input_ids"][row][known].masked_fill(shown[row][known], -1))
    patches, grids = as_ours(theirs, prompts)
    assert torch.equal(ours.grids["image"], grids)
    torch.testing.assert_close(ours.inputs["image"], patches, rtol=0, atol=2.1 / 255 / 0.26)  # filters of torch and PIL: two grey levels
    ours.inputs["image"] = patches  # the same values, so that the models alone are compared
    with torch.no_grad():
        expected = model(**theirs).logits
    for row, found in enumerate(our_logits(system, ours)):
        real = theirs["attention_mask"][row].bool()
        torch.testing.assert_close(found, expected[row][real], rtol=0, atol=1e-5)
    written = model.generate(**theirs, max_new_tokens=6, do_sample=False)[:, theirs["input_ids"].shape[1] :]
    said = [system.processor["conversation"].decode(row[row != 0].tolist()) for row in written]
    assert system.generate(prompts, max_new_tokens=6) == said and len(set(said)) > 1
    assert [system.generate([prompt], max_new_tokens=6)[0] for prompt in prompts] == said


@EACH
def test_long_videos_have_the_positions_of_the_training(kind, saved):
    """transformers 5.17 rounds the seconds of 2.5 and forgets the time behind a video, so it gets the positions of the papers."""
    model, processor, _, system = saved(kind)
    prompts = [[video(14, 16, 16, fps=4.0), "and then?"]]  # seven pictures of 2 x 2 tokens, half a second apart
    theirs, ours = their_inputs(processor, prompts), system.processor(conversation=prompts, for_generation=True)
    ours.inputs["image"] = as_ours(theirs, prompts)[0]
    spots = (theirs["input_ids"][0] == IDS["video_token_id"]).tolist()
    rows, columns = (ours.grids["image"][0] // 2).tolist()
    place = start = number = 0
    positions = []
    for spot in spots:
        if not spot:
            positions, place, number = [*positions, [place] * 3], place + 1, 0
            continue
        start = place if number == 0 else start
        time, rest = divmod(number, rows * columns)
        positions.append([start + time, start + rest // columns, start + rest % columns])
        place, number = max(place, max(positions[-1]) + 1), number + 1
    del theirs["mm_token_type_ids"]
    with torch.no_grad():
        expected = model(**theirs, position_ids=torch.tensor(positions).T[:, None]).logits[0]
    torch.testing.assert_close(our_logits(system, ours)[0], expected, rtol=0, atol=1e-5)
    assert spots.count(True) == 7 * rows * columns and max(positions[-1]) > 7


def test_time_steps_are_those_of_the_paper():
    timed = Fit(patch_size=4, video={"frames": 2, "time": "seconds", "per_second": 2.0})
    assert timed.steps_of(4, 1.0) == [-1, 4, 4, 4] and timed.steps_of(4, 0.25) == [-1, 1, 1, 1]
    assert timed.steps_of(5, 0.375) == [-1, 1, 2, 1, 2] and timed.steps_of(1, 9.0) == [-1] and timed.steps_of(3, 0.0) == [-1, 0, 0]
    assert Fit(patch_size=4, video={"frames": 2}).steps_of(3, 5.0) == [-1, 1, 1]
    assert Fit(patch_size=4, video={"frames": 2, "time": "text"}).steps_of(1, 5.0) == [-1]
    steps = torch.tensor([-1, -1, 2, 0, -1])
    assert pictures_of_items(steps) == [1, 3, 1]
    marks = torch.cat([torch.zeros(1, dtype=torch.int64), *picture_marks(torch.tensor([[1, 2]] * 3), torch.device("cpu"), steps[1:4])])
    found, ends = picture_positions(torch.cat([marks, torch.zeros(1, dtype=torch.int64)])[None])
    assert found[:, 0].tolist() == [[0, 1, 1, 3, 3, 3, 3, 4], [0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 2, 1, 2, 1, 2, 4]] and ends.tolist() == [5]


def test_frames_are_cut_as_theirs_for_many_sizes():
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize as by_frame
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as together

    limits = {"min_pixels": 4096, "max_pixels": 20_000}
    single, shared = (Fit(patch_size=4, video={"frames": 2, "shared": each, **limits}) for each in (False, True))
    generator = np.random.default_rng(0)
    for height, width, number in np.exp(generator.uniform(np.log(3), np.log([300, 300, 40]), (500, 3))).astype(int).tolist():
        if max(height, width) <= 200 * min(height, width):
            assert single.plan_frames(number, height, width).canvas == by_frame(height, width, 8, **limits)
            assert number < 2 or shared.plan_frames(number, height, width).canvas == together(number, height, width, 2, 8, **limits)
    with pytest.raises(DataError, match="ratio of the sides of at most 200"):
        shared.plan_frames(4, 2, 500)


@pytest.mark.parametrize(("kind", "tokens"), [("2", 100), ("2", 1000), ("3", 8)])
def test_long_videos_are_cut_smaller_as_theirs(kind, tokens, saved):
    from transformers.image_utils import SizeDict

    processor, limits = saved(kind)[1].video_processor, {"min_pixels": 256, "max_pixels": 8192}
    processor = type(processor)(patch_size=4, max_video_tokens=tokens)
    ours = Fit(patch_size=4, video={"frames": 2, "shared": kind == "3", "most_tokens": tokens, **limits})
    size, sizes = SizeDict(shortest_edge=256, longest_edge=8192), set()
    for number in (2, 5, 12, 40):
        given = torch.zeros(1, number, 3, 60, 44, dtype=torch.uint8)
        words = {"size": size, "resample": 3, "factor": 8, "temporal_factor": 2, "cap_pixels_per_frame": True}
        canvas = ours.plan_frames(number, 60, 44).canvas
        assert canvas == tuple(processor.resize(given, **words).shape[-2:])
        sizes.add(canvas)
    assert len(sizes) > 1


@EACH
def test_settings_of_videos_go_back(kind, saved, tmp_path):
    _, processor, directory, system = saved(kind)
    zoo.export(system, tmp_path / "out")
    before, after = (read_tensors(path / "model.safetensors") for path in (directory, tmp_path / "out"))
    assert set(before) == set(after) and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    again = reference.AutoProcessor.from_pretrained(tmp_path / "out")
    again.chat_template = processor.chat_template
    for key in ("size", "resample", "patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std"):
        ours, theirs = (getattr(each.video_processor, key) for each in (again, processor))
        assert list(ours) == list(theirs) if key.startswith("image_") else ours == theirs, key
    assert type(again.video_processor) is type(processor.video_processor)
    vision = json.loads((tmp_path / "out" / "config.json").read_text())["vision_config"]
    assert vision.get("tokens_per_second") == (2 if kind == "2.5" else None)
    second = zoo.load(tmp_path / "out")
    assert second.processor["image"].settings == system.processor["image"].settings
    assert second.generate(PROMPTS[:2], max_new_tokens=4) == system.generate(PROMPTS[:2], max_new_tokens=4)


@EACH
def test_training_scores_chats_and_saving_take_videos(kind, saved, tmp_path):
    system = zoo.load(saved(kind)[2])
    answers = ["a cat"] * len(PROMPTS)
    alone = torch.cat([system.score([prompt], answers[:1]) for prompt in PROMPTS])
    torch.testing.assert_close(system.score(PROMPTS, answers), alone, rtol=1e-5, atol=1e-5)
    parts = [{"type": "video", "video": PROMPTS[0][0]}, {"type": "image", "image": picture(20, 30)}, {"type": "text", "text": "so"}]
    asked, plain = ([{"role": "user", "content": each}, {"role": "assistant", "content": "a cat"}] for each in (parts, "hello"))
    system(system.processor(conversation=[asked, plain])).loss.backward()
    assert not [name for name, each in system.named_parameters() if each.requires_grad and each.grad is None]
    session = ChatSession(system, Sampling(max_new_tokens=4))
    session.show("image", PROMPTS[0][0])
    assert session.ask("what is there?").text == system.generate(PROMPTS[:1], max_new_tokens=4)[0].strip()
    session.show("image", picture(20, 30))
    second = session.ask("and here?")
    assert second.computed_tokens < second.prompt_tokens or kind  # an empty answer is not kept
    zoo.save(system, tmp_path)
    assert zoo.load(tmp_path).generate(PROMPTS[:2], max_new_tokens=3) == system.generate(PROMPTS[:2], max_new_tokens=3)


def test_wrong_settings_and_inputs_are_named(saved):
    for options, message in (
        ({"time": "never"}, "video.time: there is no 'never'"),
        ({"speed": 2}, "video.speed: .*no such option"),
        ({"per_second": 0.0}, "video.per_second: got 0.0"),
        ({"most_tokens": 0}, "video.most_tokens: 0; allowed is 1 or more"),
        ({"min_pixels": 9, "max_pixels": 4}, "video.max_pixels: 4; allowed is 9 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            Fit(patch_size=4, video=options)
    system = saved("2")[3]
    image = system.config["processor"]["image"]
    config = {**system.config, "processor": {"image": {"tiler": {**image["tiler"], "video": {"frames": 3}}}}}
    with pytest.raises(ConfigError, match=r"tiler.video.frames: 3, but .*encoders.image.frames is 2"):
        zoo.create_system(config)
    with pytest.raises(DataError, match="only conversations hold videos"):
        system.processor["image"]([PROMPTS[0][0]])
    with pytest.raises(DataError, match="a video has no frames"):
        system.processor["image"].item(replace(PROMPTS[0][0], frames=()))
