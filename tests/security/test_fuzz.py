"""A short run of every fuzz target; `tools/fuzz` runs them for as long as one likes."""

import itertools
import time

import pytest

from tests.support.fuzzing import TARGETS, Target, inputs, saved_inputs

SECONDS = 0.1


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_only_errors_of_its_kind_leave(target: Target) -> None:
    for data in saved_inputs(target):
        target.check(data)
    end = time.monotonic() + SECONDS
    for data in itertools.takewhile(lambda _: time.monotonic() < end, inputs(target, seed=1)):
        target.check(data)


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_every_target_begins_with_something_that_passes(target: Target) -> None:
    """Or mutations would never reach beyond the first check."""
    for seed in target.seeds[:1]:
        target.run(seed)
