// Plays a video by the first step that serves: its file, a span copied, a span encoded again, single frames.
// All times are those of the video's own clock, as in hits. docs/playback.md describes the steps.

import { api, clock, element, say } from "./page.js";

const AHEAD_S = 30; // buffered before the playhead; a stream that nobody reads waits, and costs nothing
const BEHIND_S = 60;
const FRAMES = 12;
const LATE_START_S = 0.5;
const LATE_S = 0.15; // a moment ends when its last frame has been shown

const once = (target, ...names) =>
  new Promise((resolve) => {
    const done = (event) => {
      for (const name of names) target.removeEventListener(name, done);
      resolve(event);
    };
    for (const name of names) target.addEventListener(name, done);
  });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Player {
  #video; #api; #facts; #offset = 0; #rung = ""; #feed = null; #source = null;

  constructor(video, facts) {
    this.#video = video;
    this.#facts = facts;
    this.#api = facts.api;
    video.addEventListener("error", () => this.#failed());
    addEventListener("pagehide", () => this.#feed?.abort());
    addEventListener("pageshow", (event) => event.persisted && this.#resume());
  }

  get time() { return this.#video.currentTime + this.#offset; }
  get rung() { return this.#rung; }

  async open(time) {
    this.#video.replaceChildren(); // sources for browsers without scripts
    this.#video.removeAttribute("src");
    let how;
    try {
      how = await api(`${this.#api}/playback`);
    } catch (error) {
      return this.#strip(error.message);
    }
    this.#facts.reason = how.reason;
    return this.#use(how.rung, time);
  }

  async #use(rung, time) {
    this.#rung = rung;
    this.#feed?.abort();
    if (rung === "file") {
      this.#offset = 0;
      this.#video.preload = "auto";
      this.#video.src = `${this.#facts.root}/api/v1${this.#api}/media`;
      await once(this.#video, this.#facts.from > LATE_START_S ? "loadeddata" : "loadedmetadata", "error");
      if (this.#video.error) return;
      // Of a file that begins late, some browsers keep the times, others count from 0.
      if (this.#facts.from - this.#video.currentTime > LATE_START_S) this.#offset = this.#facts.from;
      this.seek(time);
    } else if (rung === "strip") this.#strip(this.#facts.reason);
    else if (window.MediaSource) await this.#stream(time);
    else this.#plain(time);
  }

  /** Play a span as one address: the time of its first frame is the one asked for, as it is encoded again. */
  #plain(time) {
    this.#offset = time;
    this.#video.src = `${this.#facts.root}/api/v1${this.#api}/stream?rung=transcode&start_s=${time.toFixed(3)}`;
  }

  async #stream(time) {
    const source = new MediaSource();
    this.#offset = 0;
    this.#video.preload = "auto";
    this.#video.src = URL.createObjectURL(source);
    await once(source, "sourceopen");
    URL.revokeObjectURL(this.#video.src);
    source.duration = this.#facts.to;
    this.#source = source;
    this.#video.currentTime = time;
    this.#video.onseeking = () => {
      if (!this.#buffered(this.#video.currentTime)) this.#start(source, this.#video.currentTime);
    };
    this.#start(source, time); // not awaited: it ends with the video
  }

  /** Read on, in a page that a browser kept while another one was shown. */
  #resume() {
    if (this.#source?.readyState !== "open") return;
    const { currentTime } = this.#video;
    this.#start(this.#source, this.#buffered(currentTime) || currentTime);
  }

  #buffered(time) {
    const ranges = this.#video.buffered;
    for (let n = 0; n < ranges.length; n += 1) {
      if (ranges.start(n) - 0.1 <= time && time < ranges.end(n)) return ranges.end(n);
    }
    return 0;
  }

  async #start(source, time) {
    this.#feed?.abort();
    const feed = new AbortController();
    this.#feed = feed;
    try {
      let from;
      let reached = time;
      do {
        from = reached;
        await this.#span(source, from, feed.signal);
        reached = this.#buffered(Math.max(this.#video.currentTime, from)) || this.#buffered(from + 0.2);
      } while (!feed.signal.aborted && reached > from && reached < this.#facts.to - 0.05);
      if (!feed.signal.aborted && source.readyState === "open") source.endOfStream();
    } catch (error) {
      if (!feed.signal.aborted) this.#failed(error.message);
    }
  }

  async #span(source, from, signal) {
    const answer = await this.#ask(from, signal);
    const type = answer.headers.get("content-type");
    if (!MediaSource.isTypeSupported(type)) throw new Error(`this browser plays no ${type}`);
    const buffer = source.sourceBuffers[0] ?? source.addSourceBuffer(type);
    if (buffer.updating) await once(buffer, "updateend");
    if (source.readyState === "open") buffer.abort(); // what was read to its end reopens by itself
    buffer.changeType?.(type);
    buffer.timestampOffset = Number(answer.headers.get("vfindex-start-s"));
    const reader = answer.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) return;
      await this.#append(buffer, value);
      while (!signal.aborted && this.#buffered(this.#video.currentTime) - this.#video.currentTime > AHEAD_S) {
        await pause(250);
      }
      if (signal.aborted) return;
    }
  }

  async #append(buffer, bytes) {
    const behind = this.#video.currentTime - BEHIND_S;
    if (buffer.buffered.length && buffer.buffered.start(0) < behind - BEHIND_S) {
      buffer.remove(0, behind);
      await once(buffer, "updateend");
    }
    buffer.appendBuffer(bytes);
    const event = await once(buffer, "updateend", "error");
    if (event.type === "error") throw new Error("the browser cannot decode the stream");
  }

  /** Return the answer with a span; wait while too many streams run. */
  async #ask(from, signal) {
    for (;;) {
      const values = new URLSearchParams({ start_s: from.toFixed(3), rung: this.#rung });
      const answer = await fetch(`${this.#facts.root}/api/v1${this.#api}/stream?${values}`, { signal });
      if (answer.ok) return answer;
      const { error } = await answer.json();
      if (!["Overloaded", "Busy"].includes(error.kind)) throw new Error(error.message);
      this.#note("Many videos play at once; waiting …");
      await pause(1000 * Number(answer.headers.get("retry-after") ?? 2));
    }
  }

  /** Go down one step of the ladder. */
  #failed(reason = this.#video.error?.message) {
    if (!this.#rung || this.#rung === "strip") return;
    this.#video.onseeking = null;
    const time = this.time || this.#facts.start;
    const plays = !this.#video.paused;
    if (this.#rung === "transcode") this.#strip(reason || "the video cannot be played");
    else this.#use("transcode", time).then(() => plays && this.play());
  }

  #strip(reason) {
    this.#rung = "strip";
    this.#feed?.abort();
    this.#note(`Frames only: ${reason}`);
    const strip = this.#facts.strip;
    const length = (this.#facts.to - this.#facts.from) / FRAMES;
    const times = Array.from({ length: FRAMES }, (_, n) => this.#facts.from + n * length).concat(this.#facts.start);
    strip.replaceChildren(...times.sort((a, b) => a - b).map((time) => {
      const address = `${this.#facts.root}/api/v1${this.#api}/frame?t=${time.toFixed(3)}&size=480`;
      const image = element("img", { src: address, alt: `Frame at ${clock(time)}`, loading: "lazy" });
      return element("li", {}, image, element("span", { class: "time" }, clock(time)));
    }));
    strip.hidden = false;
    this.#video.hidden = true;
  }

  #note(text) {
    this.#facts.note.textContent = text;
    this.#facts.note.hidden = !text;
  }

  shown() { if (this.#rung !== "strip") this.#note(""); }

  seek(time) {
    const within = Math.min(this.#facts.to - 0.04, Math.max(this.#facts.from, time));
    if (this.#rung !== "file" && this.#offset > 0 && within < this.#offset) this.#plain(within);
    else this.#video.currentTime = within - this.#offset;
  }

  play() { return this.#video.play().catch(() => {}); }
  toggle() { return this.#video.paused ? this.play() : this.#video.pause(); }
  step(frames) {
    this.#video.pause();
    this.seek(this.time + frames / this.#facts.fps);
  }
}

/** Return the player of a page, playing its moment. */
export function watch(page) {
  const { dataset } = page;
  const number = (text) => (text === "" || text === undefined ? null : Number(text));
  const [above, below] = (dataset.fps || "25/1").split("/").map(Number);
  const facts = {
    api: dataset.api.slice(`${document.body.dataset.root}/api/v1`.length), root: document.body.dataset.root,
    start: number(dataset.start), end: number(dataset.end), from: number(dataset.from), to: number(dataset.to),
    fps: above / (below || 1), strip: page.querySelector(".strip"), note: page.querySelector(".note"), reason: "",
  };
  const video = page.querySelector("video");
  const player = new Player(video, facts);
  const moment = { start: facts.start, end: facts.end, holds: facts.end !== null };
  page.player = player;
  video.addEventListener("playing", () => player.shown());
  follow(page, video, player, moment, facts);
  clicks(page, player, moment, facts);
  player.open(facts.start).then(() => player.play());
  return player;
}

/** Keep the playhead, the transcript and the end of the moment with the time. */
function follow(page, video, player, moment, facts) {
  const [head, now, atEnd] = [".head", "#now", "#at-end"].map((selector) => page.querySelector(selector));
  const spans = (selector) => [...page.querySelectorAll(selector)].map((item) => ({
    item, start: Number(item.dataset.seek), end: Number(item.dataset.until), now: null,
  }));
  const [lines, boxes] = [spans(".lines a[data-until]"), spans(".boxes rect")];
  /** Tell each span that begins or ends whether it is under way. */
  const turn = (found, time, tell) => {
    for (const span of found) {
      const isNow = span.start <= time && time < span.end;
      if (isNow !== span.now) tell(span.item, isNow);
      span.now = isNow;
    }
  };
  const update = () => {
    const { time } = player;
    now.textContent = clock(time);
    head.setAttribute("x", (1000 * (time - facts.from)) / (facts.to - facts.from || 1) - 1.5);
    turn(boxes, time, (box, isNow) => box.toggleAttribute("hidden", !isNow));
    const moved = new Set(); // a list shows the first of the lines that begin together
    turn(lines, time + 0.05, (line, isNow) => {
      if (isNow) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
      const list = line.closest("ol");
      if (!isNow || moved.has(list) || list.matches(":hover, :focus-within")) return;
      moved.add(list);
      list.scrollTop = line.offsetTop - list.offsetTop - list.clientHeight / 3;
    });
  };
  const end = () => {
    if (!moment.holds || video.paused || video.seeking || player.time < moment.end - LATE_S) return;
    if (atEnd?.value === "loop") player.seek(moment.start);
    else if (atEnd?.value === "stop") {
      video.pause();
      if (player.time > moment.end + LATE_S) player.seek(moment.end); // a busy machine looks late
      moment.holds = false; // play goes on from here
    }
  };
  const tick = () => {
    update();
    end();
    if (!video.paused) requestAnimationFrame(tick);
  };
  video.addEventListener("play", () => requestAnimationFrame(tick));
  for (const name of ["seeked", "timeupdate"]) video.addEventListener(name, update);
  video.addEventListener("timeupdate", end); // also where nobody looks: a tab in the background has no frames
  video.addEventListener("seeked", () => {
    if (moment.holds && player.time > moment.end) moment.holds = false; // somebody went beyond it
  });
  atEnd?.addEventListener("change", () => {
    const isOver = moment.end !== null && player.time >= moment.end - LATE_S;
    moment.holds = moment.end !== null && (atEnd.value === "loop" || !isOver);
    if (atEnd.value === "loop" && isOver) player.seek(moment.start);
  });
}

function clicks(page, player, moment, facts) {
  const go = (start, end) => {
    Object.assign(moment, { start, end, holds: end !== null });
    player.seek(start);
    player.play();
  };
  page.addEventListener("click", (event) => {
    const link = event.target.closest("[data-seek], [data-hit]");
    if (link && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      go(Number(link.dataset.seek ?? link.dataset.hit), link.dataset.hit ? Number(link.dataset.until) : null);
      return;
    }
    const track = event.target.closest(".track svg");
    if (track) {
      const { left, width } = track.getBoundingClientRect();
      moment.holds = false;
      player.seek(facts.from + ((event.clientX - left) / width) * (facts.to - facts.from));
    }
    const act = event.target.closest("[data-act]")?.dataset.act;
    if (act === "copy-path") copy(page.dataset.path);
    if (act === "copy-link") {
      const address = new URL(location.href);
      address.searchParams.set("t", player.time.toFixed(3));
      copy(address.href);
    }
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("copied");
  } catch {
    prompt("Copy this:", text); // browsers allow the clipboard on https and on this machine only
  }
}
