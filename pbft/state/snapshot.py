"""The state as it was at one moment: a root reference. Keeping it costs the nodes changed since."""

from __future__ import annotations

from collections.abc import Iterator

from pbft.state import walks
from pbft.state.errors import StateBoundError
from pbft.state.nodes import CHUNK_BYTES, Bucket, Inner, Node, chunk_list, root_digest
from pbft.state.proof import Proof


class Snapshot:
    """An immutable state: a checkpoint, a roll-back point, a backup. Later writes do not reach it."""

    __slots__ = ("digest", "root")

    def __init__(self, root: Node | None) -> None:
        self.root = root
        self.digest = root_digest(root)
        """Root digest: depends on the entries alone, neither on their history nor on the process."""

    def __len__(self) -> int:
        return 0 if self.root is None else self.root.count

    def __repr__(self) -> str:
        return f"<Snapshot {len(self)} entries {self.digest.hex()[:8]}>"

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, None if it is absent."""
        return walks.lookup(self.root, key)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, value) in key order, of the keys that begin with `prefix`."""
        return walks.walk(self.root, prefix)

    def diff(self, other: Snapshot) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
        """(key, value here, value in `other`) for each key that differs, in key order; None where absent.

        Descends only where digests differ: the cost goes with what changed, not with the size of the state.
        """
        return walks.differences(self.root, other.root)

    def check(self) -> Iterator[tuple[bytes, bool]]:
        """(key, whether its entry hashes to what its node says) of all entries, and (path, False) of the nodes whose
        content does not hash to what their parents say. Costs a hash for each entry."""
        return walks.check(self.root)

    def prove(self, key: bytes) -> Proof:
        """A proof of the value of `key`, or of its absence, against `digest`. See `verify_proof`."""
        return Proof(tuple([node.preimage() for node in walks.path_to(self.root, key)]), self.get(key))

    # ---- pieces for state transfer

    def node(self, path: bytes) -> bytes | None:
        """The node at `path` (one byte per nibble; b"" is the root), as `parse_node` reads it; None if there
        is none.

        The path of a child is `InnerView.child_path(slot)`. The digest of each node is named by its parent.
        """
        found = self._subtree(path)
        return None if found is None else found.preimage()

    def subtree(self, path: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries of the node at `path`, in key order.

        A state filled with just these has that node's digest for its root digest, so whoever receives them
        can verify them all together.
        """
        return walks.walk(self._subtree(path))

    def chunk_list(self, key: bytes) -> bytes | None:
        """What `parse_chunk_list` reads, for a value of more than `CHUNK_BYTES`; None for any other key."""
        value = self.get(key)
        return None if value is None or len(value) <= CHUNK_BYTES else chunk_list(key, value)

    def chunk(self, key: bytes, index: int) -> bytes | None:
        """Piece `index` of the value of `key`, at most `CHUNK_BYTES` long; None if there is no such piece."""
        value = self.get(key)
        if value is None or index < 0 or index * CHUNK_BYTES >= max(len(value), 1):
            return None
        return value[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]

    def _subtree(self, path: bytes) -> Inner | Bucket | None:
        if any(n > 15 for n in path):
            raise StateBoundError("a path has one byte per nibble, each from 0 to 15")
        node = walks.find_subtree(self.root, path)
        # A bucket on the way holds whatever is there, but it is not the node at a path that its keys do not
        # share.
        if isinstance(node, Bucket) and not all(_shares(key, path) for key in node.keys):
            return None
        return node


def _shares(key: bytes, path: bytes) -> bool:
    return len(key) * 2 >= len(path) and all(
        (key[i >> 1] & 15 if i & 1 else key[i >> 1] >> 4) == n for i, n in enumerate(path)
    )
