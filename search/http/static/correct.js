// Corrects lines of a transcript in place. docs/corrections.md says what follows from a correction.

import { api, element, say } from "./page.js";

const MOST_CHARACTERS = 2000;
const ONE_MS = 0.001;
const words = (text) => text.trim().replace(/\s+/g, " ");

/** Give each line of a page a button to correct it. Lines of the transcript have a link, stale corrections have none. */
export function correcting(page) {
  const video = page.dataset.api.split("/").at(-1);
  for (const line of page.querySelectorAll(".lines[data-track] > li")) line.append(button("correct", "Correct", line));
  for (const before of page.querySelectorAll(".lines[data-track] .before")) before.append(" ", undoButton(before.parentElement));
  for (const stale of page.querySelectorAll("[data-correction]")) stale.append(button("forget", "Delete", stale));
  page.addEventListener("click", (event) => {
    const pressed = event.target.closest("[data-act]");
    const line = pressed?.closest("li");
    if (!line) return;
    const { act } = pressed.dataset;
    if (act === "correct") edit(line, video);
    else if (act === "leave") leave(line);
    else if (act === "undo") tell(undo(line, video));
    else if (act === "forget") tell(forget(line, video));
  });
}

const timeOf = (line) => line.querySelector("time").textContent;
const textOf = (line) => line.querySelector(".text");
const originalOf = (line) => line.querySelector(".before s")?.textContent ?? textOf(line).textContent;

function button(act, name, line) {
  const attributes = { type: "button", class: "plain", "data-act": act, "aria-label": `${name} the line at ${timeOf(line)}` };
  return element("button", act === "correct" ? { ...attributes, title: "Correct (c)" } : attributes, name);
}
const undoButton = (line) => button("undo", "Undo", line);

/** Say why something could not be done. */
async function tell(work) {
  try {
    await work;
  } catch (error) {
    say(error.message);
  }
}

function edit(line, video) {
  const link = line.querySelector("a");
  let box = line.querySelector("textarea");
  if (!box) {
    box = element("textarea", { "aria-label": `Text of the line at ${timeOf(line)}`, maxlength: MOST_CHARACTERS, rows: 2, dir: "auto" });
    if (link.lang) box.lang = link.lang;
    box.value = words(textOf(line).textContent);
    const leaving = element("button", { type: "button", "data-act": "leave" }, "Cancel");
    const form = element("form", { class: "correct" }, box, element("button", {}, "Save"), leaving);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      save(line, video);
    });
    form.addEventListener("keydown", (event) => {
      if (event.isComposing) return; // Enter chooses a character
      if (event.key === "Escape") leave(line);
      else if (event.key === "Enter" && event.target === box) save(line, video);
      else return;
      event.preventDefault();
    });
    line.append(form);
  }
  box.focus();
  line.scrollIntoView({ block: "nearest" });
}

/** Close the form of a line. The focus goes to the button first, which is hidden while it is nowhere in the line. */
function leave(line) {
  if (line.contains(document.activeElement)) line.querySelector("[data-act=correct]").focus();
  line.querySelector("form")?.remove();
}

async function save(line, video) {
  const form = line.querySelector("form");
  const box = form.querySelector("textarea");
  if (form.ariaBusy === "true") return;
  form.ariaBusy = "true";
  try {
    const text = words(box.value);
    if (text === words(originalOf(line))) await undo(line, video);
    else if (text !== words(textOf(line).textContent)) await correct(line, video, text);
    leave(line);
  } catch (error) {
    if (error.kind === "EditConflict") await tell(refresh(line, video));
    refuse(form, box, error.message);
  } finally {
    form.ariaBusy = null;
  }
}

function refuse(form, box, message) {
  form.querySelector(".problem")?.remove();
  form.append(element("p", { class: "problem", role: "alert" }, message));
  box.setAttribute("aria-invalid", "true");
  box.focus();
}

function placeOf(line) {
  const { seek, until } = line.querySelector("a").dataset;
  return { track: line.parentElement.dataset.track, start_s: Number(seek), end_s: Number(until), original: originalOf(line) };
}

async function correct(line, video, text) {
  const shown = textOf(line).textContent;
  const made = await api("/corrections", { method: "POST", body: { video, ...placeOf(line), text, shown } });
  show(line, made.original, made.text);
  say("corrected");
}

/** Show a line with both of its texts; without a correction, text is null. */
function show(line, original, text) {
  line.querySelector(".before")?.remove();
  textOf(line).replaceChildren(text ?? original);
  if (text === null) return;
  const before = element("p", { class: "before" }, "before: ", element("s", { dir: "auto" }, original), " ", undoButton(line));
  line.querySelector("a").after(before);
}

/** Return the correction of a line, undefined without one. */
async function correctionOf(line, video) {
  const { track, start_s, end_s, original } = placeOf(line);
  const near = (one, other) => Math.abs(one - other) < ONE_MS;
  const { corrections } = await api(`/corrections?${new URLSearchParams({ video })}`);
  return corrections.find((each) =>
    each.track === track && each.original === original && near(each.start_s, start_s) && near(each.end_s, end_s));
}

async function refresh(line, video) {
  const found = await correctionOf(line, video);
  show(line, originalOf(line), found?.text ?? null);
}

/** Let a line read as before. Does nothing to one that is not corrected. */
async function undo(line, video) {
  if (!line.querySelector(".before")) return;
  const found = await correctionOf(line, video);
  if (found) {
    try {
      await remove(found.id, video, { shown: textOf(line).textContent });
    } catch (error) {
      if (error.kind === "EditConflict") await refresh(line, video);
      throw error;
    }
  }
  line.querySelector("a").focus();
  show(line, originalOf(line), null);
  say("as it was before");
}

const remove = (id, video, more = {}) =>
  api(`/corrections/${id}?${new URLSearchParams({ video, ...more })}`, { method: "DELETE" });

async function forget(line, video) {
  await remove(line.dataset.correction, video);
  const list = line.parentElement;
  line.remove();
  if (!list.children.length) list.closest("details").remove();
  say("deleted");
}
