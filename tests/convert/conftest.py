"""Shared fixtures of the converter tests."""

import pytest
import torch


@pytest.fixture
def same_state():
    """Fail unless two state dicts have the same names and, bit for bit, the same tensors."""

    def compare(found, expected):
        assert found.keys() == expected.keys()
        different = [name for name in expected if not torch.equal(found[name], expected[name]) or found[name].dtype != expected[name].dtype]
        assert not different

    return compare


@pytest.fixture
def close():
    """Fail unless two tensors differ by at most 1e-5 of the largest value; hidden states before a norm may be large."""

    def compare(found, expected):
        torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)

    return compare
