"""The page of `recipe review` in a real browser: keys, edits, hostile texts, looks that can be read."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import browser
from conftest import ROOT
from reviewed import PLACE, built, project
from tests_scripted import weak

from dataset_builder.review import records
from dataset_builder.review.decisions import FILE, load
from dataset_builder.review.desk import Desk
from dataset_builder.review.server import Server


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture
def serve():
    """Starts servers, and ends them."""
    running = []

    def start(folder: Path) -> Server:
        one = Server(Desk(folder))
        threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True).start()
        running.append(one)
        return one

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


@pytest.fixture
def page(chromium, folder, serve):
    """The page on a fresh copy of the dataset. Whatever the browser complains about fails the test, as does any request
    to another address."""
    server = serve(folder)
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    one = context.new_page()
    faults: list[str] = []
    one.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    one.on("pageerror", lambda error: faults.append(str(error)))
    one.on("request", lambda request: faults.append(request.url) if not request.url.startswith(
        f"http://127.0.0.1:{server.server_port}/") else None)  # fmt: skip
    one.server, one.expected = server, []
    one.goto(server.link)
    one.wait_for_selector("#pair:not([hidden])")
    yield one
    context.close()
    assert [fault for fault in faults if not any(part in fault for part in one.expected)] == []


def question(page) -> str:
    return page.inner_text("#question")


def until(page, holds: Callable[[], bool]) -> None:
    """Waits for what a key or a click brings about. Playwright's own way evaluates texts, which the page forbids."""
    for _ in range(200):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come about within 10 s")


def seen(page) -> str:
    return page.text_content("#live") + page.title() + page.text_content("#question")


def press(page, key: str) -> None:
    """A key, and what it brings about: another pair, or another state."""
    before = seen(page)
    page.keyboard.press(key)
    until(page, lambda: seen(page) != before)
    page.wait_for_load_state("networkidle")


def test_the_link_s_token_leaves_the_address_and_a_reload_stays_where_one_was(page):
    assert page.url == f"http://127.0.0.1:{page.server.server_port}/"
    press(page, "j")
    here = question(page)
    page.reload()
    until(page, lambda: question(page) == here)


def test_keys_decide_and_lead_on(page, folder):
    first = question(page)
    press(page, "a")
    second = question(page)
    assert second != first and "1 of 12 read" in page.inner_text("#counts")
    press(page, "r")
    press(page, "j")
    press(page, "k")
    assert {one.question: one.verdict for one in load(folder / FILE).values()} == {first: "accept", second: "reject"}
    press(page, "u")
    assert question(page) == second and page.inner_text("#state") == "open"
    assert {one.verdict for one in load(folder / FILE).values()} == {"accept"}
    page.keyboard.press("R")
    page.fill("#why input", "nobody asks that")
    page.keyboard.press("Enter")
    until(page, lambda: question(page) != second)
    assert {one.note for one in load(folder / FILE).values()} == {"", "nobody asks that"}
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("a")  # keys rest while a dialog is open
    page.keyboard.press("Escape")
    assert not page.is_visible("#help") and len(load(folder / FILE)) == 2


def test_keys_rest_while_one_types_and_can_be_turned_off(page, folder):
    page.keyboard.press("/")
    page.keyboard.type("are")
    assert page.input_value("#text") == "are"
    page.keyboard.press("Escape")
    page.keyboard.press("Control+a")
    page.click("#help-open")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.wait_for_load_state("networkidle")
    assert not (folder / FILE).exists()


def test_an_edit_is_proven_again_and_a_refused_one_says_why_and_stays(page, folder):
    page.expected += ["422"]
    page.keyboard.press("e")
    page.wait_for_selector("#editor:not([hidden])")
    until(page, lambda: page.inner_text("#verdict") == "Passes the checks.")
    page.fill("#editor textarea[name=answer]", "The size of the cache is 4711 entries by default.")
    until(page, lambda: "refused: not in the source: 4711" in page.inner_text("#verdict"))
    page.keyboard.press("Control+Enter")
    until(page, lambda: "Not kept: not in the source: 4711" in page.inner_text("#notice"))
    assert page.is_visible("#editor") and not (folder / FILE).exists()
    old = next(one for one in records.read(folder) if "--blob-size" in one.found.pair.question)
    new = old.found.pair.answer.replace("sets", "decides on")
    page.fill("#editor textarea[name=answer]", new)
    page.keyboard.press("Escape")  # left by mistake: what was typed waits
    page.keyboard.press("e")
    assert page.input_value("#editor textarea[name=answer]") == new
    before = question(page)
    page.keyboard.press("Control+Enter")
    until(page, lambda: question(page) != before)
    (one,) = load(folder / FILE).values()
    assert (one.verdict, one.edited.answer, one.answer) == ("edit", new, old.found.pair.answer)
    page.select_option("#status", "edited")
    until(page, lambda: question(page) == before)
    assert page.inner_text("#answer") == new.replace("`", "") and page.is_visible("#original")


def test_selected_text_of_the_source_becomes_the_quote(page):
    page.keyboard.press("e")
    page.wait_for_selector("#editor:not([hidden])")
    page.evaluate("""() => { const range = document.createRange();
        range.selectNodeContents(document.querySelector('#passage mark')); getSelection().removeAllRanges();
        getSelection().addRange(range); }""")
    page.fill("#editor textarea[name=quote]", "x")
    page.evaluate("""() => { const range = document.createRange();
        range.selectNodeContents(document.querySelector('#passage mark')); getSelection().removeAllRanges();
        getSelection().addRange(range); }""")
    page.click("#take")
    assert page.input_value("#editor textarea[name=quote]") in page.inner_text("#passage")


def test_filters_search_and_the_list(page):
    assert page.locator("#queue li").count() == 12
    page.fill("#text", "blob")
    until(page, lambda: page.locator("#queue li").count() < 3)
    assert all("blob" in text.casefold() for text in page.locator("#queue .words").all_inner_texts())
    page.fill("#text", "no such words")
    until(page, lambda: page.inner_text("#end") == "No pair matches.")
    page.click("#more > summary")
    page.click("button[type=reset]")
    until(page, lambda: page.locator("#queue li").count() == 12)
    page.click("#queue li:nth-child(5) button")
    until(page, lambda: page.inner_text("#position") == "5 of 12")


def test_decisions_survive_a_restart_and_an_old_page_says_that_it_is_old(page, folder, serve):
    press(page, "a")
    page.expected += ["ERR_INTERNET_DISCONNECTED", "401", "127.0.0.1"]
    page.context.set_offline(True)
    page.keyboard.press("a")
    until(page, lambda: "Nothing is kept until" in page.inner_text("#alert"))
    page.context.set_offline(False)
    assert len(load(folder / FILE)) == 1 and "1 of 12 read" in page.inner_text("#counts")
    again = serve(folder)
    page.goto(again.link.split("#")[0])
    until(page, lambda: "Open the link that `recipe review` printed" in page.inner_text("#alert"))
    page.goto(again.link)
    page.reload()
    page.wait_for_selector("#pair:not([hidden])")
    assert "1 of 12 read" in page.inner_text("#counts")


def test_a_build_follows_the_page_and_the_page_the_build(chromium, tmp_path, monkeypatch, serve):
    project(tmp_path, monkeypatch, weak)
    built()
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(serve(PLACE.folder).link)
    page.wait_for_selector("#pair:not([hidden])")
    gone = question(page)
    press(page, "r")
    assert "not built in yet" in page.inner_text("#counts")
    built()
    assert gone not in (PLACE.folder / "train.csv").read_text()
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    until(page, lambda: "built anew" in page.inner_text("#notice"))
    assert "1 of 13 read" in page.inner_text("#counts") and "not built" not in page.inner_text("#counts")
    page.select_option("#status", "rejected")
    until(page, lambda: question(page) == gone)
    press(page, "c")
    assert page.inner_text("#state") == "open" and "0 of 13 read" in page.inner_text("#counts")
    context.close()


EVIL = (
    "<script>window.pwned=1</script></script><img src=x onerror='window.pwned=1'>\"'><svg onload=window.pwned=1> "
    "javascript:window.pwned=1 {{7*7}} \u202edesrever\u202c \u05e9\u05dc\u05d5\u05dd \U0001f600 a\u2028b \x1b[31m"
)


def test_hostile_texts_run_nothing_and_stand_there_as_text(page, folder, serve):
    """Every text of every file of the build is hostile, and one row is huge."""
    lines = [json.loads(line) for line in (folder / records.PAIRS).read_text().split("\n") if line]
    passages = [json.loads(line) for line in (folder / records.PASSAGES).read_text().split("\n") if line]
    for passage in passages:
        passage |= {"text": EVIL + "\n\n```" + EVIL + "\n" + EVIL + "\n```\n| " + EVIL + " |\n" + passage["text"],
                    "title": EVIL, "headings": [EVIL], "document": "javascript:window.pwned=1//" + EVIL,
                    "licence": EVIL, "anchor": "'\" onclick=window.pwned=1"}  # fmt: skip
    for place, line in enumerate(lines):
        answer = EVIL + "\n```html\n" + EVIL + "\n```" + "x" * 200_000 * (not place)
        line |= {"question": f"{place} {EVIL}", "answer": answer,
                 "quote": EVIL, "kind": EVIL, "judge": "bad: " + EVIL, "wordings": [EVIL], "worded_by": "template",
                 "key": f"{place:02}\"<b>", "original": [EVIL, EVIL, EVIL] if place == 1 else None}  # fmt: skip
    for name, values in ((records.PAIRS, lines), (records.PASSAGES, passages)):
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in values))
    server = serve(folder)
    page.goto("about:blank")
    page.goto(server.link)
    page.wait_for_selector("#pair:not([hidden])")
    for _ in range(3):
        press(page, "j")
    page.click("#rows > summary")
    page.keyboard.press("e")
    page.wait_for_selector("#editor:not([hidden])")
    page.keyboard.press("Escape")
    assert page.evaluate("window.pwned") is None
    assert "<script>window.pwned=1</script>" in question(page) and "U+202E" in question(page)
    assert page.locator("img, svg, body script, #source a").count() == 0
    assert wrong(page, "sideways") == []
    press(page, "a")
    assert EVIL in json.loads((folder / FILE).read_text(encoding="utf-8").split("\n")[0])["question"]
    page.expected += [server.link.split("#")[0]]


CHECKS = (ROOT / "tests/data/page_checks.js").read_text()


def wrong(page, check: str) -> list:
    return page.evaluate(f"({CHECKS.split(chr(10), 1)[1].strip()}).{check}()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1000, 360])
def test_it_can_be_read_in_both_schemes_at_all_widths(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    press(page, "a")
    press(page, "r")
    page.evaluate("document.getElementById('list').open = true")
    for key in ("k", "k"):
        press(page, key)
    assert wrong(page, "contrast") == []
    assert wrong(page, "sideways") == []
    page.keyboard.press("e")
    until(page, lambda: page.inner_text("#verdict") != "")
    assert wrong(page, "contrast") == []


def test_all_controls_have_names_and_the_keyboard_reaches_them(page):
    page.click("#more > summary")
    assert wrong(page, "nameless") == []
    assert page.evaluate("document.activeElement.closest('nav, main') !== null")
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className || "
                                  "document.activeElement.name || document.activeElement.tagName"))  # fmt: skip
    wanted = {"skip", "help-open", "text", "status", "order", "entry", "accept", "edit", "reject", "next", "passage"}
    assert reached >= wanted
    assert page.evaluate("[...document.querySelectorAll('[role=status], [role=alert], [aria-live]')].length") >= 4


def test_after_a_decision_the_focus_is_on_the_next_question_and_it_is_said(page):
    press(page, "a")
    assert page.evaluate("document.activeElement.id") == "question"
    assert page.inner_text("#live") == "accepted."
