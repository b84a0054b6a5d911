"""Verification cards: tests that carry ``@pytest.mark.card(system, capability)`` write what they found."""

import os

import pytest
import torch

from zoo.evaluation.results.cards import lines_of, write_lines
from zoo.registry import rows

FIGURES = pytest.StashKey()
OUTCOMES = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--write-cards", action="store_true", help="write assets/cards/*.json from the tests that ran")


def pytest_configure(config):
    config.addinivalue_line("markers", "card(system, capability): the test decides this line of the system's verification card")
    config.stash[OUTCOMES] = []


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same seed, and on one thread: the cores are shared."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """Classifier weights of the user's cache are none of the tests', and those of an older version least of all."""
    monkeypatch.setattr("zoo.evaluation.measures.classifier_weights.cache_directory", lambda: tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture
def scramble():
    """Give every parameter random values, so that gains of 1 and biases of 0 hide no mistake."""

    def fill(model, std=0.2):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim:
                    parameter.add_(torch.randn_like(parameter) * std)
        return model.eval()

    return fill


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """Fetch an asset, once; skip where its registry does not answer."""
    from zoo.downloads.fetching import fetched
    from zoo.downloads.packages import NoAnswerError
    from zoo.errors import ZooError

    directory = os.environ.get("ZOO_CACHE") or tmp_path_factory.mktemp("cache")

    def fetch(name):
        try:
            return fetched(name, directory=directory)
        except ZooError as error:
            if isinstance(error.__cause__, NoAnswerError):
                pytest.skip(str(error))
            raise

    return fetch


@pytest.fixture
def card_figure(request):
    """Record a figure for the card, for example ``card_figure("max difference 2e-7")``."""
    return lambda text: request.node.stash.__setitem__(FIGURES, text)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "call" or (call.when == "setup" and report.outcome != "passed"):
        for mark in item.iter_markers("card"):
            item.config.stash[OUTCOMES].append((*mark.args, report.outcome, item.stash.get(FIGURES, ""), item.nodeid))


def pytest_sessionfinish(session):
    if not session.config.getoption("--write-cards"):
        return
    by_system = {}
    for system, *outcome in session.config.stash[OUTCOMES]:
        by_system.setdefault(system, []).append(outcome)
    for system, outcomes in by_system.items():
        assert system in rows("system"), f"a test marks a card of {system!r}, which is no system"
        write_lines(system, lines_of(outcomes))
