"""Deterministic services, each a model of how to write one. Imports only pbft.application.

Read them in this order: `counter` (the tutorial, state of one key), `kv` (strict binary operations, typed helper
functions for clients, scans), `leases` (agreed time and agreed randomness), `echo` (load for benchmarks, no state).
"""

if __name__ != "pbft.apps":
    raise ImportError("this package is imported as pbft.apps, never under its bare folder name")

APPLICATIONS: dict[str, str] = {
    "counter": "pbft.apps.counter:Counter",
    "kv": "pbft.apps.kv:KeyValue",
    "echo": "pbft.apps.echo:Echo",
    "leases": "pbft.apps.leases:Leases",
}
"""Short name -> "module:class" of the services that ship."""
