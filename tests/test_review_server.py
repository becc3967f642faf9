"""The desk and its server: edits are proven again, nothing is lost, nobody but the page may ask."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT
from reviewed import PAGE, PLACE, built, project

from dataset_builder.problems import BuildProblem
from dataset_builder.review import records, risk
from dataset_builder.review.cards import Filter
from dataset_builder.review.decisions import FILE, Store, load
from dataset_builder.review.desk import Desk, Refused
from dataset_builder.review.server import TOKEN_HEADER, Server
from dataset_builder.review.settle import decided


@pytest.fixture
def desk(folder) -> Desk:
    return Desk(folder)


def first(desk: Desk, **wanted: str) -> dict:
    return desk.card(desk.queue(Filter(**wanted))["items"][0]["key"])


def option_pair(desk: Desk) -> dict:
    return first(desk, text="sets the size cache entries")


def test_the_riskiest_pairs_come_first_with_their_reasons(desk):
    found = desk.queue(Filter(status="open"))
    assert found["total"] == 12 and len(found["items"]) == 12
    risks = [item["risk"] for item in found["items"]]
    assert risks == sorted(risks, reverse=True) and risks[0] > risks[-1]
    card = first(desk)
    assert card["risk"] == sum(points for _, points, _ in card["reasons"]) > 0
    assert all(text for _, _, text in card["reasons"])
    by_place = [item["key"] for item in desk.queue(Filter(), "place")["items"]]
    assert sorted(by_place) == sorted(item["key"] for item in found["items"]) != by_place


def test_the_pair_stands_beside_its_passage_with_the_quote_marked(desk):
    card = option_pair(desk)
    before, quote, after = card["passage"]
    assert quote == card["quote"] and "## " in before + after + "## "
    assert {table for table, *_ in card["rows"]} >= {"training"} and len(card["rows"]) >= 3


@pytest.mark.parametrize("filters", [
    {"kind": "definition"}, {"text": "blob CACHE"}, {"reason": "figures"}, {"view": "true-false"},
    {"part": "transfer"}, {"source": "docs/quay.md"}, {"source": "docs/none.md"}, {"status": "rejected"},
])  # fmt: skip
def test_filters_restrict_the_queue(desk, filters):
    told = desk.queue(Filter(**filters))
    every = [desk.card(item["key"]) for item in desk.queue(Filter())["items"]]
    name, value = next(iter(filters.items()))
    holds = {
        "kind": lambda card: card["kind"] == value,
        "text": lambda card: all(word in json.dumps(card).casefold() for word in value.casefold().split()),
        "reason": lambda card: value in [reason for reason, _, _ in card["reasons"]],
        "view": lambda card: value in [view for _, view, _, _ in card["rows"]],
        "part": lambda card: card["part"] == value,
        "source": lambda card: card["source"] == value,
        "status": lambda card: card["status"] == value,
    }[name]
    assert {item["key"] for item in told["items"]} == {card["key"] for card in every if holds(card)}
    options = dict(desk.summary()["options"].get(name, ()))
    assert options.get(value, told["total"]) == told["total"]


def test_the_queue_is_handed_out_in_parts(desk):
    keys, after = [], ""
    while part := desk.queue(Filter(), after=after, limit=5)["items"]:
        keys += [item["key"] for item in part]
        after = keys[-1]
        desk.decide(after, "accept", "")  # what was decided meanwhile shifts nothing
    assert len(keys) == len(set(keys)) == 12


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"answer": "The option sets the size of the cache to 4711 entries by default."}, "not in the source: 4711"),
        ({"answer": "The option `--no-such-flag` sets the size of the cache."}, "not in the source: --no-such-flag"),
        ({"quote": "This sentence stands nowhere in the whole page."}, "quote is not in the source"),
        ({"quote": " "}, "no quote"),
        ({"answer": "Like this:\n```json\n{\"size\": \n```"}, "json block does not parse"),
        ({"answer": "Bananas are yellow and grow on tall green plants."}, "answer is not about its quote"),
        ({"question": "What does this option do?"}, "points at a text"),
        ({"question": "Say something"}, "not one question"),
        ({"answer": "The size of the cache\x07 is set."}, "holds a character that no table may hold: U+0007"),
        ({"answer": "The size of the cache\ud800 is set."}, "U+D800"),
    ],
)  # fmt: skip
def test_an_edit_that_proves_nothing_is_refused_and_says_why(desk, folder, changed, why):
    card = option_pair(desk)
    parts = {name: card[name] for name in ("question", "answer", "quote")} | changed
    assert why in desk.check(card["key"], **parts)
    with pytest.raises(Refused, match="Not kept") as caught:
        desk.decide(card["key"], "edit", card["seen"], parts)
    assert why in str(caught.value) and not (folder / FILE).exists()


def test_an_edit_that_asks_what_another_pair_asks_or_changes_nothing_is_refused(desk):
    one, other = (desk.card(item["key"]) for item in desk.queue(Filter(text="sets the size"))["items"][:2])
    parts = {name: one[name] for name in ("question", "answer", "quote")}
    with pytest.raises(Refused, match="nothing was changed"):
        desk.decide(one["key"], "edit", "", parts)
    assert desk.check(one["key"], other["question"].upper(), one["answer"], one["quote"]) is not None
    desk.decide(other["key"], "reject", "")
    assert desk.check(one["key"], one["question"], one["answer"], one["quote"]) is None


def test_decisions_are_on_disk_and_outlive_the_desk(desk, folder):
    card = option_pair(desk)
    answer = card["answer"].replace("sets", "decides on")
    told = desk.decide(card["key"], "edit", card["seen"], {**card, "answer": answer}, "clearer")
    assert (told["status"], told["answer"], told["original"]["answer"]) == ("edited", answer, card["answer"])
    (one,) = load(folder / FILE).values()
    assert (one.verdict, one.answer, one.edited.answer, one.note) == ("edit", card["answer"], answer, "clearer")
    again = Desk(folder)
    assert again.card(card["key"]) == told and again.summary()["status"]["edited"] == 1
    assert again.summary()["stale"]
    assert again.decide(card["key"], "accept", told["seen"]) == told, "what is accepted is what one sees"
    again.decide(card["key"], "none", told["seen"])
    assert again.card(card["key"]) == card and load(folder / FILE) == {} and not again.summary()["stale"]


def test_undo_takes_back_the_last_decisions_one_by_one(desk):
    keys = [item["key"] for item in desk.queue(Filter())["items"][:3]]
    seen = desk.decide(keys[0], "accept", "")["seen"]
    desk.decide(keys[1], "reject", "")
    desk.decide(keys[0], "reject", seen)
    assert [desk.undo()["status"], desk.undo()["status"], desk.undo()["status"]] == ["accepted", "open", "open"]
    with pytest.raises(Refused, match="Nothing to undo"):
        desk.undo()


def test_a_second_page_that_looked_at_another_state_decides_nothing(desk, folder):
    key = first(desk)["key"]
    Desk(folder).decide(key, "accept", "")
    with pytest.raises(Refused, match="decided elsewhere"):
        desk.decide(key, "reject", "")
    assert desk.card(key)["status"] == "accepted"


def test_what_git_brought_meanwhile_is_kept(desk, folder):
    found = records.read(folder)
    desk.decide(found[0].key, "accept", "")
    theirs = Store(folder / FILE)  # another branch's file takes the place of ours
    (folder / FILE).unlink()
    theirs.change(found[1].key, decided(found[1].found, "reject"))
    desk.decide(found[2].key, "accept", "")
    assert set(load(folder / FILE)) == {found[1].key, found[2].key}


WRITER = """
import sys
from pathlib import Path
from dataset_builder.review import records
from dataset_builder.review.decisions import FILE, Store
from dataset_builder.review.settle import decided
folder, part = Path(sys.argv[1]), int(sys.argv[2])
store = Store(folder / FILE)
for one in records.read(folder)[part::2]:
    store.change(one.key, decided(one.found, "accept"))
"""


def test_two_reviews_at_once_lose_nothing(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen([sys.executable, "-c", WRITER, folder, part], env=environment) for part in ("0", "1")]
    assert [one.wait(60) for one in started] == [0, 0]
    assert len(load(folder / FILE)) == 12


def test_a_build_meanwhile_is_noticed_and_one_under_way_is_waited_for(desk, folder):
    before = desk.summary()
    kept = (folder / "dataset.lock.json").read_bytes()
    (folder / "dataset.lock.json").unlink()
    (folder / records.PAIRS).write_text("half a fi")
    assert desk.summary() == before
    (folder / records.PAIRS).write_text("")
    (folder / "dataset.lock.json").write_bytes(kept)
    told = desk.summary()
    assert told["build"] != before["build"] and told["status"]["open"] == 0


def test_a_decision_that_retired_is_listed_with_its_reason_and_can_only_be_taken_back(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch)
    built(16)
    desk = Desk(PLACE.folder)
    card = first(desk, text="a blob is a small table")
    desk.decide(card["key"], "accept", "")
    Path("docs/quay.md").write_text(PAGE.replace("A blob is a small table", "A blob is one large table"))
    built(16)
    told = first(desk, status="retired")
    assert told["why"] == "their quote is no longer in the documents" and told["question"] == card["question"]
    assert desk.summary()["status"]["retired"] == 1
    with pytest.raises(Refused, match="only be taken back"):
        desk.decide(card["key"], "reject", told["seen"])
    desk.decide(card["key"], "none", told["seen"])
    assert desk.summary()["status"]["retired"] == 0 and desk.queue(Filter(status="retired"))["total"] == 0


def test_a_build_that_begins_while_its_files_are_read_is_waited_for(desk, folder, monkeypatch):
    before = desk.summary()
    (folder / records.PAIRS).write_text("torn")
    with pytest.raises(BuildProblem, match=r"cannot be read.*(?s:.)*recipe data"):
        desk.summary()
    torn = records.read

    def meanwhile(path):
        (folder / "dataset.lock.json").unlink()
        return torn(path)

    monkeypatch.setattr(records, "read", meanwhile)
    assert desk.summary() == before


def test_the_page_about_it_lists_every_reason():
    text = (ROOT / "docs/review.md").read_text()
    rows = {name.strip(): points for name, points in re.findall(r"(?m)^\| ([a-z :]+) \| (\d+) \|", text)}
    assert rows == {name: str(points) for name, points, _ in risk.REASONS}


def test_a_folder_without_a_whole_dataset_is_refused(folder):
    (folder / "dataset.lock.json").unlink()
    with pytest.raises(BuildProblem, match="no whole dataset"):
        Desk(folder)


@pytest.fixture
def server(folder):
    with Server(Desk(folder)) as one:
        threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True).start()
        yield one
        one.shutdown()


def asked(server: Server, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict, bytes]:
    """What the server says to a request that is in order but for `headers` ("" leaves one out)."""
    sent = {"Host": f"127.0.0.1:{server.server_port}", TOKEN_HEADER: server.token}
    if method == "POST":
        sent |= {"Origin": f"http://127.0.0.1:{server.server_port}", "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    link.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in sent.items():
        if value:
            link.putheader(name, value)
    if data is not None and "Content-Length" not in sent:
        link.putheader("Content-Length", str(len(data)))
    link.endheaders(data)
    reply = link.getresponse()
    found = reply.status, {name.casefold(): value for name, value in reply.getheaders()}, reply.read()
    link.close()
    return found


def test_it_listens_on_loopback_alone(server):
    assert server.server_address[0] == "127.0.0.1" and server.link.endswith("/#" + server.token)


@pytest.mark.parametrize("path", ["/", "/review.js", "/show.js", "/review.css", "/icon.svg"])
def test_the_page_names_nothing_foreign_and_carries_its_policy(server, path):
    status, headers, data = asked(server, "GET", path, **{TOKEN_HEADER: ""})
    assert status == 200 and server.token.encode() not in data
    assert b"//" not in data.replace(b"http://www.w3.org/2000/svg", b"").replace(b"// ", b"")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({TOKEN_HEADER: ""}, 401),
        ({TOKEN_HEADER: "guess"}, 401),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": ""}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_who_is_not_the_page_reads_nothing(server, headers, status):
    for path in ("/api/summary", "/api/queue", "/api/card?key=x"):
        assert asked(server, "GET", path, **headers)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({TOKEN_HEADER: ""}, 401),
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "rebound.example"}, 421),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Length": "9999999"}, 413),
        ({"Content_Length": "-1"}, 411),
    ],
)
def test_who_is_not_the_page_changes_nothing(server, folder, headers, status):
    key = records.read(folder)[0].key
    told = asked(server, "POST", "/api/decide", {"key": key, "verdict": "accept", "seen": ""}, **headers)
    assert told[0] == status and not (folder / FILE).exists()
    assert "problem" in json.loads(told[2])


def test_nothing_is_written_on_get(server, folder):
    key = records.read(folder)[0].key
    for path in (f"/api/decide?key={key}&verdict=accept", "/api/undo", "/../dataset.lock.json", "/dataset.lock.json"):
        assert asked(server, "GET", path)[0] == 404
    assert asked(server, "PUT", "/api/decide")[0] == 501
    assert not (folder / FILE).exists()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"key": 1, "verdict": {}}'])
def test_bodies_that_make_no_sense_are_told_so(server, folder, body):
    status, _, data = asked(server, "POST", "/api/decide", body)
    assert status in (400, 422) and json.loads(data)["problem"] and not (folder / FILE).exists()


def test_a_decision_by_the_page_is_kept(server, folder):
    key = records.read(folder)[0].key
    status, _, data = asked(server, "POST", "/api/decide", {"key": key, "verdict": "accept", "seen": ""})
    assert status == 200 and json.loads(data)["status"] == "accepted" and set(load(folder / FILE)) == {key}


def test_a_file_that_cannot_be_written_is_said_and_not_taken_for_done(server, folder):
    key = records.read(folder)[0].key
    (folder / FILE).mkdir()
    status, _, data = asked(server, "POST", "/api/decide", {"key": key, "verdict": "accept", "seen": ""})
    assert status == 503 and "review.jsonl" in json.loads(data)["problem"]


RECIPE = """\
name: quay
base_model: embedded/smollm2-135m-instruct
targets:
  cpu: {gpu: cpu, ram_budget: 8 GiB}
dataset:
  sources: [{kind: files, path: docs}]
  generator: {model: openai/x}
"""


def command(folder: Path, *arguments: str, **more) -> subprocess.Popen:
    (folder / "recipe.yaml").write_text(RECIPE)
    # tests that a shell runs in the background ignore Ctrl-C, and so would what they start
    code = ("import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from compiler.cli import main\nsys.argv[0] = 'recipe'\nmain()")  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", code, "review", "recipe.yaml", *arguments], cwd=folder, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **more)  # fmt: skip


def test_the_command_prints_its_link_serves_and_ends_cleanly(whole, tmp_path):
    shutil.copytree(whole, tmp_path / PLACE.folder)
    with command(tmp_path) as running:
        line = running.stdout.readline()
        assert "http://127.0.0.1:" in line
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        link.request("GET", "/")
        assert link.getresponse().status == 200
        link.close()
        with command(tmp_path, "--port", str(port)) as second:
            assert second.wait(60) == 1 and "another --port" in second.stderr.read()
        running.send_signal(signal.SIGINT)
        out, wrong = running.communicate(timeout=60)
        assert running.returncode == 0 and wrong == "" and "0 of 12 pairs read" in out


def test_the_command_without_a_dataset_says_how_to_get_one(tmp_path):
    with command(tmp_path) as running:
        assert running.wait(60) == 1
        assert "fix: recipe data recipe.yaml" in running.stderr.read() and running.stdout.read() == ""
