"""The rules of the layout that can be checked: who may import whom, what is pure, and that everything says what it is."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("streams", "schemas", "sinks", "infra")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
DOMAIN = sorted((ROOT / "streams/domain").rglob("*.py"))

PURE = {
    "base64", "collections", "dataclasses", "datetime", "enum", "functools", "hashlib", "hmac", "operator", "orjson", "typing", "zoneinfo",
    "schemas.contract", "schemas.currencies", "schemas.records", "streams.domain",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint", "globals", "hash", "id", "float"}
"""hash and id differ from process to process, float rounds."""
IMPURE_METHODS = {"now", "utcnow", "today", "timestamp"}
"""Of datetime: the first three read the clock, the last one is a float."""


def name_of(path: Path) -> str:
    """`streams/domain/desk.py` -> `streams.domain.desk`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, everywhere: bool = True) -> Iterator[str]:
    """Modules that the file imports; `from a import b` gives `a.b` if that is a module. Without `everywhere`, those at import time only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else _at_import_time(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                inner = ROOT.joinpath(*f"{node.module}.{alias.name}".split("."))
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else str(node.module)


def _at_import_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not type_checking:
            yield node
            yield from _at_import_time(node)


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_those_of_this_checkout(package: str) -> None:
    """The names are general: nothing that is installed may take their place."""
    module = importlib.import_module(package)
    assert [Path(folder).resolve() for folder in module.__path__] == [(ROOT / package).resolve()]


@pytest.mark.parametrize("path", DOMAIN, ids=name_of)
def test_the_domain_imports_nothing_impure(path: Path) -> None:
    assert [module for module in imports(path) if not within(module, PURE)] == []


@pytest.mark.parametrize("path", DOMAIN, ids=name_of)
def test_the_domain_is_pure(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"{node.lineno}: {node.func.id}()")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS:
            found.append(f"{node.lineno}: .{node.func.attr}()")
        if isinstance(node, ast.Global | ast.Nonlocal | ast.AsyncFunctionDef | ast.Await):
            found.append(f"{node.lineno}: {type(node).__name__}")
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            found.append(f"{node.lineno}: {node.value}, but points are whole numbers")
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            found.append(f"{node.lineno}: '/', but points are divided with '//'")
    assert found == []


def test_the_domain_loads_without_the_framework() -> None:
    """Deciding costs no Faust: whoever embeds or tests the domain starts in milliseconds."""
    heavy = ("faust", "mode", "aiokafka", "aiohttp", "asyncio", "confluent_kafka", "redis", "clickhouse_connect", "fastavro", "avro")
    script = f"import sys, streams.domain.desk; print(*(name for name in {heavy} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("path", sorted((ROOT / "streams/engine").rglob("*.py")), ids=name_of)
def test_the_engine_knows_nothing_of_loyalty(path: Path) -> None:
    loyalty = {"schemas", "sinks", "streams.domain", "streams.topics", "streams.agents", "streams.configuration"}
    assert [module for module in imports(path) if within(module, loyalty)] == []


CONTRACT = [path for path in MODULES if path.is_relative_to(ROOT / "schemas") and path.stem != "asyncapi"]  # That one draws the map.


@pytest.mark.parametrize("path", CONTRACT, ids=name_of)
def test_the_contract_leans_on_settings_and_errors_alone(path: Path) -> None:
    ours = [module for module in imports(path) if within(module, {"streams", "sinks", "infra"})]
    assert [module for module in ours if module not in ("streams.errors", "streams.settings")] == []


def test_nobody_imports_tests() -> None:
    assert [name_of(path) for path in MODULES if any(within(module, {"tests"}) for module in imports(path))] == []


def test_no_import_goes_round_in_a_circle() -> None:
    names = {name_of(path) for path in MODULES}
    waiting = {name_of(path): {module for module in imports(path, everywhere=False) if module in names} for path in MODULES}
    while ready := [name for name, needed in waiting.items() if not needed & (waiting.keys() - {name})]:
        for name in ready:
            del waiting[name]
    assert waiting == {}, "these import each other, or what does"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "the first line says the module's place on the path of an event"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_named_like_what_it_imports(path: Path) -> None:
    """Run by its path, such a file would import itself."""
    assert path.stem not in {module.split(".")[0] for module in imports(path)}


def test_every_folder_of_tests_is_a_package() -> None:
    """Else `tests/sinks` would stand in for `sinks`."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")} | {ROOT / "tests"}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
