"""Finds an application by its short name, by MODULE:CLASS, or in a user's own FILE.py:CLASS."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from pbft.application import Application
from pbft.apps import APPLICATIONS
from pbft.config import ConfigError
from pbft.config_file import ClusterConfig


def full_name(name: str, directory: Path) -> str:
    """What to write into cluster.toml: a short name in full, a file by its absolute path."""
    name = APPLICATIONS.get(name, name)
    place, colon, cls = name.rpartition(":")
    if colon and place.endswith(".py"):
        return f"{(directory / place).absolute()}:{cls}"
    return name


def application_of(config: ClusterConfig) -> type[Application]:
    """The class that a cluster's file names. Raises ConfigError."""
    try:
        return load_application(config.group.app, config.path.parent)
    except ConfigError as error:
        raise ConfigError(f"{config.path}: cluster.app: {error}") from error


def load_application(name: str, directory: Path) -> type[Application]:
    """The class that `name` means; a relative file is looked for in `directory`. Raises ConfigError."""
    full = full_name(name, directory)
    place, colon, cls = full.rpartition(":")
    if not colon or not place or not cls:
        known = ", ".join(sorted(APPLICATIONS))
        raise ConfigError(f"application {name!r} is none of {known}, and not MODULE:CLASS or FILE.py:CLASS")
    module = _from_file(name, Path(place)) if place.endswith(".py") else _module(name, place)
    found = getattr(module, cls, None)
    if found is None:
        raise ConfigError(f"application {name!r}: {place} has no {cls}")
    if not (isinstance(found, type) and issubclass(found, Application)):
        raise ConfigError(f"application {name!r}: {cls} is not a subclass of pbft.application.Application")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ConfigError(f"application {name!r}: {cls} does not define {', '.join(missing)}")
    return found


def _module(name: str, place: str) -> object:
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise ConfigError(f"application {name!r}: cannot import {place}: {error!r}") from error


def _from_file(name: str, path: Path) -> object:
    if not path.is_file():
        raise ConfigError(f"application {name!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"pbft_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"application {name!r}: {path} does not run: {error!r}") from error
    return module
