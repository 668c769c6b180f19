"""A process whose memory went wrong begins anew by itself, with what differed mended."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from campaigns.common import free_ports, look, settle

from pbft.apps.kv import put
from pbft.cli.children import Children
from pbft.client import Client
from pbft.config_file import ClusterConfig, write_cluster

pytestmark = pytest.mark.slow

ODD = """
import sys
from pbft.apps.kv import KeyValue, put

class Odd(KeyValue):
    def execute(self, operation, context):
        if operation == put(b"now", b"flip") and sys.argv[sys.argv.index("--log-file") - 1] == "3":
            self.state[b"key 7"] = b"what no operation wrote"
        return super().execute(operation, context)
"""


async def _repaired(config: ClusterConfig, pid: int) -> str:
    async with Client.connect(config, name="alice") as client:
        for i in range(40):
            await client.invoke(put(b"key %d" % i, b"%d" % i))
        await client.invoke(put(b"now", b"flip"))
        row = (await look(config))[3]
        with trio.fail_after(30):
            while not row.get("repairs") or row["connected_peers"] != 3 or row["recovering"]:
                await client.invoke(put(b"more", b"%d" % len(str(row))))
                row = (await look(config))[3]
    assert row["pid"] == pid
    await settle(config)
    [said] = row["repairs"]
    return str(said)


@pytest.mark.scenario("J03")
def test_a_replica_that_diverged_mends_itself(tmp_path: Path) -> None:
    """The process lives on; its status names the key, and all agree again."""
    (tmp_path / "odd.py").write_text(ODD)
    config = write_cluster(
        tmp_path / "c",
        app=f"{tmp_path / 'odd.py'}:Odd",
        base_port=free_ports(8),
        clients=("alice",),
        tunables={"checkpoint_interval": 8, "log_window": 16},
    )
    with Children(config) as children:
        children.start_all()
        assert children.wait_ready(20)
        said = trio.run(_repaired, config, children.pid(3))
        assert "1 key differed" in said and "b'key 7' (another value)" in said
        assert not children.dead()
