"""How a call ended, put into words: errors made from what is known of a request.

Rules of this file: reads, never changes; the only place that builds error texts about the cluster.
"""

from __future__ import annotations

from pbft.client.calls import Call
from pbft.client.collector import Collector
from pbft.client.errors import ClientError, OutcomeUnknown, Overloaded, RequestRejected, RequestTimeout
from pbft.client.pending import Pending
from pbft.client.replicas import Replicas
from pbft.config import Quorums

_REJECTIONS = {
    "too-large": "it is larger than the replicas take; raise protocol.operation_max_bytes on all of them",
    "malformed": "the replicas cannot parse it; client and replicas are of different versions",
    "unknown-client": "the replicas do not know this client; list its key in cluster.toml and restart them",
    "beyond-window": "it is outside the session's window; client and replicas differ in protocol.session_window",
}


def _names(replicas: tuple[int, ...]) -> str:
    return ", ".join(map(str, replicas)) or "none"


class Verdicts:
    """Builds the errors of one client."""

    def __init__(self, quorums: Quorums, replicas: Replicas) -> None:
        self._quorums = quorums
        self._replicas = replicas

    def overdue(self, call: Call, carrier: Pending | None, busy: bool) -> ClientError:
        """The deadline of a call has come. `carrier`: its REQUEST, or None if it was never sent; `busy`: f+1 replicas
        said so last."""
        seconds = f"{call.deadline - call.started:g} s"
        executed = None if carrier is not None else False
        fate = "the operation was never sent" if carrier is None else "the outcome is unknown: it may still execute"
        if busy:
            return Overloaded(f"replicas said busy for {seconds}; {fate}; call less often", executed)
        n = self._quorums.n
        connected = tuple(self._replicas.connected())
        if carrier is None:
            return RequestTimeout(
                f"the replicas opened no session for this client, or had no room for its call, for {seconds}; {fate}; "
                f"connected to {len(connected)} of {n} replicas ({_names(connected)}); {self._needs()}",
                False,
            )
        collector: Collector = carrier.collector
        replied, disagreed = collector.replied, collector.disagreed
        what = "without agreeing" if disagreed else "alike"
        if collector.lacks_result:
            what = "alike, but nobody sent the whole result"
        said = f"{len(replied)} of {n} replicas replied ({_names(replied)}) {what}" if replied else "no replica replied"
        return RequestTimeout(
            f"not enough matching replies within {seconds}: {said}; "
            f"connected to {len(connected)} ({_names(connected)}); {self._needs()}; {fate}",
            None,
            replied,
            disagreed,
        )

    def _needs(self) -> str:
        """Two thresholds, and which is for what."""
        strong, weak = self._quorums.strong, self._quorums.weak
        return f"ordering needs {strong} working replicas, and a result is believed once {weak} give the same"

    def rejected(self, reason: str) -> RequestRejected:
        """f+1 replicas gave this reason, or the replicated table did."""
        return RequestRejected(f"the request was rejected as {reason}: {_REJECTIONS[reason]}", reason)

    def session_lost(self, carrier: Pending) -> OutcomeUnknown:
        """f+1 replicas do not know the session (any more)."""
        return OutcomeUnknown(
            "the session is gone: newer sessions of this client's key took its place; the outcome is unknown, since "
            "the operation may have executed before",
            None,
            carrier.collector.replied,
            carrier.collector.disagreed,
        )

    def unreadable(self, carrier: Pending, text: str, executed: bool | None) -> OutcomeUnknown:
        """f+1 replicas agree on an answer that carries no result for the caller."""
        return OutcomeUnknown(text, executed, carrier.collector.replied, carrier.collector.disagreed)
