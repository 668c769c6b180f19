"""Who may import whom, and what pure packages must not touch. DESIGN: one rule, one place; the core is pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "pbft": "pbft",
    "crypto": "pbft.crypto",
    "transport": "pbft.transport",
    "apps": "pbft.apps",
    "benchmarks": "pbft.benchmarks",
}

PURE_OURS = ("pbft.messages", "pbft.config", "pbft.codec", "pbft.batch", "pbft.crypto")
IMPURE = {
    "trio", "os", "time", "random", "threading", "socket", "asyncio", "secrets", "logging", "subprocess", "pathlib",
    "datetime", "uuid", "selectors", "multiprocessing",
}  # fmt: skip

ALLOWED: dict[str, tuple[str, ...]] = {
    "pbft.crypto": ("pbft.crypto",),
    "pbft.transport": ("pbft.transport", "pbft.crypto"),
    "pbft.apps": ("pbft.apps", "pbft.application", "pbft.client"),
    "pbft.state": ("pbft.state", *PURE_OURS),
    "pbft.execution": ("pbft.execution", "pbft.state", "pbft.application", *PURE_OURS),
    "pbft.protocol": ("pbft.protocol", "pbft.execution.results", *PURE_OURS),
    "pbft.storage": ("pbft.storage", "pbft.crypto", "pbft.state"),
    "pbft.messages": ("pbft.codec", "pbft.config", "pbft.crypto"),
    "pbft.evidence": ("pbft.authentication", "pbft.protocol.decision", *PURE_OURS),
    "pbft.codec": (),
    "pbft.config": ("pbft.crypto",),
    "pbft.batch": ("pbft.codec", "pbft.config", "pbft.crypto", "pbft.messages"),
    "pbft.application": ("pbft.state", "pbft.crypto"),
    "pbft.host": ("pbft.protocol", "pbft.execution", "pbft.transfer", "pbft.transfer_source", *PURE_OURS),
    "pbft.transfer": ("pbft.transfer_source", "pbft.execution", "pbft.state", "pbft.application", *PURE_OURS),
    "pbft.transfer_source": ("pbft.execution", "pbft.state", *PURE_OURS),
    "pbft.misbehaviour": ("pbft.misbehaviour", *PURE_OURS),
}
PURE = ("pbft.protocol", "pbft.execution", "pbft.state", "pbft.codec", "pbft.messages", "pbft.batch", "pbft.config",
        "pbft.application", "pbft.host", "pbft.transfer", "pbft.transfer_source", "pbft.evidence")  # fmt: skip
MAX_LINES = 480


def modules() -> Iterator[tuple[str, Path]]:
    """(module name, file) of all our code."""
    for folder, name in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parts[len(ROOT.parts)] == folder and not any(p.is_symlink() for p in path.parents):
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                yield ".".join([name, *(p for p in parts if p != "__init__")]), path


MODULES = dict(modules())


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def forbidden_imports(module: str, tree: ast.AST) -> list[str]:
    """What this module imports although its package may not."""
    package = next((p for p in ALLOWED if within(module, (p,))), None)
    wrong = [i for i in imports(tree) if i.split(".")[0] == "pbft" and package and not within(i, ALLOWED[package])]
    if within(module, PURE):
        wrong += [i for i in imports(tree) if i.split(".")[0] in IMPURE]
    return wrong


def impure_calls(tree: ast.AST) -> list[str]:
    """Calls whose result differs between interpreters: hash(), id(), and iteration over a set display."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hash", "id"):
            found.append(node.func.id)
        iterated = node.iter if isinstance(node, (ast.For, ast.comprehension)) else None
        if isinstance(iterated, (ast.Set, ast.SetComp)):
            found.append("iteration over a set")
    return found


def quorum_arithmetic(tree: ast.AST) -> list[str]:
    """`x // 3`, and `2 * f` or `f + 1` on a name or attribute f."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.BinOp):
            continue
        names = [getattr(side, "attr", getattr(side, "id", "")) for side in (node.left, node.right)]
        third = isinstance(node.right, ast.Constant) and node.right.value == 3
        if (isinstance(node.op, ast.FloorDiv) and third) or ("f" in names and isinstance(node.op, (ast.Add, ast.Mult))):
            found.append(ast.unparse(node))
    return found


def tree_of(path: Path) -> ast.AST:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_it_may(module: str) -> None:
    assert forbidden_imports(module, tree_of(MODULES[module])) == []


@pytest.mark.parametrize("module", [m for m in MODULES if within(m, PURE)])
def test_pure_packages_do_nothing_that_differs_between_interpreters(module: str) -> None:
    assert impure_calls(tree_of(MODULES[module])) == []


@pytest.mark.parametrize("module", [m for m in MODULES if m != "pbft.config"])
def test_quorum_arithmetic_is_in_one_place(module: str) -> None:
    assert quorum_arithmetic(tree_of(MODULES[module])) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_file_grows_without_bound(module: str) -> None:
    """About 400 lines are the aim; here is where it ends."""
    assert len(MODULES[module].read_text().splitlines()) <= MAX_LINES


def test_there_is_no_circular_import() -> None:
    """A module is never imported, at its top level, by what it imports."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        top = ast.Module(
            body=[n for n in tree_of(path).body if isinstance(n, (ast.Import, ast.ImportFrom))], type_ignores=[]
        )  # type: ignore[attr-defined]
        graph[module] = {i for i in imports(top) if i in MODULES and i != module and not module.startswith(i + ".")}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("pbft.protocol.x", "import trio"),
        ("pbft.protocol.x", "def f():\n    import time"),
        ("pbft.protocol.x", "from pbft.storage import wal"),
        ("pbft.protocol.x", "from pbft.execution import Executor"),
        ("pbft.state.x", "from random import Random"),
        ("pbft.crypto.x", "from pbft.config import Group"),
        ("pbft.transport.x", "from pbft.messages import Reply"),
        ("pbft.apps.x", "from pbft.state import State"),
    ],
)
def test_the_import_rule_catches(module: str, code: str) -> None:
    assert forbidden_imports(module, ast.parse(code))


@pytest.mark.parametrize("code", ["n // 3", "2 * f", "self.f + 1", "quorums.f * 2"])
def test_the_quorum_rule_catches(code: str) -> None:
    assert quorum_arithmetic(ast.parse(code))


@pytest.mark.parametrize("code", ["hash(b'x')", "for x in {1, 2}: pass", "[x for x in {a for a in b}]"])
def test_the_purity_rule_catches(code: str) -> None:
    assert impure_calls(ast.parse(code))
