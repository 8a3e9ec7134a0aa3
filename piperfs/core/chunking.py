"""Content-defined chunking: where a stream is cut depends on its bytes, not on their position.

So an insertion changes the chunks around it and no others. Small files are one chunk. Cuts are
found by the FastCDC algorithm (Xia et al., USENIX ATC 2016) in the library `pyfastcdc`.
"""

from typing import Final

from pyfastcdc import FastCDC

from piperfs.core.limits import CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN

_cutter: Final = FastCDC(CHUNK_BYTES_AVERAGE, min_size=CHUNK_BYTES_MIN, max_size=CHUNK_BYTES_MAX)


def cut(data: bytes | bytearray | memoryview, *, final: bool) -> list[int]:
    """Lengths of the chunks of `data`, whose first byte is the first of a chunk.

    Unless `final`, the last piece, which the bytes to come may lengthen, is left out: the lengths
    may add up to less than `len(data)`.
    """
    if len(data) <= CHUNK_BYTES_MIN:
        return [len(data)] if final and len(data) else []
    lengths = [chunk.length for chunk in _cutter.cut_buf(data)]
    return lengths if final or lengths[-1] == CHUNK_BYTES_MAX else lengths[:-1]
