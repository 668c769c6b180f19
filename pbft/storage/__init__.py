"""Durable state of one replica: a write-ahead log with group commit, checkpoints, and the data directory.

Knows nothing of the protocol: records are bytes. No trio: threads and plain callbacks, which the shell
adapts.
"""

from __future__ import annotations
