"use strict";
const element = (id) => document.getElementById(id);
const QUIET_MS = 300, SLOW_MS = 500, STALE = 409;
const controls = { ...START };
let changed = false, asking = false, round = 0, timer = 0, waiting = null;

async function ask(what, body, signal) {
  const response = await fetch(what, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body), signal,
  });
  if (response.status === STALE) throw new DOMException("stale", "AbortError");
  if (!response.ok) throw new Error((await response.text()).trim());
  return response.json();
}

function tellMistake(text) {
  const place = element("mistake");
  place.hidden = !text;
  if (place.textContent !== text) place.textContent = text;
  document.body.classList.toggle("stale", Boolean(text));
}

function failed(error) {
  if (error.name === "AbortError") return;
  tellMistake(error instanceof TypeError ? "costsim explore has ended: start it again in its terminal" : error.message);
}

/* One question at a time, and always the latest: what was dragged over meanwhile is skipped. */
async function follow() {
  changed = true;
  if (waiting) waiting.abort();
  clearTimeout(timer);
  if (asking) return;
  asking = true;
  const slow = setTimeout(() => document.body.setAttribute("aria-busy", "true"), SLOW_MS);
  while (changed) {
    changed = false;
    try { show(await ask("plan", controls)); tellMistake(""); } catch (error) { failed(error); }
  }
  clearTimeout(slow);
  document.body.removeAttribute("aria-busy");
  asking = false;
  timer = setTimeout(settle, QUIET_MS);
}

/* What takes longer comes once nothing moves. */
async function settle() {
  if (!element("mistake").hidden) return;
  const now = (waiting = new AbortController());
  element("said").textContent = element("sentence").textContent;
  try {
    for (const what of ["more", "frontier", "whole"]) {
      fill(await ask(what, controls, now.signal));
      if (now.signal.aborted) return;
    }
    document.body.dataset.settled = String(++round);
  } catch (error) {
    failed(error);
    /* Another page of the same command has moved meanwhile. */
    if (error.name === "AbortError" && !now.signal.aborted) timer = setTimeout(settle, QUIET_MS);
  }
}

function fill(answer) {
  for (const name of ["plan", "frontier", "more", "devices", "whole"]) {
    if (answer[name] !== undefined) replaced(element(name), answer[name]);
  }
  if (answer.sentence) element("sentence").textContent = answer.sentence;
}

/* New content, with what was unfolded still unfolded. */
function replaced(place, html) {
  const open = [...place.querySelectorAll("details")].map((one) => one.open);
  place.innerHTML = html;
  place.querySelectorAll("details").forEach((one, at) => { one.open = open[at] || false; });
}

function show(answer) {
  fill(answer);
  element("sentence").classList.toggle("no", !answer.holds);
  element("command").textContent = answer.command;
  for (const slider of answer.sliders) stand(slider);
  const there = new Set(answer.sliders.map((slider) => slider.name));
  for (const row of element("sliders").children) {
    row.hidden = !there.has(row.dataset.name);
  }
}

/* A slider with a field to type in beside it; `stops` are texts that the command line reads too. */
function stand(slider) {
  const row = element(`row-${slider.name}`) || made(slider);
  const range = row.querySelector("input[type=range]");
  const field = row.querySelector("input[type=text]");
  row.stops = slider.stops;
  range.max = slider.stops.length - 1;
  if (document.activeElement !== range || row.typed) range.value = slider.index;
  row.typed = false;
  range.setAttribute("aria-valuetext", slider.now);
  field.placeholder = slider.now === "no limit" ? slider.now : "the device's";
  row.querySelector("output").textContent = slider.now;
}

function made(slider) {
  const row = document.createElement("div");
  row.id = `row-${slider.name}`;
  row.className = "slider";
  row.dataset.name = slider.name;
  row.innerHTML = `<label for="${slider.name}"></label><output for="${slider.name} ${slider.name}-text"></output>
<input type="range" id="${slider.name}" min="0" step="1"><input type="text" id="${slider.name}-text" size="9" spellcheck="false">`;
  row.querySelector("label").textContent = slider.label;
  const range = row.querySelector("input[type=range]");
  const field = row.querySelector("input[type=text]");
  field.setAttribute("aria-label", `${slider.label}, typed; empty: the device's`);
  field.value = controls[slider.name];
  range.addEventListener("input", () => {
    controls[slider.name] = field.value = row.stops[range.value];
    follow();
  });
  field.addEventListener("change", () => {
    controls[slider.name] = field.value;
    row.typed = true;
    follow();
  });
  element("sliders").append(row);
  return row;
}

for (const choice of document.querySelectorAll("#controls select")) {
  choice.addEventListener("change", () => { controls[choice.name] = choice.value; follow(); });
}
element("controls").addEventListener("submit", async (event) => {
  event.preventDefault();
  element("saved").textContent = "Writing.";
  try {
    element("saved").textContent = (await ask("save", { ...controls, out: element("out").value })).saved;
  } catch (error) { element("saved").textContent = error.message; }
});
follow();
