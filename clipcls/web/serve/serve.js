// The page of `clipcls serve`. Names and labels are set as text, never as HTML.
"use strict";

const AT_A_TIME = 2; // requests; each holds one image
const MOST_SHOWN = 500; // labels in the text area

const $ = (id) => document.getElementById(id);
const items = []; // {file, item, body} of every image on the page
let server = null; // what /labels answers
let round = 0; // answers of an earlier question are dropped

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function token() {
  return sessionStorage.getItem("clipcls-token");
}

async function ask(path, options = {}) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) showTokenForm(Boolean(headers.Authorization));
  return answer;
}

async function problemOf(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `the server answered ${answer.status}`;
  }
}

function showTokenForm(isWrong) {
  $("token-problem").hidden = !isWrong;
  if (isWrong) sessionStorage.removeItem("clipcls-token");
  if (!$("token-form").hidden) return;
  $("token-form").hidden = false;
  $("token").focus();
}

function say(text) {
  $("status").textContent = text;
}

async function begin() {
  let answer;
  try {
    answer = await ask("labels");
  } catch {
    say("The server does not answer.");
    return;
  }
  if (!answer.ok) {
    say(answer.status === 401 ? "" : await problemOf(answer));
    return;
  }
  server = await answer.json();
  $("made-by").textContent = `model ${server.model}` + (server.prompts ? `, prompts ${server.prompts}` : "");
  const isShort = server.labels && server.labels.length <= MOST_SHOWN;
  if (isShort) $("labels").value = server.labels.join("\n");
  $("labels-note").textContent = isShort
    ? "These are the server's labels. Change them as you like."
    : `The server uses its own ${ownLabels()} unless you enter some here.`;
  $("labels").defaultValue = $("labels").value;
}

function ownLabels() {
  const count = (labels) => `${labels.length.toLocaleString()} labels`;
  if (server.labels) return count(server.labels);
  return Object.entries(server.questions).map(([name, labels]) => `${count(labels)} for ${name}`).join(", ");
}

// The server's own labels are not sent: it knows more about them than their names.
function question(file) {
  const form = new FormData();
  const labels = $("labels").value;
  if (labels.trim() && labels !== $("labels").defaultValue) {
    for (const line of labels.split("\n")) if (line.trim()) form.append("labels", line);
  }
  form.append("top", $("top").value);
  form.append("images", file, file.name);
  return form;
}

function add(files) {
  const added = [];
  for (const file of files) {
    const item = element("li");
    const image = element("img");
    image.alt = "";
    image.decoding = "async";
    image.src = URL.createObjectURL(file);
    const body = element("div");
    item.append(image, body);
    added.push({ file, item, body });
  }
  items.unshift(...added);
  $("results").prepend(...added.map((entry) => entry.item));
  if (added.length) classify(added);
}

function show(entry, ...nodes) {
  entry.body.replaceChildren(element("p", "name", entry.file.name || "pasted image"), ...nodes);
}

function bars(candidates) {
  const list = element("ol", "bars");
  for (const { label, score } of candidates) {
    const line = element("li");
    const track = element("div", "track");
    const bar = element("div", "bar");
    bar.style.width = `${100 * score}%`;
    track.append(bar);
    line.append(element("span", "", label), element("span", "", `${(100 * score).toFixed(1)} %`), track);
    list.append(line);
  }
  return list;
}

// The bars of the answer or, where the server asks several questions, of each one below its name.
function answersOf(record) {
  if (record.error) return [element("p", "bad", record.error)];
  if (!record.questions) return [bars(record.top)];
  return Object.entries(record.questions).flatMap(([name, answer]) => [
    element("h3", "asked", name),
    answer.labels?.length === 0 ? element("p", "quiet", "none of its labels") : bars(answer.top || answer.labels),
  ]);
}

function warn(warnings) {
  $("warnings").replaceChildren(...warnings.map((text) => element("li", "", text)));
  $("warnings").hidden = !warnings.length;
}

async function classifyOne(entry, asked) {
  for (;;) {
    let answer;
    try {
      answer = await ask("classify", { method: "POST", body: question(entry.file) });
    } catch {
      show(entry, element("p", "bad", "The server does not answer."));
      return;
    }
    if (asked !== round) return;
    if (answer.status === 503) {
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      show(entry, element("p", "quiet", `The server is busy; trying again in ${seconds} s`));
      await new Promise((done) => setTimeout(done, 1000 * seconds));
      if (asked !== round) return;
      continue;
    }
    if (!answer.ok) {
      show(entry, element("p", "bad", await problemOf(answer)));
      return;
    }
    const { results, warnings } = await answer.json();
    if (asked !== round) return;
    const [record] = results;
    warn(warnings);
    show(entry, ...answersOf(record));
    return;
  }
}

async function classify(entries) {
  const asked = round;
  const waiting = [...entries];
  for (const entry of waiting) show(entry, element("p", "quiet", "waiting"));
  let done = 0;
  const work = async () => {
    while (waiting.length && asked === round) {
      const entry = waiting.shift();
      await classifyOne(entry, asked);
      done += 1;
      if (asked === round) say(`${done} of ${entries.length} classified`);
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, work));
}

function again() {
  round += 1;
  warn([]);
  if (items.length) classify(items);
  else say("There are no images yet.");
}

$("files").addEventListener("change", () => {
  add($("files").files);
  $("files").value = "";
});

$("question").addEventListener("submit", (event) => {
  event.preventDefault();
  again();
});

$("labels").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    again();
  }
});

$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  sessionStorage.setItem("clipcls-token", $("token").value.trim());
  $("token-form").hidden = true;
  $("token").value = "";
  await begin();
  if (server && items.length) again();
});

for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}

for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (name === "dragleave" && event.relatedTarget) return;
    document.body.classList.remove("dragging");
  });
}

document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  add(event.dataTransfer.files);
});

document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add(event.clipboardData.files);
});

begin();
