"""The shape of the code that CONTRIBUTING.md promises: whole ideas in whole files, and no import cycles."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("riffusion_train", "data_prep")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]


def num_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def test_files_are_few_and_hold_whole_ideas():
    sizes = [num_lines(path) for path in MODULES]
    small = [str(path.relative_to(ROOT)) for path, size in zip(MODULES, sizes, strict=True) if size < 40]
    assert len(FILES) <= 185
    assert statistics.median(sizes) >= 110
    assert len(small) < 10, small


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_passes_500_lines_and_no_function_80(path):
    assert num_lines(path) <= 500
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if node.end_lineno - node.lineno + 1 > 80]
    assert not long
