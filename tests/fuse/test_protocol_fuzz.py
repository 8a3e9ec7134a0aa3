"""No request, however wrong, gets anything but an answer."""

import pytest

from tests.support import protocol_fuzz
from tests.support.computers import Computer


@pytest.mark.parametrize("seed", range(3))
async def test_arbitrary_requests_are_answered(seed, capfd):
    computer = Computer("a")
    granted = await protocol_fuzz.fuzz(computer, seed, 1500)
    assert granted > 150, "most of what is asked is nearly right"
    assert "fuse.failed" not in capfd.readouterr().out
