"""Files that a command reads ahead."""

import threading

import pytest

from zoo.commands.read_ahead import read_ahead
from zoo.errors import DataError


def test_the_next_batch_is_read_while_the_caller_uses_one():
    third = threading.Event()

    def read(item):
        if item == 2:
            third.set()
        if item == 3:
            raise DataError("item 3")
        return item * item

    batches = read_ahead(range(5), read, batch_size=2, readers=2)
    first, batch = next(batches)
    assert first == 0 and third.wait(60) and [each.result() for each in batch] == [0, 1]
    (second, two), (last, one) = batches
    assert (second, two[0].result(), last, one[0].result()) == (2, 4, 4, 16)
    with pytest.raises(DataError, match="item 3"):
        two[1].result()
