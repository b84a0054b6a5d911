"""Faults of disk, memory, files and libraries end at the command line as one line and a status."""

import errno
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import yaml
from rich.errors import MarkupError
from safetensors import SafetensorError

import zoo
from zoo.commands.faults import KEPT, explain, guarded


def fails(error):
    def run():
        raise error

    return run


FAULTS = [
    (OSError(errno.ENOSPC, "No space left on device", "a.bin"), f"a.bin: the disk is full; free some space; {KEPT}"),
    (OSError(errno.EROFS, "Read-only file system", "a"), "a: the file system is read-only"),
    (PermissionError(errno.EACCES, "Permission denied", "a"), "a: there is no permission"),
    (OSError(errno.EMFILE, "Too many open files", "a"), "a: too many files are open; raise the limit (ulimit -n 4096)"),
    (OSError(errno.EFBIG, "File too large", "a"), "a: the file would be larger than this system allows"),
    (FileNotFoundError(errno.ENOENT, "No such file", "a"), "a: there is no such file or folder; check the path"),
    (OSError("odd"), "odd; check the path and the disk"),
    (yaml.YAMLError("line 1"), "a file that is not plain YAML (line 1)"),
    (zipfile.BadZipFile("no zip"), "a file is damaged or cut short (BadZipFile: no zip)"),
    (pickle.UnpicklingError("odd"), "a file is damaged or cut short"),
    (EOFError(), "a file is damaged or cut short"),
    (SafetensorError("header"), "a damaged safetensors file (header)"),
    (MarkupError("[/x]"), "text that the terminal library cannot show"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "is not UTF-8 text (invalid start byte at byte 0)"),
    (RecursionError("maximum"), "nested too deep"),
    (MemoryError(), "there is not enough memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"), "there is not enough memory"),
]


@pytest.mark.parametrize(("error", "told"), FAULTS, ids=[type(error).__name__ + str(i) for i, (error, _) in enumerate(FAULTS)])
def test_a_fault_that_a_user_can_mend_is_one_line_and_status_2(capsys, monkeypatch, error, told):
    monkeypatch.delenv("ZOO_DEBUG", raising=False)
    assert guarded(fails(error)) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and "Traceback" not in said


def test_a_fault_of_zoo_itself_is_one_line_and_status_3(capsys, monkeypatch):
    monkeypatch.delenv("ZOO_DEBUG", raising=False)
    assert guarded(fails(KeyError("x"))) == 3
    said = capsys.readouterr().err
    assert "KeyError" in said and "ZOO_DEBUG=1" in said and "test_faults.py" in said and "Traceback" not in said
    monkeypatch.setenv("ZOO_DEBUG", "1")
    with pytest.raises(KeyError):
        guarded(fails(KeyError("x")))


def test_control_characters_in_a_message_are_escaped(capsys):
    assert guarded(fails(zoo.DataError("\x1b[31m.png: damaged"))) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert explain(zoo.DataError("a")) == "a"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_standard_output_is_told():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "zoo", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "the disk is full; free some space" in done.stderr


def test_a_long_word_from_outside_is_cut_in_a_message():
    assert str(zoo.ConfigError("a: got " + "x" * 5000 + " ; allowed is b")) == f"a: got {'x' * 500}...(5000 characters) ; allowed is b"
    assert str(zoo.DataError("/a/b c")) == "/a/b c" and zoo.errors.ItemError("m", "audio").reason == "audio"
