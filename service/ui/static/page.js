// Connects the streams with what shows them.

import { byId, el, setClass, setText } from "./dom.js";
import * as figures from "./figures.js";
import { Fleet } from "./fleet.js";
import * as pods from "./pods.js";
import * as prompt from "./prompt.js";
import * as requests from "./requests.js";
import { follow, forgetKey, showKey } from "./service.js";

const VIEWS = ["pods", "requests", "prompt"];
const fleet = new Fleet();
let streams = [];
let isPaused = false;

const now = () => performance.now() / 1000;
const showPods = () => pods.show(fleet, now());

function showView() {
  const asked = location.hash.slice(1);
  if (asked === "main") return;
  const view = VIEWS.includes(asked) ? asked : VIEWS[0];
  for (const name of VIEWS) {
    byId(`view-${name}`).hidden = name !== view;
    if (name === view) byId(`to-${name}`).setAttribute("aria-current", "page");
    else byId(`to-${name}`).removeAttribute("aria-current");
  }
  document.body.dataset.view = view;
  scrollTo(0, 0);
  if (view === "prompt") prompt.opened();
}

function showConnection(state) {
  const text = isPaused ? "paused" : state;
  setText(byId("connection"), text);
  setClass(byId("connection"), `connection ${isPaused ? "quiet" : state === "live" ? "good" : "warn"}`);
}

function showNotices() {
  const { not_ready: notReady, silent } = fleet.service;
  const failing = fleet.sources.filter((source) => source.problem).map((source) => `${source.source}: ${source.problem}`);
  const texts = [...notReady.map((reason) => `Not ready: ${reason}`), ...failing, ...silent];
  const list = byId("notices");
  if (JSON.stringify(texts) === list.dataset.shown) return;
  list.dataset.shown = JSON.stringify(texts);
  const first = texts.slice(0, 4);
  if (texts.length > first.length) first.push(`and ${texts.length - first.length} more: GET /endpoints, GET /ready`);
  list.replaceChildren(...first.map((text) => el("li", { text })));
  list.hidden = texts.length === 0;
}

function start() {
  if (streams.length || isPaused || document.hidden) return;
  streams = [
    follow("pods", (event, change) => {
      fleet.update(change, now());
      showPods();
      figures.showFleet(fleet);
      showNotices();
      requests.explainEmpty(fleet.urls.size > 0);
    }, (state) => {
      if (state === "live") fleet.begin();
      showConnection(state);
    }),
    follow("requests", (event, data) => {
      if (event === "dropped") return requests.lose(data.dropped);
      requests.take(data);
      if (data.state === "ended" && data.first_token_seconds !== null) figures.showFirstToken(data.first_token_seconds);
    }, () => {}),
  ];
}

function stop() {
  for (const stream of streams) stream.stop();
  streams = [];
}

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  if (isPaused) stop();
  showConnection("connecting");
  start();
});
byId("forget-key").addEventListener("click", forgetKey);
// A hidden page costs nothing, and leaves its connections to others: browsers open six to a host.
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
addEventListener("hashchange", showView);

figures.prepare();
pods.prepare(showPods);
requests.prepare();
prompt.prepare(fleet);
showKey();
showView();
// The first frame comes before the work with the pods; a hidden page has none, and starts when it is seen.
requestAnimationFrame(() => setTimeout(start));
