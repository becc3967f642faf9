"""What a person sees while a stage runs: one live line on a terminal, few plain lines in a log, and always the end."""

import io

from dataset_builder.progress import PLAIN_SECONDS, Live, Plain, Progress, Quiet, line, report_to


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_shows_what_is_known_and_nothing_else():
    assert line(Progress("read", 3)) == "read 3"
    full = line(Progress("pairs", 1200, 2500, 35.2, 0.5, 1, 2, 8))
    assert full == "pairs 1,200/2,500 | 35 tokens/s | $0.5000 | 8 in flight | 1 retry | 2 problems"


def test_a_log_gets_a_line_now_and_then_and_the_last_figures():
    out, clock = io.StringIO(), Clock()
    plain = Plain(out, clock)
    for done in range(100):
        plain.progress(Progress("pairs", done, 200))
    assert out.getvalue().splitlines() == ["pairs 0/200"]
    clock.now = PLAIN_SECONDS
    plain.progress(Progress("pairs", 100, 200))
    plain.progress(Progress("pairs", 101, 200))
    plain.close()
    assert out.getvalue().splitlines() == ["pairs 0/200", "pairs 100/200", "pairs 101/200"]


def test_a_stage_that_ends_early_shows_where_it_stood_before_the_next_begins():
    out = io.StringIO()
    plain = Plain(out, Clock())
    for stage, done, total in (("pairs", 0, 9), ("pairs", 7, 9), ("variants", 0, 4), ("variants", 4, 4)):
        plain.progress(Progress(stage, done, total))
    plain.close()
    assert out.getvalue().splitlines() == ["pairs 0/9", "pairs 7/9", "variants 0/4", "variants 4/4"]


def test_a_log_keeps_what_is_said_as_it_is():
    out = io.StringIO()
    Plain(out).say("no price is known for [bold]x[/bold]")
    assert out.getvalue() == "no price is known for [bold]x[/bold]\n"


def test_a_terminal_shows_stages_and_what_is_said_word_for_word(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    live = report_to(out)
    assert isinstance(live, Live)
    live.progress(Progress("pairs", 1, 4))
    live.say("no price is known for [bold]x[/bold]")
    live.progress(Progress("pairs", 4, 4))
    live.progress(Progress("variants", 2, 9, problems=1))
    live.close()
    shown = out.getvalue()
    for text in ("pairs 4/4", "variants 2/9 | 1 problem", "[bold]x[/bold]"):
        assert text in shown, text
    assert shown.rstrip("\n").endswith("\x1b[?25h"), "the cursor is given back"


def test_closing_before_anything_was_shown_is_no_fault():
    out = Terminal()
    Live(out).close()
    Plain(out).close()
    assert "pairs" not in out.getvalue()


def test_a_file_is_no_terminal():
    assert isinstance(report_to(io.StringIO()), Plain)


def test_quiet_keeps_what_was_said():
    quiet = Quiet()
    quiet.say("a")
    quiet.progress(Progress("pairs", 1))
    quiet.close()
    assert quiet.said == ["a"] and quiet.last == Progress("pairs", 1)
