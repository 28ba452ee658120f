"""Named streams from one seed."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alocc.seeding import generator


def numbers(seed, name):
    return torch.randn(100, generator=generator(seed, name))


def test_same_name_gives_the_same_numbers():
    assert torch.equal(numbers(0, "weights"), numbers(0, "weights"))


@pytest.mark.parametrize(("seed", "name"), [(1, "weights"), (0, "batches"), (0, "weight"), (10, "weights")])
def test_another_name_or_seed_gives_other_numbers(seed, name):
    here, there = numbers(0, "weights"), numbers(seed, name)
    assert not torch.isclose(here, there).any()
    assert torch.corrcoef(torch.stack([here, there]))[0, 1].abs() < 0.4


def test_streams_do_not_depend_on_each_other():
    one, other = generator(0, "noise"), generator(0, "batches")
    torch.randn(1000, generator=one)
    assert torch.equal(torch.randn(100, generator=other), numbers(0, "batches"))


def test_a_seed_means_the_same_in_every_version():
    # the first 63 bits of SHA-256("0/weights"); with others, saved noise patterns would change
    assert generator(0, "weights").initial_seed() == 0x03B4290604C66D74 // 2


def test_global_generators_are_untouched():
    torch.rand(1), np.random.rand(), random.random()  # so that seeding anew would be seen
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    numbers(3, "weights")
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


@settings(max_examples=30)
@given(st.integers(0, 2**70), st.text(max_size=10))
def test_any_seed_and_name_make_a_stream_on_the_cpu(seed, name):
    stream = generator(seed, name)
    assert stream.device.type == "cpu"
    assert 0 <= stream.initial_seed() < 2**63
