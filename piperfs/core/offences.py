"""What a member may do that no correct program does, in words that follow its name."""

import enum


class Offence(enum.Enum):
    """The value is kept on disk; `text` is for people."""

    FORGED = "forged"
    RULE = "rule"
    RIGHT = "right"
    CLAIM = "claim"
    NUMBER = "number"
    TIME = "time"
    PROTOCOL = "protocol"
    REPEATS = "repeats"
    RECEIPT = "receipt"
    WITHHOLDS = "withholds"
    UNSHOWN = "unshown"
    CONNECTS = "connects"
    REMOVED = "removed"

    @property
    def text(self) -> str:
        return _TEXTS[self]


_TEXTS = {
    Offence.FORGED: "sent operations that their author had not signed",
    Offence.RULE: "sent operations that break a rule",
    Offence.RIGHT: "wrote without the right to",
    Offence.CLAIM: "sent claims to know what nobody has shown",
    Offence.NUMBER: "numbers its operations decades ahead",
    Offence.TIME: "dates its writes before the year 2000",
    Offence.PROTOCOL: "broke the protocol",
    Offence.REPEATS: "sends the same over and over",
    Offence.RECEIPT: "confirmed what it was never sent",
    Offence.WITHHOLDS: "names operations that it does not hand over",
    Offence.UNSHOWN: "cannot show content that it says it holds",
    Offence.CONNECTS: "connects again and again",
    Offence.REMOVED: "tries to connect although it was removed",
}
