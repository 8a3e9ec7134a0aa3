"""fsck on a store of which a single value is damaged."""

import pytest

from piperfs.core.errors import StoreError
from piperfs.daemon.clock import SYSTEM_CLOCK
from piperfs.daemon.node import open_node
from piperfs.daemon.repairing import check, repair
from tests.support import peers


def test_the_root_directory_s_row_is_worked_out_anew(tmp_path):
    node = peers.founder(tmp_path)
    raw = bytearray(node.store.raw_value("inode", node.store.root) or b"")
    raw[-1] ^= 1
    node.store.engine.commit({"inode": {node.store.root: bytes(raw)}})
    path = node.state.path
    node.close()
    with pytest.raises(StoreError, match="fsck"):
        open_node(path, SYSTEM_CLOCK)
    node = open_node(path, SYSTEM_CLOCK, salvage=True)
    assert repair(node)
    node.close()
    node = open_node(path, SYSTEM_CLOCK)
    assert check(node) == []
    node.close()
