"use strict";
// Texts come from files and labels of the user: they are set as text, never as HTML.

const KEYS = "1234567890abcdefghijklmnopqrstuvwxyz";
const CELL_WIDTH = 116, CELL_HEIGHT = 136, MARGIN = 4;
const OFFER_AFTER = 25;
const ENOUGH = 4;  // images per label: docs/evidence/learning.md
const MOST_FOUND = 200;

const $ = (id) => document.getElementById(id);
function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const state = {
  labels: [], images: [], done: new Map(), order: [], clusters: null, now: null, status: {},
  list: [], at: 0, anchor: 0, chosen: new Set(), keys: new Map(), labelOfKey: new Map(),
  sinceLearnt: 0, hasBegun: false,
};

// -- the server ---------------------------------------------------------------------------------

async function ask(path, body) {
  let response;
  try {
    response = await fetch(path, body === undefined ? {} : {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("clipcls does not answer; it may have ended. The labels you gave before are saved.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(answer.detail || `error ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return answer;
}

// Actions go to the server one after the other, in the order of the keys that were pressed.
let queue = Promise.resolve();
function act(path, body, then, otherwise = () => {}) {
  queue = queue.then(async () => {
    try {
      const answer = await ask(path, body);
      fail("");
      await then(answer);
    } catch (error) {
      fail(error.message);
      otherwise(error);
    }
  });
  return queue;
}

// Images that just got a label stay in view.
const toList = () => $("grid").focus({ preventScroll: true });

function say(text) { $("message").textContent = text; }
function fail(text) {
  $("failure").hidden = !text;
  $("failure").textContent = text;
}

// -- what is shown of an image ------------------------------------------------------------------

const givenName = (label) => (label === state.unknown ? "none of the labels" : label);
const percent = (score) => (score === null ? "" : `${(100 * score).toFixed(0)}\u00a0%`);
// [label, score, margin, [[label, score], ...], guess]: the guess is the best label of an answer
// that was not sure enough, "" where the results do not name it, else null.
const first = (id) => state.images[id][2];
const latest = (id) => (state.now && state.now[id]) || first(id);
const hasChanged = (id) => Boolean(state.now && state.now[id]) && state.now[id][0] !== first(id)[0];
const here = () => state.list[state.at];
const isUnsure = (answer) => answer[4] !== null;
const bestOf = (answer) => (isUnsure(answer) ? answer[4] : answer[0]);
function answerText(answer) {
  const score = percent(answer[1]);
  if (!isUnsure(answer)) return `${answer[0]} ${score}`;
  return answer[4] ? `not sure: ${answer[4]} ${score}` : `not sure ${score}`;
}

function selected() {
  if (state.chosen.size) return state.list.filter((id) => state.chosen.has(id));
  return state.list.length ? [here()] : [];
}

function assignKeys() {
  const counts = new Map();
  for (const [, , answer] of state.images) counts.set(answer[0], (counts.get(answer[0]) || 0) + 1);
  const labels = [...state.labels];
  if (labels.length > KEYS.length) {
    // The usual answers get the keys; the rest is found by typing.
    labels.sort((a, b) => (counts.get(b) || 0) - (counts.get(a) || 0));
  }
  state.keys.clear();
  state.labelOfKey.clear();
  labels.slice(0, KEYS.length).forEach((label, at) => {
    state.keys.set(label, KEYS[at]);
    state.labelOfKey.set(KEYS[at], label);
  });
}

// -- the list -----------------------------------------------------------------------------------

function relist(keep) {
  const show = $("show").value, which = $("which").value;
  const limit = (id, otherwise) => ($(id).value === "" ? otherwise : Number($(id).value) / 100);
  const low = limit("low", 0), high = limit("high", 1);
  const inOrder = new Set(state.order);
  const rest = show === "all" ? state.images.map((_, id) => id).filter((id) => !inOrder.has(id)) : [];
  state.list = [...state.order, ...rest].filter((id) => {
    const isDone = state.done.has(id);
    const [label, score] = latest(id);
    if (show === "todo" && isDone) return false;
    if (show === "done" && !isDone) return false;
    if (show === "corrected" && !(isDone && state.done.get(id) !== first(id)[0])) return false;
    if (show === "changed" && (isDone || !hasChanged(id))) return false;
    if (which !== "" && (isDone ? state.done.get(id) : label) !== which) return false;
    return score === null || (score >= low && score <= high);
  });
  state.chosen.clear();
  const at = keep === undefined ? -1 : state.list.indexOf(keep);
  state.at = state.anchor = Math.max(0, at);
  if (at < 0) $("grid").scrollTop = 0;
  draw();
}

function moveTo(at, extend) {
  if (!state.list.length) return;
  state.at = Math.min(Math.max(at, 0), state.list.length - 1);
  if (extend) {
    const [from, to] = [Math.min(state.anchor, state.at), Math.max(state.anchor, state.at)];
    state.chosen = new Set(state.list.slice(from, to + 1));
  } else {
    state.anchor = state.at;
    state.chosen.clear();
  }
  draw();
}

function moveOn() {
  const n = state.list.length;
  // Behind the last that was selected; then from the front again.
  let last = state.at;
  state.list.forEach((id, at) => { if (state.chosen.has(id)) last = Math.max(last, at); });
  const waiting = new Set(pending);
  for (let step = 1; step <= n; step += 1) {
    const at = (last + step) % n;
    if (!state.done.has(state.list[at]) && !waiting.has(state.list[at])) return moveTo(at, false);
  }
  return moveTo(last, false);
}

function skip() {
  moveOn();
  say("Skipped.");
}

// -- giving labels ------------------------------------------------------------------------------

const pending = new Set();

function give(label) {
  giveTo(selected().map((id) => [id, label]));
}

// labels: [[image, label], ...], one action.
function giveTo(labels) {
  if (!labels.length) return;
  state.hasBegun = true;
  const images = labels.map(([id]) => id), label = labels[0][1];
  images.forEach((id) => pending.add(id));
  if (label !== null) moveOn(); else draw();
  act("/api/label", { labels }, (answer) => {
    apply(answer);
    let what = label === null ? "label removed" : `“${givenName(label)}”`;
    if (labels.some(([, other]) => other !== label)) what = "as answered";
    say(images.length === 1 ? `${state.images[images[0]][0]}: ${what}.` : `${images.length} images: ${what}.`);
    if (label !== null) state.sinceLearnt += images.length;
    offerToLearn();
  }).finally(() => { images.forEach((id) => pending.delete(id)); draw(); });
}

function confirmAnswers() {
  const images = selected(), named = images.filter((id) => {
    const answer = latest(id);
    return bestOf(answer) !== "";
  });
  if (named.length < images.length) {
    say("The results do not say which label was best: press a label's key, or - for none of the labels.");
  }
  giveTo(named.map((id) => [id, bestOf(latest(id))]));
}

function apply(answer) {
  for (const [id, label] of answer.done) {
    if (label === null) state.done.delete(id); else state.done.set(id, label);
  }
  if (answer.labels.length > state.labels.length) useLabels(answer.labels);
  $("undo").disabled = !answer.can_undo;
  $("redo").disabled = !answer.can_redo;
  draw();
}

function back(path, word) {
  act(path, {}, (answer) => {
    apply(answer);
    if (!answer.done.length) return say(`There is nothing to ${word}.`);
    const ids = answer.done.map(([id]) => id);
    const at = state.list.indexOf(ids[0]);
    if (at >= 0) moveTo(at, false); else relist(here());
    return say(ids.length === 1 ? `${word}: ${state.images[ids[0]][0]}` : `${word}: ${ids.length} images`);
  });
}

function selectCluster() {
  if (!state.clusters) return say("Images are not clustered yet.");
  const cluster = state.clusters[here()], answer = latest(here())[0];
  const alike = state.list.filter((id) => state.clusters[id] === cluster && cluster >= 0 &&
    latest(id)[0] === answer && !state.done.has(id));
  state.chosen = new Set([...alike, here()]);
  draw();
  return say(`${state.chosen.size} similar images are selected.`);
}

// -- learning -----------------------------------------------------------------------------------

function offerToLearn() {
  const labels = new Set([...state.done.values()].filter((label) => label !== state.unknown));
  $("learn").disabled = Boolean(state.status.busy) || labels.size < 2 || !state.status.can_learn;
  if (!$("learn").disabled && state.sinceLearnt >= OFFER_AFTER) {
    say(`${state.sinceLearnt} new labels: press Learn to use them for the other images.${wish()}`);
  }
}

// The first images of each label teach most.
function wish() {
  const counts = new Map(state.labels.map((label) => [label, 0]));
  for (const label of state.done.values()) counts.set(label, counts.get(label) + 1);
  const few = state.labels.filter((label) => counts.get(label) < ENOUGH).length;
  return few ? ` The first ${ENOUGH} images per label help most; ${few} of ${state.labels.length} labels have fewer.` : "";
}

function learn() {
  act("/api/learn", {}, (status) => {
    state.sinceLearnt = 0;
    follow(status);
  });
}

let polling = false;
async function follow(status) {
  const before = state.status;
  state.status = status;
  if (status.busy === "vectors") say(`Reading the images: ${status.at.toLocaleString("en")} of ${status.of.toLocaleString("en")}. You can already begin.`);
  if (status.busy === "learning") say("Learning …");
  if (before.order !== undefined && status.order !== before.order) {
    const answer = await ask("/api/order");
    Object.assign(state, { order: answer.order, clusters: answer.clusters, now: answer.now });
    if (answer.labels.length > state.labels.length) useLabels(answer.labels);
    $("show").querySelector("[value=changed]").disabled = !state.now;
    // Nobody has begun yet: begin with the first of the new order.
    relist(state.hasBegun ? here() : undefined);
    say(state.now ? "Learnt; the order is new." : "The order is new: doubtful images that look different come first.");
  }
  if (status.note && status.note !== before.note) {
    if (!status.can_learn) say(status.note); else fail(status.note);
  }
  if (status.learnt && (!before.learnt || status.learnt.number !== before.learnt.number)) showLearnt(status.learnt);
  if (status.saved && status.saved !== before.saved) say(`Written: ${status.saved}`);
  offerToLearn();
  if (status.busy && !polling) {
    polling = true;
    setTimeout(() => {
      polling = false;
      ask("/api/status").then(follow).catch((error) => fail(error.message));
    }, 500);
  }
}

function showLearnt(learnt) {
  $("learnt").hidden = false;
  $("learnt-summary").textContent =
    `From ${learnt.images} images of ${learnt.labels} labels. Of the ${learnt.others} images without a label from you, ` +
    `${learnt.changed} get an answer that differs from the results.`;
  const cv = learnt.cross_validation;
  $("learnt-figure").textContent = cv.accuracy === undefined
    ? "One image per label is too few to measure the accuracy."
    : `Tested on ${cv.images} of your images, each held out in turn: ${(100 * cv.accuracy).toFixed(0)} % right` +
      (cv.accuracy_of_words === undefined ? "." : ` (${(100 * cv.accuracy_of_words).toFixed(0)} % without learning).`) +
      " You label the doubtful images, so the accuracy on all images is likely higher.";
  const rows = learnt.pairs.map(([from, to, count]) => make(
    "tr", {}, ...[from, to, String(count)].map((text) => make("td", {}, text))));
  $("pairs").tBodies[0].replaceChildren(...rows);
  $("pairs").hidden = !rows.length;
  $("save").textContent = `Save ${state.classifier}`;
  delete $("save").dataset.replace;
}

function save() {
  const button = $("save");
  act("/api/save", { replace: button.dataset.replace === "yes" }, (status) => {
    follow(status);
    button.textContent = `Save ${state.classifier}`;
  }, (error) => {
    if (error.status !== 409) return;
    button.textContent = `Replace that ${state.classifier}`;
    button.dataset.replace = "yes";
  });
}

// -- drawing ------------------------------------------------------------------------------------

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    drawProgress();
    drawViewer();
    drawLabels();
    scrollToHere();
    drawCells();
  });
}

function drawProgress() {
  const all = state.order.length;
  $("bar").max = all;
  $("bar").value = state.done.size;
  $("count").textContent = `${state.done.size.toLocaleString("en")} of ${all.toLocaleString("en")} done`;
  $("listed").textContent = state.list.length
    ? `Image ${(state.at + 1).toLocaleString("en")} of ${state.list.length.toLocaleString("en")}`
    : "No image matches";
  const n = selected().length;
  $("selection").textContent = n > 1 ? `${n} images are selected; a label applies to all of them.` : "";
}

let shown = -1;
function drawViewer() {
  const id = here();
  if (id === undefined) {
    $("image").hidden = true;
    $("broken").hidden = true;
    $("path").textContent = state.done.size === state.order.length ? "All images have a label. Press Finish to see what to do next." : "";
    $("said").textContent = "";
    $("candidates").replaceChildren();
    shown = -1;
    return;
  }
  const [path, error] = state.images[id];
  const answer = latest(id), old = first(id);
  $("path").textContent = path;
  const parts = [isUnsure(answer) ? answerText(answer) : `answer ${answerText(answer)}`];
  if (hasChanged(id)) parts.push(`(was ${answerText(old)})`);
  if (state.done.has(id)) parts.push(`· your label: ${givenName(state.done.get(id))}`);
  $("said").textContent = parts.join(" ");
  $("candidates").replaceChildren(...answer[3].map(([label, score]) => make(
    "li", {}, labelButton(label),
    make("meter", { max: 1, value: score, ariaHidden: "true" }),
    make("span", { className: "score" }, percent(score)))));
  if (shown === id) return;
  shown = id;
  $("image").hidden = Boolean(error);
  $("broken").hidden = !error;
  $("broken").textContent = error;
  if (!error) {
    $("image").alt = path;
    $("image").src = `/image/${id}`;
  }
  const next = state.list[state.at + 1];
  if (next !== undefined && !state.images[next][1]) new Image().src = `/image/${next}`;
}

function labelButton(label) {
  const button = make("button", { type: "button" });
  button.dataset.label = label;
  if (state.keys.has(label)) button.append(make("kbd", {}, state.keys.get(label)), " ");
  button.append(label);
  return button;
}

async function reason(url) {
  const response = await fetch(url).catch(() => null);
  if (!response) return "clipcls does not answer";
  if (response.ok) return "the browser cannot show it";
  return (await response.json().catch(() => ({}))).detail || "cannot be read";
}

$("image").addEventListener("error", async () => {
  const id = shown;
  const why = await reason(`/image/${id}`);
  if (shown !== id) return;
  $("image").hidden = true;
  $("broken").hidden = false;
  $("broken").textContent = `${state.images[id][0]}: ${why}`;
});

function drawLabels() {
  const typed = $("find").value.trim().toLowerCase();
  const id = here();
  const answer = id === undefined ? undefined : bestOf(latest(id));
  const given = id === undefined ? undefined : state.done.get(id);
  const labels = state.labels.filter((label) => label.toLowerCase().includes(typed));
  if (typed) {
    const rank = (label) => (label.toLowerCase().startsWith(typed) ? 0 : 1);
    labels.sort((a, b) => rank(a) - rank(b));
  } else if (labels.length > KEYS.length) {
    const place = (label) => (state.keys.has(label) ? KEYS.indexOf(state.keys.get(label)) : KEYS.length);
    labels.sort((a, b) => place(a) - place(b));
  }
  const items = labels.slice(0, MOST_FOUND).map((label) => {
    const button = labelButton(label);
    button.classList.toggle("answer", label === answer);
    button.classList.toggle("given", label === given);
    return make("li", {}, button);
  });
  if (typed && !state.labels.some((label) => label.toLowerCase() === typed)) {
    const name = $("find").value.trim();
    const button = make("button", { type: "button" }, `New label: ${name}`);
    button.dataset.label = name;
    items.push(make("li", {}, button));
  }
  $("labels").replaceChildren(...items);
  const unsure = id !== undefined && isUnsure(latest(id));
  let confirm = "The answer is right";
  if (unsure) confirm = answer ? `It is ${answer}` : "No answer to confirm";
  else if (answer !== undefined) confirm += `: ${givenName(answer)}`;
  $("confirm").lastElementChild.textContent = confirm;
  for (const button of [$("confirm"), $("none"), $("clear")]) button.disabled = id === undefined;
  if (answer === "") $("confirm").disabled = true;
}

const columns = () => Math.max(1, Math.floor(($("grid").clientWidth - MARGIN) / CELL_WIDTH));

let scrolledTo = -1;
function scrollToHere() {
  const top = Math.floor(state.at / columns()) * CELL_HEIGHT;
  if (scrolledTo === top) return;
  scrolledTo = top;
  const grid = $("grid");
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + CELL_HEIGHT + 2 * MARGIN > grid.scrollTop + grid.clientHeight) {
    grid.scrollTop = top + CELL_HEIGHT + 2 * MARGIN - grid.clientHeight;
  }
}

// Only the rows in view are in the page, so that ten thousand images are no burden.
const cells = new Map();
function drawCells() {
  const wide = columns(), grid = $("grid"), chosen = new Set(selected());
  $("cells").style.height = `${Math.ceil(state.list.length / wide) * CELL_HEIGHT + 2 * MARGIN}px`;
  const from = Math.max(0, Math.floor(grid.scrollTop / CELL_HEIGHT) - 1) * wide;
  const rows = Math.ceil(grid.clientHeight / CELL_HEIGHT) + 2;
  const to = Math.min(state.list.length, from + rows * wide);
  const wanted = new Set(state.list.slice(from, to));
  if (state.list.length) wanted.add(here());
  for (const [id, cell] of cells) {
    if (!wanted.has(id)) { cell.remove(); cells.delete(id); }
  }
  const put = (id, at) => {
    let cell = cells.get(id);
    if (!cell) {
      cell = newCell(id);
      cells.set(id, cell);
      $("cells").append(cell);
    }
    cell.style.left = `${MARGIN + (at % wide) * CELL_WIDTH}px`;
    cell.style.top = `${MARGIN + Math.floor(at / wide) * CELL_HEIGHT}px`;
    const isDone = state.done.has(id), answer = latest(id);
    const text = isDone ? `✓ ${givenName(state.done.get(id))}` : answerText(answer);
    cell.className = `cell${isDone ? " done" : ""}${at === state.at ? " here" : ""}`;
    cell.lastElementChild.textContent = pending.has(id) ? "…" : text;
    cell.setAttribute("aria-selected", chosen.has(id) ? "true" : "false");
    cell.setAttribute("aria-label", `${state.images[id][0]}, ${isDone ? "your label" : "answer"} ${text}`);
    cell.setAttribute("aria-posinset", at + 1);
    cell.setAttribute("aria-setsize", state.list.length);
  };
  for (let at = from; at < to; at += 1) put(state.list[at], at);
  if (state.list.length) {
    put(here(), state.at);
    grid.setAttribute("aria-activedescendant", `image-${here()}`);
  } else grid.removeAttribute("aria-activedescendant");
}

function newCell(id) {
  const shot = make("span", { className: "shot" });
  const whyNot = (why) => shot.replaceChildren(make("span", { className: "why" }, why));
  if (state.images[id][1]) whyNot(state.images[id][1]);
  else {
    const picture = make("img", { alt: "" });
    picture.addEventListener("error", async () => whyNot(await reason(`/thumb/${id}`)));
    picture.src = `/thumb/${id}`;
    shot.append(picture);
  }
  const cell = make("div", { id: `image-${id}` }, shot, make("span", { className: "text" }));
  cell.dataset.id = id;
  cell.setAttribute("role", "option");
  return cell;
}

function useLabels(labels) {
  state.labels = labels;
  assignKeys();
  drawFilter();
}

function drawFilter() {
  const kept = $("which").value;
  const option = (value, text) => make("option", { value }, text);
  $("which").replaceChildren(
    option("", "any"),
    ...state.labels.map((label) => option(label, label)),
    option(state.unknown, `${state.unknown} / none of the labels`),
  );
  $("which").value = kept;
}

// -- keys and clicks ----------------------------------------------------------------------------

function keyOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (KEYS.includes(key)) return key;
  // Another script, or digits that need Shift: the key's place on the keyboard.
  const place = /^(?:Key|Digit|Numpad)([A-Z0-9])$/.exec(event.code);
  return place && !"-./".includes(key) ? place[1].toLowerCase() : "";
}

const isWriting = (target) => target.matches("input[type=text], input[type=number], select");
const isList = (target) => target === $("grid") || target === document.body;

document.addEventListener("keydown", (event) => {
  const target = event.target, command = event.ctrlKey || event.metaKey;
  if (event.isComposing || event.altKey || !$("closing").hidden) return;
  if (command && !isWriting(target)) {
    const key = event.key.toLowerCase();
    if (key === "z") { event.preventDefault(); return event.shiftKey ? redo() : undo(); }
    if (key === "y") { event.preventDefault(); return redo(); }
    if (key === "a" && isList(target)) {
      event.preventDefault();
      state.chosen = new Set(state.list);
      return draw();
    }
  }
  if (command || !isList(target)) return;
  if (onListKey(event)) event.preventDefault();
});

function onListKey(event) {
  state.hasBegun = true;
  const moves = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(),
    Home: -Infinity, End: Infinity,
    PageUp: -columns() * 3, PageDown: columns() * 3,
  };
  if (event.key in moves) { moveTo(state.at + moves[event.key], event.shiftKey); return true; }
  const acts = {
    " ": skip, Enter: confirmAnswers, "-": () => give(state.unknown), ".": selectCluster,
    Backspace: () => give(null), Delete: () => give(null),
    Escape: () => closePanel() || moveTo(state.at, false), "?": toggleKeys,
    "/": () => { $("find").focus(); $("find").select(); },
  };
  if (event.key in acts) { acts[event.key](); return true; }
  const key = keyOf(event);
  if (!key || !state.labelOfKey.has(key)) return false;
  give(state.labelOfKey.get(key));
  return true;
}

function undo() { back("/api/undo", "undo"); }
function redo() { back("/api/redo", "redo"); }

function closePanel() {
  const isOpen = !$("keys").hidden || !$("learnt").hidden;
  $("learnt").hidden = true;
  if (!$("keys").hidden) toggleKeys();
  return isOpen;
}

function toggleKeys() {
  $("keys").hidden = !$("keys").hidden;
  $("keys-button").setAttribute("aria-expanded", String(!$("keys").hidden));
}

function giveByButton(button) {
  $("find").value = "";
  toList();
  give(button.dataset.label);
}

$("find").addEventListener("input", drawLabels);
$("find").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && $("find").value.trim()) {
    event.preventDefault();
    giveByButton($("labels").querySelector("button"));
  } else if (event.key === "Escape") {
    $("find").value = "";
    drawLabels();
    toList();
  } else if (event.key === "ArrowDown") {
    event.preventDefault();
    $("labels").querySelector("button")?.focus();
  }
});
$("labels").addEventListener("keydown", (event) => {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  if (!step) return;
  event.preventDefault();
  const next = event.target.closest("li")?.[step]?.firstElementChild;
  (next || (event.key === "ArrowUp" ? $("find") : event.target)).focus();
});
for (const list of ["labels", "candidates"]) {
  $(list).addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) giveByButton(button);
  });
}

$("grid").addEventListener("mousedown", (event) => {
  const cell = event.target.closest(".cell");
  if (!cell) return;
  event.preventDefault();
  state.hasBegun = true;
  toList();
  const id = Number(cell.dataset.id), at = state.list.indexOf(id);
  if (event.ctrlKey || event.metaKey) {
    if (!state.chosen.size) state.chosen.add(here());
    if (state.chosen.has(id)) state.chosen.delete(id); else state.chosen.add(id);
    state.at = state.anchor = at;
    draw();
  } else moveTo(at, event.shiftKey);
});
$("grid").addEventListener("scroll", () => requestAnimationFrame(drawCells));
window.addEventListener("resize", () => { scrolledTo = -1; draw(); });

const click = (id, act) => $(id).addEventListener("click", () => { act(); toList(); });
click("undo", undo);
click("redo", redo);
click("learn", learn);
click("confirm", confirmAnswers);
click("none", () => give(state.unknown));
click("clear", () => give(null));
$("keys-button").addEventListener("click", toggleKeys);
$("save").addEventListener("click", save);
click("close-learnt", () => { $("learnt").hidden = true; });
click("show-changed", () => { $("show").value = "changed"; relist(); });
$("finish").addEventListener("click", () => act("/api/finish", {}, (end) => {
  for (const part of ["header .actions", "main", "#keys", "#learnt"]) document.querySelector(part).hidden = true;
  say("");
  const count = (n) => n.toLocaleString("en");
  $("closing-count").textContent = `You gave ${count(end.done)} of ${count(end.of)} images a label; ` +
    `${count(end.corrected)} of these labels differ from the answer.`;
  $("closing-files").textContent = end.table
    ? `Your labels are in ${state.corrections}. Your labels and the answers for all other images are in ${end.table}.`
    : "No file was written.";
  $("closing-next").hidden = !end.commands.length;
  $("closing-commands").textContent = end.commands.join("\n");
  $("closing").hidden = false;
  $("closing").focus();
}));
for (const id of ["show", "which", "low", "high"]) $(id).addEventListener("change", () => relist());

ask("/api/review").then((answer) => {
  const { done, status, title, ...rest } = answer;
  Object.assign(state, rest, { done: new Map(done) });
  $("title").textContent = title;
  document.title = `${title} – clipcls review`;
  $("undo").disabled = !answer.can_undo;
  $("redo").disabled = !answer.can_redo;
  $("show").querySelector("[value=changed]").disabled = !state.now;
  assignKeys();
  drawFilter();
  relist();
  say(`Your labels are saved in ${state.corrections}.`);
  follow(status);
  toList();
  // Behind the frame that draws the page for the first time.
  requestAnimationFrame(() => { document.body.dataset.ready = "yes"; });
}).catch((error) => fail(error.message));
