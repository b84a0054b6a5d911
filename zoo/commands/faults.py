"""Faults of the machine, of files and of libraries as one line for a user; a traceback is left to ``ZOO_DEBUG=1``.

Statuses: 2 for everything that a user can change (disk, permissions, files, memory), 3 for a fault of zoo itself.
"""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from zoo.commands.late_bar import late_bars
from zoo.errors import Interrupted, ZooError, first_line
from zoo.storage.outside import MAX_SHOWN, printable

USERS_FAULT, OUR_FAULT, STOPPED = 2, 3, 130
REMEDIES = {  # by errno: what is wrong, and what to do
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or ask for more"),
    errno.EFBIG: ("the file would be larger than this system allows", "raise the limit (ulimit -f), or write to another disk"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EACCES: ("there is no permission", "change the mode or owner, or choose another folder"),
    errno.EPERM: ("it is not permitted", "change the mode or owner, or choose another folder"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n 4096)"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.ENOENT: ("there is no such file or folder", "check the path"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "check the path"),
    errno.EISDIR: ("it is a folder, not a file", "give the path of a file"),
    errno.EEXIST: ("it exists already", "move it away, or choose another name"),
    errno.ENOTEMPTY: ("the folder is not empty", "move it away, or choose another name"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter one"),
    errno.EIO: ("the disk reports an error", "check the disk"),
    errno.ENOMEM: ("there is not enough memory", "close other programs, or use smaller batches"),
}
READING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)  # nothing was being written
OUTPUT = "standard output"
KEPT = "files that were complete before are kept; run the same command again to go on"
LIBRARIES = {  # exceptions of libraries by module and name, which need no import to be recognised
    "yaml": "a file that is not plain YAML",
    "safetensors": "a damaged safetensors file",
    "rich.errors": "text that the terminal library cannot show",
    "rich.markup": "text that the terminal library cannot show",
    "jinja2.exceptions": "a chat template that cannot be rendered",
    "omegaconf": "a config that cannot be resolved",
    "hydra.errors": "a config that cannot be composed",
    "msgspec": "a file whose values have other types than declared",
    "soundfile": "a recording that cannot be read",
    "pyarrow.lib": "a Parquet or Arrow file that cannot be read",
    "huggingface_hub.errors": "a model that cannot be fetched",
    "zlib": "a damaged compressed file",
    "_csv": "a damaged CSV table",
}


def guarded(run: Callable[[], int], *, quiet: bool = False) -> int:
    """Run a command and write all of its output; every fault ends here as one line and a status, with ``ZOO_DEBUG=1`` as a traceback.

    Args:
        quiet: show no progress of downloads and of loading.

    Returns:
        The status of the command, 130 if the user stopped it, 75 if a signal or a time limit ended a training run that should be queued
        again, or a status of this module.
    """
    try:
        try:
            with late_bars(quiet=quiet):
                status = run()
        except SystemExit:  # argparse, after --help or a wrong option
            flush_output()
            raise
        flush_output()
        return status
    except KeyboardInterrupt:
        print("zoo: stopped", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        drop_output()  # the reader closed the pipe, as `| head` does
        return 0
    except Exception as error:  # the one place where faults end, because a user shall see a line and never a traceback
        if os.environ.get("ZOO_DEBUG") == "1":
            raise
        status = report(error)
        with suppress(OSError):
            flush_output()
        return error.status if isinstance(error, Interrupted) else status


def report(error: BaseException) -> int:
    """Print one line about an exception on standard error and return the exit status."""
    text = explain(error)
    ours = text is None
    if text is None:
        text = f"{_here(error)}; this is a fault of zoo, please report it; ZOO_DEBUG=1 before the command shows the traceback"
    try:
        print("zoo: " + printable(text, keep="\n"), file=sys.stderr, flush=True)
    except OSError:  # standard error is closed or full, too: the status is all that is left
        pass
    return OUR_FAULT if ours else USERS_FAULT


def explain(error: BaseException) -> str | None:
    """Return a line about a fault that a user can change: what is wrong, and what to do; None for a fault of zoo itself."""
    if isinstance(error, ZooError):
        return str(error)
    if isinstance(error, OSError):
        return _explain_system(error)
    reason = first_line(error)[:MAX_SHOWN]
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8, or fetch it again"
    if isinstance(error, UnicodeEncodeError):
        return f"a text cannot be written in the encoding {error.encoding} ({error.reason}); set PYTHONUTF8=1"
    if isinstance(error, RecursionError):
        return "a file or a config is nested too deep to be read; make it flatter"
    if isinstance(error, MemoryError) or _is_allocator(error):
        return f"there is not enough memory ({reason}); use smaller batches, a smaller model, or a machine with more; {KEPT}"
    if _is_damage(error):
        return f"a file is damaged or cut short ({type(error).__name__}: {reason}); fetch it again"
    module = type(error).__module__
    kind = next((text for name, text in LIBRARIES.items() if f"{module}.".startswith(f"{name}.")), None)
    if kind is None and type(error).__name__ == "JSONDecodeError":
        kind = "a file that is not JSON"
    if kind is None and type(error).__name__ == "SafetensorError":
        kind = LIBRARIES["safetensors"]
    return None if kind is None else f"{kind} ({reason}); correct the file, or fetch it again"


def _explain_system(error: OSError) -> str:
    """Return a line about an error of the operating system, with the file it is about."""
    wrong, remedy = REMEDIES.get(error.errno or 0, (error.strerror or first_line(error), "check the path and the disk"))
    name = error.filename
    place = f"{os.fsdecode(name) if isinstance(name, bytes) else name}: " if isinstance(name, str | bytes) else ""
    return f"{place}{wrong}; {remedy}" + ("" if name == OUTPUT or error.errno in READING else f"; {KEPT}")


def _is_damage(error: BaseException) -> bool:
    import pickle  # imported here, as they would slow down the start of every command
    import zipfile

    return isinstance(error, zipfile.BadZipFile | pickle.UnpicklingError | EOFError)


def _is_allocator(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def _here(error: BaseException) -> str:
    """Return the exception in a line: its type, its message, and the line of code it comes from."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {first_line(error)[:MAX_SHOWN]}"


def flush_output() -> None:
    """Write what standard output still holds, so that a full disk is noticed here and not after the exit status is decided.

    Raises:
        OSError: it cannot be written; standard output is then replaced, because Python would try once more at its exit.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        raise
    except OSError as error:
        drop_output()
        raise OSError(error.errno, error.strerror, OUTPUT) from error


def drop_output() -> None:
    """Point standard output to nowhere: its reader is gone, or its disk is full."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file, as under a test runner
        pass
