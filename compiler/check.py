"""`load_recipe`: a file -> Recipe, or every problem of it at once."""

from pathlib import Path
from typing import Any

from compiler.base_model import find_model
from compiler.case import find_machine
from compiler.check_together import together_problems
from compiler.check_types import Facts
from compiler.problems import Problem, RecipeProblems, WorldProblem
from compiler.recipe import Recipe
from compiler.source import KeyPath, Source, read_source
from dataset_builder.strict import ValidationError

STAND_INS = {"name": "stand-in", "base_model": "stand-in", "targets": {"stand-in": {"gpu": "stand-in"}}}
"""For required fields that are faulty, so that the rest can be checked; nothing is looked up for them."""


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe. Raises RecipeProblems with everything that is wrong with it."""
    return check_source(read_source(path))


def check_source(source: Source) -> Recipe:
    """The recipe that a text describes. Raises RecipeProblems, sorted by place."""
    problems = list(source.problems)
    recipe, sound = None, source.value
    try:
        recipe = Recipe.model_validate(source.value)
    except ValidationError as error:
        from compiler.check_fields import field_problems  # a sound recipe needs none of it

        problems += field_problems(source, error)
        sound = _without_faults(source, error)
    rest = recipe or _validated(sound)
    if rest is not None:
        facts, unknown = _look_up(source, rest, sound)
        problems += unknown + together_problems(source, facts)
    if problems or recipe is None:
        raise RecipeProblems(_in_order(problems))
    return recipe


def _look_up(source: Source, recipe: Recipe, sound: dict[str, Any]) -> tuple[Facts, list[Problem]]:
    """The facts of what the recipe names, and a problem for each thing that nobody knows."""
    from compiler.facts import gpus

    problems, machines, model = [], {}, None
    for name, target in recipe.targets.items() if sound["targets"] is not STAND_INS["targets"] else ():
        try:
            machines[name] = find_machine(target)
        except WorldProblem as error:
            if target.gpu in gpus() and sound["targets"][name] != source.value["targets"][name]:
                continue  # what it lacks is what was found faulty
            problems.append(source.problem(("targets", name, "gpu"), error.message, error.fix or ""))
    if sound["base_model"] is not STAND_INS["base_model"]:
        try:
            model = find_model(recipe.base_model)
        except WorldProblem as error:
            problems.append(source.problem(("base_model",), error.message, error.fix or ""))
    return Facts(recipe, machines, model), problems


def _without_faults(source: Source, error: ValidationError) -> dict[str, Any]:
    """The recipe's value without what was found faulty; taking something out may make its surroundings faulty in
    turn."""
    from compiler.check_fields import faulty_paths

    value = _copy(source.value)
    for _ in range(6):  # as deep as a recipe nests
        for path in sorted(faulty_paths(value, error), key=len, reverse=True):
            _remove(value, path)
        value = STAND_INS | value
        try:
            Recipe.model_validate(value)
        except ValidationError as again:
            error = again
        else:
            break
    return value


def _validated(value: dict[str, Any]) -> Recipe | None:
    try:
        return Recipe.model_validate(value)
    except ValidationError:
        return None


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(entry) for key, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, list) else value


def _remove(value: Any, path: KeyPath) -> None:
    """Take out what lies at `path`; an entry of a list takes the whole list with it, to keep the others' numbers
    true."""
    for piece in path[:-1]:
        if isinstance(value, dict) and isinstance(value.get(piece), dict):
            value = value[piece]
        elif isinstance(value, dict):
            value.pop(piece, None)
            return
    if isinstance(value, dict):
        value.pop(path[-1], None)


def _in_order(problems: list[Problem]) -> list[Problem]:
    """By place; at one place the first found speaks, since the others follow from it."""
    first: dict[tuple[int, int], Problem] = {}
    for problem in problems:
        first.setdefault((problem.line, problem.column), problem)
    return [first[place] for place in sorted(first)]
