"""The queue of ``zoo serve``, and the options of its command."""

import asyncio
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from zoo.commands.cli import main
from zoo.commands.serve.batching import Batcher
from zoo.commands.serve.command import listen, named_models
from zoo.errors import ConfigError, DataError


def doubled(batches):
    """Work that doubles numbers and writes down its batches; 13 makes a whole batch fail."""

    def work(jobs):
        batches.append([job.payload for job in jobs])
        if 13 in batches[-1]:
            raise DataError("13 cannot be doubled")
        return [2 * job.payload for job in jobs]

    return work


def run_all(numbers, keys=None, *, max_items=4, max_wait_ms=20.0):
    """Run numbers at once; return the results and the batches."""
    batches = []

    async def main_loop():
        batcher = Batcher(max_items=max_items, max_wait_ms=max_wait_ms)
        batcher.start()
        work = doubled(batches)
        pairs = zip(numbers, keys or ["a"] * len(numbers), strict=True)
        found = await asyncio.gather(*(batcher.run(key, work, number) for number, key in pairs), return_exceptions=True)
        await batcher.stop()
        return found

    return asyncio.run(main_loop()), batches


def test_waiting_jobs_of_one_key_are_computed_together():
    found, batches = run_all(range(10))
    assert found == [2 * n for n in range(10)] and batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_oldest_job_decides_the_key():
    found, batches = run_all(range(6), "abacab")
    assert found == [2 * n for n in range(6)] and batches == [[0, 2, 4], [1, 5], [3]]


def test_a_batch_of_one_does_not_wait_for_ever():
    assert run_all([5], max_wait_ms=1.0) == ([10], [[5]]) and run_all([5], max_wait_ms=0.0)[0] == [10]


def test_a_request_waits_only_if_others_are_open():
    """The longest wait is an hour, and the test would run into its limit if the job waited."""

    async def main_loop():
        batcher = Batcher(max_items=4, max_wait_ms=3.6e6, num_open=lambda: 1)
        batcher.start()
        found = await asyncio.wait_for(batcher.run("a", doubled([]), 5), 20)
        await batcher.stop()
        return found

    assert asyncio.run(main_loop()) == 10


def test_one_bad_job_fails_alone():
    found, batches = run_all([1, 13, 3])
    assert found[0] == 2 and found[2] == 6 and isinstance(found[1], DataError)
    assert batches == [[1, 13, 3], [1], [13], [3]]


def test_a_job_that_is_given_up_is_not_computed():
    batches, go = [], threading.Event()

    async def main_loop():
        batcher = Batcher(max_items=1, max_wait_ms=0.0)
        batcher.start()

        def blocked(jobs):
            go.wait(10)
            return doubled(batches)(jobs)

        first, second = (asyncio.create_task(batcher.run("a", blocked, number)) for number in (1, 2))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0)
        go.set()
        assert await first == 2
        third = await batcher.run("a", blocked, 3)
        await batcher.stop()
        return third

    assert asyncio.run(main_loop()) == 6 and batches == [[1], [3]]


def test_names_of_models():
    assert named_models(["clip_vit_nano", "b=runs/x"]) == {"clip_vit_nano": "clip_vit_nano", "b": "runs/x"}
    for wrong in (["=x"], ["a="], ["a", "a=b"]):
        with pytest.raises(ConfigError, match="--model"):
            named_models(wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port: 70000"),
        (["--max-batch", "0"], "--max-batch: 0"),
        (["--timeout", "nan"], "--timeout: nan"),
        (["--api-key", " "], "the key is empty"),
        (["--host", "192.0.2.1"], "cannot be used"),
        (["--port", "0", "--model", "bert_nano=nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_told(words, message, capsys):
    assert main(["serve", "--model", "clip_vit_nano", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_told(monkeypatch, capsys):
    monkeypatch.setattr("zoo.commands.serve.app.PACKAGES", ("fastapi", "no_such_package"))
    assert main(["serve", "--model", "clip_vit_nano"]) == 2
    assert capsys.readouterr().err == "zoo: zoo serve: no_such_package is not installed; install it with: zoo install serve\n"


def test_a_port_in_use_is_told(capsys):
    with listen("127.0.0.1", 0) as taken:
        assert main(["serve", "--model", "clip_vit_nano", "--port", str(taken.getsockname()[1])]) == 2
    assert "--port 0 takes a free port" in capsys.readouterr().err


@pytest.mark.heavy
def test_the_command_serves_and_ends_on_a_signal():
    command = [sys.executable, "-m", "zoo", "serve", "--model", "clip_vit_nano", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        for _ in range(200):
            try:
                assert httpx.post(f"{address}/embeddings", json={"model": "clip_vit_nano", "input": "a seven"}).status_code == 200
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and '"route": "/v1/embeddings"' in err and "seven" not in err
