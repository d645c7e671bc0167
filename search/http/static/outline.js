// Chapters and digest of a video: each is asked for when its list is opened, as finding them takes a while in a long one.

import { api, clock, element, root } from "./page.js";

// Chapters of a video of so many clips take a fraction of a second; they are then on the timeline at once.
const QUICK_CLIPS = 120;
const SVG = "http://www.w3.org/2000/svg";
const CHANCE = "Not better than chance here: ";

const link = (start, ...inside) => element("a", { href: `?t=${start}`, "data-seek": start }, ...inside);
const line = (start, text, ...more) => {
  const words = element("span", { dir: "auto" }, text, ...more);
  return element("li", {}, link(start, element("time", {}, clock(start)), " ", words));
};
const remark = (text) => element("p", { class: "faint" }, text);

async function chapters(page, address) {
  const found = await api(`${address}/chapters`);
  if (!found.chapters.length) return [remark(`${CHANCE}the video has no parts of its own.`)];
  mark(page, found);
  const lines = found.chapters.map(({ start_s: start, title, sentence }) => {
    const said = sentence ? [element("span", { class: "sentence" }, sentence.text)] : [];
    return line(start, title || "nothing said or written", ...said);
  });
  const sure = found.p_value === null ? "too few clips to compare them with chance" : `p = ${found.p_value.toFixed(2)}`;
  const origin = found.origin === "file" ? "Of the file." : `Found where pictures, speech and text change; ${sure}.`;
  return [element("ol", { class: "lines", tabindex: "0", "aria-label": "Chapters" }, ...lines), remark(origin)];
}

/** Mark where chapters begin on the track of the timeline, which is there already: nothing moves. */
function mark(page, { start_s: from, end_s: to, chapters: parts }) {
  const track = page.querySelector(".track svg");
  if (track.querySelector(".part")) return;
  const marks = parts.slice(1).map(({ start_s: start, title }) => {
    const made = document.createElementNS(SVG, "rect");
    const values = { class: "part", x: (1000 * (start - from)) / (to - from || 1) - 1, y: 0, width: 2, height: 14 };
    for (const [name, value] of Object.entries({ ...values, "data-seek": start })) made.setAttribute(name, value);
    const name = document.createElementNS(SVG, "title");
    name.textContent = `${clock(start)} ${title}`;
    made.append(name);
    return made;
  });
  track.querySelector(".head").before(...marks);
}

async function digest(page, address) {
  const found = await api(`${address}/digest`);
  const frames = found.moments.map(({ start_s: start, share, clip }) => {
    const image = element("img", { src: `${root}/api/v1/videos/${clip[0]}/thumbnails/${clip[1]}`, alt: "", loading: "lazy" });
    const told = `Play at ${clock(start)}: stands for ${Math.round(100 * share)} % of the video`;
    const shot = link(start, image, element("span", { class: "time" }, clock(start)), element("span", { class: "hidden" }, told));
    shot.className = "shot";
    shot.title = told;
    return element("li", {}, shot);
  });
  const said = found.sentences.map(({ start_s: start, text }) => line(start, text));
  const shown = [];
  if (frames.length) shown.push(element("ul", { class: "others", "aria-label": "Excerpts that stand for the video" }, ...frames));
  if (said.length) shown.push(element("ol", { class: "lines", tabindex: "0", "aria-label": "Sentences that stand for the video" }, ...said));
  for (const [what, verdict] of [["excerpts", found.pictures], ["sentences", found.text]]) {
    if (verdict.better_than_chance === false) shown.push(remark(`${CHANCE}no ${what} stand for the video better than random ones.`));
  }
  return shown.length ? shown : [remark("There is nothing to choose from.")];
}

const TASKS = { chapters, digest };

/** Fill the lists of a page when they are opened; at once those that are open, and the chapters of a short video. */
export function outline(page) {
  const address = page.dataset.api.slice(`${root}/api/v1`.length);
  for (const holder of page.querySelectorAll("[data-outline]")) {
    let asked = false;
    const fill = async () => {
      if (asked) return;
      asked = true;
      const shown = element("div", { role: "status" }, remark("looking through the video …"));
      holder.append(shown);
      try {
        shown.replaceChildren(...(await TASKS[holder.dataset.outline](page, address)));
      } catch (error) {
        asked = false; // it may be opened again
        shown.replaceChildren(remark(error.message));
        holder.addEventListener("toggle", () => shown.remove(), { once: true });
      }
    };
    holder.addEventListener("toggle", () => holder.open && fill());
    if (holder.open || Number(holder.dataset.clips) <= QUICK_CLIPS) fill();
  }
}
