"""The process of a command: modules of torch that are deferred, and files that are read ahead."""

import subprocess
import sys
import threading

import pytest

from zoo.commands.read_ahead import read_ahead
from zoo.errors import DataError


def test_a_deferred_module_of_torch_is_loaded_at_its_first_use():
    code = (
        "import sys; from zoo.commands.deferred_imports import defer_imports; defer_imports(); defer_imports()\n"
        "import torch; before = 'torch.export.decomp_utils' in sys.modules\n"
        "print(before, torch.export.Dim('batch', max=4).__name__, 'torch.export.decomp_utils' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == ["False", "batch", "True"]


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
