// What is known of pods and ranks, from the stream of GET /pods.

const SMOOTH = 0.4;
const keyOf = (rank) => JSON.stringify([rank.pod, rank.model, rank.rank]);

/** Ranks and pods as they change; `pods()` groups them. */
export class Fleet {
  constructor() {
    this.ranks = new Map();
    this.urls = new Map();
    this.sources = [];
    this.service = null;
    this.eventRate = null;
    this.isKnown = false;
  }

  /** Expects an update with all pods, as after each connection; those known stay until it comes. */
  begin() {
    this.isKnown = false;
  }

  /** Takes an update; `now` in seconds. */
  update(change, now) {
    if (!this.isKnown) {
      this.ranks.clear();
      this.urls.clear();
      this.eventRate = null;
    }
    const seconds = this.isKnown ? now - this.updatedAt : null;
    for (const gone of change.gone) this.ranks.delete(keyOf(gone));
    for (const name of change.gone_from_fleet) this.urls.delete(name);
    for (const pod of change.fleet) this.urls.set(pod.name, pod);
    const events = new Map();
    for (const rank of change.pods) {
      const key = keyOf(rank);
      const known = this.ranks.get(key);
      events.set(key, known ? rank.events_applied - known.rank.events_applied : 0);
      this.ranks.set(key, { rank, at: now, rate: known?.rate ?? 0 });
    }
    if (seconds > 0) {
      for (const [key, held] of this.ranks) {
        const current = Math.max(0, events.get(key) ?? 0) / seconds;
        held.rate = Math.abs(current - held.rate) < 0.05 ? current : held.rate + SMOOTH * (current - held.rate);
      }
      this.eventRate = Math.max(0, change.service.events_applied - this.service.events_applied) / seconds;
    }
    this.service = change.service;
    this.sources = change.discovery;
    this.updatedAt = now;
    this.isKnown = true;
  }

  /** Seconds since the last event of a rank. */
  age(held, now) {
    return held.rank.last_event_age_seconds === null ? null : held.rank.last_event_age_seconds + now - held.at;
  }

  /** The name under which requests are routed to what publishes events under a name. */
  nameOf(eventName) {
    for (const { rank } of this.ranks.values()) if (rank.pod === eventName) return rank.fleet_pod ?? rank.pod;
    return eventName;
  }

  /** Pods with their ranks: `{name, pod, ranks}`; `pod` is null for one without a URL. */
  pods() {
    const found = new Map();
    for (const [name, pod] of this.urls) found.set(name, { name, pod, ranks: [] });
    for (const held of this.ranks.values()) {
      const name = held.rank.fleet_pod ?? held.rank.pod;
      if (!found.has(name)) found.set(name, { name, pod: null, ranks: [] });
      found.get(name).ranks.push(held);
    }
    for (const one of found.values()) {
      if (one.ranks.length > 1) one.ranks.sort((a, b) => a.rank.rank - b.rank.rank || (a.rank.model < b.rank.model ? -1 : 1));
    }
    return [...found.values()];
  }
}

/** How a pod is: a word, and whether it needs attention. */
export function stateOf(pod) {
  if (pod === null) return { word: "no URL", detail: "its events are followed, and no requests go there", kind: "quiet" };
  if (pod.healthy === false) return { word: "down", detail: pod.problem, kind: "bad" };
  if (pod.breaker !== "closed") return { word: "shut out", detail: pod.problem, kind: "bad" };
  if (pod.draining) return { word: "draining", detail: "gets no new requests", kind: "warn" };
  if (pod.healthy === null) return { word: "not asked yet", detail: null, kind: "quiet" };
  return { word: "healthy", detail: null, kind: "good" };
}
