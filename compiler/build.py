"""`recipe build`: recipes -> plans -> files under `generated/`; and what `--check` and `--diff` say of them.

compile_recipes(paths) -> Build        reads recipes and facts, writes nothing
changes(build, root) -> list[Change]   against what lies on disk
apply(changes, root)                   the only function here that writes
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.problems import ProblemError, WorldProblem
from compiler.recipe import Recipe
from compiler.values import Artefact, Plan

GENERATED = "generated"
MARKER = "Compiled by finetune-recipes"
"""Stands in every axolotl.yaml and plan.md that we wrote; a folder whose plan.md lacks it is not ours to clean."""
OUR_FILES = ("axolotl.yaml", "deepspeed.json", "plan.md")
DATASET = "dataset"
"""Folder beside the targets that `recipe data` writes."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A recipe, or one target of it, for which no config was made."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Build:
    """What the recipes compile to."""

    plans: tuple[Plan, ...]
    artefacts: tuple[Artefact, ...]
    failures: tuple[Failure, ...]
    recipes: tuple[str, ...]
    """Names of the recipes that compiled; only their folders are cleaned."""
    everything: bool
    """True: these are all recipes of the project, so folders of other names are left over from recipes that are
    gone."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file that is not what the recipes compile to. `new` is None where it should not be there, `old` where it is
    not."""

    path: str
    """Relative to the project root, with `/`."""
    old: str | None
    new: str | None

    @property
    def kind(self) -> str:
        return "missing" if self.old is None else "left over" if self.new is None else "stale"


def recipe_paths(named: Sequence[str], root: Path = Path(".")) -> tuple[list[Path], bool]:
    """The recipes meant, and whether these are all. Raises WorldProblem where there are none."""
    if named:
        return [Path(name) for name in dict.fromkeys(named)], False
    found = sorted(path for ending in ("*.yaml", "*.yml") for path in (root / "recipes").glob(ending))
    if not found:
        raise WorldProblem("there is no recipes/*.yaml here", "run `recipe init NAME`, or go to the project's root")
    return found, True


def compile_recipes(paths: Sequence[Path], root: Path = Path("."), everything: bool = False) -> Build:
    """Plan every target and make its files. A recipe that is at fault is a failure; the others are compiled.

    Raises WorldProblem where two recipes have one name: they would overwrite one another.
    """
    from compiler.check import load_recipe

    recipes: list[tuple[Path, Recipe]] = []
    failures: list[Failure] = []
    for path in paths:
        try:
            recipes.append((path, load_recipe(path)))
        except ProblemError as error:
            failures.append(Failure(str(path), str(error)))
    _refuse_same_names(recipes)
    plans: list[Plan] = []
    artefacts: list[Artefact] = []
    for _, recipe in recipes:
        for target in recipe.targets:
            try:
                plan, files = _compile(recipe, target, root)
            except ProblemError as error:
                failures.append(Failure(f"{recipe.name}, target {target}", str(error)))
                continue
            plans.append(plan)
            artefacts.extend(files)
            if not plan.fits:
                failures.append(Failure(f"{recipe.name}, target {target}", _does_not_fit(plan)))
    names = tuple(recipe.name for _, recipe in recipes)
    return Build(tuple(plans), tuple(artefacts), tuple(failures), names, everything and len(recipes) == len(paths))


def _compile(recipe: Recipe, target: str, root: Path) -> tuple[Plan, tuple[Artefact, ...]]:
    from compiler.case import resolve
    from compiler.emit import emit_all
    from compiler.plan import plan

    if target == DATASET:
        raise WorldProblem(
            f"a target cannot be called `{DATASET}`: `recipe data` writes to that folder", "give it another name"
        )
    made = plan(resolve(recipe, target, root))
    return made, emit_all(made)


def _refuse_same_names(recipes: Iterable[tuple[Path, Recipe]]) -> None:
    first: dict[str, Path] = {}
    for path, recipe in recipes:
        # Case-insensitive file systems would fold `Arc` and `arc` into one folder.
        other = first.setdefault(recipe.name.lower(), path)
        if other is not path:
            raise WorldProblem(f"{other} and {path} are both called `{recipe.name}`: their files would overwrite "
                               "one another",
                               "give one of them another `name`")  # fmt: skip


def _does_not_fit(plan: Plan) -> str:
    from compiler.compare import shortfall

    lines = [f"does not fit: {shortfall(plan) or plan.warnings[0]}"]
    lines += [f"  way out: {way.text}" for way in plan.ways_out]
    return "\n".join(
        [
            *lines,
            f"  generated/{plan.case.recipe.name}/{plan.case.target}/plan.md says more; no axolotl.yaml is written",
        ]
    )


def changes(build: Build, root: Path = Path(".")) -> list[Change]:
    """Every file that is stale, missing or left over, by path. Files of failed targets are left as they are."""
    wanted = {f"{GENERATED}/{artefact.path}": artefact.text for artefact in build.artefacts}
    found = []
    for path, text in wanted.items():
        old = _read(root / path)
        if old != text:
            found.append(Change(path, old, text))
    found += [Change(path, _read(root / path), None) for path in _left_over(build, set(wanted), root)]
    return sorted(found, key=lambda change: change.path)


def apply(found: Iterable[Change], root: Path = Path(".")) -> None:
    """Write and remove: each file whole or not at all; folders that became empty go too."""
    from compiler.write import write_text

    for change in found:
        path = root / change.path
        if change.new is not None:
            write_text(path, change.new)
            continue
        path.unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def edited_rows(plans: Iterable[Plan], root: Path = Path(".")) -> list[str]:
    """Training rows that lie here and are not those of the lock: prepared tokens are filed under the lock's digest, so
    that a run would go on with the old ones (rule 33)."""
    known_digests: dict[str | None, str | None] = {}
    for dataset in (plan.case.dataset for plan in plans):
        known_digests |= {dataset.train_path: dataset.sha256, dataset.eval_path: dataset.eval_sha256}
    found = []
    for path, known in known_digests.items():
        if path is None or known is None or not (root / path).is_file():
            continue
        import hashlib  # OpenSSL, which most builds do without

        with (root / path).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != known:
                found.append(f"{path} is not what dataset.lock.json beside it records; a run may train on the rows "
                             "before the edit. `recipe data` makes it anew, `recipe review` keeps edits")  # fmt: skip
    return found


def unified_diff(found: Iterable[Change]) -> str:
    """What `apply` would do, as `git diff` shows it."""
    lines: list[str] = []
    for change in found:
        old = "/dev/null" if change.old is None else f"a/{change.path}"
        new = "/dev/null" if change.new is None else f"b/{change.path}"
        lines += difflib.unified_diff(
            (change.old or "").splitlines(keepends=True), (change.new or "").splitlines(keepends=True), old, new
        )
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def _left_over(build: Build, wanted: set[str], root: Path) -> list[str]:
    """Files that we made for a target, or a whole recipe, that is no more, or for a plan that no longer needs them."""
    failed = {failure.what for failure in build.failures}
    found = []
    for plan_md in sorted((root / GENERATED).glob("*/*/plan.md")):
        folder = plan_md.parent
        recipe, target = folder.parent.name, folder.name
        ours = recipe in build.recipes or build.everything
        planned = any(path.startswith(f"{GENERATED}/{recipe}/{target}/") for path in wanted)
        if not ours or (f"{recipe}, target {target}" in failed and not planned) or MARKER not in (_read(plan_md) or ""):
            continue
        paths = [f"{GENERATED}/{recipe}/{target}/{name}" for name in OUR_FILES]
        found += [path for path in paths if path not in wanted and (root / path).is_file()]
    return found


def _read(path: Path) -> str | None:
    """None where there is no file; bytes that are no text count as different from every text."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
