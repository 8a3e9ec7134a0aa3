"""Every maximum in one place, each with its reason. Peer input beyond one of them is refused.

The tests hold each limit at n and at n + 1.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Names and attributes: what Linux itself allows.
NAME_BYTES_MAX: Final = 255
SYMLINK_BYTES_MAX: Final = 4095
XATTR_NAME_BYTES_MAX: Final = 255
XATTR_VALUE_BYTES_MAX: Final = 64 * KIB
XATTRS_PER_INODE_MAX: Final = 128
FILE_BYTES_MAX: Final = (1 << 63) - 1
TIME_NS_MAX: Final = (1 << 63) - 1  # the year 2262; and as long before 1970: what 64 bits hold
LINKS_PER_INODE_MAX: Final = 65_000  # as ext4

# Operations: small enough to verify at once, large enough for the largest xattr.
OPERATION_BYTES_MAX: Final = 192 * KIB
OPERATION_WRITES_MAX: Final = 256
VECTOR_ENTRIES_MAX: Final = 4096
SEQ_MAX: Final = (1 << 63) - 1
SEQ_AHEAD_MAX: Final = 30 * 365 * 86_400_000  # milliseconds unless clocks jump, by years too
SEQ_HEARSAY_AHEAD_MAX: Final = SEQ_AHEAD_MAX // 2  # nobody's word may make us look like a liar
PREVIOUS_PARENTS_MAX: Final = 2
CHANGED_DIRECTORIES_MAX: Final = 64  # that one write of a content names
CLOCK_AHEAD_S_MAX: Final = 86_400  # what is dated later waits: no honest clock is a day off
AHEAD_BYTES_MAX: Final = 16 * MIB  # of one author's that wait; the rest is asked for later

# Chunks. Average size is a compromise that tools/bench/chunking.py measures: small enough that
# a random 4 KiB update stays cheap, large enough that a stream is not drowned in bookkeeping.
CHUNK_BYTES_MIN: Final = 32 * KIB
CHUNK_BYTES_AVERAGE: Final = 128 * KIB
CHUNK_BYTES_MAX: Final = 512 * KIB
SEALED_CHUNK_BYTES_MAX: Final = 640 * KIB  # padding and encryption included
ZSTD_WINDOW_BYTES_MAX: Final = 8 * MIB
MANIFEST_HEIGHT_MAX: Final = 8
INLINE_EXTENTS_MAX: Final = 64  # longer manifests become trees of nodes
NODE_EXTENTS_MAX: Final = 512

# Of members that signed twice.
HELD_BYTES_MAX: Final = 256 * MIB  # beyond it, what is held stays with its author
EARLY_FORKS_MAX: Final = 64  # proofs about members that are not known yet

# Membership.
MEMBERSHIP_RECORD_BYTES_MAX: Final = 256 * KIB
MEMBERSHIP_PENDING_MAX: Final = 1024
MEMBERSHIP_PENDING_BYTES_MAX: Final = 4 * MIB
MEMBERSHIP_RECORDS_MAX: Final = 25_000  # whose ids fit one message
QUORUM_MAX: Final = 16  # admins who must agree; more would hardly ever meet
TICKET_CHARS_MAX: Final = 4096
TICKET_ADDRESSES_MAX: Final = 16
PAIRING_TRIES_MAX: Final = 3  # of one code, all addresses together
PAIRING_S_MAX: Final = 600  # how long a code is good
INVITE_S_MAX: Final = 3650 * 86400  # how long a ticket is good; nobody plans further ahead
PAIRING_JOIN_S: Final = 60  # from the right code to the join
LABEL_CHARS_MAX: Final = 100
PARENTS_MAX: Final = 64
RENEWALS_MAX: Final = 64  # of one device: copies are rare, records are for ever
INTRODUCTION_RECORDS_MAX: Final = 4
INTRODUCTION_BYTES_MAX: Final = 3 * KIB  # in a hello, of 4 KiB at most

# Operations that claim to know what nobody has shown to exist.
WAITING_OPERATIONS_MAX: Final = 1024
WAITING_PER_SENDER_MAX: Final = 256  # so that four liars cannot crowd out a fifth by one
WAITING_BYTES_PER_SENDER_MAX: Final = 4 * MIB

# What is remembered of members that misbehave.
OFFENCES_MAX: Final = 1024

# The wire.
FRAME_BYTES_MAX: Final = 1 * MIB + 64
FRAME_BYTES_PER_S_MIN: Final = 4 * KIB  # of a frame that takes longer than FRAME_GRACE_S
FRAME_GRACE_S: Final = 30
MESSAGE_ITEMS_MAX: Final = 4096  # of a list of chunks, operations or ranges
MESSAGE_MEMBER_IDS_MAX: Final = 25_000  # of 34 bytes each: as many as a frame holds
MESSAGE_PEERS_MAX: Final = 64
ADDRESSES_MAX: Final = 16
ADDRESS_CHARS_MAX: Final = 300
QUEUED_BYTES_MAX: Final = 64 * MIB  # a peer that asks for more than it reads is let go
REFUSED_PER_S_MAX: Final = 200  # operations of one member, after REFUSED_BURST_MAX at once: what
REFUSED_BURST_MAX: Final = 2000  # it costs to verify in vain is a fiftieth of a core then
SESSIONS_HELD_MAX: Final = 32  # beyond these, nobody is let in

# Whoever has not proved who he is.
PREAUTH_FRAME_BYTES_MAX: Final = 4 * KIB
PREAUTH_TIMEOUT_S: Final = 5  # for TLS, and again for the greeting
PREAUTH_CONNECTIONS_MAX: Final = 64
PREAUTH_PER_S_MAX: Final = 8  # of one host, after PREAUTH_BURST_MAX at once: a 20th of a core
PREAUTH_BURST_MAX: Final = 64
PREAUTH_ORIGINS_MAX: Final = 4096  # hosts whose budgets are remembered
PREAUTH_PER_HOST_MAX: Final = 8  # an IPv6 network of 64 bits counts as one host

LOG_BYTES_MAX: Final = 8 * MIB  # of a daemon's log; the one before it is kept as well

# Commands of this computer's users.
CONTROL_REQUEST_BYTES_MAX: Final = 64 * KIB
CONTROL_CLIENTS_MAX: Final = 16
