"""Invariants of Vision GNN; equality with its reference is tested in tests/convert/test_vig.py."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import zoo
from zoo.assembly.summary import summarize
from zoo.encoders.vig import schedules
from zoo.layers.graph import max_over_neighbours, nearest_neighbours, relative_positions_2d

# Computed with the published code: trainable, with the fixed relative positions, and GMAC of one image with its classifier.
SHEET = {
    "vig_tiny": (7_184_744, 7_184_744, 1.301),
    "vig_small": (22_747_752, 22_747_752, 4.517),
    "vig_base": (86_841_832, 86_841_832, 17.643),
    "pvig_tiny": (10_714_376, 12_486_314, 1.700),
    "pvig_small": (27_251_912, 29_023_850, 4.548),
    "pvig_medium": (49_525_832, 51_681_930, 8.845),
    "pvig_base": (92_980_328, 95_213_258, 16.804),
}
FOUR_FROM_1_TO_3 = [1] * 4 + [2] * 4 + [3] * 4


@pytest.mark.parametrize("name", SHEET)
def test_parameters_and_operations_equal_the_published_models(name):
    found, (trainable, parameters, gmac) = summarize(f"classifier_{name}"), SHEET[name]
    assert (found.trainable, found.parameters) == (trainable, parameters)
    assert found.flops["image"] / 2e9 == pytest.approx(gmac, rel=0.005)


@pytest.mark.parametrize(
    ("depths", "neighbors", "side", "expected"),
    [
        ([12], (9, 18), 14, ([9, 9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 18], FOUR_FROM_1_TO_3)),
        ([16], (9, 18), 14, ([9, 9, 10, 10, 11, 12, 12, 13, 13, 14, 15, 15, 16, 16, 17, 18], [*FOUR_FROM_1_TO_3, 4, 4, 4, 4])),
        ([2, 2, 6, 2], (9, 9), 7, ([9] * 12, FOUR_FROM_1_TO_3)),
        ([2, 2, 16, 2], (9, 9), 7, ([9] * 22, [*FOUR_FROM_1_TO_3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5])),
        ([2, 2, 18, 2], (9, 9), 7, ([9] * 24, [*FOUR_FROM_1_TO_3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5])),
    ],
)
def test_neighbours_and_dilation_follow_the_published_schedules(depths, neighbors, side, expected):
    assert schedules(depths, neighbors, last_side=side) == expected


def test_neighbours_equal_scikit_learns():
    tokens, candidates = torch.randn(1, 20, 6, dtype=torch.float64), torch.randn(1, 15, 6, dtype=torch.float64)
    index, distances = nearest_neighbours(tokens, candidates, num_neighbors=3, dilation=2)
    x, y = (torch.nn.functional.normalize(t[0], dim=1).numpy() for t in (tokens, candidates))
    expected_distances, expected = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(y).kneighbors(x)
    assert index[0].tolist() == expected[:, ::2].tolist()
    torch.testing.assert_close(distances[0], torch.from_numpy(expected_distances[:, ::2] ** 2))


def test_fewer_candidates_than_neighbours_are_all_taken():
    index, _ = nearest_neighbours(torch.randn(1, 4, 8), torch.randn(1, 4, 8), num_neighbors=9, dilation=3)
    assert index.sort(-1).values.tolist() == [[[0, 1, 2, 3]] * 4]


@pytest.mark.parametrize("learning", [True, False])
def test_the_maximum_and_its_gradient_equal_gathering(learning):
    candidates = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=learning)
    index = torch.randint(7, (2, 9, 3))
    gathered = candidates[torch.arange(2)[:, None, None], index].amax(2)
    found = max_over_neighbours(candidates, index)
    assert torch.equal(found, gathered)
    if learning:
        weight = torch.randn_like(found)
        ours, theirs = (torch.autograd.grad((out * weight).sum(), candidates)[0] for out in (found, gathered))
        # amax shares the gradient of a tie (the same neighbour drawn twice) equally; the sum over the two is the same
        torch.testing.assert_close(ours, theirs)


def test_relative_positions_have_the_published_values():
    table = relative_positions_2d((56, 56), dim=48)
    assert [table[0, i].item() for i in (0, 1, 56, 2)] == pytest.approx([1, 0.975209, 0.975209, 0.919425], abs=1e-6)
    assert table.min().item() == pytest.approx(0.255338, abs=1e-6)
    assert torch.equal(table, table.T)


@pytest.mark.parametrize("name", ["vig_nano", "pvig_nano"])
def test_each_image_gives_what_it_gives_alone(name):
    model = zoo.create_model(name, dtype=torch.float64)  # in float32 a tie among neighbours could differ
    pixels = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    batch = model(pixels)
    for i in range(3):
        torch.testing.assert_close(model(pixels[i : i + 1]).tokens[0], batch.tokens[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["vig_nano", "pvig_nano"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (33, 50), (8, 8), (4, 12)])
def test_any_size_of_at_least_one_node_works(name, height, width):
    encoded = zoo.create_model(name)(torch.rand(2, 3, height, width))
    assert encoded.tokens.isfinite().all() and encoded.mask.all() and encoded.tokens.shape[:2] == encoded.mask.shape
    torch.testing.assert_close(encoded.pooled, encoded.tokens.mean(1))


def test_folding_the_normalisation_changes_nothing():
    model = zoo.create_model("vig_nano", dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    pixels = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    folded = model(pixels).tokens
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.eval()
    torch.testing.assert_close(model(pixels).tokens, folded, rtol=0, atol=1e-10)


def test_the_graph_that_is_shown_is_the_one_that_is_used():
    model, pixels = zoo.create_model("pvig_nano", dtype=torch.float64), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    graph = model.graphs(pixels, [1])[0]
    assert (graph.grid, graph.candidate_grid) == ((8, 8), (4, 4))
    torch.testing.assert_close(graph.shares.sum(-1), torch.ones(1, 64, dtype=torch.float64))
    x = model.blocks[1].grapher.fc1(model.intermediates(pixels, [0])[0])
    best = max_over_neighbours(
        torch.nn.functional.avg_pool2d(x.unflatten(1, (8, 8)).permute(0, 3, 1, 2), 2).flatten(2).mT, graph.neighbours
    )
    seen = []
    model.blocks[1].grapher.update.register_forward_hook(lambda module, given, output: seen.append(given))
    model(pixels)
    torch.testing.assert_close(seen[0][1], best - x)


def test_layers_count_from_both_ends_and_others_are_refused():
    model, pixels = zoo.create_model("vig_nano"), torch.rand(1, 3, 32, 32)
    last, first = model.intermediates(pixels, [-1, 0])
    assert torch.equal(last, model(pixels).tokens) and not torch.equal(first, last)
    with pytest.raises(zoo.ConfigError, match="numbers from -4 to 3"):
        model.graphs(pixels, [4])


def test_the_table_of_relative_positions_is_not_trained():
    model = zoo.create_model("pvig_nano").train()
    model(torch.rand(2, 3, 32, 32)).pooled.sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == {f"blocks.{i}.grapher.relative_positions" for i in range(4)}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"depths": [2, 2]}, "1 stages, but depths has 2"),
        ({"patch_size": 6}, "allowed are 2, 4, 8, 16, 32"),
        ({"dims": [50], "patch_size": 8}, "needs a multiple of 4"),
        ({"dims": [49]}, "choose even widths"),
        ({"num_neighbors": [0, 3]}, "two numbers above 0"),
        ({"dims": [42], "relative": True}, "need a multiple of 4"),
    ],
)
def test_sizes_that_cannot_be_are_refused(keywords, message):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.create_model("vig_nano", **keywords)


def test_an_image_smaller_than_a_node_is_refused():
    with pytest.raises(zoo.DataError, match="at least 4, the size of one node"):
        zoo.create_model("vig_nano")(torch.rand(1, 3, 2, 32))
