"""Merkle-hashed replicated state: a mapping from bytes to bytes with checkpoints, proofs and copy-on-write
snapshots.

Rules of this folder: pure. Knows nothing of the network, disk, clocks or tasks, and nothing of what the bytes
mean. `State` is the only thing that changes; nodes, snapshots and proofs are values.
"""

from pbft.state.errors import ProofError, ReadOnlyError, StateBoundError, StateError, StateTypeError
from pbft.state.nodes import (
    CHUNK_BYTES,
    EMPTY_DIGEST,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    chunk_list,
    entry_digest,
)
from pbft.state.paging import PagedBucket, Pages, paged_class
from pbft.state.pieces import MAX_PIECE_BYTES, PIECE_BYTES, Kind, Want, piece
from pbft.state.proof import (
    BucketView,
    InnerView,
    Proof,
    parse_chunk_list,
    parse_node,
    verify_chunk,
    verify_proof,
)
from pbft.state.snapshot import Snapshot
from pbft.state.state import Pending, State
from pbft.state.transfer import Patch, Taken

__all__ = [
    "CHUNK_BYTES",
    "EMPTY_DIGEST",
    "MAX_KEY_BYTES",
    "MAX_PIECE_BYTES",
    "MAX_VALUE_BYTES",
    "PIECE_BYTES",
    "BucketView",
    "InnerView",
    "Kind",
    "PagedBucket",
    "Pages",
    "Patch",
    "Pending",
    "Proof",
    "ProofError",
    "ReadOnlyError",
    "Snapshot",
    "State",
    "StateBoundError",
    "StateError",
    "StateTypeError",
    "Taken",
    "Want",
    "chunk_list",
    "entry_digest",
    "paged_class",
    "parse_chunk_list",
    "parse_node",
    "piece",
    "verify_chunk",
    "verify_proof",
]
