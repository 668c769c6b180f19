"""Quorum arithmetic and the tunables of the protocol, with units and bounds.

Rules of this file: plain values only; knows nothing of files, sockets or clocks (reading `cluster.toml` is
`pbft/config_file.py`). It is the one place in the project that spells out quorum arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pbft.crypto.digests import digest

PROTOCOL_VERSION = 1
CLIENT_PRINCIPAL = 1 << 63
"""Principals below are replicas 0..n-1; at or above are clients (this bit and 63 bits of their key's digest)."""


def is_client(principal: int) -> bool:
    """Whether a principal is a client; replicas are numbered from 0."""
    return principal >= CLIENT_PRINCIPAL


MAX_REPLICAS = 255
"""Of a cluster: for so many incarnations there is room in a CHECKPOINT."""

LEAD = 64
"""Numbers above the last committed one at which a replica accepts fresh proposals: what it accepts, its VIEW-CHANGEs
must name (rule 2.6). A primary has no more in flight."""

PROPOSALS_PER_NUMBER = 3
"""Batches besides NULL that a replica accepts as fresh proposals at one number, in all views, until one prepares there.
Without this bound a faulty primary that proposes and lets nothing prepare, in each of its views, could make Q grow
until no NEW-VIEW fits in a message. Beyond it a replica accepts what f others have prepared: so one correct replica has
accepted it within its own bound, and there are at most so many for each correct replica."""
_ENTRY_BYTES = 48
_MESSAGE_LIMIT = 80 << 20
"""What the codec takes (`pbft.codec.MAX_MESSAGE_BYTES`)."""


class ConfigError(ValueError):
    """A configuration that cannot be used: one sentence that names file, key and remedy."""


@dataclass(frozen=True, slots=True)
class Quorums:
    """Thresholds of a group of `n` replicas of which `f` may be Byzantine. [CL99 §3], rule 1 "Notation".

    Any two `strong` quorums share at least f+1 replicas, hence a correct one; the n-f correct replicas suffice for
    each. For n = 3f+1 strong is 2f+1; for n = 6 it is 4, where 2f+1 = 3 could split.
    """

    n: int
    f: int = field(init=False)
    strong: int = field(init=False)
    """q: prepared (with the PRE-PREPARE), committed, stable checkpoint, NEW-VIEW, tentative replies, fast reads."""
    weak: int = field(init=False)
    """f+1: at least one correct replica vouches. COMMITTED, client replies, joining a view change, fetching a state."""
    vouching_prepares: int = field(init=False)
    """PREPAREs that, besides the PRE-PREPARE, prove that a correct replica verified a batch's requests (2.4 c)."""

    def __post_init__(self) -> None:
        n = self.n
        if n < 4:
            raise ConfigError(f"a cluster of {n} replicas tolerates no fault; list at least 4 replicas")
        if n > MAX_REPLICAS:
            raise ConfigError(f"messages have no room for a cluster of {n} replicas; list at most {MAX_REPLICAS}")
        f = (n - 1) // 3
        strong = (n + f + 2) // 2
        object.__setattr__(self, "f", f)
        object.__setattr__(self, "strong", strong)
        object.__setattr__(self, "weak", f + 1)
        object.__setattr__(self, "vouching_prepares", f)
        if 2 * strong - n < f + 1 or strong > n - f:
            raise ConfigError(f"no quorum size is both safe and live for n={n}")  # cannot happen; checked all the same

    def primary(self, view: int) -> int:
        """The primary of a view: view mod n. [CL99 §4]"""
        return view % self.n


def _tunable(default: int, low: int, high: int, unit: str, meaning: str, shared: bool = True) -> Any:
    return field(
        default=default,
        metadata={"low": low, "high": high, "unit": unit, "meaning": meaning, "shared": shared},
    )


@dataclass(frozen=True, slots=True)
class Tunables:
    """Every number of `[protocol]` in cluster.toml. Those marked shared must agree on all replicas."""

    checkpoint_interval: int = _tunable(128, 1, 65536, "batches", "K: a checkpoint digest is agreed every K batches")
    log_window: int = _tunable(256, 2, 131072, "batches", "L: batches between the watermarks, at least 2K")
    batch_max_bytes: int = _tunable(1 << 20, 4096, 64 << 20, "bytes", "largest batch that a PRE-PREPARE may carry")
    operation_max_bytes: int = _tunable(
        256 << 10, 64, 32 << 20, "bytes", "largest REQUEST, all its operations together"
    )
    result_max_bytes: int = _tunable(256 << 10, 64, 32 << 20, "bytes", "largest result of one operation")
    operations_per_request: int = _tunable(256, 1, 4096, "operations", "operations that share one REQUEST")
    session_window: int = _tunable(64, 1, 1024, "requests", "W: request ids above the floor that a session may use")
    sessions_per_client: int = _tunable(16, 1, 1024, "sessions", "live sessions of one client; the oldest goes first")
    result_cache_bytes: int = _tunable(2 << 20, 1024, 64 << 20, "bytes", "results remembered for each session")
    clock_skew_max: int = _tunable(1000, 1, 600_000, "milliseconds", "how far a proposed time may lead my clock")
    signed_requests: int = _tunable(
        0, 0, 1, "yes or no", "robust profile: every request is signed, and no client can cost a view change"
    )
    pipeline_depth: int = _tunable(8, 1, LEAD, "batches", "batches that the primary has in flight", shared=False)
    pending_per_client: int = _tunable(128, 1, 65536, "requests", "queued requests of one client", shared=False)
    pending_total: int = _tunable(4096, 1, 1 << 20, "requests", "queued requests of all clients", shared=False)
    pending_bytes: int = _tunable(64 << 20, 1 << 16, 1 << 32, "bytes", "queued requests of all clients", shared=False)
    status_interval: int = _tunable(
        200, 20, 60_000, "milliseconds", "pause between two STATUS messages; well below view_timeout", shared=False
    )
    heartbeat_interval: int = _tunable(500, 20, 60_000, "milliseconds", "pause between heartbeats", shared=False)
    view_timeout: int = _tunable(
        600, 50, 600_000, "milliseconds", "first view timeout, doubled per failed view", shared=False
    )
    primary_share: int = _tunable(
        50, 0, 100, "per cent", "of the best rate that a primary must order under the same backlog", shared=False
    )
    proposal_gap_max: int = _tunable(
        500, 50, 600_000, "milliseconds", "longest pause between proposals while requests wait", shared=False
    )
    fairness_batches: int = _tunable(
        64, 1, 1 << 20, "batches", "that may pass over a request which waits", shared=False
    )
    view_timeout_max: int = _tunable(
        60_000, 50, 3_600_000, "milliseconds", "longest view timeout, however many views have failed", shared=False
    )
    retained_log_bytes: int = _tunable(
        64 << 20, 1 << 12, 1 << 40, "bytes", "old batches kept to serve others", shared=False
    )
    durable_checkpoint_bytes: int = _tunable(
        64 << 20, 1 << 16, 1 << 40, "bytes", "log written between durable checkpoints", shared=False
    )
    durable_checkpoint_interval: int = _tunable(
        60, 1, 86_400, "seconds", "longest time between durable checkpoints", shared=False
    )
    transfer_rate: int = _tunable(
        2, 1, 4096, "MiB/s", "of a state that one peer is given while requests are ordered", shared=False
    )
    scrub_interval: int = _tunable(
        3600, 0, 31_536_000, "seconds", "pause between two looks at all that is stored; 0: none", shared=False
    )
    state_memory: int = _tunable(
        0, 0, 1 << 20, "MiB", "memory for the content of the state, the rest lies on disk; 0: all of it", shared=False
    )
    double_execution: int = _tunable(
        0,
        0,
        1,
        "yes or no",
        "each batch is executed twice, and compared: finds what is not deterministic",
        shared=False,
    )
    full_reply_max: int = _tunable(
        128, 0, 1 << 20, "bytes", "results up to this size are sent in full by everybody", shared=False
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            low, high = spec.metadata["low"], spec.metadata["high"]
            if not isinstance(value, int) or isinstance(value, bool):
                raise ConfigError(f"protocol.{spec.name} must be a whole number of {spec.metadata['unit']}")
            if not low <= value <= high:
                raise ConfigError(
                    f"protocol.{spec.name} = {value} must lie between {low} and {high} {spec.metadata['unit']}"
                )
        if self.log_window < 2 * self.checkpoint_interval:
            raise ConfigError(
                f"protocol.log_window = {self.log_window} must be at least twice "
                f"protocol.checkpoint_interval = {self.checkpoint_interval}"
            )
        if self.operation_max_bytes > self.batch_max_bytes // 2:
            raise ConfigError("protocol.operation_max_bytes must be at most half of protocol.batch_max_bytes")

    @property
    def results_together(self) -> int:
        """Bytes of all results of one REQUEST: so few that a session remembers those of several that are outstanding,
        and a result that was lost on its way can be told again."""
        return max(self.result_max_bytes, self.result_cache_bytes // 8)

    @classmethod
    def describe(cls) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
        """(name, default, {low, high, unit, meaning, shared}) of every tunable, for the file that `init` writes."""
        for spec in fields(cls):
            yield spec.name, spec.default, spec.metadata  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Group:
    """What agreement and execution must know of the cluster: shared by all replicas, free of addresses.

    `cluster` is the 32-byte cluster id, `clients` maps principal to public key (32 bytes raw), `replicas` holds the
    identity keys by replica id.
    """

    cluster: bytes
    app: str
    replicas: tuple[bytes, ...]
    clients: Mapping[int, bytes]
    tunables: Tunables = Tunables()
    epoch: int = 0
    genesis: bytes = b""
    """Digest of the state, of another cluster, that the application begins with; empty if it begins with nothing."""

    def __post_init__(self) -> None:
        t = self.tunables
        if t.operation_max_bytes + self.authenticator_max_bytes + 256 > t.batch_max_bytes:
            raise ConfigError(
                f"protocol.batch_max_bytes = {t.batch_max_bytes} does not hold one request of "
                f"protocol.operation_max_bytes = {t.operation_max_bytes} with a proof for {len(self.replicas)} replicas"
            )
        if self.message_max_bytes > _MESSAGE_LIMIT:
            raise ConfigError(
                f"protocol.log_window = {self.tunables.log_window} is too much for {len(self.replicas)} replicas: a "
                f"new view would need a message of {self.message_max_bytes >> 20} MiB, and {_MESSAGE_LIMIT >> 20} MiB "
                "is the most; lower it, or the sizes of batches and results"
            )

    @property
    def message_max_bytes(self) -> int:
        """Bytes of the largest message: twice a batch, or a NEW-VIEW with the VIEW-CHANGEs of all, each with P and a
        few digests of Q for every number of the window. What is longer no link carries."""
        t = self.tunables
        batch = 2 * max(t.batch_max_bytes, 2 * t.results_together, t.operation_max_bytes)
        return max(batch, len(self.replicas) * self.view_change_max_bytes) + (1 << 20)

    @property
    def view_change_max_bytes(self) -> int:
        """Bytes of the largest VIEW-CHANGE: C, P and Q, with as many entries of Q as the window can have."""
        return self.tunables.log_window * (self.batches_named_at_a_number + 1) * _ENTRY_BYTES + 4096

    @property
    def batches_named_at_a_number(self) -> int:
        """Of Q, at most: what correct replicas accepted as fresh proposals, NULL, and one that only others had accepted
        when a view began with it."""
        quorums = self.quorums
        return PROPOSALS_PER_NUMBER * (quorums.n - quorums.f) + 2

    @property
    def authenticator_max_bytes(self) -> int:
        """Bytes of the longest proof that a request comes from its client: a MAC for each replica, or a replica's seal
        (`pbft.crypto`)."""
        return max(1 + 24 * len(self.replicas), 1 + 160)

    @property
    def quorums(self) -> Quorums:
        """Thresholds of this group. Membership is asked per sequence number once epochs can change."""
        return Quorums(len(self.replicas))

    def shared_fields(self) -> dict[str, bytes]:
        """Field name -> 8-byte digest, compared at handshake so that a mismatch can be named (DESIGN 3)."""
        values: dict[str, str] = {"cluster.app": self.app, "cluster.genesis": self.genesis.hex()}
        for number, key in enumerate(self.replicas):
            values[f"replica.{number}.key"] = key.hex()
        values["client"] = ",".join(f"{i}:{k.hex()}" for i, k in sorted(self.clients.items()))
        for spec in fields(self.tunables):
            if spec.metadata["shared"]:
                values[f"protocol.{spec.name}"] = str(getattr(self.tunables, spec.name))
        return {name: digest(b"config-field", text.encode())[:8] for name, text in values.items()}
