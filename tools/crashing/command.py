"""The command line of `tools/crash`: one subcommand for each way to break things."""

import argparse
import ctypes
import random
import sys
import time
from collections.abc import Callable

from crashing import errnos, kill, memory, power, replay, rot
from crashing.verify import BrokenPromiseError

CLONE_NEWNS = 0x20000
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18

Way = Callable[[argparse.Namespace], str]
WAYS: dict[str, tuple[Way, int, int, str]] = {
    "kill": (kill.run, 15, 500, kill.__doc__ or ""),
    "power": (power.run, 3, 100, power.__doc__ or ""),
    "memory": (memory.run, 6, 100, memory.__doc__ or ""),
    "errno": (errnos.run, 6, 0, errnos.__doc__ or ""),
    "rot": (rot.run, 200, 10_000, rot.__doc__ or ""),
    "replay": (replay.run, 200, 10_000, replay.__doc__ or ""),
}


def main(arguments: list[str]) -> int:
    """Run one way; returns the exit code."""
    options = _parse(arguments)
    way, short, long, _ = WAYS[options.way]
    if options.rounds is None:
        options.rounds = long if options.long else short
    print(f"crash {options.way}: {options.rounds or 'all'} rounds, seed {options.seed}", flush=True)
    begin = time.monotonic()
    own_mounts()
    try:
        summary = way(options)
    except BrokenPromiseError as broken:
        print(f"BROKEN: {broken}", file=sys.stderr)
        print(f"again: tools/crash {options.way} --seed {options.seed}", file=sys.stderr)
        return 1
    print(f"crash {options.way}: {summary}; {time.monotonic() - begin:.0f} s")
    return 0


def own_mounts() -> None:
    """Keep mounts from other processes: one that copied them would keep a cut disk alive."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        print("no mount namespace of its own: run it as root", file=sys.stderr)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/crash", description="Break it, then check it.")
    ways = parser.add_subparsers(dest="way", required=True)
    for name, (_, short, long, text) in WAYS.items():
        way = ways.add_parser(
            name, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        way.add_argument("--rounds", type=int, help=f"how often [{short}; long: {long or 'all'}]")
        way.add_argument("--long", action="store_true", help="as often as the durability page says")
        way.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="repeat a run")
        way.add_argument("--quiet", action="store_true", help="no line for each round")
    return parser.parse_args(arguments)
