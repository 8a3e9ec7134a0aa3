"""What turned out not to count leaves no trace: stores that had it equal stores that never did."""

import os

from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from piperfs.core.ids import ChunkId
from piperfs.core.operation import Operation
from piperfs.store.change import PutContent
from tests.store.test_index_equals_view import check, steps
from tests.support.histories import Life
from tests.support.stores import Node, exchange


def unseal(epoch: object, header: bytes, sealed: bytes) -> bytes:
    return sealed


def withdraw(node: Node, author: Node, until: int) -> int:
    count = node.store.withdraw({author.replica: until}, unseal, node.clock())
    node.commit()
    return count


def trio_of_nodes() -> tuple[Node, Node, Node]:
    return Node("anna"), Node("ben"), Node("carl")


def test_nothing_that_is_void_remains_and_nothing_else_goes() -> None:
    anna, ben, carl = trio_of_nodes()
    file = anna.create(anna.root, b"file", b"anna's")
    exchange(anna, ben, carl)
    until = carl.store.last_seq
    carl.write(file, b"carl's")
    carl.create(carl.root, b"more", b"x")
    folder = carl.mkdir(carl.root, b"folder")
    exchange(ben, carl)
    ben.create(folder, b"ben's", b"honest")
    ben.commit()
    assert withdraw(ben, carl, until) == 3
    assert ben.tree()[b"file"] == b"anna's"
    assert b"more" not in ben.tree()
    exchange(anna, ben)
    assert anna.store.digest() == ben.store.digest()
    assert check(anna) == check(ben)


def test_a_withdrawn_operation_may_come_back() -> None:
    anna, _, carl = trio_of_nodes()
    carl.create(carl.root, b"name", b"text")
    exchange(anna, carl)
    withdraw(anna, carl, 0)
    assert anna.tree() == {}
    exchange(anna, carl)
    assert anna.tree() == carl.tree() == {b"name": b"text"}


def test_absent_chunks_of_void_versions_are_wanted_no_more() -> None:
    anna, _, carl = trio_of_nodes()
    file = carl.create(carl.root, b"name", b"text")
    chunk = os.urandom(32)
    body = replace(carl.version(b""), size=1, lengths=(1,))
    carl.apply(PutContent(file, body, (ChunkId(chunk),)))
    exchange(anna, carl)
    assert anna.store.chunks.want_count == 1
    withdraw(anna, carl, 0)
    assert anna.store.chunks.want_count == 0


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, steps)
def test_replicas_agree_whatever_they_had_accepted(before, after) -> None:
    life = Life()
    for step in before:
        life.step(step)
    life.settle()
    anna, ben, carl = life.nodes
    until = carl.store.last_seq
    for step in after:
        life.step(step)
    for node in (anna, ben):
        withdraw(node, carl, until)
        check(node)
    for _ in range(2):
        exchange(anna, ben)
    assert check(anna) == check(ben)
    assert anna.store.digest() == ben.store.digest()
    assert not [op for op in anna.operations() if is_void(op, carl, until)]


def is_void(operation: Operation, author: Node, until: int) -> bool:
    return operation.replica == author.replica and operation.seq > until
