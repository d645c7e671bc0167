// What the pages do beyond links and forms. The server renders everything: further results and other questions are
// pages of it, of which this module takes the parts. No text becomes markup here.

export const root = document.body.dataset.root;
const mayWrite = "mayWrite" in document.body.dataset;
const main = document.getElementById("main");
const $ = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const JUDGED = "judgements";
const RIGHT = 2; // of a grade from 0 to 3

// --- small things ---------------------------------------------------------------------------------------------------

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Say something to people who see the page and to those who hear it. */
export function say(text) {
  $("#said").textContent = text;
  $("#toast")?.remove();
  const toast = element("p", { id: "toast", "aria-hidden": "true" }, text);
  document.body.append(toast);
  setTimeout(() => toast.remove(), 3500);
}

/** Return the JSON answer of the REST interface. Throws an Error with its sentence. */
export async function api(path, options = {}) {
  const { body, ...rest } = options;
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  const answer = await fetch(`${root}/api/v1${path}`, { ...rest, ...sent });
  const document_ = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(document_.error.message), { kind: document_.error.kind });
  return document_;
}

/** Return a page of this server as a document, in which no script runs. */
function pageAt(address, form = null) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(form ? "POST" : "GET", address);
    request.responseType = "document";
    request.setRequestHeader("accept", "text/html");
    request.onload = () => (request.response ? resolve(request.response) : reject(new Error("the server sent no page")));
    request.onerror = () => reject(new Error("the server does not answer"));
    request.send(form);
    pageAt.last = request;
  });
}

const attempt = (work) => async (...values) => {
  try {
    return await work(...values);
  } catch (error) {
    say(error.message);
    return undefined;
  }
};

const clock = (time) => {
  const whole = Math.max(0, Math.round(time));
  const [hours, minutes, seconds] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`;
};
export { clock };

// --- searching ------------------------------------------------------------------------------------------------------

const bar = $("#q");

async function show(address, { form = null, push = true } = {}) {
  pageAt.last?.abort();
  main.setAttribute("aria-busy", "true");
  try {
    const page = await pageAt(address, form);
    if (!page.getElementById("results")) {
      location.assign(address); // the page to log in, or one of another version
      return;
    }
    document.title = page.title;
    const focused = document.activeElement;
    for (const id of ["asked", "results"]) {
      document.getElementById(id).replaceWith(document.importNode(page.getElementById(id), true));
    }
    if (push) history.pushState(null, "", address);
    bar.value = page.getElementById("q").value;
    if (push) scrollTo(0, 0);
    if (!focused.isConnected) main.focus({ preventScroll: true });
    arrived();
  } finally {
    main.removeAttribute("aria-busy");
  }
}

/** Prepare results that have just come: the wrong character, marks, further pages. */
function arrived() {
  const problem = $("#problem");
  bar.removeAttribute("aria-invalid");
  bar.removeAttribute("aria-describedby");
  if (problem) {
    bar.setAttribute("aria-invalid", "true");
    bar.setAttribute("aria-describedby", "problem");
    const position = problem.dataset.position;
    if (position) {
      const at = [...bar.value].slice(0, Number(position)).join("").length; // the server counts characters
      bar.focus();
      bar.setSelectionRange(at, at + 1);
    }
  }
  const count = $("#count");
  if (count) $("#said").textContent = count.textContent.trim();
  const more = $(".more a[rel=next]");
  further.disconnect();
  if (more && $("#results")) further.observe(more);
  showMarks();
  showJudgements();
}

const further = new IntersectionObserver(
  attempt(async ([entry]) => {
    if (!entry.isIntersecting) return;
    const link = entry.target;
    further.unobserve(link);
    const grid = $(".grid");
    const page = await pageAt(link.href);
    if (!grid.isConnected) return; // another question was asked meanwhile
    grid.append(...all(".grid > li", page).map((card) => document.importNode(card, true)));
    const next = $(".more a[rel=next]", page);
    if (next) {
      link.href = next.getAttribute("href");
      further.observe(link);
    } else link.remove();
    showMarks();
    showJudgements();
  }),
  { rootMargin: "1200px" },
);

// That of what is shown: with pictures, the address has another.
const question = () => $("[data-question]")?.dataset.question ?? "";

function searchPage() {
  const search = attempt(show);
  $(".bar").addEventListener("submit", (event) => {
    event.preventDefault();
    search(`${root}${$("#asked").dataset.at}?${new URLSearchParams({ q: bar.value })}`);
  });
  main.addEventListener("click", (event) => {
    const add = event.target.closest("[data-add]");
    if (add) {
      bar.value = `${bar.value.trim()} ${add.dataset.add}`.trimStart();
      bar.focus();
      return;
    }
    const link = event.target.closest("#asked a, .examples a, .empty a, [aria-label^=Labels] a, [data-act=like]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    search(link.href);
  });
  addEventListener("popstate", () => search(location.href, { push: false }));
  pictures(search);
  neighbours();
  arrived();
}

/** Ask with pictures that are pasted or dropped. */
function pictures(search) {
  const ask = (files) => {
    const images = [...files].filter((file) => file.type.startsWith("image/")).slice(0, 4);
    if (!images.length) return false;
    const form = new FormData();
    form.append("q", bar.value);
    for (const image of images) form.append("image", image);
    search(`${root}/`, { form, push: false });
    return true;
  };
  addEventListener("paste", (event) => ask(event.clipboardData.files) && event.preventDefault());
  addEventListener("dragover", (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("drop");
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("drop"));
  addEventListener("drop", (event) => {
    document.body.classList.remove("drop");
    if (event.dataTransfer.files.length) event.preventDefault();
    if (event.dataTransfer.files.length && !ask(event.dataTransfer.files)) say("only pictures can be searched for");
  });
}

/** Show the clips before and after one while the pointer, or the focus, rests on it. */
function neighbours() {
  let timer = 0;
  const known = new Map();
  const leave = (event) => {
    clearTimeout(timer);
    event.target.closest?.(".card > article > .shot")?.querySelector(".near")?.remove();
  };
  const enter = (event) => {
    const shot = event.target.closest?.(".card > article > .shot:not(.pair)");
    if (!shot || $(".near", shot)) return;
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const [fingerprint, start] = shot.closest("[data-clip]").dataset.clip.split(":");
      if (!known.has(fingerprint)) known.set(fingerprint, api(`/videos/${fingerprint}`));
      const { clips } = await known.get(fingerprint).catch(() => ({ clips: [] }));
      const at = clips.findIndex((clip) => clip.key[1] === Number(start));
      const near = clips.slice(Math.max(0, at - 1), at + 2);
      if (at < 0 || near.length < 2 || !shot.matches(":hover, :focus-visible")) return;
      const strip = element("span", { class: "near", "aria-hidden": "true" });
      for (const { key } of near) {
        strip.append(element("img", { src: `${root}/api/v1/videos/${key[0]}/thumbnails/${key[1]}`, alt: "" }));
      }
      shot.insertBefore(strip, $(".time", shot));
    }, 450);
  };
  main.addEventListener("mouseover", enter);
  main.addEventListener("focusin", enter);
  main.addEventListener("mouseout", (event) => event.relatedTarget?.closest?.(".shot") === event.target.closest(".shot") || leave(event));
  main.addEventListener("focusout", leave);
}

// --- marks ----------------------------------------------------------------------------------------------------------

const tray = $("#tray");
const list = $("#list");
let marks = new Map(); // key of a clip -> mark, of the list of the tray
let judged = new Map(); // of the question

const textOf = (key) => `${key[0]}:${key[1]}`;

async function loadMarks() {
  const found = await api(`/marks?${new URLSearchParams({ list: list.value || "marks" })}`);
  marks = new Map(found.marks.filter((mark) => !mark.question).map((mark) => [textOf(mark.clip ?? mark.key), mark]));
  showTray();
  showMarks();
  const { lists } = await api("/lists");
  $("#lists").replaceChildren(...lists.filter(({ name }) => name !== JUDGED).map(({ name }) => element("option", { value: name })));
}

function showTray() {
  tray.hidden = !marks.size;
  const name = list.value || "marks";
  $(".count", tray).textContent = `${marks.size} in ${name}`;
  $(".count", tray).href = `${root}/marks?${new URLSearchParams({ list: name })}`;
  const newest = [...marks.keys()].slice(-6);
  $("ol", tray).replaceChildren(
    ...newest.map((key) => {
      const [fingerprint, start] = key.split(":");
      const image = element("img", { src: `${root}/api/v1/videos/${fingerprint}/thumbnails/${start}`, alt: "" });
      return element("li", {}, image);
    }),
  );
}

function showMarks() {
  for (const button of all("[data-act=mark]")) {
    const key = button.closest("[data-clip]")?.dataset.clip;
    button.setAttribute("aria-pressed", marks.has(key));
    button.textContent = marks.has(key) ? "Marked" : "Mark";
  }
}

async function loadJudgements() {
  const found = await api(`/marks?${new URLSearchParams({ list: JUDGED, question: question() })}`);
  judged = new Map(found.marks.map((mark) => [textOf(mark.key), mark]));
}

const showJudgements = attempt(async () => {
  if (!question() || !$("[data-act=reject]")) return;
  await loadJudgements();
  for (const button of all(".judge")) {
    const holder = button.closest("[data-clip]");
    const grade = judged.get(holder.dataset.clip)?.grade;
    button.setAttribute("aria-pressed", button.dataset.act === "reject" ? grade === 0 : grade > 0);
    holder.classList.toggle("rejected", grade === 0);
  }
});

const removeMark = ({ id, fingerprint }) => api(`/marks/${id}?video=${fingerprint}`, { method: "DELETE" });

const mark = attempt(async (key) => {
  if (marks.has(key)) await removeMark(marks.get(key));
  else await api("/marks", { method: "POST", body: { clip: key, list: list.value || "marks" } });
  say(marks.has(key) ? "mark taken away" : `marked in ${list.value || "marks"}`);
  await loadMarks();
});

/** Judge a clip for the question, or take the same judgement back; a list that is ranked by judgements is ranked anew. */
const judge = attempt(async (key, grade) => {
  const known = judged.get(key);
  const isSame = known && known.grade > 0 === grade > 0;
  if (isSame) await removeMark(known);
  else await api("/marks", { method: "POST", body: { clip: key, list: JUDGED, question: question(), grade } });
  say(isSame ? "no longer judged" : grade ? "noted: right" : "noted: not this");
  if ("feedback" in ($("#asked")?.dataset ?? {})) await show(location.href, { push: false });
  else await showJudgements();
});

const save = attempt(async () => {
  const text = question();
  await api("/saved", { method: "POST", body: { name: [...text].slice(0, 200).join(""), text } });
  say("saved: it is on the start page");
});

const forget = attempt(async (button) => {
  await api(`/saved?${new URLSearchParams({ name: button.dataset.name })}`, { method: "DELETE" });
  button.closest("li").remove();
  say("deleted");
});

function marking() {
  if (!tray) return;
  list.value = localStorage.getItem("vfindex.list") ?? "marks";
  list.addEventListener("change", () => {
    list.value = list.value.trim() || "marks";
    localStorage.setItem("vfindex.list", list.value);
    loadMarks().then(() => { tray.hidden = false; });
  });
  $("#export").addEventListener("change", (event) => {
    const format = event.target.value;
    event.target.value = "";
    if (format) download(`/api/v1/export?${new URLSearchParams({ format, list: list.value })}`);
  });
  attempt(loadMarks)();
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return; // the page as it was left: others may have marked since
    attempt(loadMarks)();
    showJudgements();
  });
}

/** Save an export; say what is otherwise than asked for. */
const download = attempt(async (path) => {
  say("exporting …");
  const answer = await fetch(root + path);
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const named = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") ?? "");
  const notes = JSON.parse(decodeURIComponent(answer.headers.get("vfindex-notes") ?? "%5B%5D"));
  const address = URL.createObjectURL(await answer.blob());
  element("a", { href: address, download: named?.[1] ?? "export" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  say(notes.length ? notes.join(" ") : "exported");
});

function marksPage() {
  const chosen = $("[data-list]")?.dataset.list;
  const open_ = (name) => location.assign(`${root}/marks?${new URLSearchParams({ list: name })}`);
  main.addEventListener("click", attempt(async (event) => {
    const card = event.target.closest("[data-act=remove]")?.closest("[data-mark]");
    if (!card) return;
    await removeMark({ id: card.dataset.mark, fingerprint: card.dataset.clip.split(":")[0] });
    card.remove();
    say("removed");
  }));
  $(".save-as")?.addEventListener("submit", attempt(async (event) => {
    event.preventDefault();
    const name = new FormData(event.target).get("name").trim();
    for (const card of all("[data-mark]")) {
      await api("/marks", { method: "POST", body: { clip: card.dataset.clip, list: name, note: card.dataset.note } });
    }
    open_(name);
  }));
  $(".rename")?.addEventListener("submit", attempt(async (event) => {
    event.preventDefault();
    const name = new FormData(event.target).get("name").trim();
    await api("/lists", { method: "POST", body: { name: chosen, new_name: name } });
    if (localStorage.getItem("vfindex.list") === chosen) localStorage.setItem("vfindex.list", name);
    open_(name);
  }));
  $("[data-act=remove-list]")?.addEventListener("click", attempt(async () => {
    if (!confirm(`Delete the list ${chosen} with its marks?`)) return;
    await api(`/lists?${new URLSearchParams({ name: chosen })}`, { method: "DELETE" });
    open_("marks");
  }));
}

// --- the library ----------------------------------------------------------------------------------------------------

function libraryPage() {
  const [started, shown] = [$("#started"), $("#progress")];
  let timer = 0;
  /** Tell how far the newest run is, whoever started it; load the page again when one ends that was watched. */
  const follow = async () => {
    const run = await fetch(`${root}/api/v1/runs/latest?library=${shown.dataset.library}`).then((answer) => answer.ok && answer.json());
    if (!run) return false;
    if (run.finished_at !== null) {
      if (shown.dataset.run === String(run.id)) location.reload();
      return false;
    }
    shown.dataset.run = run.id;
    if (run.progress) {
      const { done_files: done, total_files: total } = run.progress;
      const meter = element("progress", { max: Math.max(1, total), value: done, "aria-label": "Files done" });
      shown.replaceChildren(meter, ` ${run.command}: ${done} of ${total} files`);
    }
    return true;
  };
  const look = async () => {
    clearTimeout(timer);
    let runs = false;
    const answer = "known" in started.dataset ? await fetch(`${root}/api/v1/runs/started`) : null;
    if (answer?.ok) {
      const run = await answer.json();
      runs = run.exit_code === null;
      const state = runs ? "is running" : run.exit_code ? `ended with ${run.exit_code}` : "is done";
      started.textContent = `${run.command} ${state}${run.message ? `: ${run.message}` : ""}`;
    }
    if (("known" in shown.dataset || runs) && (await follow()) || runs) timer = setTimeout(look, 2000);
  };
  main.addEventListener("click", attempt(async (event) => {
    const button = event.target.closest("button[data-run]");
    if (!button) return;
    await api("/runs", { method: "POST", body: { command: button.dataset.run } });
    started.dataset.known = "";
    await look();
  }));
  look();
}

// --- findings -------------------------------------------------------------------------------------------------------

/** Run a task of the page in place, and say that it works. */
function findingsPage() {
  const working = $("#working");
  main.addEventListener("submit", attempt(async (event) => {
    const form = event.target.closest(".task");
    if (!form) return;
    event.preventDefault();
    const address = `${form.action}?${new URLSearchParams(new FormData(form))}`;
    const name = form.elements.show.value;
    const button = $("button", form);
    say("comparing …");
    working.textContent = "comparing; a large library takes up to a minute …";
    button.disabled = true;
    try {
      const page = await pageAt(address);
      const found = $(`[data-task=${name}]`, page);
      if (!found) return location.assign(address); // the page to log in
      $(`[data-task=${name}]`).replaceChildren(...[...found.childNodes].map((node) => document.importNode(node, true)));
      history.replaceState(null, "", address);
      $(`[data-task=${name}] .summary`)?.focus();
    } finally {
      button.disabled = false;
      working.textContent = "";
    }
  }));
}

// --- keys -----------------------------------------------------------------------------------------------------------

let player = null;
const shots = () => all(".shot", main).filter((shot) => shot.offsetParent);
const current = () => document.activeElement?.closest?.("[data-clip]") ?? $(".watch[data-clip]");

function move(by) {
  const found = shots();
  const at = found.findIndex((shot) => shot === document.activeElement || shot.hasAttribute("aria-current"));
  const next = found[at < 0 ? 0 : Math.min(found.length - 1, Math.max(0, at + by))];
  if (player && next) next.click();
  else next?.focus();
  if (!player) next?.scrollIntoView({ block: "nearest" });
}

function back() {
  const help = $("#help");
  if (help.open) {
    document.activeElement?.blur(); // a browser leaves it only at the next frame
    help.close();
  }
  else if (document.activeElement?.matches("input, select")) document.activeElement.blur();
  else if (player && history.length > 1) history.back();
  else if (player) location.assign(`${root}/?${new URLSearchParams({ q: question() })}`);
  else document.activeElement?.blur();
}

const press = (act) => $(`[data-act=${act}]`, current() ?? document.createElement("i"))?.click();
const why = () => {
  const found = $(".evidence", current() ?? main) ?? $(".evidence");
  if (found) found.open = !found.open;
};
const correct = () => {
  const line = document.activeElement?.closest(".lines li") ?? $(".lines [aria-current]")?.closest("li");
  if (line) $("[data-act=correct]", line)?.click();
};
const KEYS = {
  "/": () => bar && (bar.focus(), bar.select()),
  j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1),
  m: () => press("mark"), r: () => press("accept"), x: () => press("reject"), l: () => press("like"), e: why, c: correct,
  "?": () => $("#help").showModal(),
};
const PLAYER_KEYS = {
  " ": () => player.toggle(), Enter: () => player.play(),
  ArrowLeft: (event) => (event.shiftKey ? player.step(-1) : player.seek(player.time - 5)),
  ArrowRight: (event) => (event.shiftKey ? player.step(1) : player.seek(player.time + 5)),
};

function keys() {
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest(".correct")) return;
    if (event.key === "Escape") {
      if ($("#help").open) event.preventDefault();
      back();
      return;
    }
    if (target.closest("input, select, textarea, dialog")) return;
    if (target.closest(".lines") && event.key.startsWith("Arrow")) return; // it scrolls
    const acts = target.closest({ Enter: "a, button, summary", " ": "button, summary" }[event.key] ?? "nothing");
    const run = (player && !acts ? PLAYER_KEYS[event.key] : undefined) ?? KEYS[event.key];
    if (!run || acts) return;
    event.preventDefault(); // controls of the player have keys of their own
    event.stopPropagation();
    run(event);
  }, true);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  const key = button?.closest("[data-clip]")?.dataset.clip;
  if (button?.dataset.act === "help") $("#help").showModal();
  else if (button?.dataset.act === "save") save();
  else if (button?.dataset.act === "forget") forget(button);
  else if (button?.dataset.act === "mark" && mayWrite) mark(key);
  else if (button?.classList.contains("judge") && mayWrite) judge(key, button.dataset.act === "reject" ? 0 : RIGHT);
});

// --- start ----------------------------------------------------------------------------------------------------------

keys();
marking();
if ($("#results")) searchPage();
else if ($(".watch")) {
  // Not awaited: the player imports this module, which would then wait for itself.
  import("./player.js").then(({ watch }) => { player = watch($(".watch")); });
  import("./outline.js").then(({ outline }) => outline($(".watch")));
  if (mayWrite) import("./correct.js").then(({ correcting }) => correcting($(".watch")));
  showJudgements();
} else if ($("#working")) findingsPage();
else if ($("#started")) libraryPage();
else if ($("[data-list]")) marksPage();
