"""Write tests/golden/<recipe>/<target>/ anew: `python tests/update_golden.py`. Review the difference before committing
it."""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).resolve().parent / "golden"


def expected(recipes: list[Path]) -> dict[str, str]:
    """Path relative to tests/golden -> text, of everything that these recipes compile to."""
    from compiler.build import compile_recipes

    built = compile_recipes(recipes, root=GOLDEN)
    for failure in built.failures:
        assert "does not fit" in failure.reason, f"{failure.what}: {failure.reason}"
    return {artefact.path: artefact.text for artefact in built.artefacts}


def recipes() -> list[Path]:
    return sorted(GOLDEN.glob("*.yaml"))


def committed() -> set[str]:
    """Every golden file that exists, as a path relative to tests/golden."""
    return {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("*/*/*") if path.is_file()}


def main() -> None:
    from compiler.build import OUR_FILES
    from compiler.write import write_text

    wanted = expected(recipes())
    for path, text in wanted.items():
        if not (GOLDEN / path).is_file() or (GOLDEN / path).read_text(encoding="utf-8") != text:
            write_text(GOLDEN / path, text)
            print("wrote", path)
    for path in sorted(committed() - wanted.keys()):
        assert Path(path).name in OUR_FILES, f"tests/golden/{path} is not of ours"
        (GOLDEN / path).unlink()
        print("removed", path)


if __name__ == "__main__":
    main()
