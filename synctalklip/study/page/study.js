"use strict";
// One participant's way through a study: welcome, examples, videos, saved file. Nothing leaves the device.
// State is kept in localStorage after every step, so that a reload goes on at the same video.

const $ = (id) => document.getElementById(id);
const { study, text, aspects, items, plans, scale, format } = window.STUDY;
const SCREENS = ["welcome", "pause", "rate", "done"];
const STORE = `study/${study}/`;
// Of a video must have been played before it is rated; browsers round the ends of what was played.
const WHOLE = 0.9;

let state = null; // {participant, started, ratings: [...], draft: {...} or null, paused}

// ---------------------------------------------------------------- storage

function recall(name) {
  try { return JSON.parse(localStorage.getItem(STORE + name)); } catch { return null; }
}

function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(STORE + name);
    else localStorage.setItem(STORE + name, JSON.stringify(value));
  } catch {
    $("status").textContent = "This browser keeps nothing: do not reload or close the page before the end.";
  }
}

const isWhole = (value) => Number.isSafeInteger(value) && value >= 0;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

// What is kept may be damaged: a state that does not fit the study is not gone on from.
function kept(code) {
  if (typeof code !== "string" || !Object.hasOwn(plans, code)) return null;
  const found = recall(code);
  if (!isObject(found) || found.participant !== code || !isWhole(found.started) || !Array.isArray(found.ratings)) return null;
  const order = plans[code];
  const fits = (entry, index) => isObject(entry) && entry.item === order[index] && isObject(entry.answers) && isWhole(entry.plays);
  if (found.ratings.length > order.length || !found.ratings.every(fits)) return null;
  const { draft } = found;
  const isDraft = isObject(draft) && fits(draft, found.ratings.length) && isWhole(draft.began)
    && (draft.ended === null || isWhole(draft.ended));
  return { ...found, draft: isDraft ? draft : null };
}

const save = () => remember(state.participant, state);
const plan = () => plans[state.participant];
const isExample = (index) => index < plan().length && items[plan()[index]].practice;

// ---------------------------------------------------------------- screens

function show(screen) {
  for (const name of SCREENS) $(name).hidden = name !== screen;
  $("footer").hidden = screen === "welcome";
  window.scrollTo(0, 0);
}

function paragraphs(parent, lines) {
  parent.replaceChildren(...lines.map((line) => Object.assign(document.createElement("p"), { textContent: line })));
}

function welcome(code) {
  $("video").pause();
  show("welcome");
  $("code").value = code || "";
  $("agree").checked = false;
  $("start-problem").hidden = true;
}

function begin(event) {
  event.preventDefault();
  const code = $("code").value.trim().toUpperCase();
  let problem = "";
  if (!Object.hasOwn(plans, code)) problem = "This code is not part of the study. Please check it.";
  else if (!$("agree").checked) problem = "Please tick the box above if you agree to take part.";
  $("start-problem").textContent = problem;
  $("start-problem").hidden = !problem;
  if (problem) return;
  enter(code);
}

function enter(code) {
  state = kept(code) || { participant: code, started: Date.now(), ratings: [], draft: null, paused: false };
  remember("current", code);
  save();
  resume();
}

function resume() {
  const index = state.ratings.length;
  if (index === plan().length) return done();
  if (index > 0 && isExample(index - 1) && !isExample(index) && !state.paused) return pause();
  rate(index, false);
}

function pause() {
  const left = plan().length - state.ratings.length;
  $("pause-text").textContent = `${left} videos follow.`;
  show("pause");
  $("pause-title").focus();
}

// ---------------------------------------------------------------- one video

function rate(index, play) {
  const name = plan()[index];
  const examples = plan().filter((item) => items[item].practice).length;
  state.draft ||= { item: name, answers: {}, plays: 0, began: Date.now(), ended: null };
  save();
  show("rate");
  $("place").textContent = isExample(index)
    ? `Example ${index + 1} of ${examples}`
    : `Video ${index - examples + 1} of ${plan().length - examples}`;
  $("who").textContent = `Code ${state.participant}`;
  $("progress").max = plan().length;
  $("progress").value = index;
  $("note").textContent = items[name].note;
  $("note").hidden = !items[name].note;
  $("video").src = `videos/${name}.mp4`;
  for (const input of document.querySelectorAll("#rows input")) {
    input.checked = state.draft.answers[input.name] === Number(input.value);
  }
  if (plan()[index + 1]) preload(plan()[index + 1]);
  refresh();
  if (play) start();
  else waitForPlay();
}

function preload(name) {
  Object.assign(document.createElement("video"), { preload: "auto", src: `videos/${name}.mp4` });
}

function waitForPlay() {
  $("play").hidden = false;
  $("play-label").textContent = $("video").error ? "Try again" : "Play";
  $("play").focus();
}

function start() {
  const video = $("video");
  if (video.error) video.load();
  $("play").hidden = true;
  video.currentTime = 0;
  video.play().catch(() => { waitForPlay(); refresh(); });
}

// Also by who finds the browser's own controls.
function playedWhole({ played, duration }) {
  let seconds = 0;
  for (let part = 0; part < played.length; part++) seconds += played.end(part) - played.start(part);
  return seconds >= WHOLE * duration;
}

function ended() {
  if (!playedWhole($("video"))) {
    waitForPlay();
    return refresh();
  }
  state.draft.plays += 1;
  state.draft.ended ??= Date.now();
  save();
  refresh();
  const row = openRow() ?? aspectNames().at(-1);
  focusRow(row);
}

function refresh() {
  const video = $("video");
  const playing = !video.paused && !video.ended;
  const seen = state.draft.ended !== null;
  for (const row of document.querySelectorAll("#rows fieldset")) row.disabled = !seen;
  $("replay").disabled = !seen;
  $("next").disabled = !seen || openRow() !== null;
  $("status").classList.toggle("problem", Boolean(video.error));
  if (video.error) $("status").textContent = "This video cannot be played. Try again, or use another browser.";
  else if (!seen) $("status").textContent = playing ? "You can answer when the video has ended." : "Please play the video.";
  else if (openRow() !== null) $("status").textContent = "Please answer all rows.";
  else $("status").textContent = "All rows are answered.";
}

function submit(event) {
  event?.preventDefault();
  const { item, answers, plays, began, ended: end } = state.draft;
  if (end === null || openRow() !== null) return;
  const now = Date.now();
  state.ratings.push({ item, answers, plays, shown_ms: now - began, decided_ms: now - end });
  state.draft = null;
  const index = state.ratings.length;
  if (index === plan().length) state.finished = now;
  save();
  if (index === plan().length || (isExample(index - 1) && !isExample(index))) {
    $("video").pause();
    return resume();
  }
  rate(index, true);
}

// ---------------------------------------------------------------- rows of answers

const aspectNames = () => Object.keys(aspects);
const openRow = () => aspectNames().find((name) => !(name in state.draft.answers)) ?? null;
const radio = (name, value) => document.querySelector(`#rows input[name="${CSS.escape(name)}"][value="${value}"]`);

function buildRows() {
  for (const [name, { question, low, high }] of Object.entries(aspects)) {
    const row = document.createElement("fieldset");
    row.append(Object.assign(document.createElement("legend"), { textContent: question }));
    const choices = Object.assign(document.createElement("div"), { className: "scale" });
    for (const value of scale) {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name, value });
      const end = { [scale[0]]: `, ${low}`, [scale.at(-1)]: `, ${high}` }[value] ?? "";
      input.setAttribute("aria-label", `${value}${end}`);
      label.append(input, Object.assign(document.createElement("span"), { textContent: value }));
      choices.append(label);
    }
    const ends = Object.assign(document.createElement("div"), { className: "ends" });
    ends.setAttribute("aria-hidden", "true");
    ends.append(...[low, high].map((end) => Object.assign(document.createElement("span"), { textContent: end })));
    row.append(choices, ends);
    $("rows").append(row);
  }
  $("rows").addEventListener("change", ({ target }) => answer(target.name, Number(target.value)));
}

function answer(name, value) {
  state.draft.answers[name] = value;
  save();
  refresh();
}

function focusRow(name) {
  radio(name, state.draft.answers[name] ?? scale[0]).focus({ preventScroll: true });
}

const currentRow = () => document.activeElement?.closest("#rows fieldset") ? document.activeElement.name : null;

function keys(event) {
  if ($("rate").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const seen = state.draft.ended !== null;
  const names = aspectNames();
  const row = currentRow() ?? openRow() ?? names.at(-1);
  const at = names.indexOf(row);
  if (event.key.toLowerCase() === "r" && seen) start();
  else if (event.key === "Enter" && !event.target.closest("button")) submit();
  else if (scale.map(String).includes(event.key) && seen) {
    radio(row, event.key).checked = true;
    answer(row, Number(event.key));
    focusRow(names[at + 1] ?? row);
  } else if (event.key === "ArrowDown" && seen) focusRow(names[Math.min(at + 1, names.length - 1)]);
  else if (event.key === "ArrowUp" && seen) focusRow(names[Math.max(at - 1, 0)]);
  else return;
  event.preventDefault();
}

// ---------------------------------------------------------------- the end

// As Python writes it: compact, keys sorted.
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
}

// Not crypto.subtle: pages from plain http:// do not have it.
function crc32(line) {
  let sum = -1;
  for (const byte of new TextEncoder().encode(line)) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (0xedb88320 & -(sum & 1));
  }
  return (~sum >>> 0).toString(16).padStart(8, "0");
}

function done() {
  const { participant, started, finished, ratings } = state;
  const body = { format, study, participant, started, finished, ratings };
  const file = JSON.stringify({ ...body, checksum: crc32(canonical(body)) }, null, 1);
  $("save").href = URL.createObjectURL(new Blob([file], { type: "application/json" }));
  $("save").download = `study-${study}-${participant}.json`;
  $("saved").textContent = "";
  $("thanks").textContent = text.thanks;
  show("done");
  $("done-title").focus();
}

// ---------------------------------------------------------------- wiring

function wire() {
  const video = $("video");
  $("start").addEventListener("submit", begin);
  $("go-on").addEventListener("click", () => { state.paused = true; save(); rate(state.ratings.length, true); });
  $("play").addEventListener("click", start);
  $("replay").addEventListener("click", start);
  $("answers").addEventListener("submit", submit);
  $("save").addEventListener("click", () => { $("saved").textContent = `Saved as ${$("save").download}.`; });
  $("leave").addEventListener("click", () => { remember("current", null); welcome(""); });
  document.addEventListener("keydown", keys);
  video.addEventListener("ended", ended);
  video.addEventListener("play", refresh);
  // A media key or an incoming call may stop it.
  video.addEventListener("pause", () => { if (!video.ended && !$("rate").hidden) { waitForPlay(); refresh(); } });
  video.addEventListener("error", () => { waitForPlay(); refresh(); });
  video.addEventListener("contextmenu", (event) => event.preventDefault());
  video.addEventListener("ratechange", () => { if (video.playbackRate !== 1) video.playbackRate = 1; });
}

function main() {
  document.documentElement.lang = text.language;
  document.title = $("title").textContent = text.title;
  paragraphs($("introduction"), text.introduction);
  $("consent-title").textContent = text.consent_title;
  paragraphs($("consent"), text.consent);
  $("consent-box").textContent = text.consent_box;
  buildRows();
  wire();
  const link = new URLSearchParams(location.search).get("code")?.trim().toUpperCase();
  const current = recall("current");
  if (kept(current) && (!link || link === current)) enter(current);
  else welcome(link);
}

main();
