// The page of `recipe review`: a queue, one pair at a time beside its source, and keys.
import { make, plain, showText } from "./show.js";

const $ = (id) => document.getElementById(id);
const SIGN = {open: "", accepted: "✓", edited: "✎", rejected: "✕", refused: "–", retired: "–"};
const OPEN = ["open", "refused"];  // what waits for a decision
const FILTERS = ["text", "status", "order", "reason", "source", "kind", "view", "part"];
const PARTS = {train: "trained", transfer: "held out", rejected: "rejected before", refused: "refused by the judge",
               retired: "retired decisions"};
const state = {items: [], total: 0, card: null, busy: false, build: null, loading: 0, keys: true,
               drafts: new Map(), left: new Map()};  // texts being typed, and those that Esc left

// ---- the server -------------------------------------------------------------------------------------------------

if (location.hash.length > 1) {  // the link's token: kept for this tab alone, and gone from the address bar
  sessionStorage.setItem("token", location.hash.slice(1));
  history.replaceState(null, "", "/");
}

async function ask(path, body) {
  const headers = {"X-Review-Token": sessionStorage.getItem("token") || ""};
  if (body) headers["Content-Type"] = "application/json";
  let reply;
  try {
    reply = await fetch("/api/" + path, {method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body),
                                         cache: "no-store", credentials: "omit"});
  } catch {
    alertOf("The review does not answer: it has ended, or was started anew. Nothing is kept until `recipe review` runs again and its link is open.");
    throw new Silent();
  }
  const value = await reply.json();
  if (reply.status === 401 || reply.status === 503) {
    alertOf(value.problem);
    throw new Silent();
  }
  if (!reply.ok) throw new Refused(value.problem);
  alertOf("");
  return value;
}

class Silent extends Error {}
class Refused extends Error {}

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Refused) notice(error.message, true);
    else if (!(error instanceof Silent)) { alertOf("The page has a fault: " + error.message); throw error; }
    return null;
  }
}

// ---- queue ------------------------------------------------------------------------------------------------------

function wanted() {
  const query = new URLSearchParams();
  for (const name of FILTERS) {
    const value = $("filters").elements[name].value;
    if (value) query.set(name, value);
  }
  return query;
}

async function load(fresh) {
  const turn = fresh ? ++state.loading : state.loading;
  const query = wanted();
  if (!fresh && state.items.length) query.set("after", state.items[state.items.length - 1].key);
  const found = await ask("queue?" + query);
  if (turn !== state.loading) return 0;  // another filter was chosen meanwhile
  state.total = fresh ? found.total : state.total;
  state.items = fresh ? found.items : [...state.items, ...found.items];
  if (fresh) $("queue").replaceChildren();
  $("queue").append(...found.items.map(line));
  found.items.length === 0 && !fresh && (state.total = state.items.length);
  $("found").textContent = state.total === 1 ? "1 pair" : state.total.toLocaleString("en") + " pairs";
  $("end").textContent = state.total ? "" : "No pair matches.";
  const set = ["reason", "source", "kind", "view", "part"].filter((name) => query.get(name)).length;
  $("filtered").textContent = set ? `(${set} set)` : "";
  sessionStorage.setItem("filters", query);
  mark();
  return found.items.length;
}

function line(item) {
  const entry = make("li"), button = make("button", "entry");
  button.type = "button";
  button.dataset.key = item.key;
  button.append(make("span", "sign " + item.status, SIGN[item.status]), make("span", "words", item.question),
                make("span", "points", String(item.risk)));
  button.querySelector(".words").dir = "auto";
  button.querySelector(".points").title = item.reasons.join(", ");
  label(button, item);
  button.addEventListener("click", () => attempt(() => open(item.key)));
  entry.append(button);
  return entry;
}

function label(button, item) {
  button.setAttribute("aria-label", `${item.question} (${item.status}, risk ${item.risk})`);
}

function mark() {
  for (const button of $("queue").querySelectorAll("[aria-current]")) button.removeAttribute("aria-current");
  const button = state.card && entryOf(state.card.key);
  if (button) {
    button.setAttribute("aria-current", "true");
    const list = $("queue"), top = button.offsetTop - list.offsetTop;  // scrolls the list and nothing else
    if (top < list.scrollTop || top + button.offsetHeight > list.scrollTop + list.clientHeight)
      list.scrollTop = top - list.clientHeight / 3;
  }
}

const entryOf = (key) => $("queue").querySelector(`[data-key="${CSS.escape(key)}"]`);
const place = () => state.items.findIndex((item) => state.card && item.key === state.card.key);

async function step(by) {
  let next = place() + by;
  if (next >= state.items.length) await load(false);
  if (next < 0 || next >= state.items.length) return say(next < 0 ? "This is the first one." : "This is the last one.");
  await open(state.items[next].key);
}

// The next open pair of the list; from its start again where none follows.
async function advance(from) {
  for (let index = from + 1; ; index++) {
    if (index >= state.items.length && !(await load(false))) break;
    if (index < state.items.length && OPEN.includes(state.items[index].status)) return open(state.items[index].key);
  }
  const first = state.items.find((item) => OPEN.includes(item.status));
  if (first) return open(first.key);
  say("Nothing is left to decide in this list.");
  notice("Nothing is left to decide in this list.");
}

// ---- one pair ---------------------------------------------------------------------------------------------------

async function open(key, focus = true) {
  keepDraft();
  show(await ask("card?" + new URLSearchParams({key})));
  notice("");
  if (focus) $("question").focus({preventScroll: true});
  window.scrollTo(0, 0);
}

function show(card) {
  state.card = card;
  sessionStorage.setItem("key", card.key);
  $("pair").hidden = $("source").hidden = false;
  $("nothing").hidden = true;
  $("state").textContent = card.status === "refused" ? "refused by the judge" : card.status;
  $("state").className = "badge " + card.status;
  const at = place();
  $("position").textContent = at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${state.total.toLocaleString("en")}`;
  $("risk").textContent = "risk " + card.risk;
  const by = {person: "a person", template: "a template", model: "the model"}[card.worded_by];
  $("kind").textContent = [card.kind, PARTS[card.part], "worded by " + by].join(" · ");
  $("reasons").replaceChildren(...card.reasons.map(([name, points, text]) => {
    const item = make("li");
    const told = make("span");
    told.append(make("span", "name", name), " ", make("span", "why", text));
    item.append(make("span", "points", "+" + points), told);
    return item;
  }));
  if (card.why) $("reasons").append(make("li", "", "The decision no longer holds: " + card.why + "."));
  $("question").replaceChildren();
  plain($("question"), card.question);
  showText($("answer"), card.answer);
  $("note").hidden = !card.note;
  $("note").replaceChildren(make("b", "", "Note: "), make("span", "", card.note));
  $("original").hidden = !card.original;
  if (card.original) {
    $("original").querySelector("h3").replaceChildren(make("span", "", card.original.question));
    showText($("original").querySelector("div"), card.original.answer);
  }
  showSource(card);
  showRows(card);
  $("ids").textContent = `pair ${card.id} · licence ${card.licence || "not stated"}`;
  for (const [id, of] of [["accept", "accepted"], ["reject", "rejected"]])
    $(id).setAttribute("aria-pressed", String(card.status === of));
  for (const id of ["accept", "edit", "reject", "reject-why"]) $(id).disabled = card.part === "retired";
  $("clear").disabled = OPEN.includes(card.status);
  state.drafts.has(card.key) ? edit() : closeEditor();
  update(card);
  mark();
}

function showSource(card) {
  const [before, quote, after] = card.passage;
  $("headings").replaceChildren(make("span", "", card.headings.filter((part, i, all) => part !== all[i - 1]).join(" › ") || card.section));
  $("origin").replaceChildren();
  if (card.link) {
    const link = make("a", "", card.source);
    link.href = card.link;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    $("origin").append(link);
  } else plain($("origin"), card.source);
  showText($("passage"), before + quote + after, before.length, before.length + quote.length);
  if (card.part === "retired") showText($("passage"), "Its passage is gone. The quote was:\n\n" + card.quote);
  const first = $("passage").querySelector("mark");
  $("passage").scrollTop = first ? Math.max(0, first.offsetTop - $("passage").clientHeight / 3) : 0;
}

function showRows(card) {
  $("rows").hidden = card.rows.length === 0;
  $("rows").querySelector("summary").textContent = `${card.rows.length} rows were made from it`;
  const list = $("rows").querySelector("dl");
  list.replaceChildren();
  for (const [table, view, question, answer] of card.rows) {
    const name = make("dt"), told = make("dd");
    name.append(make("span", "name", view), table === "training" ? "" : ` (${table})`);
    const asked = make("p", "", question), said = make("div", "text");
    showText(said, answer);
    asked.dir = said.dir = "auto";
    told.append(asked, said);
    list.append(name, told);
  }
}

// The pair's line of the queue, as it is now.
function update(card) {
  const item = state.items.find((one) => one.key === card.key), button = entryOf(card.key);
  if (!item || !button) return;
  Object.assign(item, {status: card.status, question: card.question});
  button.querySelector(".sign").className = "sign " + card.status;
  button.querySelector(".sign").textContent = SIGN[card.status];
  button.querySelector(".words").replaceChildren();
  plain(button.querySelector(".words"), card.question);
  label(button, item);
}

// ---- deciding ---------------------------------------------------------------------------------------------------

async function decide(verdict, more = {}) {
  if (state.busy || !state.card) return;
  state.busy = true;
  try {
    const at = place();
    const card = await ask("decide", {key: state.card.key, verdict, seen: state.card.seen, ...more});
    state.drafts.delete(card.key);
    state.left.delete(card.key);
    show(card);
    await summary();
    say(verdict === "none" ? "Taken back." : `${card.status}.`);
    if (verdict !== "none") await advance(at);
  } finally {
    state.busy = false;
  }
}

async function undo() {
  if (state.busy) return;
  state.busy = true;
  try {
    const card = await ask("undo", {});
    show(card);
    await summary();
    say("Undone: " + card.question);
    notice("Undone; this pair is " + card.status + " again.");
  } finally {
    state.busy = false;
  }
}

async function askWhy() {
  const box = $("why");
  box.querySelector("input").value = state.card.note || "";
  box.returnValue = "";
  box.showModal();
  box.onclose = () => {
    box.onclose = null;
    if (box.returnValue === "ok") attempt(() => decide("reject", {note: box.querySelector("input").value}));
  };
}

// ---- editing ----------------------------------------------------------------------------------------------------

const fields = () => Object.fromEntries(["question", "answer", "quote"].map((name) => [name, $("editor").elements[name].value]));

function edit() {
  if (!state.card || state.card.part === "retired") return;
  const draft = state.drafts.get(state.card.key) || state.left.get(state.card.key) || state.card;
  for (const name of ["question", "answer", "quote"]) $("editor").elements[name].value = draft[name];
  $("editor").hidden = false;
  $("shown").hidden = $("actions").hidden = true;
  $("verdict").textContent = "";
  $("editor").elements.answer.focus();
  check();
}

function closeEditor() {
  $("editor").hidden = true;
  $("shown").hidden = $("actions").hidden = false;
}

function keepDraft() {
  if ($("editor").hidden || !state.card) return;
  const now = fields();
  if (["question", "answer", "quote"].some((name) => now[name] !== state.card[name])) state.drafts.set(state.card.key, now);
  else state.drafts.delete(state.card.key);
}

let checking = 0;
function check() {
  clearTimeout(checking);
  checking = setTimeout(() => attempt(async () => {
    const key = state.card.key, told = await ask("check", {key, ...fields()});
    if (state.card.key === key) verdict(told.problem);
  }), 250);
}

function verdict(problem) {
  $("verdict").className = problem ? "bad" : "good";
  $("verdict").replaceChildren(make("span", "", problem ? "Would be refused: " + problem + "." : "Passes the checks."));
}

// ---- the frame --------------------------------------------------------------------------------------------------

async function summary() {
  const told = await ask("summary"), counts = told.status;
  const read = counts.accepted + counts.edited + counts.rejected, all = read + counts.open;
  for (const name of ["accepted", "edited", "rejected", "open"]) $("bar").querySelector("." + name).style.flexGrow = counts[name];
  const text = `${read.toLocaleString("en")} of ${all.toLocaleString("en")} read`;
  $("bar").setAttribute("aria-label", `${text}: ${counts.accepted} accepted, ${counts.edited} edited, ${counts.rejected} rejected`);
  $("counts").replaceChildren(make("b", "", text), ...["accepted", "edited", "rejected"].map((name) =>
    make("span", name, `${SIGN[name]} ${counts[name].toLocaleString("en")} ${name}`)));
  if (told.stale) $("counts").append(make("span", "quiet", "not built in yet: run recipe data"));
  document.title = `${all ? Math.floor(100 * read / all) : 0} % · Review`;
  $("undo").disabled = !told.undo;
  options(told);
  agreement(told.agreement);
  const rebuilt = state.build !== null && state.build !== told.build;
  state.build = told.build;
  if (rebuilt) {
    await load(true);
    notice("The dataset was built anew; the queue is fresh.");
  }
}

function options(told) {
  const status = Object.entries(told.status).filter(([name, count]) => count || !["refused", "retired"].includes(name));
  choices($("status"), status, "all", {refused: "refused by the judge"});
  for (const name of ["reason", "source", "kind", "view", "part"])
    choices($("filters").elements[name], told.options[name], "any", name === "part" ? PARTS : {});
}

function choices(select, entries, none, names = {}) {
  const before = select.value || select.dataset.wanted || "";
  delete select.dataset.wanted;
  const option = (value, text) => { const one = make("option", "", text); one.value = value; return one; };
  select.replaceChildren(option("", none), ...entries.map(([value, count]) => option(value, `${names[value] || value} (${count})`)));
  if (before && !entries.some(([value]) => value === before)) select.append(option(before, before));
  select.value = before;
}

function agreement(told) {
  $("agreement").hidden = told.counts.length === 0;
  $("agreement").querySelector("p").textContent = told.both
    ? `They agree on ${told.agreed} of ${told.both} pairs that both have seen (${Math.round(100 * told.agreed / told.both)} %).` : "";
  $("agreement").querySelector("tbody").replaceChildren(...told.counts.map((cells) => {
    const row = make("tr");
    row.append(...cells.map((cell) => make("td", "", String(cell))));
    return row;
  }));
}

function say(text) {
  $("live").textContent = text;
}

function notice(text, bad = false) {
  $("notice").hidden = !text;
  $("notice").className = bad ? "bad" : "";
  $("notice").textContent = text;
}

function alertOf(text) {
  $("alert").hidden = !text;
  $("alert").textContent = text;
}

// ---- hands ------------------------------------------------------------------------------------------------------

const KEYS = {
  a: () => decide("accept"), e: edit, r: () => decide("reject"), R: askWhy, c: () => !OPEN.includes(state.card.status) && decide("none"),
  u: undo, j: () => step(1), k: () => step(-1), "/": () => reach("text"), f: () => reach("status"),
  s: () => $("passage").focus(), v: () => { $("rows").open = !$("rows").open; }, "?": () => $("help").showModal(),
};

function reach(name) {
  $("list").open = true;
  $(name).focus();
}

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (!$("editor").hidden) {
    if (event.key === "Escape") { event.preventDefault(); leave(); }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("editor").requestSubmit(); }
    return;
  }
  if (event.key === "Escape" && event.target.closest("#filters")) return $("question").focus();
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !state.keys) return;
  if (event.target.closest("input, select, textarea") || !(event.key in KEYS)) return;
  if (!state.card && !"/f?".includes(event.key)) return;
  event.preventDefault();
  attempt(async () => KEYS[event.key]());
});

function leave() {
  keepDraft();
  if (state.drafts.has(state.card.key)) {
    state.left.set(state.card.key, state.drafts.get(state.card.key));
    notice("Your text waits here: e goes on with it.");
  } else state.left.delete(state.card.key);
  state.drafts.delete(state.card.key);
  closeEditor();
  $("question").focus();
}

function clicks() {
  const on = (id, work) => $(id).addEventListener("click", () => attempt(async () => work()));
  on("accept", KEYS.a); on("edit", edit); on("reject", KEYS.r); on("reject-why", askWhy); on("clear", () => decide("none"));
  on("previous", KEYS.k); on("next", KEYS.j); on("undo", undo); on("help-open", KEYS["?"]); on("cancel", leave);
  on("take", () => {
    const chosen = getSelection();
    if (!chosen.toString().trim() || !$("passage").contains(chosen.anchorNode)) return notice("Select some text of the source first.", true);
    $("editor").elements.quote.value = chosen.toString().trim();
    check();
  });
  $("editor").addEventListener("input", check);
  $("editor").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => decide("edit", fields()));
  });
  let typing = 0;
  $("filters").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => attempt(first), 200);
  });
  $("filters").addEventListener("reset", () => setTimeout(() => attempt(first)));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("queue").addEventListener("scroll", () => {
    const list = $("queue");
    if (list.scrollTop + 2 * list.clientHeight > list.scrollHeight && state.items.length < state.total && !state.more) {
      state.more = true;
      attempt(() => load(false)).finally(() => { state.more = false; });
    }
  });
  $("keys-on").checked = state.keys = localStorage.getItem("keys") !== "off";
  $("keys-on").addEventListener("change", () => {
    state.keys = $("keys-on").checked;
    localStorage.setItem("keys", state.keys ? "on" : "off");
  });
  window.addEventListener("focus", () => attempt(summary));
  window.addEventListener("beforeunload", (event) => {
    keepDraft();
    if (state.drafts.size) event.preventDefault();
  });
}

// The list anew, and its first pair where the shown one is not in it.
async function first() {
  const focus = document.activeElement && !document.activeElement.closest("#filters");
  await load(true);
  if (place() < 0 && state.items.length) await open(state.items[0].key, focus);
  else if (state.card) show(state.card);
  if (!state.items.length && !state.card) {
    $("nothing").hidden = false;
    $("nothing").textContent = "No pair matches these filters.";
  }
}

function restore() {
  const kept = new URLSearchParams(sessionStorage.getItem("filters") ?? "status=open");
  for (const [name, value] of kept) {
    const field = $("filters").elements[name];
    if (field && FILTERS.includes(name)) field.tagName === "SELECT" && name !== "order" ? field.dataset.wanted = value : field.value = value;
  }
}

attempt(async () => {
  clicks();
  if (matchMedia("(max-width: 60rem)").matches) $("list").open = false;
  restore();
  await summary();
  await load(true);
  const key = sessionStorage.getItem("key");
  if (key && await attempt(() => open(key).then(() => true))) return;
  if (state.items.length) await open(state.items[0].key);
  else first();
});
