"""Normal-case, fault-injection and comparison benchmarks behind `pbft bench`."""

if __name__ != "pbft.benchmarks":
    raise ImportError("this package is imported as pbft.benchmarks, never under its bare folder name")
