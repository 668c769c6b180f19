"""Practical Byzantine fault tolerance: replicate a deterministic service on 3f+1 machines of which f may lie."""

__version__ = "0.1.0"
