"""Runs in processes of their own."""

import pytest
from processes import Processes


@pytest.fixture(scope="session")
def launcher():
    """Starts runs in forks of interpreters that have imported everything."""
    found = Processes()
    yield found
    found.close()
