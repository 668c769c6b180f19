"""Messages late, again, in masses, or not for everybody."""

from __future__ import annotations

from collections import deque

from pbft.config import is_client
from pbft.messages import Commit, Committed, Fetch, Message, Nack, Prepare, Status
from pbft.misbehaviour.base import Captive, Misbehaviour, Outgoing, Sent


class Delaying(Misbehaviour):
    """Says everything late, always by the same time below the view timeout."""

    name = "delaying"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._late = self.group.tunables.view_timeout / 1000 * self.random.uniform(0.2, 0.9)

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Late."""
        return [Sent(to, message, self._late)]


class CorruptToSome(Misbehaviour):
    """Spoils the MACs of all it sends to some replicas. A link drops what does not authenticate before anybody sees it,
    so in a real process too this means that these replicas get nothing, without the link being torn down."""

    name = "corrupt-to-some"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._cheated = frozenset(captive.backups()[: self.random.randint(1, captive.quorums.weak)])

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Always the same ones get nothing."""
        return [] if to in self._cheated else [Sent(to, message)]


class Replaying(Misbehaviour):
    """Sends recorded messages of its own again and again, to everybody."""

    name = "replaying"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._recorded: deque[Message] = deque(maxlen=256)

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Each message is followed by three old ones."""
        if is_client(to):
            return [Sent(to, message)]
        self._recorded.append(message)
        return [Sent(to, message), *(Sent(to, self.random.choice(self._recorded)) for _ in range(3))]


class StaleReplays(Misbehaviour):
    """Sends old VIEW-CHANGEs, NEW-VIEWs, CHECKPOINTs and certificates of others again, long after their time."""

    name = "stale-replays"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Three with each STATUS; their seals are those of their senders."""
        heard = self.captive.signed
        if not isinstance(message, Status) or not heard:
            return [Sent(to, message)]
        return [Sent(to, message), *(Sent(to, self.random.choice(heard)) for _ in range(3))]


class Flooding(Misbehaviour):
    """Sends useless but valid messages in masses: requests for bodies, STATUS, votes outside the window, NACKs."""

    name = "flooding"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Each message to a replica is followed by fifty others."""
        if is_client(to):
            return [Sent(to, message)]
        random = self.random
        junk = random.randbytes(32)
        far = random.getrandbits(60)
        client = min(self.group.clients, default=1 << 63)
        masses: list[Message] = [
            Fetch(tuple((n, junk) for n in range(1, 33))),
            Status(0, 0, 0, 0, 0, b"", b"", b""),
            Prepare(self.captive.view, far, junk),
            Commit(far, 1, junk),
            Committed(far, (junk,)),
            Nack(1, client, junk),
        ]
        return [Sent(to, message), *(Sent(to, random.choice(masses)) for _ in range(50))]
