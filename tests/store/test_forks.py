"""An author that signs twice under one number: both stay, the rest is held, and all agree."""

import itertools
from collections.abc import Iterable

import pytest

from piperfs.core.errors import PeerError
from piperfs.core.forks import Fork, check_fork, make_fork, point_of
from piperfs.core.identity import generate
from piperfs.core.ids import ReplicaId
from piperfs.core.operation import Envelope, Operation, Write, decode, encode, signed_bytes
from piperfs.core.record import Birth, ContentBody, Kind
from piperfs.store.check import check_store
from tests.store.test_index_equals_view import check
from tests.store.test_withdrawal import unseal
from tests.support.stores import VOLUME, Node, PlainSealing, TestClock, exchange

DEVICE = generate(lambda count: b"s" * count)


def signed(seq: int, text: bytes, inode: bytes = b"f" + b"i" * 15) -> bytes:
    body = ContentBody(True, 0, 1, Birth(0o644, "root", "root", DEVICE.replica), target=text)
    write = Write(Kind.CONTENT, inode, 1, {}, (), body)
    plain = PlainSealing()
    envelope = encode(DEVICE.replica, seq, plain.epoch, (write,), plain.seal_bodies)
    signature = DEVICE.sign(signed_bytes(VOLUME, envelope.id))
    return Envelope(envelope.header, envelope.sealed, signature).encode()


def test_two_operations_under_one_number_are_a_proof_for_anybody() -> None:
    one, other = signed(5, b"one"), signed(5, b"other")
    fork = make_fork(one, other)
    assert fork == make_fork(other, one)
    assert (point_of(fork).replica, point_of(fork).seq) == (DEVICE.replica, 5)
    check_fork(fork, VOLUME, DEVICE.public.signing)


@pytest.mark.parametrize(
    "pair",
    [
        (signed(5, b"one"), signed(5, b"one")),
        (signed(5, b"one"), signed(6, b"other")),
        (b"nonsense", signed(5, b"one")),
    ],
    ids=["the same", "two numbers", "nonsense"],
)
def test_what_proves_nothing(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(PeerError):
        point_of(Fork(*pair))


def test_nobody_is_accused_by_others() -> None:
    one, other = signed(5, b"one"), signed(5, b"other")
    forged = other[:-1] + bytes((other[-1] ^ 1,))
    with pytest.raises(PeerError):
        check_fork(make_fork(one, forged), VOLUME, DEVICE.public.signing)
    with pytest.raises(PeerError):
        check_fork(make_fork(one, other), VOLUME, generate(lambda n: b"t" * n).public.signing)


class Branches:
    """One device, copied: both copies write, by clocks that show the same."""

    def __init__(self) -> None:
        self.left, self.right = Node("carl"), Node("carl")
        self.file = self.left.create(self.left.root, b"file", b"old")
        self.right.receive(self.left.operations())
        self.right.store.raise_last_seq(self.left.store.last_seq)
        for node, text in ((self.left, b"left"), (self.right, b"right")):
            node.clock = TestClock(1_800_000_000)
            node.create(node.root, text, text)
            node.commit()
        self.number = self.left.store.last_seq
        assert self.number == self.right.store.last_seq
        for node, text in ((self.left, b"more left"), (self.right, b"more right")):
            node.write(self.file, text)

    def operations(self) -> list[Operation]:
        both = self.left.operations() + self.right.operations()
        return list({operation.id: operation for operation in both}.values())


def accept(node: Node, operations: Iterable[Operation]) -> None:
    """What the daemon does with what a session brings."""
    for operation in operations:
        applied = node.store.apply_remote([operation], node.clock())
        for fork in applied.forks:
            tell(node, fork)
    node.commit()


def tell(node: Node, fork: Fork) -> None:
    if node.store.forks.put(fork):
        node.store.withdraw(dict(node.store.forks.known), unseal, node.clock())
        node.commit()


def test_replicas_agree_in_whatever_order_they_hear_of_it() -> None:
    branches = Branches()
    operations = branches.operations()
    assert len(operations) == 5
    digests = set()
    for order in itertools.permutations(operations):
        anna = Node("anna")
        accept(anna, order)
        assert anna.store.forks.known == {branches.left.replica: branches.number}
        assert anna.tree() == {b"file": b"old", b"left": b"left", b"right": b"right"}
        assert anna.store.forks.held_count == 2
        check(anna)
        assert list(check_store(anna.store)) == []
        digests.add(anna.store.digest())
    assert len(digests) == 1


def test_a_proof_that_comes_late_or_first_makes_no_difference() -> None:
    branches = Branches()
    anna, ben, eve = Node("anna"), Node("ben"), Node("eve")
    accept(anna, branches.left.operations())
    accept(eve, branches.operations())
    [fork] = eve.store.forks.proofs()
    tell(ben, fork)
    accept(ben, branches.left.operations())
    tell(anna, fork)
    for node in (anna, ben):
        accept(node, branches.right.operations())
    exchange(anna, ben, eve)
    assert len({node.store.digest() for node in (anna, ben, eve)}) == 1
    assert check(anna) == check(ben) == check(eve)


def restarted(node: Node) -> Node:
    return Node("anna", node.engine)


def test_a_proof_is_kept_for_ever_and_an_earlier_one_beats_it() -> None:
    anna = Node("anna")
    branches = Branches()
    accept(anna, branches.operations())
    [known] = anna.store.forks.proofs()
    anna = restarted(anna)
    assert anna.store.forks.proofs() == [known]
    assert anna.store.forks.held_count == 2
    author = branches.left.replica
    assert not anna.store.forks.put(known)
    assert anna.store.forks.known == {author: branches.number}


def test_what_is_held_counts_when_an_admin_says_so() -> None:
    branches = Branches()
    anna = Node("anna")
    accept(anna, branches.operations())
    author: ReplicaId = branches.left.replica
    anna.store.forks.limits = {}
    last = max(operation.seq for operation in branches.operations())
    assert anna.store.release(author, last, unseal, anna.clock()) == (2, 0)
    anna.commit()
    assert {head.body.target for head in anna.store.contents(branches.file)} == {
        b"more left",
        b"more right",
    }
    assert anna.store.forks.held_count == 0
    check(anna)


def test_an_honest_author_is_never_accused() -> None:
    anna, ben = Node("anna"), Node("ben")
    file = anna.create(anna.root, b"file", b"1")
    for text in (b"2", b"3"):
        before = anna.operations()
        anna.write(file, text)
        exchange(anna, ben)
        accept(ben, before)
        accept(ben, anna.operations())
    assert not ben.store.forks.known
    assert decode(anna.operations()[0].envelope, unseal).replica == anna.replica
