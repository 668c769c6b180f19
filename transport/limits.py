"""Every bound and period of the transport, with unit and default."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pbft.transport.errors import TransportError

KIB = 1024
MIB = 1024 * KIB

_MAY_BE_ZERO = frozenset({"rekey_after_messages", "rekey_after_seconds", "reserved_descriptors", "refusal_log_burst"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one hub. Names end in the unit; times are seconds. TransportError if they do not fit together."""

    message_max_bytes: int = 16 * MIB
    """Largest message that is sent or put together from fragments."""
    client_message_max_bytes: int = 16 * MIB
    """Largest message of a client."""

    queue_max_bytes: int = 64 * MIB
    """Per link to a replica and class (control, bulk): what waits for the socket. The oldest goes first."""
    queue_max_messages: int = 65_536
    client_queue_max_bytes: int = 16 * MIB
    client_queue_max_messages: int = 8_192
    clients_total_max_bytes: int = 256 * MIB
    """Send queues plus half-received messages of all clients; above it the client that holds most is closed."""

    read_max_bytes: int = 256 * KIB
    """What one sweep takes from one replica's link, so that nobody starves the others."""
    client_read_max_bytes: int = 64 * KIB
    clients_seconds: float = 0.005
    """Time in one sweep after which no further link of a client is read."""
    write_max_bytes: int = 256 * KIB
    """What is sealed at a time: a control message waits behind no more than this and the kernel's buffer."""

    heartbeat_interval: float = 0.5
    """Between pings, on idle and busy links alike. Must be well below the `dead_after` of all peers."""
    dead_after: float = 3.0
    """A link on which nothing at all arrives for this long is closed."""
    stalled_after: float = 10.0
    """A link whose peer takes no byte for this long although some wait is closed."""

    handshake_timeout: float = 5.0
    handshakes_per_sweep: int = 8
    """Handshake messages (some 0.1 to 0.3 ms each) that one sweep answers."""
    unauthenticated_max: int = 256
    """Accepted connections that have not shown who they are; the oldest is closed for a newer one."""
    links_per_client_max: int = 8
    client_links_max: int = 4_096
    reserved_descriptors: int = 64
    """File descriptors, of the process limit, that accepted connections leave for files and replica links."""
    accept_pause: float = 0.25
    """How long nothing is accepted after the process ran out of descriptors."""

    dial_backoff_min: float = 0.05
    dial_backoff_max: float = 1.0
    connect_timeout: float = 3.0
    resolve_timeout: float = 10.0

    rekey_after_messages: int = 1 << 32
    """Frames sealed under one key until the side that dialed starts a key refresh; 0: never."""
    rekey_after_seconds: float = 86_400.0
    rekey_interval_min: float = 1.0
    """A peer that wants new keys more often than this is cut off: a refresh costs signatures."""

    log_interval: float = 300.0
    """Lines of the same kind about the same peer: a few at once, then one per this many seconds."""
    refusal_log_burst: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name not in _MAY_BE_ZERO):
                raise TransportError(f"Limits.{field.name} is {value}; it must be positive")
        smallest = min(self.queue_max_bytes, self.client_queue_max_bytes)
        if smallest < self.message_max_bytes:
            raise TransportError(
                f"a send queue of {smallest} bytes cannot hold one message of message_max_bytes="
                f"{self.message_max_bytes}; raise the queue or lower the message size"
            )
        if self.dead_after < 2 * self.heartbeat_interval:
            raise TransportError(
                f"dead_after={self.dead_after} s is below two heartbeats of {self.heartbeat_interval} s: "
                "links would be closed while alive"
            )
        if self.dial_backoff_max < self.dial_backoff_min:
            raise TransportError("dial_backoff_max is below dial_backoff_min")
