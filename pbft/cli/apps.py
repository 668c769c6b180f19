"""`pbft apps`: what ships; `pbft apps check APP`: whether an application does the same everywhere."""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path

from pbft.apps import APPLICATIONS
from pbft.cli.applications import load_application
from pbft.cli.output import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft apps`."""
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    commands = parser.add_subparsers(dest="apps_command", metavar="COMMAND", help="without one: list what ships")
    check = commands.add_parser("check", help="run an application under several hash seeds and compare")
    check.add_argument("app", metavar="APP", help="short name, MODULE:CLASS or FILE.py:CLASS")
    check.add_argument("--operations", type=Path, metavar="FILE", help="one operation a line, as for `pbft call`")
    check.add_argument("--seed", type=int, default=0, help="for the application's own samples (default 0)")


def run(args: argparse.Namespace) -> int:
    """List or check."""
    if args.apps_command == "check":
        from pbft.cli.check_application import check

        return check(args.app, args.operations, args.seed)
    rows = []
    for name, full in sorted(APPLICATIONS.items()):
        doc = inspect.getdoc(inspect.getmodule(load_application(name, Path.cwd()))) or ""
        rows.append({"name": name, "class": full, "about": doc.splitlines()[0] if doc else ""})
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(table(["name", "class", "about"], [list(row.values()) for row in rows], left=3))
        print("\nyour own: pbft init DIR --app FILE.py:CLASS")
    return 0
