"""A small crowd of the thousand: few connections, short lists, and all that live agree."""

from piperfs.replication.replicator import ADDRESSES_MAX
from tests.sim.thousand import HELD, measure


def test_a_crowd_agrees_with_partial_views_loss_and_deaths():
    report = measure(24, 5, loss=0.2, dead_share=0.3)
    assert report.all_agree
    assert report.connections_max <= HELD
    assert report.addresses_max <= ADDRESSES_MAX
