"""Warping and filtering, against openai-whisper's compiled and sorted ones."""

import numpy as np
import pytest
import torch
from whisper import timing

from zoo.language.transcription.alignment import median_filter, warp


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 4), (40, 3), (23, 170)])
@pytest.mark.parametrize("ties", [False, True])
def test_paths_are_those_of_openai_whisper(shape, ties):
    costs = np.random.default_rng(0).standard_normal(shape)
    costs = np.round(costs) if ties else costs
    assert np.array_equal(np.stack(warp(costs)), timing.dtw_cpu(costs))


@pytest.mark.parametrize("length", [3, 4, 7, 50])
def test_medians_are_those_of_openai_whisper(length):
    x = torch.randn(2, 3, length)
    assert median_filter(x, 7).equal(timing.median_filter(x, 7))
