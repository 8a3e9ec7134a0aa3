"""A daemon from start to end: everything that runs beside each other, and how it stops.

Order matters at both ends. The volume is usable before anybody is told so; at the end the mount
goes first, so that nothing new comes, then what is left is committed, then peers are left.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from piperfs.control import places
from piperfs.core.errors import ExitCode, PiperError, UserError
from piperfs.core.limits import LOG_BYTES_MAX
from piperfs.daemon import footprint, lifecycle, scrubbing, upkeep
from piperfs.daemon.accounts import SYSTEM_ACCOUNTS
from piperfs.daemon.clock import Clock
from piperfs.daemon.findable import Findable
from piperfs.daemon.node import ADDRESSES, Node, open_node
from piperfs.daemon.notify import Starter
from piperfs.daemon.options import Options
from piperfs.daemon.report import samples
from piperfs.daemon.sparing import Sparing
from piperfs.daemon.verbs import Verbs
from piperfs.fs.files import Clock as FileClock
from piperfs.fs.filesystem import Filesystem, World
from piperfs.fs.owners import IdMap, Owners
from piperfs.fuse import mount
from piperfs.fuse.mountpoint import MountOptions, find_mount
from piperfs.fuse.service import Service, Surroundings
from piperfs.obs import log as logs
from piperfs.obs.logfile import LogFile
from piperfs.obs.metrics import Metrics
from piperfs.replication.replicator import Replicator, ReplicatorOptions

STOP_TIMEOUT_S: Final = 60

log = logs.get_logger("daemon")


@dataclass(frozen=True, slots=True)
class Job:
    """What a daemon is started for; without a mount point it only serves."""

    state: Path
    mountpoint: Path | None
    options: Options
    in_front: bool
    descriptor: int | None = None  # of the kernel, where somebody else has mounted already


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a daemon ends: because it shall, or because something failed while it was in use."""

    starter: Starter
    stop: trio.Event

    def is_failure(self) -> bool:
        """Whether nobody asked for the end that is coming."""
        return self.starter.is_ready and not self.stop.is_set()


async def run(job: Job, starter: Starter, clock: Clock) -> None:
    """Serve a volume until it is unmounted or a signal comes. Raises UserError, StoreError."""
    node = open_node(job.state, clock)
    node.is_daemon = True
    try:
        if not job.in_front:
            _log_to_file(node.state.log)
        await _run_node(node, job, starter)
    finally:
        node.close()


def _log_to_file(path: Path) -> None:
    """Turn from the terminal of whoever started us to the volume's log."""
    logs.configure(LogFile(path, LOG_BYTES_MAX), as_json=True)


async def _run_node(node: Node, job: Job, starter: Starter) -> None:
    """Run everything; the committer outlives all that has something to commit."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.committer.run)
        try:
            await _run_parts(node, job, starter)
        finally:
            nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await node.committer.flush()
    log.info("daemon.stopped")
    if node.committer.failure is not None:
        raise node.committer.failure


async def _run_parts(node: Node, job: Job, starter: Starter) -> None:
    metrics = Metrics()
    metrics.add(lambda: samples(node))
    stop = trio.Event()
    places.prepare_runtime_directory()
    places.forget_running(job.state)
    async with trio.open_nursery() as nursery:
        await nursery.start(lifecycle.stop_on_signal, stop)
        replicator = node.replicator = _replicator(node, job.options)
        metrics.add(replicator.samples)
        metrics.add(node.pairing.samples)
        await nursery.start(replicator.run)
        node.store.tables.meta.put(ADDRESSES, " ".join(replicator.reachable).encode())
        sparing = Sparing(node)
        nursery.start_soon(sparing.run)
        if job.mountpoint is not None:
            around = _surroundings(node, sparing, job.options.deadline_s)
            ending = Ending(starter, stop)
            await nursery.start(_mounted, node, job, job.mountpoint, around, ending)
        findable = Findable(job.state, Verbs(node, metrics).table())
        await nursery.start(findable.run)
        nursery.start_soon(upkeep.run, node, job.options.cache_bytes)
        nursery.start_soon(footprint.run, node.state.store)
        nursery.start_soon(upkeep.watch, node)
        nursery.start_soon(upkeep.forget_wants, node)
        nursery.start_soon(upkeep.tend_members, node)
        nursery.start_soon(scrubbing.run, node)
        nursery.start_soon(lifecycle.feed_watchdog, starter)
        if job.options.metrics_port is not None:
            await nursery.start(upkeep.serve_metrics, metrics, job.options.metrics_port)
        await _until_stopped(node, job, starter, findable, stop)
        nursery.cancel_scope.cancel()


async def _until_stopped(
    node: Node, job: Job, starter: Starter, findable: Findable, stop: trio.Event
) -> None:
    """Tell that the volume is usable, and wait for the end."""
    assert node.replicator is not None
    mountpoint = None if job.mountpoint is None else str(job.mountpoint)
    findable.announce(
        places.Running(os.getpid(), str(job.state), mountpoint, _device(job.mountpoint))
    )
    try:
        if not job.in_front and os.getsid(0) != os.getpid():
            os.setsid()  # not before the mount: see cli/spawn.py
        where = mountpoint or ", ".join(node.replicator.listening)
        starter.ready(f"{node.label} is served at {where}")
        log.info("daemon.ready", volume=node.store.volume.hex()[:16])
        await stop.wait()
    finally:
        findable.retire()
        starter.stopping()


def _device(mountpoint: Path | None) -> str | None:
    found = None if mountpoint is None else find_mount(mountpoint)
    return None if found is None else found.device


def _replicator(node: Node, options: Options) -> Replicator:
    peers = tuple(str(address) for address in options.peers)
    return Replicator(
        node,
        ReplicatorOptions(
            listen_host=options.listen.host,
            listen_port=options.listen.port,
            peers=peers,
            discovery=options.discovery,
            fetch_all=options.cache_bytes is None,
        ),
    )


def _filesystem(node: Node, idmap: IdMap) -> Filesystem:
    """What the mount will show, told of every change that peers make."""
    clock = FileClock(node.clock.now_ns, node.clock.monotonic)
    owners = Owners(SYSTEM_ACCOUNTS, os.getuid(), os.getgid(), idmap)
    world = World(clock, node.clock.entropy, node.space, owners)
    node.filesystem = Filesystem(node.store, node.keyring, world)
    node.store.on_change = node.filesystem.report
    return node.filesystem


def _surroundings(node: Node, sparing: Sparing, deadline_s: float) -> Surroundings:
    """What the mount needs of the rest of the daemon."""
    assert node.replicator is not None
    return Surroundings(
        node.replicator.fetch,
        node.replicator.prefetch,
        node.committer.wake,
        node.committer.commit,
        node.clock.now_ns,
        node.clock.in_thread,
        deadline_s,
        lambda: node.committer.failure,
        sparing.is_crowded,
        sparing.find_room,
    )


async def _mounted(
    node: Node,
    job: Job,
    mountpoint: Path,
    around: Surroundings,
    ending: Ending,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount and serve the file system; its end is the daemon's end."""
    options = job.options
    if node.store.is_blind:
        raise UserError(
            f"{node.label} cannot be mounted here: this computer stores it for others and has no "
            "key to read it; run piperfs serve instead",
            ExitCode.REFUSED,
        )
    node.mountpoint = str(mountpoint)
    filesystem = _filesystem(node, options.idmap)
    service = Service(filesystem, around)
    node.flush = service.sync
    read_only = options.read_only or not node.may_write
    where = mount.MountPoint(
        mountpoint if job.descriptor is None else Path(f"/dev/fd/{job.descriptor}"),
        MountOptions(node.label, read_only, options.allow_other, options.kernel),
        options.driver or mount.DEFAULT_DRIVER,
        ending.is_failure,
    )
    try:
        await mount.serve(filesystem, service, where, task_status=task_status)
    except OSError as error:
        raise UserError(f"{mountpoint}: the mount failed: {error.strerror}") from error
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(STOP_TIMEOUT_S):
            try:
                await service.sync()
            except PiperError as error:
                log.warning("daemon.unsaved", reason=str(error))
        ending.stop.set()
