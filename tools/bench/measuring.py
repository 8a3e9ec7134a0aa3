"""Measures PiperFS beside a reference, and prints both and their ratio. Needs root.

Topics: metadata, stream and git compare one mount with ext4 and with bindfs, a pass-through file
system in C; propagation, tree and delta compare two mounts with Syncthing; memory fills a volume;
chunking compares sizes of chunks.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import chunking
import mounted
import replicated

Topic = Callable[[Path, int], None]
TOPICS: dict[str, Topic] = {
    "metadata": mounted.metadata,
    "stream": mounted.stream,
    "git": mounted.git,
    "propagation": replicated.propagation,
    "tree": replicated.tree,
    "delta": replicated.delta,
    "memory": replicated.memory,
    "chunking": chunking.sizes,
}


def main() -> None:
    parser = argparse.ArgumentParser("tools/bench/run", description=__doc__)
    parser.add_argument("topic", nargs="+", choices=[*TOPICS, "all"])
    parser.add_argument("--rounds", type=int, default=3, help="repeat each step so often [3]")
    parser.add_argument("--root", default="/var/tmp", help="a directory on the disk to measure")
    words = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: must be run by root, since it mounts and drops caches")
    chosen = list(TOPICS) if "all" in words.topic else words.topic
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, nothing pinned\n")
    for topic in chosen:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=words.root) as name:
            TOPICS[topic](Path(name), words.rounds)


if __name__ == "__main__":
    main()
