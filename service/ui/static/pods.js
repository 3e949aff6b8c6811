// The table of pods and ranks.

import { NONE, arrange, byId, count, duration, el, rate, setClass, setText, share, tableRow } from "./dom.js";
import { stateOf } from "./fleet.js";

const FIRST_SHOWN = 50;
const { compare } = new Intl.Collator("en", { numeric: true });
const TIERS = ["gpu", "cpu", "storage"];

const sum = (one, value) => one.ranks.reduce((total, held) => total + value(held), 0);
const reused = (pod) => (pod?.routed.prompt ? pod.routed.delivered / pod.routed.prompt : null);
const expected = (pod) => (pod?.routed.prompt ? pod.routed.captured / pod.routed.prompt : null);
const ATTENTION = { bad: 0, warn: 2, quiet: 3, good: 3 };
const attention = (one) => Math.min(ATTENTION[stateOf(one.pod).kind], one.ranks.some((held) => !held.rank.exact) ? 1 : 3);

// What a column is called, how pods are ordered by it (a text upwards, a number downwards), and what a cell has:
// `ofPod` is in the first row of a pod only.
const COLUMNS = [
  { id: "pod", title: "Pod", by: (one) => one.name },
  { id: "state", title: "State", by: (one) => -attention(one), ofPod: true },
  { id: "exact", title: "Exact", by: (one) => sum(one, (held) => (held.rank.exact ? 0 : 1)) },
  ...TIERS.map((tier) => ({ id: tier, title: tier === "storage" ? "Storage" : tier.toUpperCase(), number: true, group: "Blocks", by: (one) => sum(one, (held) => held.rank.blocks[tier]) })),
  { id: "hit", title: "Hit rate", number: true, ofPod: true, hint: "prompt tokens that the engine found in its caches, as it says", by: (one) => one.pod?.cache_hit_rate ?? -1 },
  { id: "reused", title: "Reused", number: true, ofPod: true, hint: "prompt tokens of routed requests that the engine reused, and what was predicted", by: (one) => reused(one.pod) ?? -1 },
  { id: "flight", title: "In flight", number: true, ofPod: true, hint: "requests given to it", by: (one) => one.pod?.in_flight ?? -1 },
  { id: "queue", title: "Run / wait", number: true, ofPod: true, hint: "requests that its engine runs, and that wait there", by: (one) => (one.pod?.running ?? -1) + (one.pod?.waiting ?? 0) },
  { id: "usage", title: "Cache used", number: true, ofPod: true, by: (one) => one.pod?.cache_usage ?? -1 },
  { id: "events", title: "Events/s", number: true, by: (one) => sum(one, (held) => held.rate) },
  { id: "lag", title: "Lag", number: true, hint: "from the engine's timestamp of the last batch until it counts here", by: (one) => Math.max(-1, ...one.ranks.map((held) => held.rank.lag_seconds ?? -1)) },
  { id: "age", title: "Last event", number: true, by: (one, fleet, now) => Math.max(-1, ...one.ranks.map((held) => fleet.age(held, now) ?? -1)) },
];

const shown = new Map();
const open = new Set();
let order = { column: "state", isReversed: false };
let limit = FIRST_SHOWN;
let again = () => {};

export function prepare(onChange) {
  again = onChange;
  const row = el("tr", { role: "row" });
  for (const column of COLUMNS) {
    const button = el("button", { type: "button", title: column.hint }, column.group ? el("span", { class: "group", text: `${column.group} ` }) : null, column.title);
    const head = el("th", { role: "columnheader", scope: "col", class: column.number ? "number" : "" }, button);
    column.head = head;
    button.addEventListener("click", () => {
      order = { column: column.id, isReversed: order.column === column.id && !order.isReversed };
      again();
    });
    row.append(head);
  }
  byId("pods-table").tHead.append(row);
  byId("pods-filter").addEventListener("input", () => again());
  byId("pods-more").addEventListener("click", () => {
    limit = Infinity;
    again();
  });
}

/** Shows pods that fit the filter, in their order. */
export function show(fleet, now) {
  const words = byId("pods-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const all = fleet.pods();
  const fitting = words.length ? all.filter((one) => words.every((word) => textOf(one).includes(word))) : all;
  sort(fitting, fleet, now);
  const listed = fitting.slice(0, limit);
  const bodies = listed.map((one) => {
    const body = shown.get(one.name) ?? makeBody(one.name);
    shown.set(one.name, body);
    body.show(one, fleet, now);
    return body.element;
  });
  if (shown.size > 2 * listed.length + 200) {
    const names = new Set(listed.map((one) => one.name));
    for (const name of shown.keys()) if (!names.has(name)) shown.delete(name);
  }
  arrange(byId("pods-table"), [byId("pods-table").caption, byId("pods-table").tHead, ...bodies]);
  for (const column of COLUMNS) {
    if (order.column !== column.id) column.head.removeAttribute("aria-sort");
    else column.head.setAttribute("aria-sort", (column.id === "pod") !== order.isReversed ? "ascending" : "descending");
  }
  const hidden = fitting.length - listed.length;
  setText(byId("pods-shown"), words.length ? `${count(fitting.length)} of ${count(all.length)}` : count(all.length));
  byId("pods-more").hidden = hidden === 0;
  setText(byId("pods-more"), `Show all ${count(fitting.length)}`);
  byId("pods-empty").hidden = listed.length > 0 || fleet.service === null;
  setText(byId("pods-empty"), all.length ? "No pod fits the filter." : "There are no pods yet: no engine has sent an event, and PODS names none.");
}

function textOf(one) {
  const reasons = one.ranks.map(({ rank }) => `${rank.pod} ${rank.model} ${rank.exact ? "" : `inexact ${rank.inexact_reason}`}`);
  return [one.name, stateOf(one.pod).word, one.pod?.problem, ...(one.pod?.models ?? []), ...reasons].join(" ").toLowerCase();
}

function sort(pods, fleet, now) {
  const column = COLUMNS.find((one) => one.id === order.column);
  const turn = order.isReversed ? -1 : 1;
  const keyed = pods.map((one) => [column.by(one, fleet, now), one]);
  keyed.sort(([a, one], [b, other]) => turn * (typeof a === "string" ? compare(a, b) : b - a) || compare(one.name, other.name));
  keyed.forEach(([, one], at) => (pods[at] = one));
}

/** The rows of one pod: one for each rank, and its details when it is opened. */
function makeBody(name) {
  const element = el("tbody", { role: "rowgroup" });
  const rows = [];
  let details = null;
  const toggle = el("button", { type: "button", class: "name", "aria-expanded": "false", text: name });
  toggle.addEventListener("click", () => {
    if (!open.delete(name)) open.add(name);
    again();
  });
  return {
    element,
    show(one, fleet, now) {
      const ranks = one.ranks.length ? one.ranks : [null];
      while (rows.length > ranks.length) rows.pop().element.remove();
      while (rows.length < ranks.length) {
        const row = makeRow(rows.length ? null : toggle);
        element.insertBefore(row.element, details);
        rows.push(row);
      }
      const several = ranks.length > 1;
      ranks.forEach((held, at) => rows[at].show(one, held, { several, age: held && fleet.age(held, now) }));
      const isOpen = open.has(name);
      toggle.setAttribute("aria-expanded", String(isOpen));
      details?.remove();
      details = isOpen ? detailsOf(one) : null;
      if (details) element.append(details);
    },
  };
}

function makeRow(toggle) {
  const under = el("span", { class: "under" });
  const { element: row, put } = tableRow(COLUMNS, [...(toggle ? [toggle] : []), under]);

  return {
    element: row,
    show({ pod }, held, { several, age }) {
      const rank = held?.rank;
      const name = several || rank?.rank ? `rank ${rank.rank}` : "";
      setText(under, [name, rank?.model ?? pod?.models.join(", ")].filter(Boolean).join(" · "));
      setClass(row, toggle ? "" : "further");
      if (rank) put("exact", rank.exact ? "exact" : "inexact", rank.exact ? "" : rank.inexact_reason, rank.exact ? "good" : "warn");
      else put("exact", NONE, "no events");
      for (const tier of TIERS) put(tier, rank ? count(rank.blocks[tier]) : NONE);
      put("events", rank ? rate(held.rate) : NONE);
      put("lag", duration(rank?.lag_seconds));
      put("age", duration(age), rank && !rank.connected ? "not connected" : "", "");
      if (!toggle) return;
      const state = stateOf(pod);
      put("state", state.word, state.detail ?? "", state.kind);
      put("hit", share(pod?.cache_hit_rate));
      put("reused", share(reused(pod)), reused(pod) === null ? "" : `pred. ${share(expected(pod))}`);
      put("flight", pod ? count(pod.in_flight) : NONE);
      put("queue", pod && pod.running !== null ? `${count(pod.running)} / ${count(pod.waiting)}` : NONE);
      put("usage", share(pod?.cache_usage));
    },
  };
}

function detailsOf({ pod, ranks }) {
  const list = el("dl", { class: "details" });
  const add = (name, value, kind) => {
    if (value !== null && value !== undefined && value !== "") list.append(el("div", {}, el("dt", { text: name }), el("dd", { text: String(value), class: kind })));
  };
  if (pod) {
    add("URL", pod.url);
    add("Engine", pod.version);
    add("Models", pod.models.join(", "));
    add("Ranks", pod.ranks);
    add("Weight", pod.weight === 1 ? null : pod.weight);
    add("Problem", pod.problem, "bad");
    for (const parity of pod.parity) {
      const why = [parity.reason, parity.remedy].filter(Boolean).join("; ");
      add(`Parity, ${parity.model}`, `${parity.verdict}${why ? `: ${why}` : ""}`, parity.verdict === "differs" ? "warn" : "");
    }
    add("Reuse compared with predictions", pod.reuse, ["less", "more"].includes(pod.reuse) ? "warn" : "");
    add("Answers with a usage", pod.routed.requests ? count(pod.routed.requests) : null);
  }
  for (const { rank } of ranks) {
    const name = ranks.length > 1 ? `Rank ${rank.rank}, ` : "";
    const title = (text) => (name ? name + text.toLowerCase() : text);
    add(title("Events from"), rank.endpoint);
    add(title("Published as"), rank.fleet_pod && rank.fleet_pod !== rank.pod ? rank.pod : null);
    add(title("Inexact because"), rank.inexact_reason, "warn");
    add(title("Block size"), rank.block_sizes.join(", "));
    add(title("Last sequence number"), rank.last_sequence);
    add(title("Also claimed by"), rank.claimants.join(", "), "warn");
    add(title("Unsupported cache groups"), rank.unsupported_groups.join(", "), "warn");
  }
  const cell = el("td", { role: "cell", colspan: String(COLUMNS.length) }, list);
  return el("tr", { role: "row", class: "opened" }, cell);
}
