"""The import law of the packages, read off the source, and the lightness of the command."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY = {
    "schemas": {"schemas"},
    "pipelines": {"schemas", "pipelines"},
    "trainer": {"schemas", "trainer"},
    "infra": {"schemas", "pipelines", "trainer", "infra"},
}
NEVER = {
    "schemas": {"apache_beam", "tensorflow", "jax"},
    "trainer": {"apache_beam", "tensorflow", "tensorflow_text", "tensorflow_datasets"},
    "pipelines/ops": {"apache_beam", "jax", "tensorflow"},
}


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return {name.split(".")[0] for name in found}


@pytest.mark.parametrize("package", MAY)
def test_packages_import_only_what_they_may(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = (imports(path) & set(MAY)) - MAY[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("folder", NEVER)
def test_heavy_libraries_stay_where_they_belong(folder):
    for path in (ROOT / folder).rglob("*.py"):
        wrong = imports(path) & NEVER[folder]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_tensorflow_is_never_imported_at_the_top_of_a_module():
    for package in MAY:
        for path in (ROOT / package).rglob("*.py"):
            wrong = imports(path, top_level=True) & {"tensorflow", "tensorflow_text"}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong} at its top"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from infra.cli import main; main(['--help']);"
        "print([m for m in sys.modules if m in ('numpy', 'jax', 'apache_beam', 'tyro')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "module", ["pipelines.plan", "pipelines.audit.viewer", "infra.progress_bar"]
)
def test_local_work_waits_for_no_beam(module):
    code = (
        f"import sys, {module};"
        "print([m for m in sys.modules if m in ('apache_beam', 'jax', 'tensorflow')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


def test_files_and_functions_stay_small():
    for package in MAY:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert text.count("\n") <= 420, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    lines = (node.end_lineno or 0) - node.body[0].lineno + 1
                    assert lines <= 50, f"{path}: {node.name} has {lines} lines"
