"""`recipe calibrate`: what is read from a run, what plans make of it, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import update_golden
import yaml
from axolotl_project import trained
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import DEV, GEMMA, LLAMA_1B, case

from compiler import AXOLOTL_VERSION, calibrate
from compiler.build import apply, changes, compile_recipes
from compiler.calibrate import Measurement, dump, lean, merge, pace, parse, peaks
from compiler.case import CALIBRATION
from compiler.check import load_recipe
from compiler.commands.calibrate import command
from compiler.memory import predict_memory
from compiler.plan import plan, plan_recipe, settled_search
from compiler.run_record import Run, read_config, read_run, setup_of, windows

CARD = "name: one\nbase_model: Qwen/Qwen2.5-0.5B-Instruct\ntargets:\n  card: {gpu: rtx-3090-ti}\n"
OUTPUT = Path("outputs/one/card")
CONFIG = Path("generated/one/card/axolotl.yaml")
STEPS = (
    # learnt tokens so far, tokens/s, max_allocated, device_reserved; the third window evaluated and took longer
    (4000, None, 9.51, 10.25),
    (8000, 2000.0, 9.87, 11.06),
    (12000, 2500.0, 9.87, 11.06),
    (16000, 250.0, 9.40, 11.06),
    (20000, 2000.0, 9.87, 11.06),
)
"""A CUDA run's figures."""


def record(step: int, learnt: int, rate: float | None, allocated: float, reserved: float) -> str:
    """One record as Axolotl 0.19 hands it to transformers 5, which prints numbers in quotes (`log` in
    axolotl/core/trainers/base.py)."""
    values = {
        "loss": f"{3 - step / 10:.4g}", "grad_norm": "1.2", "learning_rate": "0.0002", "ppl": "16.44",
        "memory/max_active (GiB)": f"{allocated:.4g}", "memory/max_allocated (GiB)": f"{allocated:.4g}",
        "memory/device_reserved (GiB)": f"{reserved:.4g}",
    }  # fmt: skip
    if rate is not None:
        values["tokens/train_per_sec_per_gpu"] = f"{rate:.4g}"
    return repr(values | {"tokens/trainable": learnt, "tokens/total": 2 * learnt, "epoch": f"{step / 5:.4g}"})


def write_log(config: Path, **overridden: object) -> None:
    """debug.log of a CUDA run of a generated config, as Axolotl writes it."""
    effective = yaml.safe_load(config.read_text()) | {"axolotl_config_path": f"/elsewhere/{config.as_posix()}"}
    effective |= {"env_capabilities": {"torch_version": "2.13.0"}} | overridden
    stamp = "[2026-11-20 10:11:12,139] [INFO] [axolotl.cli.config.load_cfg:345] [PID:35] config:\n"
    lines = [stamp + json.dumps(effective, indent=2)]
    for step, figures in enumerate(STEPS, 1):
        lines.append(f"{20 * step}%|##| {step}/5 [00:01<00:01]\r    {record(step, *figures)}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "debug.log").write_text("\n".join(lines) + "\n")


def write_merge_log() -> None:
    """What `axolotl merge-lora` leaves in place of the log of the training: the config twice, and no record."""
    kept = (OUTPUT / "debug.log").read_text().partition("20%")[0]
    again = kept.replace('"adapter"', '"merge_lora": true,\n  "adapter"')
    last = "[2026-11-21 08:00:00,000] [DEBUG] [axolotl.cli.merge_lora] [PID:1] x"
    (OUTPUT / "debug.log").write_text(kept + again + last)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A built recipe for one card, and the log of its run."""
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    Path("recipes/one.yaml").write_text(CARD)
    build()
    write_log(CONFIG)
    return tmp_path


def build() -> None:
    apply(changes(compile_recipes([Path("recipes/one.yaml")])))


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def measurement(**changed: object) -> Measurement:
    """What a run of a real plan's setup would have shown had every prediction been exact."""
    found = case(GEMMA, DEV)
    setup = plan(found).setup
    exact = Measurement(
        run="test/here", date="2026-11-20 10:11:12", machine=found.machine.id, axolotl=AXOLOTL_VERSION,
        torch="2.13.0+cu128", model=GEMMA, setup=setup, architecture=found.model.architecture,
        longest_row_tokens=setup.sequence_len, longest_row_seen=True,
        peak_reserved_bytes=1, seconds_per_step=1.0, row_tokens=300.0, attended_tokens=300.0,
    )  # fmt: skip
    predicted, seconds = peaks(exact, found.machine)[0], pace(exact, found.machine)[0]
    return replace(exact, **{"peak_reserved_bytes": predicted, "seconds_per_step": seconds, **changed})


def scaled(memory: float, pace_factor: float, **changed: object) -> Measurement:
    """A run with `memory` times the slack and `pace_factor` times the seconds that are predicted."""
    exact = measurement()
    predicted, _, slack = peaks(exact, case(GEMMA, DEV).machine)
    return replace(
        exact,
        peak_reserved_bytes=round(predicted + (memory - 1) * slack),
        seconds_per_step=exact.seconds_per_step * pace_factor,
        **changed,
    )


def calibrated(*runs: Measurement):
    found = case(GEMMA, DEV)
    return replace(found, machine=replace(found.machine, measured=lean(found.machine, runs)))


# reading a run


def test_figures_of_a_cuda_log(project: Path) -> None:
    run = read_run(OUTPUT)
    figures = run.figures
    assert (run.config.recipe, run.config.target, run.config.machine) == ("one", "card", "rtx-3090-ti")
    assert figures.date == "2026-11-20 10:11:12"
    assert figures.torch == "2.13.0"
    assert figures.peak_allocated_bytes == round(9.87 * 2**30)
    assert figures.peak_reserved_bytes == round(11.06 * 2**30)
    # windows of ten steps in 2, 1.6, 16 (an evaluation in between) and 2 seconds: their median
    assert run.config.values["logging_steps"] == 10
    assert figures.seconds_per_step == 0.2
    assert figures.step_tokens == 800
    assert figures.sources == ("debug.log",)


def test_two_devices_share_the_learnt_tokens() -> None:
    found = [
        {"loss": 1.0, "tokens/trainable": learnt, "tokens/total": 2 * learnt, "tokens/train_per_sec_per_gpu": 500.0}
        for learnt in (0, 4000)
    ]
    assert windows(found, devices=2, every=10) == [(0.4, 800.0)]  # 4,000 tokens of two devices took 4 s, 10 steps


def test_a_config_names_the_same_run_as_its_output_folder(project: Path) -> None:
    assert read_run(CONFIG) == read_run(OUTPUT)


def test_figures_come_from_the_newest_checkpoint_when_a_merge_overwrote_the_log(project: Path) -> None:
    history = [
        {"loss": 2.0, "step": 10 * step, "tokens/trainable": learnt, "tokens/total": 2 * learnt, "epoch": step / 5,
         "memory/max_allocated (GiB)": 3.0 + step, "memory/device_reserved (GiB)": 4.0 + step}
        | ({} if rate is None else {"tokens/train_per_sec_per_gpu": rate})
        for step, (learnt, rate, _, _) in enumerate(STEPS, 1)
    ]  # fmt: skip
    for steps in (20, 100):  # in the order of numbers, not of names
        folder = OUTPUT / f"checkpoint-{steps}"
        folder.mkdir()
        state = {"global_step": steps, "log_history": history[: steps // 10]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        os.utime(folder / "trainer_state.json", (1_700_000_000, 1_700_000_000))
    write_merge_log()
    figures = read_run(CONFIG).figures
    assert figures.sources == ("checkpoint-100/trainer_state.json",)
    assert figures.peak_reserved_bytes == 9 * 2**30
    assert (figures.seconds_per_step, figures.step_tokens) == (0.2, 800.0)
    assert figures.date.startswith("2023-11-1")


KINDS = ("pinned", "measure", "gemma-2-2b", "llama-3.2-1b-full", "llama-3.2-1b-zero2", "llama-3.2-1b-zero3")
"""Golden recipes that between them have every kind of setup."""


def test_setups_are_read_back_from_golden_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(update_golden.GOLDEN)
    chosen = [path for path in update_golden.recipes() if path.stem in KINDS]
    built = compile_recipes(chosen, root=update_golden.GOLDEN)
    texts = {artefact.path: artefact.text for artefact in built.artefacts}
    fitting = [one for one in built.plans if one.fits]
    assert {one.case.recipe.name for one in fitting} == set(KINDS)
    for one in fitting:
        config = read_config(texts[f"{one.case.recipe.name}/{one.case.target}/axolotl.yaml"], "it")
        assert (config.model, config.machine) == (one.case.model.id, one.case.machine.id)
        setup = setup_of(config)
        if one.setup.lora_targets == "attention":
            setup = replace(setup, lora_targets="attention")
        assert setup == one.setup


# what is refused


def edit(old: str, new: str) -> None:
    text = CONFIG.read_text()
    assert old in text
    CONFIG.write_text(text.replace(old, new, 1))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no folder": (lambda: shutil.rmtree(OUTPUT), "was not trained yet"),
    "edited value": (lambda: edit("weight_decay: ", "weight_decay: 1"), "was edited"),
    "edited key": (lambda: CONFIG.write_text(CONFIG.read_text() + "torch_compile: true\n"), "was edited"),
    "broken": (lambda: CONFIG.write_text(CONFIG.read_text() + "a: [\n"), "no config of Axolotl"),
    "not ours": (lambda: CONFIG.write_text(f"output_dir: {OUTPUT}\nlora_r: 1\n"), "not made by `recipe build`"),
    "older": (lambda: edit("# values ", "# "), "older version"),
    "overridden": (lambda: write_log(CONFIG, micro_batch_size=3), "used `micro_batch_size: 3`"),
    "empty log": (lambda: (OUTPUT / "debug.log").write_text(""), "holds no measurement"),
    "killed early": (
        lambda: (OUTPUT / "debug.log").write_text((OUTPUT / "debug.log").read_text().partition("{'loss'")[0]),
        "holds no measurement",
    ),
    "half a record": (lambda: (OUTPUT / "recipe-run.json").write_text('{"schema": 1, "ste'), "half written"),
    "half a state": (
        lambda: [write_merge_log(), (OUTPUT / "trainer_state.json").write_text('{"global_step": 1')],
        "half written",
    ),
    "damaged calibration": (lambda: Path(CALIBRATION).write_text("schema: 1\nmeasurements: [{a: 1}]\n"), "is damaged"),
    "newer calibration": (lambda: Path(CALIBRATION).write_text("schema: 7\nmeasurements: []\n"), "has schema 7"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_clear_error_and_nothing_written(project: Path, name: str) -> None:
    break_it, message = REFUSED[name]
    break_it()
    before = Path(CALIBRATION).read_bytes() if Path(CALIBRATION).exists() else None
    result = invoke(str(CONFIG))
    assert result.exit_code == 1
    assert message in result.stderr and "fix: " in result.stderr
    assert (Path(CALIBRATION).read_bytes() if Path(CALIBRATION).exists() else None) == before


def test_a_path_that_is_not_there_and_a_folder_that_is_no_run(project: Path) -> None:
    assert "there is no nowhere" in invoke("nowhere").stderr
    assert "does not say which config was trained" in invoke("recipes").stderr
    assert invoke().exit_code == 2


def test_no_absolute_path_is_kept(project: Path) -> None:
    texts = []
    for path in (OUTPUT, OUTPUT.resolve(), CONFIG.resolve()):
        assert invoke(str(path)).exit_code == 0
        texts.append(Path(CALIBRATION).read_text())
    assert len(set(texts)) == 1 and str(project) not in texts[0] and "outputs/one/card/debug.log" in texts[0]
    shutil.copytree(OUTPUT, project.parent / "rented/outputs/one/card")
    fetched = calibrate.measure(read_run(project.parent / "rented/outputs/one/card"))
    assert fetched.source == "outputs/one/card/debug.log"


def test_rows_of_another_dataset_are_refused(project: Path) -> None:
    values = {"datasets": [{"type": "chat_template"}], "dataset_prepared_path": ".cache/prepared/one/card/0123456789ab"}
    run = read_run(OUTPUT)
    other = Run(run.folder, replace(run.config, values=run.config.values | values), run.figures)
    with pytest.raises(calibrate.WorldProblem, match="are not those of generated/one/dataset"):
        calibrate.measure(other)


# what plans make of it


def test_a_calibrated_plan_says_so_and_the_next_build_is_stable(project: Path) -> None:
    before = plan_recipe(load_recipe(Path("recipes/one.yaml")))[0]
    told = invoke(str(OUTPUT))
    assert told.exit_code == 0, told.stderr
    assert "measured 11.06 GiB" in told.output and "live tensors" in told.output
    after = plan_recipe(load_recipe(Path("recipes/one.yaml")))[0]
    assert not any("leans on" in one for one in before.warnings)
    assert any("leans on a run on this machine, the newest of 2026-11-20" in one for one in after.warnings)
    assert any("one/card" in one and "measured 11.06 GiB" in one for one in after.warnings)
    build()
    assert "leans on a run" in Path("generated/one/card/plan.md").read_text()
    text = Path(CALIBRATION).read_text()
    # the folder still tells which config was trained, although the file was built anew: a model card would hold it
    assert invoke(str(CONFIG)).exit_code == 0
    assert Path(CALIBRATION).read_text() == text


def test_exact_predictions_change_nothing_but_a_remark() -> None:
    plain, leaning = plan(case(GEMMA, DEV)), plan(calibrated(measurement()))
    assert (leaning.case.machine.measured.overhead_factor, leaning.case.machine.measured.step_factor) == (1.0, 1.0)
    assert leaning.memory == plain.memory
    for name in ("setup", "speed", "decisions", "alternatives", "frontier", "margin_bytes", "probability"):
        assert getattr(leaning, name) == getattr(plain, name), name
    assert any("leans on" in one for one in leaning.warnings)


FACTORS = st.floats(0.1, 10.0)
quick = settings(max_examples=25, deadline=None)


@quick
@given(memory=FACTORS, slower=FACTORS)
def test_only_what_lies_beside_live_tensors_is_corrected_and_within_bounds(memory: float, slower: float) -> None:
    found = calibrated(scaled(memory, slower))
    machine, architecture = found.machine, found.model.architecture
    setup = plan(case(GEMMA, DEV)).setup
    plain, leaning = (predict_memory(architecture, setup, one) for one in (replace(machine, measured=None), machine))
    assert {part for part in leaning.parts if part.name != "allocator_slack"} == {
        part for part in plain.parts if part.name != "allocator_slack"
    }
    assert leaning.phases == plain.phases
    slack = {part.name: part.bytes for part in leaning.parts}["allocator_slack"]
    usual = {part.name: part.bytes for part in plain.parts}["allocator_slack"]
    # between the prediction and the measurement, and never beyond the bounds
    low, high = sorted((1.0, min(max(memory, 0.25), 4.0)))
    assert low - 0.01 <= slack / usual <= high + 0.01
    low, high = sorted((1.0, slower))
    assert low * 0.999 <= machine.measured.step_factor <= high * 1.001


def test_the_search_sees_what_the_prediction_sees() -> None:
    found = calibrated(scaled(1.7, 1.3))
    space = settled_search(found)
    points = space.points[::17]
    for point, bound in zip(points, space.bounds(points), strict=True):
        assert space.tokens_per_second(point.setup) <= bound
        assert point.peak_bytes == predict_memory(found.model.architecture, point.setup, found.machine).total_bytes


def test_a_machine_that_needs_more_room_gets_a_setup_that_leaves_it() -> None:
    plain, leaning = plan(case(GEMMA, DEV)), plan(calibrated(scaled(4.0, 1.0)))
    assert leaning.fits
    assert leaning.memory.total_bytes + leaning.margin_bytes <= leaning.case.machine.budget_bytes
    again = predict_memory(leaning.case.model.architecture, plain.setup, leaning.case.machine)
    assert again.total_bytes > plain.memory.total_bytes


def test_more_runs_are_trusted_more() -> None:
    runs = [scaled(2.0, 2.0, run=f"r{number}/t", longest_row_tokens=100 + number) for number in range(5)]
    steps = [lean(case(GEMMA, DEV).machine, runs[:count]).step_factor for count in range(1, 6)]
    assert steps == sorted(steps) and 1.5 < steps[0] < steps[-1] < 2.0


def test_a_machine_of_unknown_rates_is_as_fast_as_it_was_measured() -> None:
    machine = replace(case(GEMMA, DEV).machine, bf16_tflops=None)
    exact = pace(measurement(), machine)[0]
    assert lean(machine, [measurement(seconds_per_step=9 * exact)]).step_factor == pytest.approx(9)


def test_a_run_that_may_have_missed_its_longest_row_never_lowers_memory() -> None:
    machine = case(GEMMA, DEV).machine
    assert lean(machine, [scaled(0.5, 1.0)]).overhead_factor < 0.7
    assert lean(machine, [scaled(0.5, 1.0, longest_row_seen=False)]).overhead_factor == 1.0
    assert lean(machine, [scaled(2.0, 1.0, longest_row_seen=False)]).overhead_factor > 1.5


def test_only_the_same_machine_and_software_count() -> None:
    machine = case(GEMMA, DEV).machine
    assert lean(machine, [scaled(2.0, 2.0, machine="rtx-4090")]) is None
    assert lean(machine, [scaled(2.0, 2.0, axolotl="0.18.0")]) is None
    old = scaled(4.0, 9.0, torch="2.9.1+cu128", date="2026-01-01 00:00:00")
    assert lean(machine, [old, scaled(2.0, 2.0)]) == lean(machine, [scaled(2.0, 2.0)])
    assert lean(machine, [old]).runs == 1


def test_order_changes_nothing_and_the_newest_of_a_setup_wins() -> None:
    small = case(LLAMA_1B, DEV)
    runs = [
        scaled(2.0, 2.0),
        scaled(1.5, 1.2, date="2026-11-21 00:00:00"),
        scaled(1.4, 1.1, date="2026-11-21 00:00:00"),
        replace(measurement(), model=LLAMA_1B, architecture=small.model.architecture),
    ]
    texts = {dump(order) for order in itertools.permutations(runs)}
    assert len(texts) == 1
    factors = {lean(small.machine, order) for order in itertools.permutations(runs)}
    assert len(factors) == 1
    assert len(merge(runs, ())) == 2
    assert merge(runs[:1], runs[1:2]) == merge(runs[1:2], runs[:1]) == (runs[1],)


def test_what_is_written_reads_back() -> None:
    pinned = replace(measurement().setup, lora_targets=("q_proj", "v_proj"))
    runs = merge([measurement(), measurement(setup=pinned, peak_reserved_bytes=None, threads=8)], ())
    text = dump(runs)
    assert parse(text) == runs
    assert dump(parse(text)) == text


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Measurement)])
def test_a_file_edited_by_hand_is_refused_or_means_something(field: str) -> None:
    values = yaml.safe_load(dump([measurement()]))
    values["measurements"][0][field] = {"x": -1}
    with pytest.raises(calibrate.WorldProblem, match="is damaged"):
        parse(yaml.safe_dump(values))


# a real run


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_real_run_is_kept_and_leant_on(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = trained("lora", tmp_path_factory).project
    for name in ("recipes", "generated", "docs"):
        shutil.copytree(project / name, tmp_path / name)
    heavy = shutil.ignore_patterns("*.safetensors", "merged", "export")
    shutil.copytree(project / "outputs/lora/cpu", tmp_path / "outputs/lora/cpu", ignore=heavy)
    monkeypatch.chdir(tmp_path)
    before = plan_recipe(load_recipe(Path("recipes/lora.yaml")))[0]
    told = invoke("outputs/lora/cpu")
    assert told.exit_code == 0, told.stderr
    kept = calibrate.load()[0]
    ran = json.loads((project / "outputs/lora/cpu/recipe-run.json").read_text())
    assert kept.setup == before.setup
    assert kept.peak_resident_bytes == ran["peak_train_bytes"]
    assert kept.seconds_per_step == pytest.approx(ran["seconds_per_step"], rel=1e-5)
    assert (kept.torch, kept.longest_row_seen) == (ran["versions"]["torch"], True)
    after = plan_recipe(load_recipe(Path("recipes/lora.yaml")))[0]
    assert any("leans on a run" in one for one in after.warnings)
    machine = replace(before.case.machine, measured=None)
    predicted, measured, _ = peaks(kept, machine)
    again = peaks(kept, after.case.machine)[0]
    assert abs(again - measured) < abs(predicted - measured)  # four fifths of the way, within the bounds
    wanted, took = pace(kept, machine)
    assert abs(wanted * after.case.machine.measured.step_factor - took) < abs(wanted - took)
