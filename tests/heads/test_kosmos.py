"""Invariants of the Kosmos head: one sequence of text, images and audio."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.assembly.summary import count
from zoo.errors import ConfigError, DataError
from zoo.types import PLACEHOLDER_IDS, SUPERVISED, Batch, encode

TEXTS = ["a small red square and the number seven", "which is it? what do you see", "first second third"]
BOTH = {
    "name": "both",
    "encoders": {"image": "vit_nano", "audio": "whisper_nano_encoder"},
    "head": "kosmos_head_nano",
    "language": "magneto_nano",
    "processor": {"image": {}, "audio": {}, "conversation": {"template": "kosmos"}},
}


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def clip(number):
    return np.random.default_rng(number).normal(size=3000 + 500 * number).astype(np.float32) * 0.1


DOCUMENTS = [
    [picture(0), "a small red square", picture(1), clip(0), "the number seven", picture(2)],
    ["first second third"],
    ["what do you see", clip(1), clip(2), "which"],
    [picture(3), "seven"],
]


@pytest.fixture(scope="module")
def original():
    """System with a tokenizer, and weights large enough that its output depends on its input."""
    system = zoo.create_system(BOTH)
    system.processor.fit(TEXTS)
    with torch.no_grad():
        for parameter in system.head.parameters():
            parameter.mul_(1.5)
    return system.eval()


@pytest.fixture
def system(original):
    return copy.deepcopy(original)


@pytest.fixture
def batch(system):
    return system.processor(conversation=DOCUMENTS)


def predictions(system, batch):
    return system.head.predictions(system.encode_batch(batch), batch)


def test_the_loss_is_that_of_the_discrete_tokens_computed_one_by_one(system, batch):
    encoded, expected, language = system.encode_batch(batch), [], system.head.language
    found = {m: iter(system.head.connectors[m](encoded[m].tokens, encoded[m].mask)[0].flatten(0, 1)) for m in encoded}
    items = {number: found[modality] for modality, number in PLACEHOLDER_IDS.items()}
    for token_ids, mask in zip(batch.inputs["text"].tolist(), batch.masks["text"], strict=True):
        token_ids = token_ids[: int(mask.sum())]
        vectors = torch.stack([next(items[i]) if i < 0 else language.embed(torch.tensor(i)) for i in token_ids])
        scores = language.logits(language(vectors[None]))[0].log_softmax(-1)
        expected += [-scores[place - 1, i] for place, i in enumerate(token_ids) if place and i >= 0]
    output = system(batch)
    torch.testing.assert_close(output.loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-5)
    assert all(next(rest, None) is None for rest in found.values()), "latents that no placeholder took"


def test_a_document_holds_any_number_of_items_each_between_its_symbols(system, batch):
    spans, runs = system.processor["conversation"].spans, 4
    row = batch.inputs["text"][0].tolist()
    image, audio = ([spans[m][0], *[PLACEHOLDER_IDS[m]] * runs, spans[m][1]] for m in ("image", "audio"))
    assert row[1 : 1 + len(image)] == image
    place = next(i for i in range(2 + runs, len(row)) if row[i] == spans["image"][0])
    assert row[place : place + len(image + audio)] == image + audio
    assert [int((batch.inputs["text"][:, 1:] == spans[m][1]).sum()) for m in ("image", "audio")] == [4, 3]


def test_the_loss_never_falls_on_a_slot(system, batch):
    before = predictions(system, batch)
    batch.targets[SUPERVISED][batch.inputs["text"] < 0] = True
    after = predictions(system, batch)
    assert torch.equal(before.labels, after.labels) and int(after.labels.min()) >= 0
    first = batch.masks["text"] & (batch.inputs["text"] >= 0)
    assert len(after.labels) == int(first[:, 1:].sum())  # all but the slots and <s>


def test_a_packed_batch_is_the_sum_of_its_documents_alone(system, batch):
    def learnt(conversations):
        system.zero_grad()
        found = predictions(system, system.processor(conversation=conversations))
        loss = F.cross_entropy(found.logits, found.labels, reduction="sum")
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in system.named_parameters() if p.grad is not None}

    system.double()
    together, gradients = learnt(DOCUMENTS)
    alone = [learnt([document]) for document in DOCUMENTS]
    torch.testing.assert_close(together, sum(loss for loss, _ in alone), rtol=1e-6, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, sum(each[name] for _, each in alone), rtol=1e-6, atol=1e-6, msg=name)


def test_a_changed_document_changes_no_others_logits(system, batch):
    system.double()
    before = predictions(system, batch)
    others = [["second", picture(9), clip(9), "x y z", picture(8)], *DOCUMENTS[1:]]
    after = predictions(system, system.processor(conversation=others))
    torch.testing.assert_close(after.logits[after.rows > 0], before.logits[before.rows > 0], rtol=0, atol=1e-9)
    assert not torch.equal(after.logits[after.rows == 0][-1], before.logits[before.rows == 0][-1])


def test_a_later_picture_changes_nothing_before_it(system):
    first, second = (predictions(system, system.processor(conversation=[["a", picture(0), "b", picture(i)]])) for i in (1, 2))
    same = (first.logits - second.logits).abs().amax(1) < 1e-6
    assert same.tolist() == [True] * (len(same) - 2) + [False] * 2  # </image> and </s> alone come behind it


def test_only_supervised_positions_are_scored_and_nothing_is_computed_for_padding(system, batch):
    scored, shown = [], []
    logits, forward = system.head.language.logits, system.head.language.forward
    system.head.language.logits = lambda hidden: scored.append(len(hidden)) or logits(hidden)
    system.head.language.forward = lambda x, *args, **kwargs: shown.append(x.shape[:-1].numel()) or forward(x, *args, **kwargs)
    system(batch)
    assert scored == [int(batch.targets[SUPERVISED].sum())] and shown == [int(batch.masks["text"].sum())]


@pytest.mark.parametrize("name", ["vit_nano", "timm/test_vit"])
def test_the_class_token_comes_before_the_patches(name):
    encoder = zoo.create_model(name)
    pixels = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    for layer in (None, -2, -1):
        shown = encode(encoder, pixels, reads="patches", layer=layer, class_token=True).tokens
        assert torch.equal(shown[:, 1:], encode(encoder, pixels, reads="patches", layer=layer).tokens)
        assert shown.shape[1] == encoder(pixels).tokens.shape[1]
    torch.testing.assert_close(encode(encoder, pixels, reads="patches", class_token=True).tokens, encoder(pixels).tokens)


def test_registers_are_never_shown_and_other_encoders_show_what_they_have():
    vit, pixels = zoo.create_model("vit_nano", num_registers=3), torch.randn(2, 3, 32, 32)
    shown = encode(vit, pixels, reads="patches", class_token=True).tokens
    assert torch.equal(shown, vit(pixels).tokens[:, [0, *range(4, 20)]])
    for encoder in (zoo.create_model("vig_nano"), zoo.create_model("vit_nano", class_token=False)):
        assert torch.equal(encode(encoder, pixels, reads="patches", class_token=True).tokens, encoder(pixels).tokens)


def test_the_connector_is_shown_the_class_token_where_it_is_asked_for():
    for asked, number in ((True, 17), (False, 16)):
        config = {
            **BOTH,
            "encoders": {"image": "vit_nano"},
            "head": {"name": "kosmos", "class_token": asked, "connectors": {"image": "linear"}},
        }
        system = zoo.create_system({**config, "processor": {}})
        assert system.counts["image"].fixed == number
        assert system.encode_ready("image", torch.zeros(1, 3, 32, 32)).tokens.shape[1] == number


SPOILT = [
    ("before", r"document 1 \(1\): image item 2, at tokens 11 to 14, stands after token 9; expected after token \d+ \(<image>\)"),
    ("behind", r"image item 2, at tokens 11 to 14, stands before token 9; expected before token \d+ \(</image>\)"),
    ("cut", r"document 1 \(1\): image item 2, at tokens 11 to 14, stands before the edge of the document"),
    ("short", r"document 1 \(1\): image item 1, at tokens 2 to 5, has 4 placeholders, but the connector makes 3 tokens of it"),
    ("more", r"document 1 \(1\): image item 2, at tokens 11 to 14, has 4 placeholders, but the batch has no features for it"),
    ("fewer", "features of 3 image items, but placeholders for 2 in 1 documents"),
]


@pytest.mark.parametrize(("how", "message"), SPOILT)
def test_items_that_are_not_between_their_symbols_are_refused_precisely(system, how, message):
    batch = system.processor(conversation=[["a"], [picture(0), "ab", picture(1)]])
    row, encoded = batch.inputs["text"][1], system.encode_batch(batch)
    second = int((row == PLACEHOLDER_IDS["image"]).nonzero()[4])
    if how in ("before", "behind"):
        row[second - 1 if how == "before" else second + 4] = 9
    elif how == "cut":
        batch.masks["text"][1, second + 4 :] = False
    elif how == "short":
        system.head.connectors["image"].resampler.latents.data = system.head.connectors["image"].resampler.latents.data[:3]
    else:
        rows = [0] if how == "more" else [0, 1, 1]
        encoded["image"].tokens, encoded["image"].mask = encoded["image"].tokens[rows], encoded["image"].mask[rows]
    with pytest.raises(DataError, match=message):
        system.head(encoded, batch)


def test_two_items_without_symbols_between_them_are_refused(system):
    batch = system.processor(conversation=[[picture(0), picture(1)]])
    kept = torch.ones(batch.inputs["text"].shape[1], dtype=torch.bool)
    kept[6:8] = False  # </image><image>
    for tensors, name in ((batch.inputs, "text"), (batch.masks, "text"), (batch.targets, SUPERVISED)):
        tensors[name] = tensors[name][:, kept]
    with pytest.raises(
        DataError, match="at tokens 2 to 9, has 8 placeholders, but the connector makes 4 tokens of it; put both symbols between"
    ):
        system(batch)


def test_the_template_is_the_heads_unless_the_config_says_otherwise():
    plain = {"encoders": {"image": "vit_nano"}, "head": "kosmos_head_nano", "language": "magneto_nano"}
    assert zoo.create_system(plain).processor["conversation"].template_name == "kosmos"
    with pytest.raises(ConfigError, match="system.processor.conversation.template: 'chatml' puts no start and end symbols around image"):
        zoo.create_system({**plain, "processor": {"conversation": {"template": "chatml"}}})
    spans = {"template": "chatml", "spans": {"image": ["<image>", "</image>"]}}
    assert zoo.create_system({**plain, "processor": {"conversation": spans}}).processor["conversation"].template_name == "chatml"


def test_a_ready_batch_needs_no_processor(system, batch):
    before = system(batch).loss
    system.processor = None
    assert torch.equal(system(batch).loss, before)


def test_a_batch_of_prompts_gives_what_single_prompts_give(system):
    prompts = [[picture(0), "seven", picture(1)], "what do", [clip(1), "which"], ["a", picture(2), clip(0), "b"]]
    together = system.generate(prompts, max_new_tokens=8, batch_size=4)
    assert together == [system.generate([prompt], max_new_tokens=8)[0] for prompt in prompts]
    assert len(set(together)) > 1


def test_scores_are_log_probabilities_of_the_answer_behind_a_document(system):
    prompt = [picture(0), "seven", picture(1)]
    (score,) = system.score([prompt], ["red square"])
    whole = predictions(system, system.processor(conversation=[[*prompt, "red square"]]))
    alone = predictions(system, system.processor(conversation=[prompt]))
    answer = len(whole.labels) - len(alone.labels) + 1  # its tokens and </s>
    chances = -F.cross_entropy(whole.logits, whole.labels, reduction="none")
    torch.testing.assert_close(score, chances[-answer:].sum(), rtol=0, atol=1e-4)
    (begins,) = system.score([prompt], ["red square"], with_end=False)
    torch.testing.assert_close(begins, chances[-answer:-1].sum(), rtol=0, atol=1e-4)


def test_a_saved_system_says_the_same_and_still_checks(system, tmp_path):
    prompts = [[picture(0), "seven", picture(1)], "what"]
    loaded = zoo.load(zoo.save(system, tmp_path / "saved"))
    assert loaded.generate(prompts, max_new_tokens=6) == system.generate(prompts, max_new_tokens=6)
    assert loaded.head.conversation.spans == system.head.conversation.spans != {}
    copied = copy.deepcopy(loaded)
    assert copied.head.conversation is copied.processor["conversation"]


def test_kosmos_1_and_2_have_the_papers_sizes():
    one, two = (zoo.create_model(f"kosmos_{i}", device="meta") for i in (1, 2))
    assert count(one.head.language) == 1_340_180_480 and one.head.language.vocab_size == 64_007
    assert 1.6e9 < count(one) < 1.7e9 and one.counts["image"].fixed == 64
    assert count(two) == 1_664_485_376 and count(two.head.connectors) == 19_015_680
    assert count(two.encoders["image"]) == 303_179_776 and two.counts["image"].fixed == 64
    assert one.encode_ready("image", torch.zeros(1, 3, 224, 224, device="meta")).tokens.shape == (1, 257, 1024)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["system.head.connectors.image={kind: kosmos2, latents: 3}"], "connectors.image: latents: connector 'kosmos2' has no such"),
        (["system.head.connectors.image={kind: kosmos2, num_latents: 0}"], "connectors.image: num_latents: 0; allowed is 1 or more"),
        (["system.head.connectors.image={kind: resampler, num_latents: 256}"], "makes 256 tokens of each image, which leaves no room"),
        (
            ["system.head.connectors.image=pixel_shuffle"],
            "pixel_shuffle' cannot be used here: for the encoder's output, 17 tokens do not form a square grid",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(overrides, message):
    with pytest.raises(ConfigError, match=message):
        zoo.create_system("kosmos_nano", overrides)


def test_a_batch_without_documents_is_refused(system):
    with pytest.raises(DataError, match=r"inputs\['text'\]"):
        system(Batch({"image": torch.zeros(1, 3, 32, 32)}))
