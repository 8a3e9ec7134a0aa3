"""What decoding of bytes from elsewhere may raise; whoever decodes turns it into a PeerError."""

from typing import Final

import msgspec

# Text that is no UTF-8 is an error of its own in msgspec, and so is nesting beyond the stack.
MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
