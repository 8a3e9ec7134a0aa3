"""Whether a process that waits for us has been told to end.

The kernel reports an interrupted request once, for whatever signal came first, a timer's or a
child's included. Answering EINTR to those would break programs that know local disks only, where
neither reading nor fsync is ever interrupted. So the pending signals are looked at, and for as
long as the process waits, since the one that ends it may come later.
"""

import signal
from pathlib import Path
from typing import Final

ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL)
ENDING_MASK: Final = sum(1 << (number - 1) for number in ENDING)
LOOK_S: Final = 0.2


def is_told_to_end(thread: int) -> bool:
    """Whether a thread has a signal pending that asks it to end; True as well if it is gone."""
    try:
        lines = Path(f"/proc/{thread}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    fields = dict(line.split(":", 1) for line in lines)
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return bool(pending & ENDING_MASK)
