"""The order of an epoch over shards."""

import numpy as np
import pytest

from zoo.data.order import WindowedOrder

SIZES = [30, 7, 0, 55, 12, 1]


def order(window=16, seed=3, epoch=0, sizes=SIZES):
    return WindowedOrder(sizes, window=window, seed=seed, epoch=epoch)


@pytest.mark.parametrize("window", [1, 16, 50, 105, 1000])
def test_every_item_comes_once(window):
    assert sorted(order(window)[:]) == list(range(105)) and len(order(window)) == 105


def test_a_part_is_the_part_of_the_whole_in_any_sequence_of_asking():
    whole, asked = order()[:], order()
    for start, stop in ((60, 90), (0, 5), (15, 17), (100, 200), (44, 44)):
        assert asked[start:stop].tolist() == whole[start:stop].tolist()


def test_seed_and_epoch_decide():
    assert order()[:].tolist() == order()[:].tolist()
    assert len({tuple(order(seed=seed, epoch=epoch)[:]) for seed in range(3) for epoch in range(3)}) == 9


def test_a_window_holds_neighbours_of_few_shards_and_mixes_them():
    sizes = [100] * 50
    found = order(window=200, sizes=sizes)[:].reshape(25, 200)
    shards = [set(row // 100) for row in found]
    assert all(len(held) == 2 for held in shards)
    assert len(set().union(*shards)) == 50 and shards != sorted(shards, key=min)
    moved = np.abs(found - np.sort(found, axis=1)) > 0
    assert moved.mean() > 0.9


def test_one_window_of_everything_is_a_full_shuffle():
    found = order(window=5000, sizes=[100] * 50)[:]
    assert len(set(found[:100] // 100)) > 35  # of 50 shards; 100 draws of 50 leave 13 % out


def test_an_empty_list_of_shards_has_no_items():
    assert len(order(sizes=[])) == 0 and order(sizes=[])[0:5].tolist() == []
