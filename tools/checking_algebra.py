"""The work behind `tools/algebra`: cases shared out to processes, figures added up."""

import argparse
import multiprocessing
import time

from tests.support.small_scope import ACTIONS, Scope, cases

REPORT_EVERY_S = 30
DAY_S = 86_400


def run(options: argparse.Namespace) -> int:
    """Check all cases that were asked for; returns the exit code."""
    total = -(-(len(ACTIONS) ** 3 - options.first) // options.stride)
    print(f"{len(ACTIONS)} actions, {total} cases, {options.processes} processes", flush=True)
    begin = time.monotonic()
    parts = [(options, number) for number in range(options.processes)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        found = pool.map(_part, parts, chunksize=1)
    failures = [text for _, text in found if text]
    done, seconds = sum(count for count, _ in found), time.monotonic() - begin
    for text in failures:
        print(text)
    print(f"{done} cases in {seconds:.0f} s, {len(failures)} failures", flush=True)
    return 1 if failures or done == 0 else 0


def _part(part: tuple[argparse.Namespace, int]) -> tuple[int, str]:
    """Every n-th of the chosen cases; stops at the first that fails."""
    options, number = part
    years = options.skew_years * 365 * DAY_S
    scope = Scope((0, 60 - years, 120 + years))
    stride = options.stride * options.processes
    done, reported = 0, time.monotonic()
    for case in cases(scope.deeds(), stride, options.first + number * options.stride):
        try:
            scope.judge(case)
        except Exception as error:  # noqa: BLE001 - a crash is a finding like any other
            return done, f"{tuple(deed.name for deed in case)}: {error!r}"
        done += 1
        if time.monotonic() - reported > REPORT_EVERY_S:
            reported = time.monotonic()
            print(f"process {number}: {done} cases", flush=True)
    return done, ""
