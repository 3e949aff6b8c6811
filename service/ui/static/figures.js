// The figures at the top: how all of it is, at one glance.

import { NONE, byId, count, duration, el, rate, setClass, setText, share, short, sparkline } from "./dom.js";
import { stateOf } from "./fleet.js";

const NAMES = ["Pods", "Ranks exact", "Blocks", "Events/s", "Lag", "In flight", "Reused", "First token"];
const KEPT = 60;
const cells = new Map();
const history = { events: [], firstTokens: [] };
const lines = { events: sparkline(), firstTokens: sparkline() };

export function prepare() {
  const list = byId("figures");
  for (const name of NAMES) {
    const value = el("span", { class: "value", text: NONE });
    const note = el("span", { class: "note", text: "" });
    const figure = el("div", {}, el("dt", { text: name }), el("dd", {}, value, note));
    cells.set(name, { value, note, figure });
    list.append(figure);
  }
  cells.get("Events/s").figure.append(lines.events.element);
  cells.get("First token").figure.append(lines.firstTokens.element);
}

function show(name, value, note = "", kind = "") {
  const cell = cells.get(name);
  setText(cell.value, value);
  setText(cell.note, note);
  setClass(cell.figure, kind);
}

function keep(values, value) {
  values.push(value);
  if (values.length > KEPT) values.shift();
}

/** Shows what an update of the pods says. */
export function showFleet(fleet) {
  const pods = fleet.pods();
  const ranks = [...fleet.ranks.values()].map((held) => held.rank);
  const wrong = pods.filter((one) => stateOf(one.pod).kind === "bad").length;
  const inexact = ranks.filter((rank) => !rank.exact).length;
  const tiers = { gpu: 0, cpu: 0, storage: 0 };
  for (const rank of ranks) for (const tier of Object.keys(tiers)) tiers[tier] += rank.blocks[tier];
  const routed = { prompt: 0, captured: 0, delivered: 0 };
  let inFlight = 0;
  for (const pod of fleet.urls.values()) {
    inFlight += pod.in_flight;
    for (const name of Object.keys(routed)) routed[name] += pod.routed[name];
  }
  show("Pods", count(pods.length), wrong ? `${count(wrong)} down` : pods.length ? "none down" : "", wrong ? "bad" : "");
  show("Ranks exact", `${count(ranks.length - inexact)}`, `of ${count(ranks.length)}`, inexact ? "warn" : "");
  const lower = ["cpu", "storage"].filter((tier) => tiers[tier]).map((tier) => `${short(tiers[tier])} ${tier}`);
  show("Blocks", short(tiers.gpu), ["GPU", ...lower].join(" · "));
  const lost = fleet.service.batches_lost;
  show("Events/s", rate(fleet.eventRate), lost ? `${count(lost)} batches lost` : "none lost", lost ? "warn" : "");
  show("Lag", fleet.service.events_applied ? duration(fleet.service.lag_seconds) : NONE, "of the last batch");
  show("In flight", fleet.urls.size ? count(inFlight) : NONE, "requests");
  const isKnown = routed.prompt > 0;
  const predicted = `predicted ${share(isKnown ? routed.captured / routed.prompt : null)}`;
  show("Reused", share(isKnown ? routed.delivered / routed.prompt : null), isKnown ? predicted : "of prompt tokens");
  keep(history.events, fleet.eventRate ?? 0);
  lines.events.draw(history.events);
}

/** Shows the time to first token of an answer, and the median of the last ones. */
export function showFirstToken(seconds) {
  keep(history.firstTokens, seconds);
  const sorted = [...history.firstTokens].sort((a, b) => a - b);
  show("First token", duration(sorted[sorted.length >> 1]), `median of ${sorted.length}`);
  lines.firstTokens.draw(history.firstTokens);
}
