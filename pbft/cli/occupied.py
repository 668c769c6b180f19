"""Whether a cluster, or another one at its addresses, runs already: looked at before anything is started or written."""

from __future__ import annotations

from collections.abc import Mapping

from pbft.cli.output import listed
from pbft.cli.status import ask, number
from pbft.config import ConfigError
from pbft.config_file import ClusterConfig
from pbft.storage.data_directory import holder

_SECONDS = 0.5


def refuse_if_occupied(config: ClusterConfig) -> None:
    """Raises ConfigError that says who works on the data or answers at the addresses."""
    own = _holders(config)
    for entry in config.replicas:
        row = ask(entry.id, entry.admin, _SECONDS)
        if not row["reachable"] or entry.id in own:
            continue
        if row.get("cluster") != config.group.cluster.hex():
            raise ConfigError(
                f"{entry.admin} is in use by replica {entry.id} of another cluster{_process(number(row.get('pid')))}; "
                f"stop that one, or give the replicas other ports in {config.path}"
            )
        own[entry.id] = number(row.get("pid"))
    if own:
        raise ConfigError(_running(own))


def _holders(config: ClusterConfig) -> dict[int, int]:
    """Replica -> process, of those whose data directory is locked."""
    found = {entry.id: holder(config.data_directory(entry.id)) for entry in config.replicas}
    return {replica: pid for replica, pid in found.items() if pid is not None}


def _running(own: Mapping[int, int]) -> str:
    pids = [own[i] for i in sorted(own) if own[i]]
    who = f"process{'' if len(pids) == 1 else 'es'} {listed(pids)}" if pids else "another process"
    some = f"replica {listed(list(own))} of this cluster runs already"
    if len(own) > 1:
        some = f"replicas {listed(sorted(own))} of this cluster run already"
    return f"{some}: addresses and data are in use by {who}; end that first, by Ctrl-C where it was started or by kill"


def _process(pid: int) -> str:
    return f" (process {pid})" if pid else ""
