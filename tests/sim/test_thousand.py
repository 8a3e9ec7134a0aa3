"""A small crowd of the thousand: few connections, short lists, and all that live agree."""

import pytest

from piperfs.replication import dialling
from piperfs.replication.dialling import ADDRESSES_MAX
from tests.sim.thousand import HELD, measure


def test_a_crowd_agrees_with_partial_views_loss_and_deaths():
    report = measure(24, 5, loss=0.2, dead_share=0.3)
    assert report.all_agree
    assert report.connections_max <= HELD
    assert report.addresses_max <= ADDRESSES_MAX


@pytest.mark.parametrize("seed", [1, 2])
def test_lists_far_shorter_than_the_crowd_go_stale_for_nobody(monkeypatch, seed):
    """Whoever is turned away hears of others, and circles that know no others are opened."""
    monkeypatch.setattr(dialling, "ADDRESSES_MAX", 12)
    report = measure(80, 1, loss=0.2, dead_share=0.3, seed=seed)
    assert report.all_agree
    assert report.connections > HELD / 2
    assert report.messages < 500
