"""Nothing in the product unpickles: loading a file must never run what is in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edge_daemon

PACKAGE = Path(edge_daemon.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unsafe(source: str) -> list[str]:
    """What in a source file can run what it loads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"import {one.name}" for one in node.names if one.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(f"from {node.module}")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            words = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if name.endswith("torch.load") and words.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if words.get("allow_pickle", "False") != "False":
                found.append(f"{name} with allow_pickle")
            if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load") or name.endswith("import_module('pickle')"):
                found.append(name)
    return found


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import torch\ntorch.load(path)", "torch.load(p, weights_only=False)",
     "np.load(p, allow_pickle=True)", "eval(text)", "import joblib.numpy_pickle"],
)  # fmt: skip
def test_the_scan_finds_each_kind(source: str) -> None:
    assert unsafe(source)


def test_nothing_in_the_product_can_run_what_it_loads() -> None:
    assert not unsafe("import numpy as np\nnp.load(p)\ntorch.load(p, weights_only=True)")
    sources = sorted(PACKAGE.rglob("*.py"))
    assert len(sources) > 200
    assert {str(path.relative_to(PACKAGE)): found for path in sources if (found := unsafe(path.read_text()))} == {}
