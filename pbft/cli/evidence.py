"""`pbft evidence show FILE`: verify and explain what a replica keeps as evidence. Needs no cluster and no network."""

from __future__ import annotations

import argparse
from pathlib import Path

from pbft.config_file import ClusterConfig
from pbft.evidence import MAX_BYTES, EvidenceError, decode_proof, explain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft evidence`."""
    parser.add_argument("what", choices=("show",), help="the only thing to do with it")
    parser.add_argument("file", type=Path, metavar="FILE", help="a file of DATA/evidence/")
    parser.add_argument("--cluster", metavar="CLUSTER.toml", help="also check that the keys are those of this cluster")


def run(args: argparse.Namespace) -> int:
    """0 if the file proves what it says; 2 with one sentence if not."""
    if args.file.stat().st_size > MAX_BYTES:
        raise EvidenceError(f"{args.file} is larger than any evidence")
    proof = decode_proof(args.file.read_bytes())
    try:
        told = explain(proof)
    except EvidenceError as error:
        raise EvidenceError(f"{args.file}: {error}") from None
    if args.cluster:
        group = ClusterConfig.load(args.cluster).group
        told_of = (proof.cluster, proof.epoch, proof.replicas, proof.log_window)
        if (group.cluster, group.epoch, group.replicas, group.tunables.log_window) != told_of:
            raise EvidenceError(
                f"{args.file} is of another cluster than {args.cluster}, or names other keys or another log_window"
            )
        whose = f"The keys are those of {args.cluster}."
    else:
        whose = (
            "Whether keys and log_window are those of your cluster was not compared: whoever wrote this file chose "
            "them. --cluster CLUSTER.toml compares."
        )
    print(f"{told}\ncluster {proof.cluster.hex()[:16]}, epoch {proof.epoch}, {len(proof.replicas)} replicas. {whose}")
    return 0
