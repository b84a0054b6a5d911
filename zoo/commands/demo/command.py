"""Run ``zoo demo``: check options and models, listen, and stop with Ctrl-C."""

import importlib.util
import ipaddress
import os
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from zoo.commands.demo.models import Models
from zoo.commands.demo.options import LIMITS
from zoo.commands.display import print_json
from zoo.commands.plain import say
from zoo.commands.serve.command import listen, log_to_stderr, run
from zoo.commands.serve.limits import Limits
from zoo.errors import ConfigError

GRACE_S = 1.0  # an open page holds a connection without an end
# Read by gradio while it is imported: no figures about use are sent, and no model is looked up.
SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def demo_command(options: Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM, and return the exit status 0.

    Raises:
        ConfigError: an option is not allowed, Gradio is not installed, or the port cannot be used.
        WeightsError: there is no such model.
        DataError: there is no such index.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("zoo demo: gradio is not installed; install it with: zoo install demo")
    limits = Limits(**{name: getattr(options, name) for name in LIMITS}, grace=GRACE_S)
    models = Models(options)
    bound = listen(options.host, options.port)
    with bound, tempfile.TemporaryDirectory(prefix="zoo-demo-") as folder:
        os.environ.update(SILENT, GRADIO_TEMP_DIR=folder)  # uploads go there, and are removed at the end
        from zoo.commands.demo.page import create_app

        app = create_app(models, limits, Path(folder))
        log_to_stderr("zoo.demo")
        host, port = bound.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        print_json({"address": address, "tabs": sorted(models.by_tab)}) if options.json else say(
            f"zoo demo: open {address} in a browser; Ctrl-C ends", flush=True
        )
        sys.stdout.flush()
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            say(f"zoo: everyone who reaches {address} can use it; there is no password", file=sys.stderr)
        run(app, bound, limits)
    return 0
