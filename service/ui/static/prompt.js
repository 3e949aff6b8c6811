// The prompt explorer: what is asked.

import { byId, el } from "./dom.js";
import * as explained from "./explained.js";
import { getJson, postJson } from "./service.js";

const WAIT = 500;
const LONGEST_LIVE = 50_000;
const KINDS = ["prompt", "chat", "json"];
const ROLES = ["system", "user", "assistant"];

let fleet = null;
let running = null;
let timer = 0;
let hasModels = false;

const kind = () => new FormData(byId("prompt-form")).get("kind");

export function prepare(known) {
  fleet = known;
  explained.prepare(fleet);
  addMessage("user", "");
  const form = byId("prompt-form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    explain();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    explain();
  });
  form.addEventListener("input", (event) => {
    if (event.target.name === "kind") return showKind();
    if (event.target.id === "prompt-text") takeChat(event.target);
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (sizeOf() <= LONGEST_LIVE) explain({ isQuiet: true });
    }, WAIT);
  });
  byId("add-message").addEventListener("click", () => {
    const last = byId("messages").lastElementChild?.querySelector("select").value;
    addMessage(last === "user" ? "assistant" : "user", "").querySelector("textarea").focus();
  });
}

/** Called when the view is shown. */
export async function opened() {
  if (hasModels) return;
  hasModels = true;
  try {
    const { data } = await getJson("v1/models");
    byId("models").replaceChildren(...data.map((model) => el("option", { value: model.id })));
  } catch {
    hasModels = false; // the field takes any name
  }
}

function showKind() {
  for (const name of KINDS) byId(`field-${name}`).hidden = name !== kind();
  byId("model-field").hidden = kind() === "json";
}

/** Takes a pasted request for what it is. */
function takeChat(field) {
  const text = field.value.trim();
  if (!/^[[{]/.test(text)) return;
  try {
    const parsed = JSON.parse(text);
    const isChat = Array.isArray(parsed) ? parsed[0]?.role : parsed.messages ?? parsed.prompt ?? parsed.input;
    if (!isChat) return;
    byId("prompt-json").value = JSON.stringify(Array.isArray(parsed) ? { messages: parsed } : parsed, null, 2);
  } catch {
    return; // a prompt that begins with a bracket
  }
  field.value = "";
  document.querySelector('[name="kind"][value="json"]').checked = true;
  showKind();
  byId("prompt-json").focus();
}

function addMessage(role, text) {
  const number = byId("messages").childElementCount + 1;
  const choice = el("select", { "aria-label": `Role of message ${number}` }, ...ROLES.map((name) => el("option", { value: name, text: name })));
  choice.value = role;
  const content = el("textarea", { rows: "3", spellcheck: "false", "aria-label": `Text of message ${number}` });
  content.value = text;
  const remove = el("button", { type: "button", "aria-label": `Remove message ${number}`, text: "Remove" });
  const item = el("li", {}, el("div", { class: "role" }, choice, remove), content);
  remove.addEventListener("click", () => {
    const beside = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    (beside?.querySelector("textarea") ?? byId("add-message")).focus();
  });
  byId("messages").append(item);
  return item;
}

/** The body of the request; null while there is nothing to ask. Throws SyntaxError. */
function bodyOf() {
  const model = byId("prompt-model").value.trim();
  const named = model ? { model } : {};
  if (kind() === "prompt") return byId("prompt-text").value ? { prompt: byId("prompt-text").value, ...named } : null;
  if (kind() === "json") return byId("prompt-json").value.trim() ? JSON.parse(byId("prompt-json").value) : null;
  const messages = [...byId("messages").children].map((item) => ({ role: item.querySelector("select").value, content: item.querySelector("textarea").value }));
  return messages.some((message) => message.content) ? { messages, ...named } : null;
}

function sizeOf() {
  return [...byId("prompt-form").querySelectorAll("textarea")].reduce((size, field) => size + field.value.length, 0);
}

/** Asks, and shows the answer; `isQuiet` while somebody types, who may be in the midst of something. */
async function explain({ isQuiet = false } = {}) {
  clearTimeout(timer);
  running?.abort();
  let body = null;
  try {
    body = bodyOf();
  } catch (error) {
    if (!isQuiet) explained.fail(`This is not JSON: ${error.message}`);
    return;
  }
  if (body === null) {
    if (!isQuiet) explained.fail("There is nothing to explain: type a prompt.");
    return;
  }
  const asked = (running = new AbortController());
  explained.wait();
  try {
    const answer = await postJson("explain", { ...body, choice: true, placements: true }, asked.signal);
    if (asked === running) explained.show(answer, body);
  } catch (error) {
    if (asked === running) explained.fail(error instanceof TypeError ? "The service does not answer." : error.message);
  }
}
