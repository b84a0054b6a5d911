"""A command of zoo that kills itself at a given change of its files: ``killed.py FOLDER MOMENT TORN COUNTS COMMAND...``.

Changes are renames, removals, new folders and flushes to disk below FOLDER, counted from 1. The process kills itself with SIGKILL just
before change number MOMENT; with TORN it first cuts the file that is flushed in half, as a power failure may. The number of changes of a
process that ends well is written to COUNTS.
"""

import os
import signal
import sys
from pathlib import Path

CHANGES = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "fsync")


class Killer:
    """Counter of changes that ends the process at one of them."""

    def __init__(self, folder: str, moment: int, torn: bool) -> None:
        self.folder, self.moment, self.torn, self.count, self.pid = os.path.realpath(folder), moment, torn, 0, os.getpid()
        for name in CHANGES:
            setattr(os, name, self.counted(name, getattr(os, name)))

    def counted(self, name, change):
        def call(what, *others, **keywords):
            path = self.place(what, keywords.get("dir_fd"))
            if os.getpid() == self.pid and (path + "/").startswith(self.folder + "/"):
                self.count += 1
                if self.count == self.moment:
                    if self.torn and name == "fsync" and os.path.isfile(path):
                        os.truncate(path, os.path.getsize(path) // 2)
                    os.kill(self.pid, signal.SIGKILL)
            return change(what, *others, **keywords)

        return call

    @staticmethod
    def place(what, dir_fd) -> str:
        if isinstance(what, int):
            return os.readlink(f"/proc/self/fd/{what}")
        path = os.fspath(what)
        path = path.decode() if isinstance(path, bytes) else path
        base = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
        head, tail = os.path.split(os.path.join(base, path))
        return os.path.join(os.path.realpath(head), tail)


if __name__ == "__main__":
    folder, moment, torn, counts, *words = sys.argv[1:]
    killer = Killer(folder, int(moment), torn == "1")
    from zoo.commands.cli import main
    from zoo.commands.index.embedding import embed_folder

    embed_folder.__kwdefaults__["shard_rows"] = 8  # several shards of a small folder
    status = main(words)
    if status == 0:
        Path(counts).write_text(str(killer.count))
    sys.exit(status)
