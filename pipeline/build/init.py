"""A new release repository from an example: `everystep init NAME --example EXAMPLE`.

An example is a folder of `examples/` in a checkout of Everystep: `params.yaml`, `README.md`, `sizes.yaml`, and
`recipes/` where a recipe differs from the published size of its name. The new repository holds all that building needs:
the code, recipes, `dvc.yaml` with plots of its own models, pins, and the documentation that messages point to. All of
it is the first commit; nothing is fetched. What is written depends on the checkout and the example alone.
"""

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any, NamedTuple

from ruamel.yaml import YAML

import pipeline
from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files, plain_name, write_bytes
from pipeline.base.params import load_params, model_names, source_names
from pipeline.base.paths import PARAMS, RECIPES, RUNS, SIZES
from pipeline.build.git import git, try_git
from pipeline.formats.stages import manifest_path

CODE = ("pipeline", "trainer")
FILES = (
    *("LICENSE", "constraints.txt", "requirements.lock", "pyproject.toml"),
    *(".gitattributes", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"),
    manifest_path("code").as_posix(),
)
DOCS = "docs"
LINK = re.compile(r"\[([^\[\]]+)\]\(([^()#\s]+)(#[^()\s]*)?\)")
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
    """Keys that hold a name instead of a commit."""
    uncommitted: str
    """Why there is no first commit; empty if there is one."""


def checkout() -> Path:
    """Find the checkout that this code runs from."""
    root = Path(pipeline.__file__).parent.parent
    for part in ("examples", STAGES, RECIPES, DOCS, *CODE, *FILES):
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

    It appears whole or not at all.
    """
    refuse_taken(folder)
    params = load_params(example / PARAMS)
    sources = source_names(example / PARAMS) if "sources" in params else []
    models = model_names(example / PARAMS)
    text, pinned, unpinned = _own_params(example / PARAMS, folder.name, resolve)
    recipes = {name: _recipe(name, example, root) for name in models}
    with new_repository(folder, f"Start from Everystep's example {example.name}") as made:
        copy_code(root, made.folder)
        write_bytes(made.folder / PARAMS, text.encode())
        write_bytes(made.folder / STAGES, own_stages(root, example, models).encode())
        if (example / SIZES).is_file():
            shutil.copy(example / SIZES, made.folder / SIZES)
        for name, path in recipes.items():
            (made.folder / RECIPES).mkdir(exist_ok=True)
            shutil.copy(path, made.folder / RECIPES / f"{name}.yaml")
        own = example / "README.md"
        readme = _readme(folder.name, example.name, _read(own) if own.is_file() else "")
        write_texts(made.folder, root, readme, own)
    return Made(folder, sources, models, pinned, unpinned, made.uncommitted)


def refuse_taken(folder: Path) -> None:
    """Refuse a place for a new repository that is taken, has no plain name or lies inside another repository."""
    plain_name(folder.name, "NAME")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise EverystepError(f"{folder}: already exists; choose another name")
    _refuse_inside_another(folder)


@dataclass
class Scratch:
    """A repository that is being made."""

    folder: Path
    """Where it is until it is complete."""
    uncommitted: str = ""
    """Why there is no first commit; empty if there is one."""


@contextmanager
def new_repository(folder: Path, message: str) -> Iterator[Scratch]:
    """Make a scratch folder that becomes the repository `folder`, with all its files as the first commit, when the
    block ends without an exception, and is removed otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Scratch(folder.with_name(f".{folder.name}.{token_hex(8)}.partial"))
    try:
        yield made
        made.uncommitted = _first_commit(made.folder, message)
        if folder.exists():
            refuse_taken(folder)  # by another command, meanwhile
            folder.rmdir()
        made.folder.rename(folder)
    finally:
        shutil.rmtree(made.folder, ignore_errors=True)


def _refuse_inside_another(folder: Path) -> None:
    """Refuse a place inside another repository that does not ignore it: Git and DVC would take it for a part of it."""
    place = Path(os.path.abspath(folder))  # noqa: PTH100  # `..` goes as the user typed it
    above = next(path for path in place.parents if path.is_dir())
    if try_git(above, "check-ignore", "--quiet", str(place)).returncode == 1:
        top = Path(git(above, "rev-parse", "--show-toplevel"))
        beside = shlex.quote(os.path.relpath(top.parent / folder.name))
        raise EverystepError(f"{folder}: lies inside the Git repository {top}; name a folder outside, such as {beside}")


def _first_commit(made: Path, message: str) -> str:
    """Make `made` a Git repository with all its files as the first commit; gives why it could not be made."""
    git(made, "init", "--quiet")
    git(made, "symbolic-ref", "HEAD", "refs/heads/main")  # `init --initial-branch` is unknown to Git before 2.28
    git(made, "add", "--all", "--force")  # whatever the user's own list of ignored files says
    only_named = ("-c", "user.useConfigOnly=true")  # never `user@host`, which Git would make up
    if try_git(made, *only_named, "var", "GIT_AUTHOR_IDENT").returncode:
        return "Git knows no name and address of yours (`git config --global user.name`, `user.email`)"
    done = try_git(made, *only_named, "commit", "--quiet", "--message", message)
    return f"git commit says: {done.stderr.strip() or done.stdout.strip()}" if done.returncode else ""


def copy_code(root: Path, folder: Path) -> None:
    """Copy what every release repository takes unchanged from the checkout."""
    code = [f"{part}/{name}" for part in CODE for name in list_files(root / part) if "__pycache__" not in name]
    for name in [*code, *FILES]:  # not `copytree`, which would go on where the disk is full
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, folder / name)


def own_stages(root: Path, example: Path, models: Iterable[str]) -> str:
    """`dvc.yaml`: the example's, or the checkout's with plots of the new release's models."""
    if (example / STAGES).is_file():
        return _read(example / STAGES)
    loader = round_trip()
    tree = loader.load((root / STAGES).read_text("utf-8"))
    tree["plots"] = plots(models)
    return dumped(loader, tree)


def plots(models: Iterable[str]) -> list[dict[str, Any]]:
    """What `dvc plots` draws: one chart of each kind, a line for each model."""
    names = list(models)
    charts = {
        "training loss": {f"{RUNS}/{name}/log.csv": "loss" for name in names},
        "validation loss": {manifest_path("evaluate", name).as_posix(): "loss" for name in names},
    }
    return [{title: {"x": "step", "y": lines}} for title, lines in charts.items()]


def _own_params(path: Path, name: str, resolve: Resolve | None) -> tuple[str, dict[str, str], list[str]]:
    """(the text of `params.yaml` with the release's name, revisions looked up, those that are no commits)."""
    loader = round_trip()
    tree = loader.load(_read(path))
    if "release" in tree:
        _mapping(path, "release", tree["release"])["name"] = name
    pinned, unpinned = {}, []
    places = {f"sources.{key}": source for key, source in tree.get("sources", {}).items()}
    places |= {"rows": tree["rows"]} if "rows" in tree else {}
    for place, source in places.items():
        if "revision" not in _mapping(path, place, source) or re.fullmatch(COMMIT, str(source["revision"])):
            continue
        if resolve is None:
            unpinned.append(f"{place}.revision")
            continue
        if "repository" not in source:
            raise EverystepError(f"{path}: {place}.repository: missing; a revision is one of a repository")
        source["revision"] = pinned[f"{place}.revision"] = resolve(source["repository"], source["revision"])
        source.yaml_add_eol_comment("looked up by `everystep init --pin`", "revision")
    return dumped(loader, tree), pinned, unpinned


def _mapping(path: Path, place: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise EverystepError(f"{path}: {place}: expected keys and values, got {value!r}; see docs/reference/params.md")
    return value


def _recipe(name: str, example: Path, root: Path) -> Path:
    for path in (example / RECIPES / f"{name}.yaml", root / RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    raise EverystepError(f"{example / PARAMS}: models: {name}: no recipe of that name, neither there nor in {RECIPES}/")


def _title(example: Path) -> str:
    readme = example / "README.md"
    heading = re.search(r"^# (.+)$", _read(readme) if readme.is_file() else "", flags=re.M)
    return heading[1] if heading else ""


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise EverystepError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def write_texts(made: Path, root: Path, readme: str, origin: Path) -> None:
    """The Makefile, README.md (`readme`, with links as seen from the file `origin`) and the documentation. A link to
    what the new repository does not hold becomes its words alone."""
    shutil.copy(root / "examples" / "Makefile", made / "Makefile")
    docs = sorted((root / DOCS).rglob("*.md"))
    texts = {PurePosixPath(path.relative_to(root).as_posix()): (path, _read(path)) for path in docs}
    texts[PurePosixPath("README.md")] = (origin, readme)
    held = {*texts, *(PurePosixPath(path.relative_to(made).as_posix()) for path in made.rglob("*"))}
    for place, (path, text) in texts.items():
        write_bytes(made / place, _relinked(text, path.parent, place.parent, root, held).encode())


def _relinked(text: str, origin: Path, place: PurePosixPath, root: Path, held: set[PurePosixPath]) -> str:
    """`text`, moved from the folder `origin` of the checkout `root` to the folder `place` of what holds `held`."""

    def moved(link: re.Match[str]) -> str:
        words, target, anchor = link[1], link[2], link[3] or ""
        if "://" in target:
            return link[0]
        in_checkout = PurePosixPath(os.path.relpath(origin / target, root))
        if in_checkout not in held:
            return words
        return f"[{words}]({os.path.relpath(in_checkout, place)}{anchor})"

    return LINK.sub(moved, text)


def _readme(name: str, example: str, own: str) -> str:
    """What to do next, then the example's own words."""
    return f"""# {name}

Made by `everystep init {name} --example {shlex.quote(example)}`. Read `params.yaml` first: it is yours to change, and
so is the name of who publishes it. Then:

```bash
make setup && source .venv/bin/activate
dvc repro --dry --force      # what will run
make release                 # all of it
git add --all && git commit --message "First build"
```

[docs](docs/README.md) is the documentation of Everystep. Its examples show the releases, models and steps of the demo.

{_lowered(own)}"""


def _lowered(text: str) -> str:
    """The same with each heading one level lower."""
    return re.sub(r"^#", "##", text, flags=re.M)


def round_trip() -> YAML:
    """A reader and writer that keeps comments, quotes and the order of keys."""
    loader = YAML(typ="rt", pure=True)
    loader.preserve_quotes = True
    loader.width = 1 << 16
    loader.indent(mapping=2, sequence=4, offset=2)
    return loader


def dumped(loader: YAML, tree: Any) -> str:
    """A tree as text."""
    written = StringIO()
    loader.dump(tree, written)
    return written.getvalue()
