"""The import closure is what Python loads."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.imports import closure, closure_with_scripts
from tests.imports import ROOT

LOADED = """
import importlib, sys
importlib.import_module(sys.argv[1])
files = {getattr(module, "__file__", None) for name, module in sys.modules.items() if name != "__main__"}
print(*filter(None, files), sep="\\n")
"""


def files(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / "pipeline" / f"{name.replace('__in__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_every_way_to_import_a_module_counts(tmp_path: Path) -> None:
    files(tmp_path, a="import pipeline.b", b="def f():\n    from pipeline import c", c="from . import d", d="import os")
    files(tmp_path, d__in____init__="", unloaded="")
    assert closure(tmp_path, ["pipeline.a"]) == [
        *("pipeline/a.py", "pipeline/b.py", "pipeline/c.py", "pipeline/d.py", "pipeline/d/__init__.py"),
    ]


def test_a_relative_import_is_seen_from_its_package(tmp_path: Path) -> None:
    files(tmp_path, one__in__a="from .b import name\nfrom ..two import other", one__in__b="", two="")
    assert closure(tmp_path, ["pipeline.one.a"]) == ["pipeline/one/a.py", "pipeline/one/b.py", "pipeline/two.py"]


def test_a_circle_ends(tmp_path: Path) -> None:
    files(tmp_path, a="import pipeline.b", b="import pipeline.a")
    assert closure(tmp_path, ["pipeline.a"]) == ["pipeline/a.py", "pipeline/b.py"]


def test_a_script_and_a_style_are_loaded_with_the_modules_of_their_folder(tmp_path: Path) -> None:
    files(tmp_path, a="import pipeline.page.b", page__in__b="", other__in__c="")
    for name in ("page/b.js", "page/look.css", "page/notes.txt", "other/c.js"):
        (tmp_path / "pipeline" / name).write_text("")
    loaded = closure_with_scripts(tmp_path, ["pipeline.a"])
    assert loaded == ["pipeline/a.py", "pipeline/page/b.js", "pipeline/page/b.py", "pipeline/page/look.css"]


@pytest.mark.parametrize("module", ["pipeline.stages.filter", "pipeline.stages.release", "trainer.train"])
def test_no_file_that_python_loads_is_missing(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, module], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(line) for line in done.stdout.splitlines()}
    ours = {path.relative_to(ROOT).as_posix() for path in loaded if path.is_relative_to(ROOT)}
    assert f"{module.replace('.', '/')}.py" in ours
    assert {name for name in ours if name.startswith(("pipeline/", "trainer/"))} <= set(closure(ROOT, [module]))
