"""Every error of the ledger, in families by whose fault it is.

Rules: one root; a family says who has to act; an error's text is one clear sentence that says what
is wrong, where, and what to do; `retriable` is an attribute of the class, so that a loop decides
without looking at the text. A cause is always chained. No secret ever stands in a text.

`services` maps the families to the exit statuses of READ_MODEL.md: ContractError and UsageError
are 2, Unreachable is 3; an OperatorError is what a person decides, and 2.
"""


class MetaledgerError(Exception):
    """The root of everything that the ledger raises on purpose."""

    retriable = False


class ContractError(MetaledgerError):
    """Bytes or raw data that are not what the contract asks for: the sender's fault."""


class InvalidEvent(ContractError):
    """Raw data that is no event. `path` is the field's, such as `data.change.mode`."""

    def __init__(self, path: str, *, expected: str, got: str) -> None:
        """`path` may be empty for the whole; `got` is shown already shortened and harmless."""
        self.path = path
        self.expected = expected
        self.got = got
        super().__init__(f"{path or 'the event'}: expected {expected}, got {got}")

    def within(self, path: str) -> "InvalidEvent":
        """The same, seen from around it: `path` stands before its own."""
        return InvalidEvent(path + self.path, expected=self.expected, got=self.got)


class MalformedRecord(ContractError):
    """The record's bytes are no event of the schema that they name."""


class ChecksumMismatch(ContractError):
    """The record's bytes are not those that its SHA-256 was made of."""


class EventTooLarge(ContractError):
    """The event exceeds `event_bytes_max`, even without its before- and after-image, or one of its
    arrays and maps has more elements than a reader takes in time."""


class Unfoldable(ContractError):
    """The event is well formed, and no fold can give it a meaning (an enum symbol of tomorrow)."""


class Unstorable(ContractError):
    """The event is well formed, and no database can hold what it tells."""


class UnknownSchema(MetaledgerError):
    """The record names a schema that this build does not know: upgrade, do not park (rule of the
    projector: an old build must not put a new build's events aside)."""


class UsageError(MetaledgerError):
    """What the caller asked for cannot be done as asked: a wrong value, file or combination."""


class Unreachable(MetaledgerError):
    """A part that the ledger needs (broker, database, registry) cannot be reached now."""

    retriable = True


class Fenced(MetaledgerError):
    """Another projector has moved the checkpoint: nothing was written; read it again and go on."""

    retriable = True


class OperatorError(MetaledgerError):
    """The system is in a state in which only a person can decide how to go on."""


class LogRefused(OperatorError):
    """The log is not what it has to be: it compacts, expires, was made anew, lost its beginning or
    changed its partitions; or the file is no ledger. Going on would lose history."""


class VersionMismatch(OperatorError):
    """A database's schema is of another version than this build: `metaledger migrate` mends it."""


class NewerVersion(VersionMismatch):
    """A newer build made the database's schema: another build is needed, and no command helps."""


class Unrecorded(MetaledgerError):
    """A change could not be recorded, and `strict` has it fail rather than go unrecorded."""


class OutboxFull(MetaledgerError):
    """The outbox or spool holds as many events as it may: see why the relay does not drain it."""

    retriable = True


class TooMuchPoison(OperatorError):
    """So many records cannot be read that it looks like a bad deployment: nothing was parked."""
