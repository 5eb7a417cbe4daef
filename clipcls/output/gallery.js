"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const TILE = 174, ROW = 182, HEADING = 42, BINS = 20;
  const $ = (id) => document.getElementById(id);
  const number = (n) => n.toLocaleString("en");
  const shown = (score) => (score === null ? "–" : score.toFixed(2));
  const scoreOf = (item, score) => (item.reviewed ? "reviewed" : shown(score));

  // A text never becomes markup: it is always textContent or a property.
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  // -- the data: records in blocks, and a script element an image, read only where it is shown

  const images = document.getElementsByClassName("image");
  const items = [], failures = [];
  let cut = !$("end");
  for (const block of document.querySelectorAll("script.records")) {
    let records = [];
    try {
      records = JSON.parse(block.textContent);
    } catch {
      cut = true;
    }
    for (const record of records) {
      if (record.error) failures.push(record);
      else items.push({ ...record, image: items.length });
    }
  }
  const end = cut ? { provenance: [] } : JSON.parse($("end").textContent);
  const entries = [];
  for (const item of items) {
    const texts = [item.path, ...item.labels.map((l) => l[0]), ...(item.set || []), item.gone || ""];
    item.text = texts.join("\n").toLowerCase();
    for (const [label, score] of item.labels) entries.push({ item, label, score });
  }
  const source = (item) => {
    const data = images[item.image] ? images[item.image].textContent : "";
    return data && "data:image/jpeg;base64," + data;
  };
  const nameOf = (path) => path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1);

  // -- what is shown

  const form = $("filter"), gallery = $("gallery");
  const state = () => ({
    text: $("text").value.trim().toLowerCase(),
    label: $("label").value === "" ? null : names[+$("label").value],
    from: $("from").value === "" ? 0 : +$("from").value,
    to: $("to").value === "" ? 1 : +$("to").value,
  });
  const hasText = (entry, s) => !s.text || entry.item.text.includes(s.text);
  const hasLabel = (entry, s) => s.label === null || entry.label === s.label;
  const hasScore = (entry, s) =>
    entry.score === null ? s.from <= 0 && s.to >= 1 : s.from <= entry.score && entry.score <= s.to;

  const totals = new Map();
  for (const { label } of entries) totals.set(label, (totals.get(label) || 0) + 1);
  const names = [...totals.keys()].sort(
    (a, b) => (a === "unknown") - (b === "unknown") || totals.get(b) - totals.get(a) || (a < b ? -1 : 1)
  );
  const place = new Map(names.map((label, n) => [label, n]));

  const byPath = (a, b) => (a.item.path < b.item.path ? -1 : a.item.path > b.item.path ? 1 : 0);
  const orders = {
    doubt: (a, b) => (a.score ?? 2) - (b.score ?? 2) || byPath(a, b),
    sure: (a, b) => (b.score ?? -1) - (a.score ?? -1) || byPath(a, b),
    path: byPath,
  };

  let list = [];      // entries that are shown, in their order
  let rows = [];      // {top, height, heading} or {top, height, first, last}
  let rowOf = [];     // entry's number in the list -> its row's number
  let columns = 1;
  let current = 0;
  let viewing = false;
  const drawn = new Map();

  const update = () => {
    const s = state(), order = orders[$("order").value];
    const kept = entries.filter((e) => hasText(e, s) && hasScore(e, s));
    drawLabels(kept, s);
    drawHistogram(entries.filter((e) => hasText(e, s) && hasLabel(e, s)), s);
    list = kept.filter((e) => hasLabel(e, s));
    list.sort($("grouped").checked ? (a, b) => place.get(a.label) - place.get(b.label) || order(a, b) : order);
    const found = new Set(list.map((e) => e.item)).size;
    $("count").textContent = `${number(found)} of ${number(items.length)} images`;
    current = 0;
    layOut();
    const hidden = gallery.getBoundingClientRect().top - form.getBoundingClientRect().height - 10;
    if (hidden < 0) window.scrollBy(0, hidden);  // to the first of what was asked for
  };

  const layOut = () => {
    for (const node of drawn.values()) node.remove();
    drawn.clear();
    columns = Math.max(1, Math.floor((gallery.clientWidth + 10) / TILE));
    rows = [];
    rowOf = new Array(list.length);
    let top = 0;
    const add = (row, height) => {
      rows.push({ ...row, top, height });
      top += height;
    };
    for (let first = 0; first < list.length; ) {
      let last = list.length;
      if ($("grouped").checked) {
        const label = list[first].label;
        last = first + 1;
        while (last < list.length && list[last].label === label) last++;
        add({ heading: `${label} · ${number(last - first)}` }, HEADING);
      }
      for (let at = first; at < last; at += columns) {
        rowOf.fill(rows.length, at, Math.min(at + columns, last));
        add({ first: at, last: Math.min(at + columns, last) }, ROW);
      }
      first = last;
    }
    gallery.style.height = `${top}px`;
    draw();
  };

  const draw = () => {
    const above = -gallery.getBoundingClientRect().top;
    const from = above - 2 * ROW, to = above + window.innerHeight + 2 * ROW;
    let low = 0, high = rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle].top + rows[middle].height < from) low = middle + 1;
      else high = middle;
    }
    const wanted = new Set();
    for (let n = low; n < rows.length && rows[n].top < to; n++) wanted.add(n);
    if (list.length) wanted.add(rowOf[current]);  // it holds the focus, or takes it
    for (const [n, node] of drawn) {
      if (!wanted.has(n)) {
        node.remove();
        drawn.delete(n);
      }
    }
    for (const n of [...wanted].sort((a, b) => a - b)) {
      if (drawn.has(n)) continue;
      const node = drawRow(rows[n]);
      let next = null;
      for (const [m, other] of drawn) if (m > n && (next === null || m < next[0])) next = [m, other];
      gallery.insertBefore(node, next && next[1]);
      drawn.set(n, node);
    }
  };

  const drawRow = (row) => {
    const node = make("div", { className: "row" });
    node.style.transform = `translateY(${row.top}px)`;
    if (row.heading !== undefined) {
      node.append(make("h3", { textContent: row.heading, title: row.heading }));
      return node;
    }
    for (let at = row.first; at < row.last; at++) node.append(drawTile(at));
    return node;
  };

  const drawTile = (at) => {
    const { item, label, score } = list[at];
    const data = source(item);
    const box = make("span", { className: "box" });
    if (data) box.append(make("img", { src: data, alt: "" }));
    else box.append(make("span", { className: "gone", textContent: item.gone || "no picture" }));
    const best = label === "unknown" && item.top[0] ? `${item.top[0][0]}? ` : $("grouped").checked ? "" : `${label} `;
    const more = item.set && item.set.length !== 1 ? `  {${item.set.length}}` : "";
    const tile = make(
      "button",
      { type: "button", className: "tile", title: item.path, tabIndex: at === current ? 0 : -1 },
      box,
      make("span", { className: "line", textContent: best + scoreOf(item, score) + more }),
      make("span", { className: "line name", textContent: nameOf(item.path) })
    );
    tile.dataset.at = at;
    tile.setAttribute("aria-label", `${label}, ${scoreOf(item, score)}, ${item.path}${item.gone ? ", " + item.gone : ""}`);
    return tile;
  };

  const tileOf = (at) => gallery.querySelector(`.tile[data-at="${at}"]`);

  const goTo = (at, focus = true) => {
    if (!list.length) return;
    const before = tileOf(current);
    if (before) before.tabIndex = -1;
    current = Math.max(0, Math.min(list.length - 1, at));
    const row = rows[rowOf[current]];
    const box = gallery.getBoundingClientRect();
    const bar = form.getBoundingClientRect().height + 10;
    if (box.top + row.top < bar) window.scrollBy(0, box.top + row.top - bar - HEADING);
    else if (box.top + row.top + row.height > window.innerHeight)
      window.scrollBy(0, box.top + row.top + row.height - window.innerHeight + 10);
    draw();
    const tile = tileOf(current);
    tile.tabIndex = 0;
    if (focus) tile.focus({ preventScroll: true });
  };

  // The tile above or below, in the same column where there is one.
  const vertically = (step) => {
    const column = current - rows[rowOf[current]].first;
    for (let n = rowOf[current] + step; n >= 0 && n < rows.length; n += step) {
      if (rows[n].heading === undefined) return Math.min(rows[n].first + column, rows[n].last - 1);
    }
    return current;
  };
  const pages = (step) => {
    let at = current;
    const many = Math.max(1, Math.floor((window.innerHeight - 100) / ROW));
    for (let n = 0; n < many; n++) {
      const before = current;
      current = at;
      at = vertically(step);
      current = before;
    }
    return at;
  };

  gallery.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const moves = {
      ArrowLeft: () => current - 1,
      ArrowRight: () => current + 1,
      ArrowUp: () => vertically(-1),
      ArrowDown: () => vertically(1),
      PageUp: () => pages(-1),
      PageDown: () => pages(1),
      Home: () => 0,
      End: () => list.length - 1,
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    goTo(moves[event.key]());
  });
  gallery.addEventListener("focusin", (event) => {
    const tile = event.target.closest(".tile");
    // A dialog that closes gives the focus back to where it was, not to the image shown last.
    if (tile && !viewing && +tile.dataset.at !== current) goTo(+tile.dataset.at);
  });
  gallery.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    goTo(+tile.dataset.at);
    open();
  });

  // -- one image, larger

  const large = $("large"), photo = large.querySelector("img"), absent = large.querySelector(".photo p");
  const fill = () => {
    const { item, label } = list[current];
    const data = source(item);
    $("large-name").textContent = item.path;
    photo.hidden = !data;
    absent.textContent = data ? "" : item.gone || "no picture";
    photo.alt = label;
    photo.src = data;
    if (item.link) {
      // The photo itself, where it is still there and the browser can show it.
      const whole = new Image();
      whole.onload = () => {
        if (large.open && list[current].item === item) photo.src = whole.src;
      };
      whole.src = item.link;
    }
    const about = [["answer", item.labels.map(([l, s]) => `${l} ${scoreOf(item, s)}`).join(", ")]];
    const others = item.top.filter(([l]) => !item.labels.some((a) => a[0] === l));
    if (others.length) about.push(["others", others.map(([l, s]) => `${l} ${shown(s)}`).join(", ")]);
    if (item.set) about.push(["set", item.set.join(", ") || "empty"]);
    if (item.gone) about.push(["picture", item.gone]);
    $("about").replaceChildren(
      ...about.flatMap(([name, text]) => [make("dt", { textContent: name }), make("dd", { textContent: text })])
    );
    if (item.link)
      $("about").append(
        make("dt", { textContent: "file" }),
        make("dd", {}, make("a", { href: item.link, target: "_blank", rel: "noopener", textContent: "open it" }))
      );
    $("previous").disabled = current === 0;
    $("next").disabled = current === list.length - 1;
  };
  const open = () => {
    fill();
    viewing = true;
    if (!large.open) large.showModal();
  };
  const step = (by) => {
    goTo(current + by, false);
    fill();
  };
  large.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      step(event.key === "ArrowLeft" ? -1 : 1);
    }
  });
  large.addEventListener("click", (event) => {
    if (event.target === large) large.close();  // beside it
  });
  large.addEventListener("close", () => {
    photo.removeAttribute("src");
    viewing = false;
    goTo(current);
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => large.close());

  // -- labels and scores

  const labelRows = new Map();
  for (const [n, label] of names.entries()) {
    $("label").append(make("option", { value: n, textContent: `${label} (${number(totals.get(label))})` }));
    const button = make("button", { type: "button", textContent: label });
    button.addEventListener("click", () => {
      $("label").value = $("label").value === String(n) ? "" : n;
      update();
    });
    const count = make("td"), mean = make("td");
    labelRows.set(label, { button, count, mean });
    $("labels").append(make("tr", {}, make("td", {}, button), count, mean));
  }
  const drawLabels = (kept, s) => {
    const counts = new Map(), sums = new Map(), scored = new Map();
    for (const { label, score } of kept) {
      counts.set(label, (counts.get(label) || 0) + 1);
      if (score === null) continue;
      sums.set(label, (sums.get(label) || 0) + score);
      scored.set(label, (scored.get(label) || 0) + 1);
    }
    for (const [label, row] of labelRows) {
      row.count.textContent = number(counts.get(label) || 0);
      row.mean.textContent = scored.has(label) ? (sums.get(label) / scored.get(label)).toFixed(2) : "–";
      row.button.setAttribute("aria-pressed", String(label === s.label));
    }
  };

  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const drawHistogram = (kept, s) => {
    const bins = new Array(BINS).fill(0);
    for (const { score } of kept) {
      if (score !== null) bins[Math.max(0, Math.min(BINS - 1, Math.floor(score * BINS + 1e-9)))]++;
    }
    const most = Math.max(1, ...bins);
    const nodes = bins.map((count, n) => {
      const low = n / BINS, high = (n + 1) / BINS, height = count ? Math.max(1, (110 * count) / most) : 0;
      const bar = svg("rect", { x: 20 * n + 1, y: 120 - height, width: 18, height });
      if (high > s.from && low <= s.to) bar.classList.add("in");
      const title = svg("title", {});
      title.textContent = `${low.toFixed(2)} to ${high.toFixed(2)}: ${number(count)}`;
      bar.append(title);
      bar.addEventListener("click", () => {
        $("from").value = low;
        $("to").value = high;
        update();
      });
      return bar;
    });
    nodes.push(svg("line", { x1: 0, y1: 120.5, x2: 400, y2: 120.5 }));
    for (const [x, text, anchor] of [[0, "0", "start"], [200, "0.5", "middle"], [400, "1", "end"]]) {
      const node = svg("text", { x, y: 136, "text-anchor": anchor });
      node.textContent = text;
      nodes.push(node);
    }
    $("histogram").replaceChildren(...nodes);
    const said = bins.map((count, n) => (count ? `${(n / BINS).toFixed(2)}: ${count}` : "")).filter(Boolean);
    $("histogram").setAttribute("aria-label", `Histogram of the scores. ${said.join(", ")}`);
  };

  // -- beginning

  const parts = [`${number(items.length)} images`, `${number(names.filter((l) => l !== "unknown").length)} labels`];
  if (totals.has("unknown")) parts.push(`${number(totals.get("unknown"))} unknown`);
  if (failures.length) parts.push(`${number(failures.length)} could not be read`);
  const gone = items.filter((item) => item.gone).length;
  if (gone) parts.push(`${number(gone)} without a picture`);
  const made = end.provenance.length ? `; ${end.provenance.join("; ")}` : "";
  const broken = cut ? ". The page was cut off: the run that made it did not come to its end" : "";
  $("summary").textContent = `${parts.join(", ")}${made}${broken}.`;
  if (failures.length) {
    const most = 1000;
    $("failures").hidden = false;
    $("failures").querySelector("summary").textContent = `${number(failures.length)} could not be read`;
    $("failures").querySelector("ul").append(
      ...failures.slice(0, most).map((f) => make("li", { textContent: `${f.path}: ${f.error}` })),
      ...(failures.length > most ? [make("li", { textContent: `and ${number(failures.length - most)} more` })] : [])
    );
  }
  document.querySelector("main").hidden = false;

  let pending = 0;
  const soon = (what) => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(what);
  };
  form.addEventListener("input", () => soon(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => soon(update));
  window.addEventListener("scroll", () => draw(), { passive: true });
  window.addEventListener("resize", () => {
    const at = current;
    layOut();
    current = at;
    draw();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !large.open && !event.target.closest("input, select")) {
      event.preventDefault();
      $("text").focus();
    }
  });
  update();
});
