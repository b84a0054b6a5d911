"""Videos and several pictures: frames of files, frames as one item or as pictures, prompts and chats that hold them."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.commands.chat_session import ChatSession
from zoo.commands.cli import main
from zoo.errors import ConfigError, DataError
from zoo.evaluation.question_answering import QuestionAnswering
from zoo.heads.bases.media_features import features_of
from zoo.language.decoding.sampling import Sampling
from zoo.processors.chat.messages import Conversation
from zoo.processors.media.video_file import Frame, Video, read_video
from zoo.registry import find_part
from zoo.sources.instruct import Instruct
from zoo.types import PLACEHOLDER_IDS

LONG = ["system.head.language.context_length=1200", "system.processor.conversation.tokenizer=characters"]
TOGETHER = "{kind: anyres, most_tiles: 1, several: whole, frame_pool: 2}"  # as LLaVA-OneVision
LIMITS = "min_pixels: 256, max_pixels: 1024"
PATCHES = f"{{kind: fit, merge: 1, {LIMITS}, video: {{time: order, {LIMITS}}}}}"  # as Qwen2-VL, with the patches of any encoder
ONE_ITEM = (TOGETHER, PATCHES)  # a video is one item
TILERS = ["null", TOGETHER, "split", "canvas", PATCHES]


def picture(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed + height).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of 30 frames of 48 x 64 pixels, at 10 frames per second; frame i is grey of about 8 i."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def systems():
    made = {}

    def make(tiler):
        if tiler not in made:
            torch.manual_seed(0)
            system = zoo.create_system("llava_nano", [f"+system.processor.image.tiler={tiler}", *LONG])
            system.processor.fit(["What is there? a cat and two dogs, so"])
            made[tiler] = system.eval()
        return made[tiler]

    return make


@pytest.mark.parametrize(
    ("choice", "places"),
    [
        ({"frames": 4}, [0, 7, 15, 22]),
        ({}, [0, 3, 7, 11, 15, 18, 22, 26]),
        ({"frames": 40}, list(range(30))),
        ({"rate": 2.0}, [0, 5, 10, 15, 20, 25]),
        ({"rate": 0.1}, [0]),
    ],
)
def test_frames_are_spread_evenly(clip, choice, places):
    frames = read_video(clip, **choice).frames
    assert [round(frame.seconds * 10) for frame in frames] == places
    assert all(frame.pixels.shape == (3, 48, 64) for frame in frames)
    assert [float(frame.pixels.float().mean()) for frame in frames] == pytest.approx([8 * place for place in places], abs=6)


def test_bad_files_and_values_are_named(clip, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(DataError, match=r"text.mp4: not a video that can be read"):
        read_video(tmp_path / "text.mp4")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:600])
    with pytest.raises(DataError, match="cut.mp4"):
        read_video(tmp_path / "cut.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(DataError, match="holds no pictures"):
        read_video(tmp_path / "sound.mp4")
    for choice, message in (({"frames": 0}, "allowed is 1"), ({"rate": -1.0}, "above 0"), ({"frames": 2, "rate": 1.0}, "give one")):
        with pytest.raises(DataError, match=message):
            read_video(clip, **choice)


def test_one_vision_counts_frames_and_several_pictures_as_published():
    canvases = [[rows, columns] for rows in range(1, 7) for columns in range(1, 7)]
    kind = find_part("tiler", "anyres")(tile_size=384, canvases=canvases, most_tiles=9, several="whole", frame_pool=2)
    assert kind.count(kind.plan_of((0, 8)), 729) == 1569
    assert 2 * kind.count(kind.plan_of((0, 0)), 729) == 1460
    assert kind.plan_of((333, 500)) == kind.plan(333, 500)
    for number in (0, 1, 3):
        plan = kind.plan_of((0, number))
        assert len(kind.arrange(torch.zeros(plan.num_tiles, 9, 2), plan, torch.zeros(2))) == kind.count(plan, 9)
    for wrong in ({"several": "all"}, {"frame_pool": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            find_part("tiler", "anyres")(tile_size=8, **wrong)


@pytest.mark.parametrize("tiler", TILERS)
def test_a_video_file_is_read_in_any_system(systems, clip, tiler):
    system = systems(tiler)
    asked = [[clip, "What is there?"], [picture(40, 60), picture(30, 30), "so"], [picture(40, 60), "so"]]
    batch = system.processor(conversation=asked, for_generation=True)
    found = features_of(system.head, system, batch, {})["image"]
    assert int((batch.inputs["text"] == PLACEHOLDER_IDS["image"]).sum()) == int(found[1].sum())
    assert len(found[0]) == (1 if tiler in ONE_ITEM else 8) + 3
    assert system.generate(asked, max_new_tokens=3) == [system.generate([each], max_new_tokens=3)[0] for each in asked]
    frames = read_video(clip).frames
    text = "Frame{}: " if tiler == "canvas" else ""
    apart = [part for number, frame in enumerate(frames, 1) for part in ("\n" + text.format(number), frame)]
    given = [Video(frames)] if tiler in ONE_ITEM else [text.format(1), *apart[1:]]
    alone, others = system.score([asked[0]], ["a cat"]), system.score([[*given, "What is there?"]], ["a cat"])
    torch.testing.assert_close(alone, others)
    system.zero_grad()
    content = [{"type": "video", "video": str(clip)}, {"type": "image", "image": picture(40, 60)}, {"type": "text", "text": "so"}]
    system(
        system.processor(conversation=[[{"role": "user", "content": content}, {"role": "assistant", "content": "a cat"}]])
    ).loss.backward()
    assert not [name for name, each in system.named_parameters() if each.requires_grad and each.grad is None]


def test_of_several_pictures_each_is_one_tile_and_a_lone_one_is_cut(systems):
    image = systems(TOGETHER).processor["image"]
    lone, pair = image.items([picture(40, 90)]), image.items([picture(40, 90), picture(30, 30)])
    assert lone[0].size.tolist() == [40, 90] and len(lone[0].pixels) > 1
    assert [each.size.tolist() for each in pair] == [[0, 0], [0, 0]] and all(len(each.pixels) == 1 for each in pair)
    with_video = image.items([Video((Frame(torch.zeros(3, 9, 9, dtype=torch.uint8)),)), picture(40, 90)])
    assert [each.size.tolist() for each in with_video] == [[0, 1], [40, 90]]  # a video is no picture


@pytest.mark.parametrize("tiler", TILERS)
def test_a_chat_shows_pictures_and_a_video_as_one_prompt_does(systems, clip, tiler):
    system = systems(tiler)
    session = ChatSession(system, Sampling(max_new_tokens=4))
    session.show("image", picture(40, 90))
    session.show("image", clip)
    first = session.ask("What is there?").text
    assert first == system.generate([[picture(40, 90), clip, "What is there?"]], max_new_tokens=4)[0].strip()
    if first:  # an empty answer is not kept
        session.show("image", picture(30, 30))
        told = [*session.messages, *session._with("so").messages[len(session.messages) :]]
        images = (picture(40, 90), clip, picture(30, 30))
        assert session.ask("so").text == system.generate([Conversation(tuple(told), images)], max_new_tokens=4)[0].strip()


def test_a_video_for_a_model_of_pictures_says_how_to_give_its_frames(systems):
    video = Video((Frame(torch.zeros(3, 9, 9, dtype=torch.uint8)),))
    with pytest.raises(DataError, match=r"give its frames: \*video.frames"):
        systems("canvas").processor["image"].item(video)
    assert systems("canvas").processor["image"].item(video.frames[0]).size.tolist() == [0, 0]


def test_a_missing_video_in_a_conversation_is_named(systems):
    with pytest.raises(DataError, match="none.mp4: no such file"):
        systems("canvas").generate([[Path("none.mp4"), "so"]], max_new_tokens=2)


def test_questions_about_videos_are_evaluated_and_shown(systems, clip, tmp_path):
    content = [{"type": "video", "video": str(clip)}, {"type": "text", "text": "What is there?"}]
    row = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a cat"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    source = Instruct(path=str(tmp_path / "rows.jsonl"), validation=str(tmp_path / "rows.jsonl"))
    result = QuestionAnswering(blind="blank", max_new_tokens=2)(systems(TOGETHER), source, "validation")
    assert set(result.metrics) >= {"exact_match", "blind_exact_match"}
    result.draw(tmp_path)
    page = next(tmp_path.glob("*.html")).read_text()
    assert page.count("data:image/jpeg") == 8


def test_the_command_line_chooses_frames(systems, clip, tmp_path, capsys):
    zoo.save(systems(TOGETHER), tmp_path / "model")
    lengths = []
    for choice in (["--frames", "2"], ["--frame-rate", "1"], []):
        assert (
            main(["chat", "--model", str(tmp_path / "model"), "--video", str(clip), *choice, "--max-new-tokens", "1", "--json", "so"]) == 0
        )
        lengths.append(json.loads(capsys.readouterr().out)["prompt_tokens"])
    assert [length - lengths[0] for length in lengths] == [0, 4, 24]  # four tokens for each frame of 4 x 4 patches
    assert main(["chat", "--model", str(tmp_path / "model"), "--video", "none.mp4", "so"]) == 2
    assert "none.mp4: no such file" in capsys.readouterr().err
