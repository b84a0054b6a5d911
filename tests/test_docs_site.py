"""The documentation site is built strictly, and its pages load nothing from the network."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from zoo.commands.guide import pages

SCRIPT = Path(__file__).parents[1] / "scripts" / "build_docs.py"
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href"), ("object", "data")}
BROKEN = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("build_docs", sys.argv[1])
script = importlib.util.module_from_spec(spec)
sys.modules["build_docs"] = script  # dataclasses look their module up
spec.loader.exec_module(script)
script.REFERENCE, write = ("zoo.errors",), script.write_pages
def write_pages(folder):
    write(folder)
    (folder / "start.md").write_text("# Start\\n\\n[gone](gone.md)\\n")
script.write_pages = write_pages
sys.exit(script.main(pathlib.Path(sys.argv[2])))
"""


class Loads(HTMLParser):
    """Addresses that a browser loads when it shows a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if (tag, name) in LOADED and value]


def run(*words):
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_docs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_docs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.heavy
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    done = run(SCRIPT, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    html = {path.relative_to(tmp_path / "site").as_posix(): path.read_text("utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert {f"{page.topic}.html" for page in pages()} | {"index.html", "contributing.html", "reference/zoo.types.html"} <= set(html)
    for name, text in html.items():
        loads = Loads()
        loads.feed(text)
        assert loads.found and not [address for address in loads.found if re.match(r"(\w+:)?//", address)], name
        assert 'class="mermaid"' not in text, "the theme's script would load mermaid from a server"
    styles = [path.read_text("utf-8") for path in (tmp_path / "site").rglob("*.css")]
    assert styles and not [text for text in styles if re.search(r"url\(['\"]?(https?:)?//|@import", text)]
    assert "check_encoder" in html["reference/zoo.testing.html"] and "create_model" in html["reference/zoo.html"]
    assert "<svg" in html["concepts.html"] and "```" not in re.sub(r"<code.*?</code>", "", html["concepts.html"], flags=re.DOTALL)


@pytest.mark.heavy
def test_a_broken_link_fails_the_build(tmp_path):
    done = run("-c", BROKEN, SCRIPT, tmp_path / "site")
    assert done.returncode == 1 and "gone.md" in done.stdout + done.stderr, done.stdout + done.stderr


def test_equal_neighbours_in_a_column_are_one_box(script):
    svg = script.draw_flow("image -> encoder -> head -> loss\ntext -> words -> head -> loss\n")
    assert svg.count("<rect") == 6 and svg.count("<path") == 2 + 2 + 1
    assert svg.count(">head<") == 1 and "a -&gt; b" in script.draw_flow("a -> b")
