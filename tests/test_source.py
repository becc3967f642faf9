"""Reading YAML: positions, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from compiler.check import check_source
from compiler.problems import Problem, RecipeProblems
from compiler.source import MAX_BYTES, parse_source, read_source

TEXT = """\
# a comment
name: demo
targets:
  "dev": {gpu: rtx-4090, count: 2}
list:
  - a
  - {b: 1}
"""


def problems(text: str) -> tuple[Problem, ...]:
    try:
        check_source(parse_source(text, "r.yaml"))
    except RecipeProblems as error:
        return error.problems
    return ()


def test_every_key_and_value_has_its_place() -> None:
    source = parse_source(TEXT)
    assert source.value == {
        "name": "demo",
        "targets": {"dev": {"gpu": "rtx-4090", "count": 2}},
        "list": ["a", {"b": 1}],
    }
    assert source.key_marks["targets", "dev", "count"] == (4, 26)
    assert source.value_marks["targets", "dev", "count"] == (4, 33)
    assert source.value_marks["list", 1, "b"] == (7, 9)


def test_a_problem_shows_line_caret_and_fix() -> None:
    shown = str(parse_source(TEXT, "r.yaml").problem(("targets", "dev", "count"), "too many", "write 1"))
    assert shown == (
        'r.yaml:4:33: too many\n    4 |   "dev": {gpu: rtx-4090, count: 2}\n'
        "      |                                 ^\n  fix: write 1"
    )


def test_a_problem_of_what_is_not_there_stands_at_what_is_around_it() -> None:
    problem = parse_source(TEXT).problem(("targets", "dev", "host_ram"), "missing", "add it")
    assert (problem.line, problem.column) == (4, 3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("no", "no"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("1e-4", 1e-4),
        ("2.5E3", 2500.0),
        (".5", 0.5),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("+3", 3),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2026-11-22", "2026-11-22"),
        ("'3'", "3"),
        ('"on"', "on"),
        ("3090", 3090),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = parse_source(f"x: {text}").value["x"]
    assert read == value
    assert type(read) is type(value)


def test_keys_are_text_whatever_they_look_like() -> None:
    assert parse_source("on: 1\n4090: 2\nnull: 3\n").value == {"on": 1, "4090": 2, "null": 3}


def test_aliases_of_modest_size_are_followed() -> None:
    assert parse_source("a: &x [1, 2]\nb: *x\n").value["b"] == [1, 2]


def test_aliases_that_explode_are_refused_at_once() -> None:
    """9^21 values would take longer than the universe has: that this test ends is the proof."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]" for n in range(20)]
    (problem,) = problems("\n".join(lines))
    assert "aliases" in problem.message


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000, "? " * 50_000, "a: &a [*a]"])
def test_depth_and_recursion_are_refused(text: str) -> None:
    assert problems(text)


def test_a_file_over_1_mib_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(RecipeProblems, match="larger than 1 MiB"):
        read_source(path)


def test_bytes_that_are_not_utf_8_are_shown_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"# first\nname: caf\xe9\n")
    with pytest.raises(RecipeProblems, match="not UTF-8") as caught:
        read_source(path)
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (2, 10)


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes("\ufeffname: demo\r\nepochs: 3\r\n".encode())
    source = read_source(path)
    assert source.value == {"name": "demo", "epochs": 3}
    assert source.key_marks["epochs",] == (2, 1)


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeProblems, match=r"is a folder, not a recipe\n  fix: write one with `recipe init NAME`"):
        read_source(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quick.yaml").write_text("name: quick")
    with pytest.raises(RecipeProblems, match=r"did you mean recipes/quick\.yaml\?"):
        read_source("recipes/quik.yaml")


def test_several_lesser_problems_come_together() -> None:
    found = problems("name: a\nname: b\ntargets: !!map {}\nbase_model: .nan\n")
    assert [problem.line for problem in found][:3] == [2, 3, 4]
    assert "twice" in found[0].message and "tag" in found[1].message and "finite" in found[2].message


GOOD = """\
name: good
base_model: google/gemma-2-2b-it
targets:
  dev: {gpu: rtx-3090-ti, count: 2, vram_budget: 8 GiB, host_ram: 64 GiB}
  own: {gpu: {name: my-card, backend: cuda, vram: 80 GiB, bf16_tflops: 312, bandwidth_gb_s: 2039}}
dataset:
  sources:
    - {kind: files, path: docs}
    - {kind: web, url: "https://example.org/", depth: 1}
  pairs: {unique: 2500, total: 10000}
  generator: {model: embedded}
training: {method: lora, warmup: 0.1, lora_targets: [q_proj], eval_every: 10, early_stopping: 2}
axolotl: {logging_steps: 5}
"""


def assert_told_inside(text: str) -> None:
    """No traceback, and every problem lies inside the text."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n")
    lines = lines.replace("\u2028", "\n").replace("\u2029", "\n").removeprefix("\ufeff").split("\n")
    for problem in problems(text):
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert problem.message and problem.fix
        assert "\n" not in problem.message and "\n" not in problem.fix
        str(problem)


SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True, scope="module")
def _no_hub() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@SETTINGS
@given(st.text(max_size=300))
@example("? a\n: b")
@example("a: *b")
@example("'")
@example("%TAG ! x\n---\na: 1")
@example("a: 0o9\nb: 0x\nc: 9" + "9" * 5000)
def test_any_text_is_answered(text: str) -> None:
    assert_told_inside(text)


@SETTINGS
@given(st.data())
def test_a_damaged_recipe_is_answered(data: st.DataObject) -> None:
    """Characters of a good recipe deleted, doubled or replaced: the mistakes that people really make, and worse."""
    text = GOOD
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        length = data.draw(st.integers(0, 12))
        put = data.draw(st.text(alphabet="\t\n :,-[]{}\"'&*!|>%@#~0123456789.eabkindGB_<", max_size=6))
        text = text[:at] + put + text[at + length :]
        text = text or " "
    assert_told_inside(text)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
PLACES = (
    ("name",), ("base_model",), ("targets",), ("targets", "dev"), ("targets", "dev", "gpu"), ("targets", "own", "gpu"),
    ("targets", "own", "gpu", "vram"), ("dataset",), ("dataset", "sources"), ("dataset", "sources", 0),
    ("dataset", "pairs"), ("dataset", "generator"), ("training",), ("training", "warmup"), ("training", "lora_targets"),
    ("training", "resume"), ("training", "early_stopping"), ("export",), ("export", "gguf"), ("axolotl",), ("new",),
)  # fmt: skip


@SETTINGS
@given(st.sampled_from(PLACES), values, st.booleans())
def test_any_value_in_any_place_is_answered(place: tuple[str | int, ...], value: object, flow: bool) -> None:
    import yaml

    tree = yaml.safe_load(GOOD)
    node = tree
    for piece in place[:-1]:
        node = node[piece] if isinstance(piece, int) else node.setdefault(piece, {})
    node[place[-1]] = value
    assert_told_inside(yaml.safe_dump(tree, allow_unicode=True, default_flow_style=flow))


@SETTINGS
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "r.yaml"
    path.write_bytes(data)
    try:
        check_source(read_source(path))
    except RecipeProblems as error:
        assert str(error).startswith(str(path))
    else:
        pytest.fail("two hundred random bytes are no recipe")
