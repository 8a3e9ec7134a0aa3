"""The command line of the simulator; see `tools/sim --help`."""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.sim import campaign, cluster, plan, shrink, thousand  # noqa: E402 - the path comes first
from tests.sim.trace import Trace  # noqa: E402

FOUND = ROOT / "tests" / "sim" / "found"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/sim", description="Simulate replicas from seeds.")
    parser.add_argument("--seeds", type=int, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, default=1.0, help="without --seeds: how long")
    parser.add_argument("--nodes", type=int, default=5, help="computers of each run")
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual seconds of each run")
    parser.add_argument("--jobs", type=int, default=campaign.cores(), help="processes")
    parser.add_argument("--seed", type=int, help="run one seed and show what it came to")
    parser.add_argument("--trace", type=Path, help="with --seed or --replay: write the trace here")
    parser.add_argument("--replay", type=Path, help="run a plan from a file")
    parser.add_argument("--shrink", type=int, help="make a failing seed small")
    parser.add_argument("--thousand", action="store_true", help="measure 10, 100, 1000 replicas")
    parser.add_argument("--output", type=Path, help="where --shrink writes the plan")
    return parser


def main(words: list[str]) -> int:
    """Run what was asked for; returns the exit code."""
    asked = arguments().parse_args(words)
    if asked.seed is not None:
        return run_one(plan.draw(asked.seed, asked.nodes, asked.seconds), asked.trace)
    if asked.replay is not None:
        return run_one(plan.load(asked.replay.read_bytes()), asked.trace)
    if asked.shrink is not None:
        return make_small(asked)
    if asked.thousand:
        return run_thousand()
    return run_campaign(asked)


def run_thousand() -> int:
    """A burst of writes among 10, 100 and 1000 replicas, with loss and deaths."""
    agreed = True
    print("replicas writers  half s  99 % s  all s  frames  KiB  hops  (each living replica)")
    for replicas, writers in ((10, 1), (10, 10), (100, 1), (100, 10), (100, 100), (1000, 1),
                              (1000, 10), (1000, 100)):  # fmt: skip
        got = thousand.measure(replicas, writers, 0.2, 0.3)
        print(
            f"{replicas:8} {writers:7} {got.half_s:7.1f} {got.most_s:7.1f} {got.all_s:6.1f} "
            f"{got.messages:7.0f} {got.kilobytes:4.0f} {got.hops:4.1f} (at most {got.hops_max}), "
            f"{got.connections:.1f} connections "
            f"(at most {got.connections_max}), at most {got.addresses_max} addresses, "
            f"{got.components} parts, {got.memory_kib:.0f} KiB of memory each",
            flush=True,
        )
        agreed &= got.all_agree
    return 0 if agreed else 1


def run_one(chosen: plan.Plan, path: Path | None) -> int:
    trace = Trace(keep=path is not None)
    outcome = cluster.simulate(chosen, trace=trace)
    if path is not None and trace.lines is not None:
        path.write_text("".join(trace.lines))
    print(f"trace {outcome.trace}: {outcome.events} events, {outcome.frames} frames")
    for state, count in sorted(outcome.reached.items()):
        print(f"  {count:6} {state}")
    if outcome.violation is None:
        print(f"all agree {outcome.peace_s} s after the last fault")
        return 0
    print(f"BROKEN: {outcome.violation}")
    return 1


def make_small(asked: argparse.Namespace) -> int:
    begun = plan.draw(asked.shrink, asked.nodes, asked.seconds)
    small = shrink.shrink(begun, lambda text: print(text, flush=True))
    path = asked.output or FOUND / f"seed-{asked.shrink}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(plan.dump(small))
    print(cluster.simulate(small).violation)
    print(f"replay it with: tools/sim --replay {path}")
    return 1


def run_campaign(asked: argparse.Namespace) -> int:
    begun = time.monotonic()
    numbers: list[int] | range = range(asked.start, asked.start + (asked.seeds or 1 << 30))

    def limited():  # type: ignore[no-untyped-def]  # noqa: ANN202
        for seed in numbers:
            if asked.seeds is None and time.monotonic() - begun > asked.minutes * 60:
                return
            yield seed

    def report(summary: campaign.Summary, outcome: cluster.Outcome) -> None:
        if outcome.violation is not None:
            print(f"\nseed {outcome.seed}: {outcome.violation}")
            print(f"replay: {command(asked, outcome.seed)}", flush=True)
        elif summary.seeds % 500 == 0:
            print(f"{summary.seeds} seeds, {summary.wall_s:.0f} s", flush=True)

    summary = campaign.run(limited(), asked.nodes, asked.seconds, asked.jobs, report)
    show(summary, asked.jobs)
    return judge(summary)


def command(asked: argparse.Namespace, seed: int) -> str:
    return f"tools/sim --seed {seed} --nodes {asked.nodes} --seconds {asked.seconds:g}"


def show(summary: campaign.Summary, jobs: int) -> None:
    hours = max(summary.wall_s, 1e-9) / 3600
    print(
        f"\n{summary.seeds} seeds in {summary.wall_s:.0f} s on {jobs} processes: "
        f"{summary.seeds / hours:,.0f} seeds/h, {summary.virtual_s / summary.wall_s:,.0f} virtual "
        f"seconds a second, {summary.cpu_s / max(1, summary.seeds):.3f} CPU s a seed"
    )
    print(
        f"{summary.steps} steps of people, {summary.operations} live operations at the end, "
        f"{summary.frames} frames; everyone agreed at most {summary.peace_s_max:.1f} s after peace"
    )
    for state, count in sorted(summary.reached.items()):
        print(f"  {100 * count / summary.seeds:5.1f} % of seeds: {state}")


def judge(summary: campaign.Summary) -> int:
    missing = summary.not_reached
    if missing:
        print("never reached: " + "; ".join(missing))
    if summary.broken:
        print("BROKEN: seeds " + ", ".join(str(o.seed) for o in summary.broken))
        return 1
    return 1 if missing and summary.seeds >= campaign.SEEDS_FOR_COVERAGE else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
