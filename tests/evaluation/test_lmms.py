"""The interface of lmms-eval's models."""

import sys
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.errors import ConfigError, DataError
from zoo.evaluation.adapters.lmms import LmmsModel

TASK, SPLIT = "local", "test"


def request(*arguments):
    """An ``Instance`` of lmms-eval, of which models read ``args``."""
    return SimpleNamespace(args=arguments)


def picture(grey):
    return Image.fromarray(np.full((20, 30), grey, dtype=np.uint8))


DOCUMENTS = [{"image": picture(40 * number), "question": f"What is in picture {number}?", "answer": "three"} for number in range(5)]


def visual(document):
    return [document["image"]]


def lmms_of(name):
    torch.manual_seed(0)
    system = zoo.create_system(name).eval()
    system.processor.fit([f"{number} {document['question']} {document['answer']}" for number, document in enumerate(DOCUMENTS * 99)])
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)  # random weights else repeat one token
    model = LmmsModel(system, batch_size=2, max_new_tokens=5)
    model.task_dict[TASK] = {SPLIT: DOCUMENTS}  # as lmms-eval sets it
    return model


@pytest.fixture(scope="module")
def llava():
    return lmms_of("llava_nano")


def asked(number, settings=None, context=None):
    settings = {"max_new_tokens": 4, "temperature": 0, "do_sample": False, "until": ["\n\n"]} if settings is None else settings
    return request(context or DOCUMENTS[number]["question"], settings, visual, number, TASK, SPLIT)


@pytest.mark.parametrize("name", ["llava_nano", "kosmos_nano"])
def test_answers_are_those_of_generate_in_the_order_of_the_requests(name):
    model = lmms_of(name)
    settings = [{"max_new_tokens": 3 + number % 2, "until": "\n\n"} for number in range(5)]  # two groups
    found = model.generate_until([asked(number, given) for number, given in enumerate(settings)])
    for number, document in enumerate(DOCUMENTS):
        expected = model.model.generate([[document["image"], document["question"]]], max_new_tokens=3 + number % 2, stop=["\n\n"])
        assert found[number] == expected[0].strip()
    assert len(set(found)) > 1


def test_pictures_stand_at_the_markers_of_the_context_or_before_it(llava):
    marked, plain = (llava._conversation(text, [picture(0), picture(9)]) for text in ("<image> or <image>?", "Which?"))
    assert marked.messages[0].text == "<image> or <image>?"
    assert plain.messages[0].text == "<image>\n<image>\nWhich?"
    assert llava._conversation("one <image>", [picture(0), picture(9)]).messages[0].text == "<image>\n<image>\none < image>"


def test_a_video_is_shown_by_its_frames(llava, tmp_path):
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    shown = LmmsModel(llava.model, frames=3)._conversation("What happens?", [str(tmp_path / "clip.mp4")])
    assert [round(frame.seconds, 1) for frame in shown.images[0].frames] == [0.0, 0.2, 0.4]
    assert len(llava.model.generate([shown], max_new_tokens=2)) == 1


@pytest.mark.parametrize("answer", ["three", lambda document: document["answer"]])
def test_likelihoods_are_negative_as_the_evaluator_takes_the_smallest(llava, answer):
    found = llava.loglikelihood([request(DOCUMENTS[n]["question"], answer, visual, n, TASK, SPLIT) for n in range(3)])
    prompts = [[document["image"], document["question"]] for document in DOCUMENTS[:3]]
    np.testing.assert_allclose([value for value, _ in found], -llava.model.score(prompts, ["three"] * 3).numpy(), rtol=1e-5)
    assert not any(greedy for _, greedy in found)


def test_the_greedy_answer_is_recognised(llava, monkeypatch):
    monkeypatch.setattr(llava, "_answers", lambda prompts, settings: ["three"] * len(prompts))
    found = llava.loglikelihood([request("What?", text, visual, 1, TASK, SPLIT) for text in (" three", "four")])
    assert [greedy for _, greedy in found] == [True, False]


def test_rounds_go_on_until_the_task_ends_them(llava):
    def following(document, *, previous_output, round_idx, previous_round_info):
        seen.append((len(previous_output), round_idx, previous_round_info))
        return visual(document), f"Round {round_idx}?", round_idx == 3, previous_output, round_idx

    seen = []
    found = llava.generate_until_multi_round([request("Round 0?", {"max_new_tokens": 2}, visual, following, 0, TASK, SPLIT)])
    assert seen == [(1, 1, None), (2, 2, 1), (3, 3, 2)]
    assert found == [llava.generate_until([asked(0, {"max_new_tokens": 2}, f"Round {number}?") for number in range(3)])]


def test_settings_of_sampling_count_only_where_a_task_samples(llava):
    greedy = {"max_new_tokens": 3, "seed": 0, "stop": ()}
    assert llava._settings({"max_new_tokens": 3, "temperature": 0, "top_p": 0, "num_beams": None}) == greedy
    assert llava._settings({"max_new_tokens": 3, "temperature": 1.0, "top_p": 0.9, "do_sample": False, "until": ""}) == greedy
    sampled = {"max_new_tokens": 5, "seed": 0, "stop": ("\n",), "temperature": 0.5, "top_p": 0.9}
    assert llava._settings({"temperature": 0.5, "top_p": 0.9, "do_sample": True, "until": ["\n"]}) == sampled


def test_bad_requests_are_refused(llava):
    with pytest.raises(ConfigError, match="'beams' is unknown"):
        llava.generate_until([asked(0, {"beams": 3})])
    with pytest.raises(DataError, match=r"shows 'film\.txt'"):
        llava._conversation("?", ["film.txt"])
    with pytest.raises(DataError, match=r"film\.mp4: no such file"):
        llava._conversation("?", ["film.mp4"])
    with pytest.raises(ConfigError, match="frames: 0"):
        LmmsModel(llava.model, frames=0)
    with pytest.raises(ConfigError, match="audio inputs, but the model has image"):
        llava._conversation("?", [{"array": np.zeros(800), "sampling_rate": 16000}])
    with pytest.raises(DataError, match="not empty"):
        llava.loglikelihood([request("?", " ", visual, 0, TASK, SPLIT)])
    with pytest.raises(ConfigError, match="verbs generate, score"):
        LmmsModel(zoo.load("clip_vit_nano"))


def test_lmms_eval_takes_it_for_one_of_its_models(llava, monkeypatch):
    from abc import ABC

    module = ModuleType("lmms_eval.api.model")
    module.lmms = type("lmms", (ABC,), {})
    package = ModuleType("lmms_eval")
    package.__spec__ = sys.__spec__
    for name, each in {"lmms_eval": package, "lmms_eval.api": ModuleType("lmms_eval.api"), "lmms_eval.api.model": module}.items():
        monkeypatch.setitem(sys.modules, name, each)
    assert isinstance(LmmsModel(llava.model), module.lmms)
