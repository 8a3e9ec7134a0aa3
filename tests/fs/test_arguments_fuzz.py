"""Operations of the file system with arbitrary arguments."""

import pytest

from tests.support.arguments_fuzz import ArgumentsFuzz
from tests.support.computers import Computer


@pytest.mark.parametrize("seed", range(4))
def test_arbitrary_arguments_meet_an_answer_or_a_foreseen_error(seed):
    fuzz = ArgumentsFuzz(Computer("a"), seed)
    fuzz.run(3000)
    assert fuzz.outcomes["granted"] > 500
