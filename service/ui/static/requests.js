// The table of requests, from the stream of GET /requests.

import { NONE, arrange, byId, count, duration, el, setText, tableRow } from "./dom.js";

const KEPT = 100;
const COLUMNS = [
  { id: "at", title: "Time" },
  { id: "pod", title: "Pod" },
  { id: "tokens", title: "Tokens", number: true },
  { id: "predicted", title: "Predicted", number: true, hint: "tokens that the engine should find in its cache" },
  { id: "cached", title: "Actual", number: true, hint: "tokens that the engine found, as its answer says" },
  { id: "first", title: "First token", number: true, hint: "and below it the estimate by which the pod was chosen" },
  { id: "total", title: "Total", number: true },
  { id: "state", title: "State" },
];
const WORDS = { routed: "prefill", first_token: "decoding", ended: "done", failed: "failed", refused: "refused" };
const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

let known = new Map();
const rows = [];
let total = 0;
let dropped = 0;
let isDue = false;

export function prepare() {
  const head = el("tr", { role: "row" });
  for (const column of COLUMNS) head.append(el("th", { role: "columnheader", scope: "col", class: column.number ? "number" : "", title: column.hint, text: column.title }));
  byId("requests-table").tHead.append(head);
}

/** Takes what is told of a request, and shows it with the next frame. */
export function take(request) {
  if (!known.has(request.id)) total += 1;
  known.set(request.id, request);
  if (known.size > 4 * KEPT) known = new Map([...known].slice(-2 * KEPT));
  schedule();
}

export function lose(number) {
  dropped += number;
  schedule();
}

/** Says why there is nothing, when there is nothing. */
export function explainEmpty(hasPods) {
  setText(byId("requests-empty"), hasPods ? "Requests appear here as they are routed." : "Requests appear here when there are pods with a URL to route them to (PODS).");
}

function schedule() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    show();
  });
}

function show() {
  const latest = [...known.values()].slice(-KEPT).reverse();
  while (rows.length < latest.length) rows.push(makeRow());
  latest.forEach((request, at) => rows[at].show(request));
  arrange(byId("requests-table").tBodies[0], rows.slice(0, latest.length).map((row) => row.element));
  byId("requests-empty").hidden = latest.length > 0;
  const lost = dropped ? `, ${count(dropped)} not shown` : "";
  setText(byId("requests-shown"), `${count(total)} since this page was opened${lost}`);
}

function makeRow() {
  const { element: row, cells, put } = tableRow(COLUMNS);
  const fill = el("i");
  const bar = el("span", { class: "share", "aria-hidden": "true" }, fill);
  cells.get("cached").append(bar);

  return {
    element: row,
    show(request) {
      put("at", time.format(request.at * 1000));
      const rank = request.rank ? `rank ${request.rank}` : "";
      put("pod", request.pod ?? NONE, [rank, request.model].filter(Boolean).join(" · "));
      put("tokens", count(request.tokens));
      put("predicted", count(request.predicted_tokens), request.predicted_from === "placement" ? "placement" : "");
      const { cached_tokens: cached, predicted_tokens: predicted } = request;
      const differs = cached !== null && predicted !== null && cached !== predicted && request.predicted_from === "events";
      put("cached", count(cached), "", differs ? "warn" : "");
      fill.style.width = request.tokens ? `${(100 * (cached ?? predicted ?? 0)) / request.tokens}%` : "0";
      put("first", duration(request.first_token_seconds), request.expected_seconds === null ? "" : `est. ${duration(request.expected_seconds)}`);
      put("total", duration(request.seconds));
      const isWrong = ["failed", "refused"].includes(request.state) || request.status >= 400;
      const notes = [request.attempt > 1 ? `attempt ${request.attempt}` : "", request.is_select ? "by POST /select" : "", request.status !== null && request.status !== 200 ? `status ${request.status}` : "", request.problem ?? ""];
      put("state", WORDS[request.state] ?? request.state, notes.filter(Boolean).join("; "), isWrong ? "bad" : request.state === "ended" ? "good" : "quiet");
    },
  };
}
