"use strict";
// Tables sort by a column, by mouse and by keyboard; numbers by their value, texts by the alphabet, nothing last.
const number = (text) => {
  const found = text.replace(/\u2212/g, "-").replace(/,(?=\d{3})/g, "").match(/[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?/i);
  return found ? Number(found[0]) * (/\d\s*h\b/.test(text) ? 3600 : /\d\s*min\b/.test(text) ? 60 : 1) : NaN;
};
const order = (a, b, numeric) => {
  if (a === "" || b === "") return 0;
  if (!numeric) return a.localeCompare(b, undefined, { numeric: true });
  const [x, y] = [number(a), number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : x - y;
};
const sort = (heading, column) => {
  const table = heading.closest("table");
  const numeric = heading.classList.contains("num");
  const was = heading.getAttribute("aria-sort");
  const way = was === "none" ? (numeric ? "descending" : "ascending") : was === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", way);
  const rows = [...table.tBodies[0].rows].map((row) => [row.cells[column].textContent.trim(), row]);
  const sign = way === "ascending" ? 1 : -1;
  rows.sort(([a], [b]) => (a === "") - (b === "") || sign * order(a, b, numeric));
  table.tBodies[0].append(...rows.map(([, row]) => row));
};
for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(heading, column));
    heading.replaceChildren(button);
    heading.setAttribute("aria-sort", "none");
  });
}
// What is pointed at says what it is; a line says its value there.
const said = document.getElementById("said");
const words = new WeakMap();
let pointed = null;
const text_of = (mark) => {
  const title = [...mark.children].find((child) => child.tagName === "title");
  if (title) { words.set(mark, title.textContent); title.remove(); } // or the browser shows it a second time
  return words.get(mark);
};
const mark_at = (x, y) => {
  for (const [dx, dy] of [[0, 0], [0, -3], [0, 3], [-3, 0], [3, 0]]) {
    const found = document.elementFromPoint(x + dx, y + dy);
    if (found && found.closest("svg.figure") && text_of(found)) return found;
  }
  return null;
};
const value_there = (mark, event) => {
  const svg = mark.ownerSVGElement;
  if (!mark.classList.contains("ln") || !svg.dataset.axes) return "";
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const places = mark.getAttribute("d").match(/-?[\d.]+ -?[\d.]+/g).map((pair) => pair.split(" ").map(Number));
  const near = places.reduce((best, place) => (Math.abs(place[0] - at.x) < Math.abs(best[0] - at.x) ? place : best));
  const axes = JSON.parse(svg.dataset.axes);
  const value = ([low, high, start, end, log], place) => {
    const share = (place - start) / (end - start);
    return log ? low * (high / low) ** share : low + share * (high - low);
  };
  const y = value(axes.y, near[1]);
  return `\nepoch ${Math.round(value(axes.x, near[0]))}: ${Math.abs(y) >= 10 ? y.toFixed(1) : y.toPrecision(3)}`;
};
const point = (event) => {
  const mark = event.target.closest && event.target.closest("svg.figure") ? mark_at(event.clientX, event.clientY) : null;
  if (pointed && pointed !== mark) pointed.classList.remove("pointed");
  said.hidden = !mark;
  pointed = mark;
  if (!mark) return;
  if (mark.classList.contains("ln")) mark.classList.add("pointed");
  said.textContent = text_of(mark) + value_there(mark, event);
  const box = said.getBoundingClientRect();
  said.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 4))}px`;
  said.style.top = `${event.clientY + 16 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 16}px`;
};
document.addEventListener("pointermove", point);
document.addEventListener("pointerdown", point);
document.addEventListener("scroll", () => { said.hidden = true; }, { passive: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") said.hidden = true; });
