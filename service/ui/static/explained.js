// The prompt explorer: the answer. The text with how far each pod's cache reaches, the choice, and the tokens.

import { byId, count, duration, el, share } from "./dom.js";
import { postJson } from "./service.js";

const TOKENS_SHOWN = 2000;
const PODS_SHOWN = 50;
const NAMED_AT_ONCE = 2;

let fleet = null;

export function prepare(known) {
  fleet = known;
}

export function wait() {
  byId("explained").setAttribute("aria-busy", "true");
}

export function fail(message) {
  const status = byId("explained-status");
  byId("explained").removeAttribute("aria-busy");
  byId("explained-result").hidden = true;
  status.className = "problem";
  status.textContent = message;
}

/** Shows an answer of POST /explain to a body. */
export function show(answer, body) {
  const rows = rowsOf(answer);
  const text = answer.text === null ? null : markedText(answer, rows);
  const result = byId("explained-result");
  let selected = rows.find((row) => row.isChosen) ?? rows[0];
  const select = (row) => {
    selected = row;
    text?.mark(row);
  };
  byId("explained").removeAttribute("aria-busy");
  const status = byId("explained-status");
  status.className = "decision";
  status.textContent = decisionOf(answer, rows);
  const parity = answer.parity ? `, parity ${answer.parity}` : "";
  const facts = `${count(answer.tokens)} tokens of ${answer.model}${answer.lora_name ? ` with ${answer.lora_name}` : ""}, rendered by ${answer.renderer}${parity}`;
  const unknown = answer.known_tokens === null ? "" : `; those after the first ${count(answer.known_tokens)} are not known`;
  const parts = [
    el("p", { class: "why", text: whyOf(answer) }),
    el("p", { class: "muted", text: facts + unknown }),
    rows.length ? table(answer, rows, selected, select) : null,
    answer.choice?.left_out.length ? leftOut(answer.choice.left_out) : null,
    text ? text.element : el("p", { class: "muted", text: "The text of these tokens is not known here." }),
    tokens(body, () => selected),
  ];
  result.replaceChildren(...parts.filter((part) => part !== null));
  result.hidden = false;
  if (selected) select(selected);
}

/** A row for each rank: what it holds, and what the request would cost there. */
function rowsOf(answer) {
  const found = new Map();
  const row = (pod, rank) => {
    const key = JSON.stringify([pod, rank]);
    if (!found.has(key)) found.set(key, { pod, rank, match: null, placed: 0, candidate: null, isChosen: false });
    return found.get(key);
  };
  const chosen = answer.choice?.chosen;
  for (const candidate of answer.choice?.candidates ?? []) row(candidate.pod, candidate.rank).candidate = candidate;
  for (const match of answer.matches) row(fleet.nameOf(match.pod), match.rank).match = match;
  for (const placed of answer.placements) row(fleet.nameOf(placed.pod), placed.rank).placed = placed.tokens;
  if (chosen) row(chosen.pod, chosen.rank).isChosen = true;
  const rows = [...found.values()];
  const cost = (one) => (one.isChosen ? -1 : one.candidate?.cost ?? Infinity);
  return rows.sort((a, b) => cost(a) - cost(b) || (b.match?.score ?? 0) - (a.match?.score ?? 0));
}

function decisionOf({ choice }, rows) {
  if (choice?.chosen) return `${nameOf(choice.chosen, rows)} would get it.`;
  if (choice) return "No pod could take it.";
  return rows.length ? `${nameOf(rows[0], rows)} holds most of it.` : "No pod holds any of it.";
}

const nameOf = ({ pod, rank }, rows) => (rank || rows.some((row) => row.pod === pod && row.rank) ? `${pod}, rank ${rank}` : pod);

/** Why it would go there, in a sentence or two. */
function whyOf({ choice, tokens: length }) {
  if (!choice) return "No request is forwarded: there are no pods with a URL (PODS).";
  const { chosen, candidates } = choice;
  if (!chosen) return "Each pod is left out for the reason below.";
  const held = chosen.predicted_tokens ? `it reuses ${count(chosen.predicted_tokens)} of ${count(length)} tokens and computes ${count(chosen.uncached_tokens)}` : `it computes all ${count(chosen.uncached_tokens)} tokens`;
  const queue = chosen.in_flight ? `, beside ${count(chosen.in_flight)} in flight` : ", and has no other in flight";
  const others = candidates.filter((one) => one.pod !== chosen.pod || one.rank !== chosen.rank);
  const next = others[0];
  const compared = next ? ` The next best, ${next.pod}, needs about ${duration(next.seconds)}.` : " It is the only pod that can take it.";
  return `Its first token would come after about ${duration(chosen.seconds)}: ${held}${queue}.${compared}`;
}

// The columns of numbers; a rare one is left out if it has nothing but zeros.
const COLUMNS = [
  { title: "Held", value: (row) => row.match?.matched_tokens ?? 0, show: count },
  { title: "Of all", value: (row, answer) => (row.match && answer.tokens ? row.match.matched_tokens / answer.tokens : 0), show: share },
  ...["gpu", "cpu", "storage"].map((tier) => ({ title: tier === "storage" ? "Storage" : tier.toUpperCase(), value: (row) => row.match?.matched_tokens_by_tier[tier] ?? 0, show: count, isRare: tier !== "gpu" })),
  { title: "On its way", value: (row) => row.placed, show: count, isRare: true },
  { title: "To compute", value: (row) => row.candidate?.uncached_tokens, show: count },
  { title: "In flight", value: (row) => row.candidate?.in_flight, show: count },
  { title: "First token", value: (row) => row.candidate?.seconds, show: duration },
  { title: "Cost", value: (row) => row.candidate?.cost, show: duration },
];

function table(answer, rows, selected, select) {
  const columns = COLUMNS.filter((column) => !column.isRare || rows.some((row) => column.value(row)));
  const body = el("tbody", { role: "rowgroup" });
  const listed = rows.slice(0, PODS_SHOWN);
  for (const row of listed) {
    const { candidate } = row;
    const mark = el("input", { type: "radio", name: "marked", "aria-label": `Mark in the text what ${nameOf(row, rows)} holds` });
    mark.checked = row === selected;
    mark.addEventListener("change", () => select(row));
    body.append(
      el("tr", { role: "row", class: row.isChosen ? "chosen" : "" },
        el("td", { role: "cell", "data-title": "Mark" }, mark),
        el("th", { role: "rowheader", scope: "row", "data-title": "Pod" }, el("span", { text: nameOf(row, rows) }), el("span", { class: "under", text: row.isChosen ? "chosen" : candidate || !answer.choice ? "" : "no candidate" })),
        ...columns.map(({ title, value, show }) => el("td", { role: "cell", class: "number", "data-title": title, text: show(value(row, answer)) })),
      ),
    );
  }
  const made = el("table", { class: "rows", role: "table" },
    el("caption", { class: "unseen", text: "What each rank holds of the prompt, and what the request would cost there" }),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...["Mark", "Pod"].map((title) => el("th", { role: "columnheader", scope: "col", text: title })), ...columns.map(({ title }) => el("th", { role: "columnheader", scope: "col", class: "number", text: title })))),
    body,
  );
  const more = rows.length > listed.length ? el("p", { class: "muted", text: `and ${count(rows.length - listed.length)} more` }) : null;
  return el("div", {}, el("div", { class: "scroll", role: "region", "aria-label": "Ranks", tabindex: "0" }, made), more ?? "");
}

function leftOut(pods) {
  const first = pods.slice(0, PODS_SHOWN);
  return el("details", {}, el("summary", { text: `${count(pods.length)} ${pods.length === 1 ? "pod is" : "pods are"} left out` }), el("ul", { class: "plain" }, ...first.map(({ pod, reason }) => el("li", {}, el("strong", { text: pod }), ` ${reason}`))));
}

/** Positions of JavaScript's strings for numbers of characters, which are in ascending order. */
function positions(text, characters) {
  if (!/[\ud800-\udfff]/.test(text)) return characters;
  const found = [];
  let position = 0;
  let character = 0;
  for (const wanted of characters) {
    while (character < wanted && position < text.length) {
      position += text.codePointAt(position) > 0xffff ? 2 : 1;
      character += 1;
    }
    found.push(position);
  }
  return found;
}

/** The text, with a flag where the cache of a pod ends; `mark` shows what one row holds. */
function markedText({ text }, rows) {
  const ends = new Map();
  for (const row of rows) {
    const reach = row.match?.matched_characters;
    if (reach) ends.set(reach, [...(ends.get(reach) ?? []), nameOf(row, rows)]);
  }
  const reaches = [...ends.keys()].sort((a, b) => a - b);
  const at = positions(text, reaches);
  const pre = el("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "Rendered text" });
  const parts = [];
  let start = 0;
  reaches.forEach((reach, number) => {
    const part = el("mark", { text: text.slice(start, at[number]) });
    const names = ends.get(reach);
    const more = names.length > NAMED_AT_ONCE ? ` +${names.length - NAMED_AT_ONCE}` : "";
    const flag = el("span", { class: "flag", title: names.slice(0, PODS_SHOWN).join("\n") }, el("span", { class: "unseen", text: " [up to here: " }), names.slice(0, NAMED_AT_ONCE).join(", ") + more, el("span", { class: "unseen", text: "] " }));
    pre.append(part, flag);
    parts.push({ part, reach, flag });
    start = at[number];
  });
  pre.append(text.slice(start));
  return {
    element: el("div", {}, el("h3", { text: "Rendered text" }), el("p", { class: "muted legend" }, el("mark", { class: "held", text: "held by the marked pod" }), " ", el("mark", { text: "held by another" }), " not held"), pre),
    mark(row) {
      const held = row?.match?.matched_characters ?? 0;
      for (const { part, reach, flag } of parts) {
        part.className = reach <= held ? "held" : "";
        flag.className = reach === held ? "flag own" : "flag";
      }
    },
  };
}

/** The tokens, fetched when they are asked for. */
function tokens(body, selected) {
  const list = el("div", { class: "tokens", tabindex: "0", role: "region", "aria-label": "Tokens" });
  const more = el("button", { type: "button", hidden: true });
  const details = el("details", {}, el("summary", { text: "Tokens" }), list, more);
  let shown = 0;
  let fetched = null;

  function add() {
    const held = selected()?.match?.matched_tokens ?? 0;
    const next = Math.min(fetched.tokens.length, shown + TOKENS_SHOWN);
    for (let at = shown; at < next; at += 1) {
      const text = fetched.token_strs?.[at] ?? "";
      list.append(el("span", { class: at < held ? "token held" : "token", title: `token ${at}` }, el("b", { text: text || " " }), el("i", { text: String(fetched.tokens[at]) })));
    }
    shown = next;
    more.hidden = shown === fetched.tokens.length;
    more.textContent = `Show more of ${count(fetched.tokens.length)}`;
  }

  more.addEventListener("click", add);
  details.addEventListener("toggle", async () => {
    if (!details.open || fetched) return;
    list.textContent = "…";
    try {
      fetched = typeof body.prompt === "object" ? { tokens: body.prompt } : await postJson("tokenize", { ...body, return_token_strs: true });
      list.textContent = "";
      add();
    } catch (error) {
      list.textContent = error.message;
    }
  });
  return details;
}
