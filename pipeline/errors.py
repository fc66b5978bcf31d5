"""What can go wrong, and the exit code each ends the command line with.

    SoftLabelsError          1    anything a user can cause
    ├── ConfigError          2    the experiment file or the command line asks for what cannot be
    ├── DatasetError         1    a dataset cannot be read, or is not what it says it is
    ├── TeacherError         1    a checkpoint does not fit, or logits are not finite
    ├── TrainingError        1    a loss that is not finite
    ├── ClusterError         1    a cluster cannot be reached, or its workers cannot work
    ├── CorruptError         3    bytes on disk are not the bytes that were written
    ├── IncompleteError      4    a cache without its seal
    ├── MismatchError        5    a different teacher, dataset, encoding or input
    ├── LockedError          6    another writer holds the cache
    ├── StorageError         7    no space, no permission, an I/O error
    └── StoppedError     75, 130  stopped by SIGTERM or Ctrl-C, resumable

An error's message is one paragraph: which thing, what was found, what was expected, what to do now.
"""


class SoftLabelsError(Exception):
    """Anything a user can cause. Its text is shown alone, never with a traceback."""

    exit_code: int = 1


class ConfigError(SoftLabelsError):
    """The experiment file or the command line asks for what cannot be."""

    exit_code = 2


class DatasetError(SoftLabelsError):
    """A dataset cannot be read, or is not what it says it is."""


class TeacherError(SoftLabelsError):
    """A checkpoint does not fit its model, or a teacher's logits cannot be stored."""


class TrainingError(SoftLabelsError):
    """Training went astray."""


class ClusterError(SoftLabelsError):
    """A cluster cannot be reached, or its workers cannot work."""


class CorruptError(SoftLabelsError):
    """Bytes on disk are not the bytes that were written."""

    exit_code = 3


class IncompleteError(SoftLabelsError):
    """A cache without its seal, opened as if it were whole."""

    exit_code = 4


class MismatchError(SoftLabelsError):
    """A cache made from another teacher, dataset or encoding, or labels that belong to other inputs."""

    exit_code = 5


class LockedError(SoftLabelsError):
    """Another writer holds the cache."""

    exit_code = 6


class StorageError(SoftLabelsError):
    """No space, no permission, or an I/O error."""

    exit_code = 7


class StoppedError(SoftLabelsError):
    """Stopped on request; the same command resumes. Carries the exit code of the signal that asked."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
