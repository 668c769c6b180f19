"""What can be wrong with durable state: one typed error each, with what the operator can do about it."""

from __future__ import annotations


class StorageError(Exception):
    """Base of all storage errors. `str()` is one sentence and a hint; `advice` is the hint alone."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem = problem
        self.advice = advice


class DirectoryLocked(StorageError):
    """Another process works on this data directory."""

    def __init__(self, path: str, pid: int | None) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"data directory {path} is in use by {holder}",
            "stop that replica or choose another data directory",
        )
        self.path = path
        self.pid = pid


class DirectoryUnusable(StorageError):
    """The data directory can neither be made nor used as it is."""

    def __init__(self, path: str, cause: OSError) -> None:
        super().__init__(
            f"data directory {path} cannot be used ({cause.strerror}: {cause.filename})",
            "give this user a directory that it may read and write, or choose another one with --data",
        )
        self.path = path
        self.cause = cause


class IdentityMismatch(StorageError):
    """A file belongs to another cluster or another replica."""

    def __init__(self, file: str, expected: str, found: str) -> None:
        super().__init__(
            f"{file} belongs to {found}, not to {expected}",
            "start the replica that owns it, or give this one its own data directory and key",
        )
        self.file = file
        self.expected = expected
        self.found = found


class NewerFormat(StorageError):
    """A file was written by a newer version of the software."""

    def __init__(self, file: str, found: int, supported: int) -> None:
        super().__init__(
            f"{file} has format version {found}, this software reads up to version {supported}",
            f"start it with a release that reads version {found}",
        )
        self.file = file
        self.found = found
        self.supported = supported


class DamagedFile(StorageError):
    """A small file (identity, start token) does not have the content that was written to it."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(
            f"{file} is damaged ({reason})",
            "check the disk; move the data directory away to start this replica as one that lost its past",
        )
        self.file = file
        self.reason = reason


class DamagedLog(StorageError):
    """Records that were durable are unreadable: the replica has lost its past (rule 1.7)."""

    def __init__(self, file: str, offset: int, position: int, reason: str) -> None:
        super().__init__(
            f"log file {file} is damaged at byte {offset}, at durable record {position} ({reason})",
            "check the disk; the replica recovers as one that has lost its past and does not vote until then",
        )
        self.file = file
        self.offset = offset
        self.position = position
        self.reason = reason


class DamagedCheckpoint(StorageError):
    """The newest durable checkpoint is unreadable. An older one is never taken in its place."""

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(
            f"checkpoint file {file} is damaged at byte {offset} ({reason})",
            "check the disk; the replica recovers as one that lost its past, with the state of its peers",
        )
        self.file = file
        self.offset = offset
        self.reason = reason


class LogFailed(StorageError):
    """A write or sync failed before; what is on the disk is unknown, so the log accepts nothing."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(
            f"the log stopped after an I/O error ({cause})",
            "free space or repair the disk, then restart the replica",
        )
        self.cause = cause


class RecordTooLarge(StorageError):
    """A record exceeds what one log record or checkpoint chunk may hold."""

    def __init__(self, size: int, maximum: int) -> None:
        super().__init__(f"a record of {size} bytes exceeds the limit of {maximum}", "lower the maximum batch size")
        self.size = size
        self.maximum = maximum
