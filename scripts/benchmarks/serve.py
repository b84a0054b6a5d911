"""Latency and throughput of ``zoo serve`` with and without batches: many clients at once on loopback, each waits for its answer.

Run it as ``python scripts/benchmarks/serve.py [--model M] [--clients N] [--requests N]``. Prints one JSON line per setting.
"""

import argparse
import asyncio
import json
import statistics
import threading
import time

import httpx
import torch
import uvicorn

import zoo
from zoo.commands.serve.app import create_app
from zoo.commands.serve.command import listen
from zoo.commands.serve.limits import Limits


def main() -> None:
    """Measure each setting in turn, a few rounds each, and print the median round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="clip_photos_minilm", help="contrastive model; its texts are embedded")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32], help="requests that are open at once")
    parser.add_argument("--requests", type=int, default=320, help="requests per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = zoo.load(options.model)
    for clients in options.clients:
        for limits in (Limits(max_batch=1, max_wait_ms=0.0), Limits(max_wait_ms=0.0), Limits()):
            with_server(model, limits, clients, options)


def with_server(model: torch.nn.Module, limits: Limits, clients: int, options: argparse.Namespace) -> None:
    """Serve the model with these limits, measure, and print the figures."""
    with listen("127.0.0.1", 0) as bound:
        config = uvicorn.Config(create_app({"model": model}, limits), access_log=False, log_config=None, ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[bound]))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1/embeddings"
        rounds = [asyncio.run(one_round(url, clients, options.requests)) for _ in range(options.rounds + 1)][1:]  # the first warms up
        server.should_exit = True
        thread.join()
    seconds, latencies = sorted(rounds)[len(rounds) // 2]
    figures = {
        "clients": clients,
        "max_batch": limits.max_batch,
        "max_wait_ms": limits.max_wait_ms,
        "requests_per_s": round(options.requests / seconds, 1),
        "median_ms": round(1000 * statistics.median(latencies), 1),
        "p95_ms": round(1000 * statistics.quantiles(latencies, n=20)[-1], 1),
    }
    print(json.dumps(figures), flush=True)


async def one_round(url: str, clients: int, requests: int) -> tuple[float, list[float]]:
    """Send all requests, at most ``clients`` at once; return the seconds of the round and of each request."""
    todo, latencies = iter(range(requests)), []

    async def client(session: httpx.AsyncClient) -> None:
        for number in todo:
            start = time.perf_counter()
            answer = await session.post(url, json={"model": "model", "input": f"a photo of the number {number} on a wall"})
            answer.raise_for_status()
            latencies.append(time.perf_counter() - start)

    async with httpx.AsyncClient(timeout=120) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return time.perf_counter() - start, latencies


if __name__ == "__main__":
    main()
