"""Files that a command makes: never over another one, whole or not there at all, under names nobody knows before."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from pbft.config import ConfigError


def must_be_new(path: Path) -> None:
    """Raises ConfigError if that file is there, or cannot come there."""
    if path.exists():
        raise ConfigError(f"{path} exists; choose another name, or remove it yourself")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.parent} is no directory; make it, or choose another")


def part_of(path: Path) -> Path:
    """Where a file is written before it is whole: beside it, under a name that nobody can guess."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")


def copy(source: Path, target: Path) -> None:
    """Make a file that is new, with the content of another one, and sync it. Raises OSError."""
    with source.open("rb") as data, target.open("xb") as made:  # the open file stays whole, though it be removed
        os.fchmod(made.fileno(), 0o600)
        shutil.copyfileobj(data, made, 1 << 20)
        made.flush()
        os.fsync(made.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
