"""Reward head: scores of single conversations, ranked answers, padding, transformers' classes of sequence classification, and training."""

import json

import numpy as np
import pytest
import torch
import transformers

import zoo
from zoo.assembly.compose import compose
from zoo.evaluation.ranking import Ranking
from zoo.heads.reward import Reward, ranked_pairs
from zoo.runs.train import train
from zoo.sources.preferences import Preferences
from zoo.training.log import read_lines
from zoo.types import Batch

ANSWERS = ["seven", "a small red square", "one", "two of them, side by side"]


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    made = zoo.create_model("reward_nano")
    made.processor.fit([*ANSWERS, "which is it?"])
    with torch.no_grad():
        for parameter in made.head.parameters():
            parameter.mul_(4)
    return made.eval()


def conversations():
    asked = [[{"role": "user", "content": [{"type": "image", "image": picture(i)}, "which is it?"]}] for i in range(4)]
    return [[*prompt, {"role": "assistant", "content": answer}] for prompt, answer in zip(asked, ANSWERS, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_score_does_not_depend_on_padding(system, side):
    batch = system.processor(conversation=conversations(), padding_side=side)
    found = system.head.scores(system.encode_batch(batch), batch)
    alone = [system.processor(conversation=[each]) for each in conversations()]
    expected = torch.cat([system.head.scores(system.encode_batch(one), one) for one in alone])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.unique().numel() == 4
    prompts = [each[:1] for each in conversations()]
    torch.testing.assert_close(system.reward(prompts, ANSWERS, batch_size=3), expected, atol=1e-5, rtol=1e-5)


def test_ranked_answers_give_all_pairs_of_a_prompt():
    targets = {"labels": torch.tensor([1, 0, 2, 0, 1]), "groups": torch.tensor([7, 7, 7, 9, 9])}
    better, worse, prompts = ranked_pairs(Batch({}, {}, targets))
    assert list(zip(better.tolist(), worse.tolist(), prompts.tolist(), strict=True)) == [(0, 1, 0), (2, 0, 0), (2, 1, 0), (4, 3, 1)]
    with pytest.raises(zoo.DataError, match="holds no better or worse answer than lonely to the same prompt"):
        lonely = {"labels": torch.tensor([1, 0, 1]), "groups": torch.tensor([7, 7, 9])}
        ranked_pairs(Batch({}, {}, lonely, ["a", "b", "lonely"]))


def test_the_loss_is_the_mean_over_prompts_of_the_mean_over_pairs(system):
    batch = system.processor(conversation=conversations())
    batch.targets |= {"labels": torch.tensor([2, 1, 0, 0]), "groups": torch.tensor([1, 1, 1, 1])}
    output = system(batch)
    scores = output.outputs["scores"]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    expected = torch.stack([-torch.nn.functional.logsigmoid(scores[i] - scores[j]) for i, j in pairs]).mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    system.head.margin, system.head.centring = 0.5, 0.01
    expected = torch.stack(
        [-torch.nn.functional.logsigmoid(scores[i] - scores[j] - 0.5) + 0.01 * (scores[i] + scores[j]) ** 2 for i, j in pairs]
    )
    assert system(batch).loss.item() == pytest.approx(expected.mean().item(), abs=1e-6)
    system.head.margin, system.head.centring = 0.0, 0.0


CLASSES = {
    "Llama": {"num_key_value_heads": 1},
    "GPT2": {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 64},
    "Mistral": {"num_key_value_heads": 3, "sliding_window": 4},
    "Qwen2": {"num_key_value_heads": 1},
    "Qwen3": {"num_key_value_heads": 1, "head_dim": 10},
    "Gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "Gemma2": {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "Gemma3Text": {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "Phi3": {"num_key_value_heads": 1, "pad_token_id": 0},
}
SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 64}


@torch.no_grad()
@pytest.mark.parametrize("family", CLASSES)
def test_transformers_reward_models_load_and_go_back(family, tmp_path):
    torch.manual_seed(1)
    sizes = CLASSES[family] if family == "GPT2" else {**SIZES, **CLASSES[family]}
    config = getattr(transformers, f"{family}Config")(vocab_size=37, num_labels=1, **{"pad_token_id": 0, **sizes})
    theirs = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = zoo.load(tmp_path / "theirs")
    ids, mask = torch.randint(1, 37, (3, 7)), torch.arange(7) < torch.tensor([[7], [4], [1]])
    padded = ids * mask
    batch = Batch({"text": padded}, {"text": mask}, {"supervised": mask})
    expected = theirs(padded, attention_mask=mask.long()).logits[:, 0]
    torch.testing.assert_close(ours.head.scores({}, batch), expected, atol=1e-5, rtol=1e-5)
    zoo.export(ours, tmp_path / "ours")
    again, report = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and again.config.num_labels == 1
    again.config.pad_token_id = 0
    torch.testing.assert_close(again(padded, attention_mask=mask.long()).logits[:, 0], expected, atol=1e-6, rtol=1e-6)


def test_a_reward_model_without_a_word_table_as_output_predicts_no_tokens():
    head = Reward(inputs={}, language=zoo.create_model("mistral_nano"))
    with pytest.raises(zoo.ConfigError, match="head 'reward' scores conversations and has no output over the vocabulary"):
        head.predictions({}, Batch({}))


def test_a_classifier_of_several_labels_is_refused(tmp_path):
    config = transformers.LlamaConfig(vocab_size=37, num_labels=3, **SIZES)
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(zoo.WeightsError, match="classifies texts into 3 labels; only reward models, with one label"):
        zoo.load(tmp_path)


def rows(path, width):
    good, bad = "good", ["bad", "worse", "awful"]
    said = [{"prompt": f"what is {i}?", "answers": [f"{i} is {word}" for word in (good, *bad)[:width]]} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    return path


def test_rows_of_ranked_answers_stay_together_and_are_refused_if_they_differ_in_number(tmp_path):
    split = Preferences(path=rows(tmp_path / "ranked.jsonl", 3), validation_share=0.2).split("train")
    assert [split.sample(i).label for i in range(3)] == [2, 1, 0] and len({split.sample(i).group for i in range(3)}) == 1
    assert [split.sample(i).kind for i in range(3)] == ["chosen", "rejected", "rejected"]
    order = split.order(0, 0)
    assert (order.reshape(-1, 3) % 3 == np.arange(3)).all()
    with (tmp_path / "ranked.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "x", "answers": ["a", "b"]}) + "\n")
    with pytest.raises(zoo.DataError, match=r"holds rows of \[2, 3\] answers; put those of each number into a file of its own"):
        Preferences(path=tmp_path / "ranked.jsonl")


@pytest.mark.heavy
def test_a_reward_model_starts_from_a_language_model_and_learns_the_order(tmp_path):
    path = rows(tmp_path / "ranked.jsonl", 3)
    shared = ["data=preferences", f"data.source.path={path}", "data.source.validation_share=0.2", "training.warmup_steps=1"]
    shared += ["training.log_every=1", "training.evaluate_every=0"]
    train(compose("train", ["system=llava_nano", *shared, "training.max_steps=1", "training.batch_size=6", f"run_dir={tmp_path / 'sft'}"]))
    given = [f"weights.{part}={tmp_path / 'sft'}" for part in ("encoders.image", "head.language", "head.connectors")]
    given += ["training.max_steps=12", "training.batch_size=24", "training.learning_rate=0.003", f"run_dir={tmp_path / 'run'}"]
    train(compose("train", ["system=reward_nano", *shared, *given]))
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(0.7, abs=0.2) and lines[-1]["pair_accuracy"] > 0.9
    model = zoo.load(tmp_path / "run")
    result = Ranking()(model, Preferences(path=path, validation_share=0.2), "validation")
    assert result.metrics["pair_accuracy"] > 0.8 and result.details["pairs"] == result.num_items
