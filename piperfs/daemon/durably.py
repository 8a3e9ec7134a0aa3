"""Files of the state directory that are there as a whole or not at all, whatever happens."""

import json
import os
from pathlib import Path


def write_json(path: Path, value: object) -> None:
    """Put a file in the place of the one before; its bytes are on the disk when it gets the name.

    The name itself is as safe as the directory, which is the caller's to sync.
    """
    draft = path.with_name(f"{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
