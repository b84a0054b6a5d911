"""DeBERTa: parameter counts, rows of distances, attention by loops; equality with transformers: tests/convert."""

import pytest
import torch
from sizes import num_parameters

import zoo
from tests.support.sines import sines_by_their_names
from zoo.encoders.deberta import Deberta, distance_rows, shared_distances
from zoo.interop.text_encoders import deberta as names
from zoo.interop.text_encoders import deberta_v1 as first_names

SIZES = {"vocab_size": 50, "context_length": 40, "dim": 24, "depth": 2, "num_heads": 3, "buckets": 8, "max_distance": 20}
TINY = {"vocab_size": 13, "context_length": 32, "dim": 8, "num_heads": 2, "mlp_ratio": 1.5, "buckets": 4, "max_distance": 32}


def make(**changes):
    torch.manual_seed(0)
    return Deberta(**{**SIZES, **changes}).eval()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deberta_base", 138_601_728),
        ("deberta_large", 405_163_008),
        ("deberta_xlarge", 757_804_032),
        ("deberta_v2_xlarge", 884_593_152),
        ("deberta_v2_xxlarge", 1_564_549_632),
        ("deberta_v3_xsmall", 70_682_112),
        ("deberta_v3_small", 141_304_320),
        ("deberta_v3_base", 183_831_552),
        ("deberta_v3_large", 434_012_160),
        ("mdeberta_v3_base", 278_218_752),
    ],
)
def test_parameter_counts_are_those_of_the_reference(name, expected):
    assert num_parameters(name) == expected


def test_distances_share_rows_as_in_the_reference():
    goldens = {127: 127, 128: 128, 129: 129, 130: 130, 150: 143, 200: 169, 256: 192, 300: 207, 400: 233, 500: 254, 511: 255}
    goldens |= {512: 256, 600: 270, -300: -207}
    found = shared_distances(torch.tensor([*goldens]), exact=128, max_distance=512)
    assert found.tolist() == [*goldens.values()]
    rows = distance_rows(601, span=256, max_distance=512, device=torch.device("cpu")) - 256
    expected = {127: 127, 128: 128, 129: 129, 130: 130, 150: 143, 200: 169, 256: 192, 300: 207, 400: 233, 500: 254, 511: 255, 512: 255}
    assert {distance: int(rows[distance, 0]) for distance in expected} == expected  # 512 -> 256 is limited to the last row
    assert int(rows[0, 300]) == -207 and int(rows[600, 0]) == 255 and int(rows[0, 600]) == -256


FIRST = {"share_positions": False, "norm_positions": False, "buckets": None, "key_bias": False}
# From transformers 5.17, DebertaV2Model and DebertaModel: changes, parameters, first four values of the first token, sum of absolute
# values.
GOLDENS = {
    "version 3": ({}, 1264, [-1.170199893, 1.37747766, 0.150140243, -0.485284672], 35.2116053),
    "convolution": ({"conv_kernel": 3}, 1480, [0.098446428, 0.806149472, -1.02283289, 2.249280756], 34.4790302),
    "own matrices, no buckets": (
        {"share_positions": False, "buckets": None},
        2000,
        [-0.702047468, -0.430781073, -1.756759993, -0.309975691],
        37.0489277,
    ),
    "c2p alone": (
        {"share_positions": False, "position_to_content": False},
        1408,
        [0.365472668, 1.509702196, 1.230188258, 1.231712901],
        33.6774792,
    ),
    "version 1": (FIRST, 1952, [0.21262706, -0.20314093, 0.38585601, -1.98021497], 30.739982),
}


@pytest.mark.parametrize("form", GOLDENS)
@torch.no_grad()
def test_outputs_are_those_that_the_reference_gave_for_weights_of_sines(form):
    changes, parameters, first, total = GOLDENS[form]
    model = make(**{**TINY, **changes})
    assert sines_by_their_names(names if form != "version 1" else first_names, model) == parameters
    mask = torch.tensor([[True] * 5 + [False]])
    tokens = model(torch.tensor([[5, 9, 3, 7, 0, 11]]), mask).tokens[0, :5]
    torch.testing.assert_close(tokens[0, :4], torch.tensor(first), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.abs().sum(), torch.tensor(total), atol=1e-4, rtol=0)


@torch.no_grad()
def test_scores_are_the_papers_sum_of_three_products():
    """Equation 4 of the paper, written as loops."""
    model, ids = make(depth=1, norm_positions=False), torch.randint(0, 50, (1, 13))
    attention, embedded = model.blocks[0].attention, model.embedding_norm(model.embedding(ids))[0]
    rows = distance_rows(13, span=8, max_distance=20, device=ids.device)
    (q, k, v), (qr, kr, _) = (attention.qkv(x).view(-1, 3, 3, 8).unbind(1) for x in (embedded, model.distances))
    out = torch.zeros(13, 3, 8)
    for head in range(3):
        scores = torch.empty(13, 13)
        for i in range(13):
            for j in range(13):
                row = rows[i, j]
                scores[i, j] = q[i, head] @ k[j, head] + q[i, head] @ kr[row, head] + k[j, head] @ qr[row, head]
        out[:, head] = (scores / (8 * 3) ** 0.5).softmax(-1) @ v[:, head]
    found = attention(embedded[None], model.distances, rows, None)
    torch.testing.assert_close(found[0], attention.out(out.flatten(1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [3, 9, 30])
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(length):
    model, ids = make(conv_kernel=3, pool="mean"), torch.randint(0, 50, (1, length))
    alone, more = model(ids), torch.randint(0, 50, (1, 4))
    for padded, real in ((torch.cat([ids, more], 1), slice(0, length)), (torch.cat([more, ids], 1), slice(4, 4 + length))):
        mask = torch.zeros(1, length + 4, dtype=torch.bool)
        mask[:, real] = True
        found = model(padded, mask)
        torch.testing.assert_close(found.tokens[:, real], alone.tokens, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pooled, alone.pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pool": "max"}, "pool: there is no 'max'"),
        ({"buckets": 7}, "buckets: got 7 with max_distance 20"),
        ({"max_distance": 5}, "buckets: got 8 with max_distance 5"),
        ({"conv_kernel": 2}, "conv_kernel: got 2"),
    ],
)
def test_numbers_out_of_range_are_refused(change, words):
    with pytest.raises(zoo.ConfigError, match=words):
        make(**change)
