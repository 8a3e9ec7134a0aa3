"""Makes one commit of a daemon under test fail in our own code, as a lack of memory does.

`unreadable` is a value that turns out to be damaged when the changes are being published.

Python imports this at its start where PYTHONPATH names this folder, so the product needs no hook.
The file that PIPERFS_COMMIT_FAULT names says at which step; it is removed when the fault was had.
"""

import os

STEPS = {
    "publish": ("piperfs.store.local", "LocalWriter", "_publish"),
    "unreadable": ("piperfs.store.authors", "Authors", "note"),
    "encode": ("piperfs.store.tables", "Table", "encode_frozen"),
    "finish": ("piperfs.store.oplog", "OperationLog", "note_durable"),
}


def _is_due(path, step):
    try:
        with open(path) as file:
            return file.read() == step
    except FileNotFoundError:
        return False


def _error(step):
    if step != "unreadable":
        return MemoryError()
    from piperfs.core.errors import StoreError  # noqa: PLC0415 - not before it is needed

    return StoreError("the store holds a damaged value")


def _break(path, step, home, name, method):
    cls = getattr(__import__(home, fromlist=[name]), name)
    real = getattr(cls, method)

    def breaking(*arguments):
        if _is_due(path, step):
            os.unlink(path)
            raise _error(step)
        return real(*arguments)

    setattr(cls, method, breaking)


if "PIPERFS_COMMIT_FAULT" in os.environ:
    for step, place in STEPS.items():
        _break(os.environ["PIPERFS_COMMIT_FAULT"], step, *place)
