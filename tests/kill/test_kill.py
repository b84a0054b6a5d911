"""A short campaign of kills at the moments of saving; ``tests/support/kill_campaign.py`` tells how to run a long one."""

import pytest
from kill_campaign import Campaign


@pytest.fixture(scope="module")
def jobs(tmp_path_factory, launcher):
    return Campaign(tmp_path_factory.mktemp("kills"), launcher, seed=1)


@pytest.mark.heavy
@pytest.mark.xdist_group("kills")
@pytest.mark.parametrize("kind", ["clip", "classifier_vig", "bert", "llava", "whisper", "tacotron2", "embed"])
def test_a_job_that_is_killed_twice_while_it_saves_ends_as_if_it_was_not(kind, jobs):
    ended = jobs.kill(kind)
    assert ended.moments and not ended.different
