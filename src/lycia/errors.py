"""One exception tree. Every error says what happened, why, and what to do.

LyciaError
├── PlanError          parts of a plan that do not fit together
├── AppError           an app file that does not import, or is not an app
├── LayoutError        arrays, models or files that do not match a layout
├── TensorFileError    bytes that are not a sound safetensors file
├── DataError          data that misses the schema, or is not there
├── TrainingError      local work that cannot be done
├── SelectionError     a cohort that cannot be drawn
├── JournalError       events that do not belong to the round they are given to
├── StorageError       a disk, database or blob that cannot be used
├── NotFound           a run, node or model of which nothing is known
├── AccessError        an invitation, key or session that is refused
├── VersionError       a coordinator or a caller of a release that this one does not work with
└── ConnectionFailed   a coordinator that cannot be reached, or is not the one invited to
"""


class LyciaError(Exception):
    """Base of all errors of this package.

    Attributes:
      what: one sentence, with the offending value in it.
      why: the rule that was broken.
      do: the next step, as an instruction that can be followed.
    """

    def __init__(self, what: str, *, why: str, do: str) -> None:
        super().__init__(f"{what}\n  why: {why}\n  do:  {do}")
        self.what, self.why, self.do = what, why, do

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.why, self.do))


def _rebuild(kind: type[LyciaError], what: str, why: str, do: str) -> LyciaError:
    return kind(what, why=why, do=do)


class PlanError(LyciaError):
    """The parts of a plan do not fit together. Raised when the plan is made, before any round runs."""


class AppError(LyciaError):
    """An app file cannot be used."""


class LayoutError(LyciaError):
    """Arrays do not match the layout of the model they are meant for."""


class TensorFileError(LyciaError):
    """Bytes are not a sound safetensors file."""


class DataError(LyciaError):
    """A node's data misses the schema, or cannot be read."""


class TrainingError(LyciaError):
    """The local work of a node cannot be done."""


class SelectionError(LyciaError):
    """A cohort cannot be drawn from the nodes there are."""


class JournalError(LyciaError):
    """An event does not belong to the round that it is given to."""


class StorageError(LyciaError):
    """A disk, a database or a blob cannot be used."""


class NotFound(LyciaError):
    """Nothing is known of the run, node or model that was named."""


class AccessError(LyciaError):
    """An invitation, a key or a session is refused."""


class VersionError(LyciaError):
    """The two sides of a call are of releases that do not work together."""


class ConnectionFailed(LyciaError):
    """The coordinator cannot be reached, or is not the one that the invitation names."""
