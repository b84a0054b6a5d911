"""Settings of a process that runs a command: the allocator, deferred modules of torch, and files that are read ahead."""

import subprocess
import sys
import threading

import pytest

from zoo.commands.allocator import SWITCH, keep_pages
from zoo.commands.read_ahead import read_ahead
from zoo.errors import DataError

KEPT = """
import os, numpy
from zoo.commands.allocator import keep_pages

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

accepted = keep_pages()
before = resident()
numpy.ones(25_000_000)  # 200 MB, freed at once
print(accepted, resident() - before > 150_000_000)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")
@pytest.mark.parametrize("switch, printed", [("", "True True"), ("0", "False False")])
def test_freed_memory_stays_with_the_process_unless_switched_off(switch, printed, monkeypatch):
    monkeypatch.setenv(SWITCH, switch)
    assert subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True).stdout.strip() == printed


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_pages() is False


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
