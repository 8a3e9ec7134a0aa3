"""Whether members that say they hold everything can show it.

What is evicted here, or let go of on a full disk, rests on what others say they hold. So now and
then a member that counts as a copy is asked for a chunk of a version that shows, drawn at random,
in the way in which it would be asked for any other; what comes is checked against its name, as
ever. Whoever lacks a share f of the content passes n such checks with probability (1 - f)^n.

A member that cannot show a chunk counts as no copy until it does. It is named only if it still
cannot when both have long been in step: what was damaged there is mended sooner, and what it has
replaced is replaced here too. Whoever asks for the very chunk that it is to show must show another
one, so nothing is gained by passing on what comes from here; once may be chance, since it asks such
questions as well. Nor is anything gained by a new connection: the question stays, though nobody is
named for lines that break.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeVar

import trio

from piperfs.core.errors import StoreError
from piperfs.core.ids import FILE, INODE_ID_SIZE, ChunkId, InodeId, ReplicaId, make_inode_id
from piperfs.core.offences import Offence
from piperfs.core.record import is_alive, refs_of
from piperfs.obs.log import get_logger
from piperfs.protocol import messages as m
from piperfs.replication.conduct import accuse
from piperfs.replication.ports import Local
from piperfs.replication.session import Session

LOOK_S: Final = 10  # so soon after its first claim is a member asked; looking costs nothing
AGAIN_S: Final = 60  # before a doubted member is asked again
CHECK_EVERY_S: Final = 3600  # a member; a chunk an hour is not noticed on any line
ANSWER_S_MAX: Final = 300  # a window of other chunks over the slowest line of use comes first
CONNECTIONS_MAX: Final = 5  # on which a question stays open; honest lines seldom break so fast
VOIDS_MAX: Final = 3  # two that ask each other for one chunk at once do so hardly twice
MEND_S: Final = 600  # by then what was damaged there has been fetched anew
DRAWN_FROM: Final = 64  # files beyond a random point, of which the first with content is taken
FIRST: Final = make_inode_id(FILE, bytes(INODE_ID_SIZE - 1))
END: Final = bytes((FILE + 1,))

T = TypeVar("T")
log = get_logger("replication")


@dataclass(slots=True)
class Question:
    """What a member was asked to show."""

    replica: ReplicaId
    inode: InodeId
    ref: ChunkId  # of the version
    chunk: ChunkId  # below it
    begun: float  # trio time
    session: "weakref.ref[Session] | None" = None  # on which it was asked last
    asked: float = 0.0  # on that one
    connections: int = 0  # on which it was asked
    failed: float | None = None  # since when it is doubted
    is_named: bool = False  # it is no matter of lines that it did not show it
    is_void: bool = False  # it asked for the chunk itself
    voids: int = 0  # how often in a row

    def was_asked_on(self, session: Session) -> bool:
        return self.session is not None and self.session() is session


class SpotChecks:
    """All checks of one replica, over all its connections."""

    def __init__(self, local: Local, on_change: Callable[[], None]) -> None:
        self._local = local
        self._on_change = on_change
        self._questions: dict[ReplicaId, Question] = {}
        self._due: dict[ReplicaId, float] = {}

    async def run(self, claimants: Callable[[], Iterable[Session]]) -> None:
        """Check members that claim to hold everything, for ever."""
        while True:
            await trio.sleep(LOOK_S)
            self._look(claimants())

    def _look(self, claimants: Iterable[Session]) -> None:
        for session in claimants:
            with suppress(StoreError):  # damage here: the next draw is elsewhere
                self._look_at(session)

    def is_doubted(self, replica: ReplicaId) -> bool:
        """Whether a member could not show what it says it holds."""
        question = self._questions.get(replica)
        return question is not None and question.failed is not None

    def note_answer(self, replica: ReplicaId, answer: m.Chunks) -> None:
        """Chunks came, already checked against their names, or a member says that it has none."""
        question = self._questions.get(replica)
        if question is None or question.is_void:
            return
        if any(chunk == question.chunk for chunk, _ in answer.chunks):
            self._forget(replica)
        elif question.chunk in answer.absent:
            question.is_named = True
            self._doubt(question)

    def note_want(self, replica: ReplicaId, want: m.Want) -> None:
        """A member asks for chunks: if for what it is to show, it must show another."""
        question = self._questions.get(replica)
        if question is None or question.is_void or question.chunk not in want.chunks:
            return
        question.is_void = True
        question.voids += 1
        if question.voids >= VOIDS_MAX:
            self._doubt(question)

    def _look_at(self, session: Session) -> None:
        now, replica = trio.current_time(), session.replica
        question = self._questions.get(replica)
        if question is not None and not self._is_current(question):
            self._forget(replica)
            question = None
        if question is None:
            if now >= self._due.get(replica, now) and (question := self._draw(replica)) is not None:
                self._due[replica] = now + CHECK_EVERY_S
                self._questions[replica] = question
                self._ask(question, session)
            return
        self._judge(question, session)
        if question.is_void and self._one_of((True, False)):  # else two might ask in step for ever
            question = self._draw_again(question)
        is_due = question.failed is not None and now - question.asked >= AGAIN_S
        if not question.is_void and (is_due or not question.was_asked_on(session)):
            self._ask(question, session)

    def _judge(self, question: Question, session: Session) -> None:
        """Doubt a member whose answer is late, on one connection or on several that ended."""
        now = trio.current_time()
        if question.was_asked_on(session) and now - question.asked > ANSWER_S_MAX:
            question.is_named = True
            self._doubt(question)
        if question.connections >= CONNECTIONS_MAX and now - question.begun > ANSWER_S_MAX:
            self._doubt(question)
        if question.failed is not None and now - question.failed > MEND_S:
            self._name(session, question)

    def _ask(self, question: Question, session: Session) -> None:
        if not question.was_asked_on(session):
            question.session = weakref.ref(session)  # nothing here keeps an ended one
            question.connections += 1
        question.asked = trio.current_time()
        session.want((question.chunk,), urgent=False)

    def _doubt(self, question: Question) -> None:
        if question.failed is None:
            question.failed = trio.current_time()
            peer = self._local.name_of(question.replica)
            log.warning("peer.unshown", peer=peer, chunk=question.chunk.hex()[:12])
            self._on_change()

    def _forget(self, replica: ReplicaId) -> None:
        if self._questions.pop(replica).failed is not None:
            log.info("peer.shown", peer=self._local.name_of(replica))
            self._on_change()

    def _name(self, session: Session, question: Question) -> None:
        """Where the two agree on all operations, nothing excuses it any more."""
        is_in_step = session.standing.digest == self._local.store.digest()
        if question.is_named and is_in_step:
            accuse(self._local, session.replica, Offence.UNSHOWN)

    # What is asked for

    def _draw_again(self, void: Question) -> Question:
        """Another question, to which the doubts about the last one stick."""
        drawn = self._draw(void.replica) or void
        drawn.failed, drawn.is_named, drawn.voids = void.failed, void.is_named, void.voids
        self._questions[void.replica] = drawn
        return drawn

    def _draw(self, replica: ReplicaId) -> Question | None:
        """A chunk of a version that shows; None where no file was found that has any.

        Only of what is durable: the member claims to hold what it was told of, which is no more.
        """
        tables, entropy = self._local.store.tables, self._local.clock.entropy
        start = make_inode_id(FILE, entropy(INODE_ID_SIZE - 1))
        rows = chain(
            next(tables.content.durable_pages(start, END, DRAWN_FROM), []),
            next(tables.content.durable_pages(FIRST, start, DRAWN_FROM), []),
        )
        for inode, heads in rows:
            shown = [head for head in heads if is_alive(head) and head.refs]
            if shown:
                ref, height = self._one_of(tuple(refs_of(self._one_of(shown))))
                chunk = self._below(ref, height)
                return Question(replica, InodeId(inode), ref, chunk, trio.current_time())
        return None

    def _below(self, chunk: ChunkId, height: int) -> ChunkId:
        """A chunk of data below a node, as far as the nodes on the way are here."""
        while below := self._local.store.chunks.listed(chunk, height):
            chunk, height = self._one_of(below)
        return chunk

    def _one_of(self, choices: Sequence[T]) -> T:
        return choices[int.from_bytes(self._local.clock.entropy(8)) % len(choices)]

    def _is_current(self, question: Question) -> bool:
        """Whether a version that shows still needs what was asked for."""
        try:
            heads = self._local.store.contents(question.inode)
        except StoreError:
            return False
        return any(is_alive(head) and question.ref in head.refs for head in heads)
