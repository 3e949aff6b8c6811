// Requests to the service: with the key, if one is needed, and streams of events.

import { byId } from "./dom.js";

const KEY = "kvcache-key";
const FIRST_WAIT = 500;
const LONGEST_WAIT = 5000;

/** An error that the service answered; its message says what to do. */
export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let asking = null;

/** Asks for a key, once for all requests that need one. */
function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    if (reason) byId("key-reason").textContent = reason;
    byId("key").value = "";
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, byId("key").value.trim());
      dialog.close();
    };
    dialog.oncancel = (event) => event.preventDefault();
    dialog.onclose = () => {
      asking = null;
      showKey();
      resolve();
    };
    if (!dialog.open) dialog.showModal();
  });
  return asking;
}

export function showKey() {
  byId("forget-key").hidden = sessionStorage.getItem(KEY) === null;
}

export function forgetKey() {
  sessionStorage.removeItem(KEY);
  location.reload();
}

/** Tries again when the network changes meanwhile, as that of a laptop does. */
async function fetchTwice(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    await new Promise((resolve) => setTimeout(resolve, FIRST_WAIT));
    return fetch(path, options);
  }
}

/** The answer to a request; asks for a key if one is needed. Throws ServiceError, and TypeError without a connection. */
async function ask(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    const answer = await fetchTwice(path, { ...options, headers, cache: "no-store" });
    if (answer.ok) return answer;
    const error = await answer.json().then((body) => body.error, () => null);
    const message = error?.message ?? `${answer.status} ${answer.statusText}`;
    if (answer.status !== 401 || error?.code !== "invalid_api_key") throw new ServiceError(answer.status, message);
    await askForKey(key ? `The key was not taken: ${message}.` : null);
  }
}

export async function getJson(path) {
  return (await ask(path)).json();
}

export async function postJson(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", body: JSON.stringify(body), headers, signal })).json();
}

/** Reads server-sent events; EventSource could send no key. */
async function read(path, signal, onOpen, onEvent) {
  const answer = await ask(path, { headers: { Accept: "text/event-stream" }, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  onOpen();
  let pieces = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pieces.push(value);
    if (!value.includes("\n")) continue;
    const blocks = pieces.join("").split("\n\n");
    pieces = [blocks.pop()];
    for (const block of blocks) {
      let event = "message";
      let data = null;
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) event = line.slice(7);
        else if (line.startsWith("data: ")) data = line.slice(6);
      }
      if (data !== null) onEvent(event, JSON.parse(data));
    }
  }
}

/**
 * Follows a stream until `stop` of what it returns is called, and again after it broke.
 * `onState` gets "live", or the reason why it is not.
 */
export function follow(path, onEvent, onState) {
  const stopping = new AbortController();
  const { signal } = stopping;
  (async () => {
    let wait = FIRST_WAIT;
    while (!signal.aborted) {
      let reason = "reconnecting";
      try {
        await read(path, signal, () => onState("live"), (event, data) => {
          wait = FIRST_WAIT;
          onEvent(event, data);
        });
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ServiceError) reason = error.message;
        else if (!(error instanceof TypeError)) throw error;
      }
      onState(reason);
      await new Promise((resolve) => setTimeout(resolve, wait));
      wait = Math.min(LONGEST_WAIT, 2 * wait);
    }
  })();
  return { stop: () => stopping.abort() };
}
