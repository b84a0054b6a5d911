"""Commands of zoo in separate processes that start at once: forks of an interpreter that has imported everything.

A run that is killed must be a process. Importing torch and other libraries takes ten times as long as the few steps of a test, so the
process is forked after the imports. Two interpreters with different hash seeds take turns: code whose result depends on the order of a set
then gives different results in the two runs that are compared. Pytest's import hook is not active in them, because beartype, which checks
types under pytest, draws from Python's global generator.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

# Modules that a training run imports, most of them lazily.
PRELOADED = """
zoo.commands.cli zoo.assembly.compose zoo.runs.train zoo.commands.display zoo.evaluation.zero_shot zoo.evaluation.perplexity
zoo.evaluation.asr zoo.evaluation.classification zoo.evaluation.masked_lm zoo.training.loop
torch._dynamo torch._meta_registrations torch.fx.experimental.symbolic_shapes
""".split()


def serve() -> list[str]:
    """Fork for each line of standard input that has ``words``; returns them in the fork."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    for name in PRELOADED:
        import_module(name)
    import_module("plain_curves").install()
    for line in sys.stdin:
        request = json.loads(line)
        if "words" in request:
            pid = os.fork()
            if pid == 0:
                become(request)
                return request["words"]
            answer = pid
        else:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), file=answers, flush=True)
    sys.exit(0)


def become(request: dict) -> None:
    """Turn a fork into a process like one that a shell starts: its own group, files, environment and random state."""
    import numpy as np

    os.setsid()
    with open(os.devnull) as nothing, open(request["log"], "a") as log:
        for file, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(file.fileno(), number)
    os.environ.update(request["environment"])
    np.random.seed()  # Python's generator seeds itself after a fork, numpy's does not


class Server:
    """An interpreter to fork."""

    def __init__(self) -> None:
        self.interpreter = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        self.interpreter.stdin.write(json.dumps(request) + "\n")
        self.interpreter.stdin.flush()
        return json.loads(self.interpreter.stdout.readline())

    def close(self) -> None:
        self.interpreter.stdin.close()
        self.interpreter.wait(timeout=60)
        self.interpreter.stdout.close()


class Run:
    """A command of zoo or a script, in one process or in several as ``torchrun`` would start them."""

    def __init__(self, server: Server, words: list[str], log: Path, processes: int, torchrun: bool) -> None:
        self.server, self.pids, self.codes = server, [], {}
        log.write_text("")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(processes):
            ranks = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, LOCAL_WORLD_SIZE=processes, MASTER_PORT=port)
            group = {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
            environment = {**os.environ, **(group if torchrun else {})}
            self.pids.append(server.ask(words=list(words), log=str(log), environment=environment))

    def poll(self) -> int | None:
        """Return the exit status of the first process that failed, 0 if all have ended, or None if some still run."""
        for pid in self.pids:
            if self.codes.get(pid) is None:
                self.codes[pid] = self.server.ask(pid=pid)
        codes = [self.codes[pid] for pid in self.pids]
        return next((code for code in codes if code), None if None in codes else 0)

    def wait(self, timeout: float = 400) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"still running after {timeout} s")
            time.sleep(0.01)
        if code:
            self.kill()
        return code

    def send_signal(self, number: int) -> None:
        for pid in self.pids:
            os.kill(pid, number)

    def kill(self) -> None:
        """Kill -9 all processes, and those that they started; returns when they are gone."""
        for pid in self.pids:
            if self.codes.get(pid) is None:
                os.killpg(pid, signal.SIGKILL)
        while any(self.codes.get(pid) is None for pid in self.pids):
            self.poll()
            time.sleep(0.005)


class Processes:
    """Starts runs, each in the interpreter that did not start the last one; ``torchrun``: with ranks, as several always are."""

    def __init__(self) -> None:
        self.servers: list[Server] = []

    def start(self, words: list[str], log: Path, processes: int = 1, *, torchrun: bool | None = None) -> Run:
        if not self.servers:
            self.servers = [Server(), Server()]
        self.servers.reverse()
        return Run(self.servers[0], words, log, processes, processes > 1 if torchrun is None else torchrun)

    def close(self) -> None:
        for server in self.servers:
            server.close()


if __name__ == "__main__":
    words = serve()
    if words[0].endswith(".py"):
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.exit(import_module("zoo.commands.cli").main(words))
