// Elements and texts. Text from elsewhere goes into text nodes only.

export const byId = (id) => document.getElementById(id);

/** An element with properties (`class`, `text`, or attributes) and children. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Changes a text only if it is another one: most of a table stays as it is. */
export function setText(element, text) {
  if (element.firstChild?.nodeType === Node.TEXT_NODE && element.childNodes.length === 1) {
    if (element.firstChild.data !== text) element.firstChild.data = text;
  } else {
    element.textContent = text;
  }
}

export function setClass(element, name) {
  if (element.className !== name) element.className = name;
}

/** Puts elements into a parent in this order, and moves none that is in its place. */
export function arrange(parent, elements) {
  let next = parent.firstElementChild;
  for (const element of elements) {
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
  while (next) {
    const gone = next;
    next = next.nextElementSibling;
    gone.remove();
  }
}

/** A row with a cell per column: a text, which `put` sets, and a smaller one beneath. `head` is in the pod's cell instead. */
export function tableRow(columns, head = [el("span"), el("span", { class: "under" })]) {
  const cells = new Map();
  const element = el("tr", { role: "row" });
  for (const column of columns) {
    const isHead = column.id === "pod";
    const title = column.group ? `${column.group}, ${column.title}` : column.title;
    const cell = el(isHead ? "th" : "td", { role: isHead ? "rowheader" : "cell", scope: isHead ? "row" : null, class: column.number ? "number" : "", "data-title": title });
    cell.append(...(isHead ? head : [el("span"), el("span", { class: "under" })]));
    cells.set(column.id, cell);
    element.append(cell);
  }

  function put(id, text, beneath = "", kind = "") {
    const [first, second] = cells.get(id).children;
    setText(first, text);
    setText(second, beneath);
    setClass(first, kind);
  }

  return { element, cells, put };
}

const SVG = "http://www.w3.org/2000/svg";

/** A line of the last values; says nothing that the number beside it does not. */
export function sparkline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 60 16");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "polyline");
  svg.append(line);
  return {
    element: svg,
    draw(values) {
      const highest = Math.max(...values, 1e-9);
      const first = 60 - values.length;
      line.setAttribute("points", values.map((value, at) => `${first + at},${(15 - (14 * value) / highest).toFixed(1)}`).join(" "));
    },
  };
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const percent = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
export const NONE = "–";

export const count = (value) => (value === null || value === undefined ? NONE : whole.format(value));
export const rate = (value) => (value === null || value === undefined ? NONE : value < 10 ? tenth.format(value) : whole.format(value));
export const share = (value) => (value === null || value === undefined ? NONE : `${percent.format(100 * value)} %`);

/** A large number in four digits at most: 1.2 M. */
export function short(value) {
  if (value < 10_000) return whole.format(value);
  return value < 1e6 ? `${tenth.format(value / 1e3)} k` : `${tenth.format(value / 1e6)} M`;
}

/** Seconds in the unit that fits. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 1) return `${seconds < 0.01 ? tenth.format(seconds * 1000) : whole.format(seconds * 1000)} ms`;
  if (seconds < 100) return `${tenth.format(seconds)} s`;
  if (seconds < 6000) return `${whole.format(seconds / 60)} min`;
  return seconds < 172_800 ? `${whole.format(seconds / 3600)} h` : `${whole.format(seconds / 86_400)} d`;
}
