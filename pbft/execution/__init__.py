"""Ordered execution: applies batches to the replicated state and keeps the client table. Pure; knows no agreement."""

from pbft.execution.executor import ExecutionError, Executor
from pbft.execution.results import Done, Executed, ExecutionStart, Opened, Result, SessionView
from pbft.execution.snapshots import ExecutionSnapshot, SnapshotError

__all__ = [
    "Done",
    "Executed",
    "ExecutionError",
    "ExecutionSnapshot",
    "ExecutionStart",
    "Executor",
    "Opened",
    "Result",
    "SessionView",
    "SnapshotError",
]
