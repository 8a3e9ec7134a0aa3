"""Work in the background: it goes on beside damage, and on computers that cannot read."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from piperfs.core.errors import StoreError
from piperfs.daemon import census, upkeep
from piperfs.daemon.node import Node
from tests.support import peers
from tests.support.peers import damage, founder, running, write_file


@pytest.mark.parametrize("work", [upkeep.count, upkeep.collect])
async def test_damage_ends_only_what_meets_it(
    tmp_path: Path, work: Callable[[Node], Awaitable[object]]
) -> None:
    async with running(founder(tmp_path)) as anna:
        inode = write_file(anna, b"file", b"text")
        await anna.committer.commit()
        assert "values" not in anna.health()
        damage(anna, "content", inode)
        assert await upkeep.attempt(anna, work) is None
        assert "fsck" in anna.health()["values"]
        write_file(anna, b"another", b"text")
        await anna.committer.commit()
    anna.close()


async def test_a_collection_that_cannot_read_all_removes_nothing(tmp_path: Path) -> None:
    async with running(founder(tmp_path)) as anna:
        damaged, kept = write_file(anna, b"damaged", b"one"), write_file(anna, b"kept", b"two")
        await anna.committer.commit()
        chunks = [head.refs[0] for inode in (damaged, kept) for head in anna.store.contents(inode)]
        damage(anna, "content", damaged)
        with pytest.raises(StoreError):
            await upkeep.collect(anna)
        assert not anna.store.chunks.is_collecting
        assert all(map(anna.store.chunks.has, chunks))
    anna.close()


@pytest.mark.net
async def test_a_computer_that_only_stores_is_counted_too(tmp_path: Path) -> None:
    async with running(founder(tmp_path)) as anna:
        shelf = await peers.join(tmp_path, "shelf", peers.make_ticket(anna, "store"))
        write_file(anna, b"file", b"text")
        async with running(shelf, peers.address_of(anna)):
            await peers.converged(anna, shelf)
            counted = census.take(shelf)
            assert counted.mismatches is None
            assert counted.vectors[-1] == 1
        shelf.close()
    anna.close()
