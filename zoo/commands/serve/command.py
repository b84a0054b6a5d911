"""Run ``zoo serve``: load the models, listen, and stop after the requests that run."""

import ipaddress
import logging
import os
import signal
import socket
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from zoo.commands.display import print_json
from zoo.commands.model_options import load_chosen
from zoo.commands.plain import say
from zoo.commands.serve.app import create_app, require_packages
from zoo.commands.serve.limits import Limits
from zoo.commands.serve.options import NUMBERS
from zoo.errors import ConfigError

KEY_VARIABLE = "ZOO_API_KEY"
HIGHEST_PORT = 65535


def serve_command(options: Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, and return the exit status 0.

    Raises:
        ConfigError: an option is not allowed, a model can do nothing that is served, or the port cannot be used.
    """
    require_packages()  # before the models are loaded
    limits = Limits(**{name: getattr(options, name) for name in NUMBERS})
    key = options.api_key if options.api_key is not None else os.environ.get(KEY_VARIABLE)
    if key is not None and (not key.strip() or not key.isascii()):
        raise ConfigError(f"--api-key, {KEY_VARIABLE}: the key is empty or not ASCII; give a long random word, or none of both")
    named = named_models(options.model)
    bound = listen(options.host, options.port)
    with bound:
        app = create_app({name: load_chosen(source, options) for name, source in named.items()}, limits, key)
        log_to_stderr("zoo.serve")
        host, port = bound.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        print_json({"serving": list(named), "address": address}) if options.json else say(
            f"serving {', '.join(named)} on {address}", flush=True
        )
        sys.stdout.flush()
        if key is None and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            say(f"zoo: everyone who reaches {address} can use it; set {KEY_VARIABLE} to ask for a key", file=sys.stderr)
        run(app, bound, limits)
    return 0


def named_models(given: Sequence[str]) -> dict[str, str]:
    """Return name -> source of the models; ``NAME=SOURCE`` gives a name, without it the source is the name.

    Raises:
        ConfigError: a name is empty, or is given twice.
    """
    found: dict[str, str] = {}
    for word in given:
        name, sign, source = word.partition("=")
        name, source = (name, source) if sign else (word, word)
        if not name or not source:
            raise ConfigError(f"--model: {word!r} has an empty name or source; give MODEL, or NAME=MODEL")
        if name in found:
            raise ConfigError(f"--model: the name {name!r} is given twice; give one of them another: NAME={source}")
        found[name] = source
    return found


def listen(host: str, port: int) -> socket.socket:
    """Open the socket of the server.

    Raises:
        ConfigError: the port is out of range, in use, or not of this machine.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise ConfigError(f"--port: {port}; allowed is 0 to {HIGHEST_PORT}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot be used ({error.strerror}); --port 0 takes a free port") from error
    # asyncio sends small packets at once (TCP_NODELAY) if the socket names its protocol, which create_server leaves out; answers would
    # otherwise wait 40 ms for the client's acknowledgement of their header.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=bound.detach())


def run(app: Any, bound: socket.socket, limits: Limits) -> None:
    """Run the application until a signal; then running requests get ``limits.grace`` seconds to end."""
    import uvicorn

    # After its graceful end uvicorn raises the signal once more, for handlers that were there before: these do nothing.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    config = uvicorn.Config(
        app, access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=max(1, round(limits.grace)), ws="none"
    )
    try:
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_to_stderr(name: str) -> None:
    """Write the lines of a log to standard error as they are, without a prefix."""
    log, handler = logging.getLogger(name), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
