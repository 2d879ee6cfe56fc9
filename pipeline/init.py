"""A new release repository from an example: `everystep init NAME --example EXAMPLE`.

An example is a folder of `examples/` in a checkout of Everystep: `params.yaml`, `README.md`, and `recipes/` where a
recipe differs from the published size of its name. The new repository holds all that building needs, and names its own
sources and models where DVC must know them: the code (DVC follows each file of it), recipes, `dvc.yaml`, pins. Nothing
is fetched and nothing committed. What is written depends on the checkout and the example alone.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

from ruamel.yaml import YAML

import pipeline
from pipeline.formats.errors import EverystepError
from pipeline.formats.files import plain_name, write_bytes
from pipeline.formats.manifests import manifest_path
from pipeline.formats.project import PARAMS, RECIPES, RUNS
from pipeline.formats.yaml import load_yaml
from pipeline.stages.params import model_names, source_names

CODE = ("pipeline", "trainer")
FILES = ("LICENSE", "constraints.txt", "pyproject.toml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore")
COMMIT = r"[0-9a-f]{40}"
STAGES = Path("dvc.yaml")
Resolve = Callable[[str, str], str]
"""(repository, name of a revision) -> its commit."""


class Made(NamedTuple):
    """A new repository."""

    folder: Path
    sources: list[str]
    models: list[str]
    pinned: dict[str, str]
    """Revisions that were looked up, by the key that holds them."""
    unpinned: list[str]
    """Keys that hold a name where a commit must stand."""


def checkout() -> Path:
    """The checkout that this code runs from."""
    root = Path(pipeline.__file__).parent.parent
    for part in ("examples", STAGES, RECIPES, *CODE, *FILES):
        if not (root / part).exists():
            fix = "clone Everystep, `pip install --editable` it, and run the command again"
            raise EverystepError(f"init: copies code from a checkout of Everystep, and {root} lacks {part}; {fix}")
    return root


def list_examples(root: Path) -> dict[str, str]:
    """Name and title of each example; a title is the first heading of its README.md."""
    folders = sorted(path.parent for path in (root / "examples").glob(f"*/{PARAMS}"))
    return {folder.name: _title(folder) for folder in folders}


def init(folder: Path, example: Path, root: Path, resolve: Resolve | None = None) -> Made:
    """Make the release repository `folder` from `example`. With `resolve`, names of revisions become commits.

    It appears whole or not at all, but for what `git init` adds at the end.
    """
    plain_name(folder.name, "NAME")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise EverystepError(f"{folder}: is there already; name a new folder")
    params = load_yaml(example / PARAMS)
    models = model_names(example / PARAMS)
    sources = [] if "rows" in params else source_names(example / PARAMS)
    text, pinned, unpinned = _own_params((example / PARAMS).read_text("utf-8"), folder.name, resolve)
    recipes = {name: _recipe(name, example, root) for name in models}
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.{token_hex(8)}.partial")
    try:
        copy_code(root, made)
        write_bytes(made / PARAMS, text.encode())
        write_bytes(made / STAGES, own_stages(root, example, models).encode())
        for name, path in recipes.items():
            (made / RECIPES).mkdir(exist_ok=True)
            shutil.copy(path, made / RECIPES / f"{name}.yaml")
        shutil.copy(root / "examples" / "Makefile", made / "Makefile")
        write_bytes(made / "README.md", _readme(folder.name, example).encode())
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=folder, check=True)
    return Made(folder, sources, models, pinned, unpinned)


def copy_code(root: Path, folder: Path) -> None:
    """What every release repository takes from the checkout as it is."""
    for part in CODE:
        shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, folder / name)


def own_stages(root: Path, example: Path, models: Iterable[str]) -> str:
    """`dvc.yaml`: the example's, or the checkout's with plots of the new release's models."""
    if (example / STAGES).is_file():
        return (example / STAGES).read_text("utf-8")
    loader = _round_trip()
    tree = loader.load((root / STAGES).read_text("utf-8"))
    tree["plots"] = plots(models)
    return _dumped(loader, tree)


def plots(models: Iterable[str]) -> list[dict[str, Any]]:
    """What `dvc plots` draws: one chart of each kind, a line for each model."""
    names = list(models)
    charts = {
        "training loss": {f"{RUNS}/{name}/log.csv": "loss" for name in names},
        "validation loss": {manifest_path("evaluate", name).as_posix(): "loss" for name in names},
    }
    return [{title: {"x": "step", "y": lines}} for title, lines in charts.items()]


def _own_params(text: str, name: str, resolve: Resolve | None) -> tuple[str, dict[str, str], list[str]]:
    """(the text of `params.yaml` with the release's name, revisions looked up, those that are no commits)."""
    loader = _round_trip()
    tree = loader.load(text)
    if "release" in tree:
        tree["release"]["name"] = name
    pinned, unpinned = {}, []
    places = {f"sources.{key}": source for key, source in tree.get("sources", {}).items() if "revision" in source}
    places |= {"rows": tree["rows"]} if "rows" in tree else {}
    for place, source in places.items():
        if re.fullmatch(COMMIT, str(source["revision"])):
            continue
        if resolve is None:
            unpinned.append(f"{place}.revision")
            continue
        source["revision"] = pinned[f"{place}.revision"] = resolve(source["repository"], source["revision"])
        source.yaml_add_eol_comment("looked up by `everystep init --pin`", "revision")
    return _dumped(loader, tree), pinned, unpinned


def _recipe(name: str, example: Path, root: Path) -> Path:
    for path in (example / RECIPES / f"{name}.yaml", root / RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    raise EverystepError(f"{example / PARAMS}: models: {name}: no recipe of that name, neither there nor in {RECIPES}/")


def _title(example: Path) -> str:
    readme = example / "README.md"
    text = readme.read_text("utf-8") if readme.is_file() else ""
    heading = re.search(r"^# (.+)$", text, flags=re.M)
    return heading[1] if heading else ""


def _readme(name: str, example: Path) -> str:
    """What to do next, then the example's own words. Links to what stayed in the checkout lose their address."""
    own = (example / "README.md").read_text("utf-8") if (example / "README.md").is_file() else ""
    own = re.sub(r"\[([^\[\]]+)\]\(\.\./[^()]*\)", r"\1", own)
    return f"""# {name}

Made by `everystep init {name} --example {example.name}`. Read `params.yaml` first: it is yours to change, and so is the
name of who publishes it. Then:

```bash
make setup && source .venv/bin/activate
dvc repro --dry --force      # what will run
make release                 # all of it
git add --all && git commit --message "First build"
```

{_lowered(own)}"""


def _lowered(text: str) -> str:
    """The same with each heading one level lower."""
    return re.sub(r"^#", "##", text, flags=re.M)


def _round_trip() -> YAML:
    loader = YAML(typ="rt", pure=True)
    loader.preserve_quotes = True
    loader.width = 1 << 16
    loader.indent(mapping=2, sequence=4, offset=2)
    return loader


def _dumped(loader: YAML, tree: Any) -> str:
    written = StringIO()
    loader.dump(tree, written)
    return written.getvalue()
