"""Fixtures of all tests, and verification cards: tests with the mark ``card(name, capability)`` write their results to cards."""

import importlib
import os
import shutil
import sys
from functools import cache

import pytest
import torch
from card_tests import cards_of
from filelock import FileLock
from processes import Processes
from quickstart import lay_out, run

from zoo.evaluation.results.card_families import FAMILIES, family_of
from zoo.evaluation.results.cards import write_results

FIGURES = pytest.StashKey()
CARD = "card"  # the name of a report's property: model, capability, figure
LATER = ("heavy", "wheel")  # marks of the tests that scripts/test.sh runs after the others, from the files that name the mark
TOLD = "told"  # of another: a line for people
TOGETHER = {  # parts of test ids: tests that share a costly run, and so a worker; the others go wherever one is free
    "test_readme.py": "quickstart",
    "test_recipes.py::test_the_quickstart": "quickstart",
    "test_distributed.py": "distributed",
    "test_sharded.py": "sharded",
    "test_sharded_resume.py": "sharded resume",
    "test_wheel.py": "wheel",
    "test_resume_shards.py": "shards",
    "::test_a_killed_pretraining_of_bert": "bert",
    "::test_what_changed_since_the_state": "changed",
    "transcription/test_real.py": "whisper",
    "transcription/test_real_sound.py": "sounds",
    "test_policy_runs.py": "policy",
    "test_the_commands_of_the_first_page": "quickstart",
    "::test_commands_of_the_guide_run": "contributing",
    "test_plugin_wheel.py": "plugin",
    "test_demo.py": "demo",
    "tests/kill/": "kills",
}
LONGEST = (  # groups and parts of test ids in the order in which they begin; a long test that began last would leave the other workers idle
    *("test_pairs_that_were_never_seen_together", "quickstart", "kills", "whisper", "sharded", "test_a_vision_gnn_in_its_place"),
    *("test_siglip_learns_the_digits", "contributing", "policy", "plugin", "wheel", "sharded resume", "test_every_encoder_and_a_system"),
    *("test_real_smollm2", "test_whisper_learns_names_of_tones", "test_the_nano_learns_to_write", "test_a_classifier_learns"),
    *("test_fuzz.py", "demo", "sounds", "test_the_site_is_built", "test_every_command_runs", "shards", "bert", "test_guide_commands.py"),
    *("test_resume.py", "test_alignment.py", "test_real_tiny_en", "changed"),
)


def pytest_addoption(parser):
    parser.addoption("--write-cards", action="store_true", help="write assets/cards/*.json from the tests that ran (all: -m card)")


def pytest_configure(config):
    config.addinivalue_line("markers", "card(name, capability): the test decides this line of the verification card of a row's family")
    if config.getoption("--write-cards") and not hasattr(config, "workerinput"):  # workers' reports come to the controller
        fewer = any(config.getoption(name, None) for name in ("keyword", "deselect", "ignore", "ignore_glob", "lf", "maxfail"))
        is_whole = config.getoption("markexpr") == "card" and config.args_source is not config.ArgsSource.ARGS and not fewer
        config.pluginmanager.register(CardWriter(is_whole), "card writer")


@pytest.hookimpl(tryfirst=True)  # before -m selects by marks
def pytest_collection_modifyitems(items):
    for item in items:
        for name, capability in cards_of(item.nodeid):
            item.add_marker(pytest.mark.card(name, capability))
        for mark in (mark for mark in LATER if item.get_closest_marker(mark)):
            if f"pytest.mark.{mark}" not in text_of(item.path):
                raise pytest.UsageError(f"{item.path}: scripts/test.sh finds tests with the mark {mark} by the words pytest.mark.{mark}")


@cache
def text_of(path):
    return path.read_text(encoding="utf-8")


def pytest_collection_finish():
    if "zoo.training.loop" in sys.modules:  # else no test that was chosen trains
        importlib.import_module("plain_curves").install()


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same seed, and on one thread: the cores are shared."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """Give the tests an empty cache directory, so that they never read classifier weights of the user or of an older version."""
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
def shared(tmp_path_factory):
    """The session's folder, which all of its workers see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def once(shared):
    """Make a folder once for all workers: the first that asks for a name fills it, the others wait until it is whole."""

    def make(name, fill):
        folder, whole = shared / name, shared / f"{name}.whole"
        with FileLock(f"{folder}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed half way
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def real(shared):
    """Fetch an asset, once for all workers, or into a folder of the test; skip where its registry does not answer."""
    from zoo.downloads.fetching import fetched
    from zoo.downloads.packages import NoAnswerError
    from zoo.errors import ZooError

    everyones = os.environ.get("ZOO_CACHE") or shared / "assets"

    def fetch(name, directory=everyones):
        try:
            with FileLock(shared / f"asset-{name}.lock"):
                return fetched(name, directory=directory)
        except ZooError as error:
            if isinstance(error.__cause__, NoAnswerError):
                pytest.skip(str(error))
            raise

    return fetch


@pytest.fixture(scope="session")
def launcher():
    """Starts commands and scripts in forks of interpreters that have imported everything."""
    found = Processes()
    yield found
    found.close()


@pytest.fixture(scope="session")
def quickstart(once):
    """Folder in the state after the README's first command; the run is in ``runs/quickstart``."""

    def run_first_command(folder):
        lay_out(folder)
        run(["bash", "scripts/quickstart.sh"], folder)

    return once("readme", run_first_command)


@pytest.fixture
def card_figure(request):
    """Record a figure for the card: ``card_figure("max difference 2e-7")``; a capability as second argument gives it to that line alone."""

    def record(text, capability=None):
        request.node.stash.setdefault(FIGURES, {})[capability] = text

    return record


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "call" or (call.when == "setup" and report.outcome != "passed"):
        for mark in item.iter_markers("card"):  # properties travel with the report from a worker to the controller
            figures = item.stash.get(FIGURES, {})
            report.user_properties.append((CARD, [*mark.args, figures.get(mark.args[1], figures.get(None, ""))]))


@pytest.fixture
def tell(request):
    """Return a function that adds a line to the summary at the end of the test run."""
    return lambda line: request.node.user_properties.append((TOLD, line))


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.getreports("passed")
    lines = [value for report in reports for name, value in report.user_properties if name == TOLD]
    if lines:
        terminalreporter.section("told by the tests")
        terminalreporter.write("\n".join(sorted(lines)) + "\n")


def place_in_queue(scope):
    """Return the place in ``LONGEST`` of a group, or of a test by a part of its id."""
    return next((n for n, part in enumerate(LONGEST) if part == scope or ("test_" in part and part in scope)), len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Group tests by the table above with --dist loadgroup, without changing their ids."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return next((group for part, group in TOGETHER.items() if part in nodeid), nodeid)

        def _assign_work_unit(self, node):
            self.workqueue.move_to_end(min(self.workqueue, key=place_in_queue), last=False)
            super()._assign_work_unit(node)

    return Scheduler(config, log)


class CardWriter:
    """Gather the results of marked tests by family, and write them to the cards at the end of the run.

    Args:
        is_whole: every marked test runs, so results of tests that did not are removed; unless the run is interrupted.
    """

    def __init__(self, is_whole):
        self.is_whole, self.outcomes = is_whole, {}

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties:
            if name == CARD:
                model, capability, figure = value
                family = family_of(model)
                assert family is not None, f"a test marks a card of {model!r}, which has no family"
                self.outcomes.setdefault(family, []).append((model, capability, report.outcome, figure, report.nodeid))

    def pytest_sessionfinish(self, exitstatus):
        is_whole = self.is_whole and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        seen = {outcome[4].partition("[")[0] for outcomes in self.outcomes.values() for outcome in outcomes}
        for family in FAMILIES if is_whole else self.outcomes:
            write_results(family, self.outcomes.get(family, []), collected=seen if is_whole else None)
