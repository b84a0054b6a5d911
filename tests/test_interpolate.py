"""``zoo interpolate``: means of weights, soups, and the refusal of unequal architectures."""

import json

import pytest
import torch

import zoo
from zoo.assembly.interpolation import checked_shares, mix, refuse_other_architecture
from zoo.commands.cli import main
from zoo.runs.interpolation import greedy_soup

DIGITS = ["--evaluate", "data=digits", "evaluation=zero_shot", "evaluation.limit=20"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The bundled model, and a copy whose weights moved."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, distance in (("before", 0.0), ("after", 0.1)):
        model = zoo.load("clip_vit_nano")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(distance * torch.randn_like(parameter))
        zoo.save(model, folder / name)
    return [str(folder / "before"), str(folder / "after")]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_mean_is_the_weighted_sum_of_all_weights(share, models):
    mean = zoo.interpolate(models, [share]).state_dict()
    before, after = (zoo.load(path).state_dict() for path in models)
    for name, tensor in mean.items():
        expected = (1 - share) * before[name].double() + share * after[name].double()
        torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=1e-6)
        if share in (0.0, 1.0):  # the ends are the models themselves, to the last bit
            assert torch.equal(tensor, (before, after)[int(share)][name])


def test_integers_have_no_mean_and_the_counter_of_batch_norm_stays():
    states = [{"n.num_batches_tracked": torch.tensor(n), "i": torch.tensor([0, 1]), "w": torch.tensor([1.0 + n])} for n in (2, 6)]
    mixed = mix(states, [0.5, 0.5])
    assert mixed["n.num_batches_tracked"] == 2 and mixed["w"] == 5 and mixed["i"].tolist() == [0, 1]
    states[1]["i"] = torch.tensor([1, 0])
    with pytest.raises(zoo.WeightsError, match=r"^i: holds torch.int64 values that differ"):
        mix(states, [0.5, 0.5])


def test_a_model_without_share_does_not_spread_its_infinities():
    states = [{"w": torch.tensor([1.0])}, {"w": torch.tensor([torch.inf])}]
    assert mix(states, [1.0, 0.0])["w"] == 1


def test_a_greedy_soup_keeps_the_models_that_do_not_lower_the_score():
    scores = {(0,): 0.8, (1,): 0.9, (2,): 0.5, (3,): 0.85, (1, 3): 0.85, (0, 1): 0.92, (0, 1, 2): 0.7}
    tried = []

    def score(shares):
        tried.append(tuple(number for number, share in enumerate(shares) if share))
        return scores[tried[-1]]

    assert greedy_soup(score, 4) == [0.5, 0.5, 0.0, 0.0]
    assert tried[4:] == [(1, 3), (0, 1), (0, 1, 2)]  # from the second best to the worst


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["encoder@system.encoders.image=vig_nano"], "encoders.image is ViT in A and ViG in B"),
        (["system.head.embed_dim=32"], r"head.projections.image.weight is torch.float32 \[64, 64\] in A and torch.float32 \[32"),
        (["system.encoders.image.num_heads=4"], "image.num_heads is 2 in A and 4 in B"),
    ],
)
def test_the_first_difference_of_architectures_is_named(other, message):
    with pytest.raises(zoo.WeightsError, match=f"B: has another architecture than A, .*{message}"):
        refuse_other_architecture(zoo.create_system("clip_vit_nano"), zoo.create_system("clip_vit_nano", other), "A", "B")


def test_dropout_is_no_difference_but_the_tokenizer_is():
    first, other = zoo.load("clip_vit_nano"), zoo.load("clip_vit_nano")
    refuse_other_architecture(first, other, "A", "B")
    other.processor["text"].fit(["quite other words", "than digits have"])
    with pytest.raises(zoo.WeightsError, match="preprocessing"):
        refuse_other_architecture(first, other, "A", "B")


@pytest.mark.parametrize(
    ("weights", "count", "message"),
    [
        ([0.5, 0.6], 2, "weights: the sum of 0.5, 0.6 is 1.1; it must be 1"),
        ([1.5], 2, "weights: got -0.5; allowed are numbers from 0 to 1"),
        ([0.5, 0.5], 3, "weights: got 2 numbers for 3 models; allowed are 3 numbers, one for each model"),
    ],
)
def test_unusable_weights_are_named(weights, count, message):
    with pytest.raises(zoo.ConfigError, match=message):
        checked_shares(weights, count)


def test_the_command_writes_model_curve_and_picture(models, tmp_path, capsys):
    output = tmp_path / "mean"
    assert main(["interpolate", *models, "--weights", "0.25", "--curve", "3", "-o", str(output), "--json", *DIGITS]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["weights"] == [0.75, 0.25] and [point["shares"] for point in facts["curve"]] == [[1, 0], [0.5, 0.5], [0, 1]]
    assert facts["measurements"][0]["metric"] == "top1" and 0 <= facts["curve"][1]["metrics"][0]["top1"] <= 1
    assert (output / "interpolation.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((output / "interpolation.json").read_text())["curve"] == facts["curve"]
    saved, expected = zoo.load(output).state_dict(), zoo.interpolate(models, [0.25]).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.items())


def test_a_greedy_soup_is_not_worse_than_the_best_model(models, tmp_path, capsys):
    assert main(["interpolate", *models, "--greedy", "-o", str(tmp_path / "soup"), *DIGITS, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["metrics"][0]["top1"] >= max(point["metrics"][0]["top1"] for point in facts["greedy"][:2])


def test_means_are_measured_in_the_chosen_precision_and_saved_in_float32(models, tmp_path, capsys):
    assert main(["interpolate", *models, "--precision", "bf16", "-o", str(tmp_path / "mean"), *DIGITS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "bf16"
    saved, expected = zoo.load(tmp_path / "mean").state_dict(), zoo.interpolate(models).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--greedy"], "--greedy: needs an evaluation"),
        (["--weights", "half"], "--weights: got 'half'"),
        (["--curve", "1", *DIGITS], "--curve: got 1 points and 2 models"),
        (["--evaluate", "evaluation=zero_shot"], "--evaluate evaluation=zero_shot: gives no data"),
        (["--evaluate", "data=digits", "device=cpu"], "--evaluate device=cpu: is not read here"),
        (["--monitor-mode", "least"], "--monitor-mode: there is no 'least'"),
    ],
)
def test_a_users_mistake_is_named(words, message, models, tmp_path, capsys):
    assert main(["interpolate", *models, "-o", str(tmp_path / "mean"), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_directory_of_something_else_is_not_replaced(models, capsys):
    assert main(["interpolate", *models, "-o", models[0]]) == 2
    assert "exists and holds no model of zoo interpolate" in capsys.readouterr().err
