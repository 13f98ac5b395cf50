"use strict";
// The group browser. Texts of models are written by textContent alone, so that nothing in them is ever markup.

(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const stored = (key, value) => {
    try { // a page opened from a file may have no storage
      if (value !== undefined) localStorage.setItem(key, value);
      return localStorage.getItem(key);
    } catch { return null; }
  };

  // ------------------------------------------------------------------------------------------------ light and dark

  const dark = () => document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const nameTheme = () => { $("theme").textContent = dark() ? "Light" : "Dark"; };
  const setTheme = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    nameTheme();
  };
  setTheme(stored("grace-theme"));
  $("theme").hidden = false;
  $("theme").addEventListener("click", () => setTheme(stored("grace-theme", dark() ? "light" : "dark") ?? (dark() ? "light" : "dark")));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);

  if (!$("groups")) return; // a model's page has no browser and so no keys

  $("keys").hidden = false;
  $("keys").addEventListener("click", () => $("help").showModal());

  // ------------------------------------------------------------------------------- unpacking, see packing.py

  const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=/?@^_`{|}~";
  const [ONE, TWO, LITERAL] = [160, 79, 255];
  const value = new Uint8Array(128);
  for (let i = 0; i < 85; i++) value[DIGITS.charCodeAt(i)] = i;
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  function bytesOf(text) {
    const padding = (5 - text.length % 5) % 5;
    const padded = text + "~".repeat(padding);
    const bytes = new Uint8Array(padded.length / 5 * 4);
    for (let i = 0, at = 0; i < padded.length; at += 4) {
      let number = 0;
      for (const end = i + 5; i < end; i++) number = number * 85 + value[padded.charCodeAt(i)];
      bytes[at] = number / 16777216;
      bytes[at + 1] = number >>> 16;
      bytes[at + 2] = number >>> 8;
      bytes[at + 3] = number;
    }
    return bytes.subarray(0, bytes.length - padding);
  }

  async function inflated(element) {
    const stream = new Blob([bytesOf(element.textContent)]).stream();
    const plain = stream.pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(plain).arrayBuffer());
  }

  function textOf(bytes, words) {
    const out = [];
    for (let i = 0; i < bytes.length;) {
      const first = bytes[i++];
      if (first < ONE) out.push(words[first]);
      else if (first < ONE + TWO) out.push(words[ONE + (first - ONE) * 256 + bytes[i++]]);
      else if (first < LITERAL) {
        out.push(words[ONE + TWO * 256 + (first - ONE - TWO) * 65536 + bytes[i] * 256 + bytes[i + 1]]);
        i += 2;
      } else {
        const size = bytes[i++];
        out.push(decoder.decode(bytes.subarray(i, i + size)));
        i += size;
      }
    }
    return out.join("");
  }

  const sources = JSON.parse($("config").textContent).sources;
  const blocks = document.querySelectorAll("script.groups");
  const kept = new Map(); // the blocks shown last, unpacked
  const based = sources.some((source) => source.based); // then the index holds what is edited, not the query
  let words = [];
  let index = [];

  async function readIndex() {
    words = decoder.decode(await inflated(document.querySelector("script.words"))).split("\n");
    const parts = await Promise.all([...document.querySelectorAll("script.index")].map(inflated));
    index = parts.flatMap((bytes) => JSON.parse(decoder.decode(bytes))).map(
      ([block, place, id, query, found]) => ({ block, place, id, query, found, lower: query.toLowerCase() }));
  }

  async function blockOf(number) {
    if (!kept.has(number)) {
      kept.set(number, inflated(blocks[number]).then((bytes) => JSON.parse(textOf(bytes, words))));
      if (kept.size > 12) kept.delete(kept.keys().next().value);
    }
    return kept.get(number);
  }

  // ------------------------------------------------------------------------------------------- what is chosen

  const state = { at: -1, source: -1, sort: "", down: true, matched: "", label: "", base: null, repeats: true, more: false, order: "" };
  let hits = []; // places in the index of the groups that are listed
  let listed = 0;
  let group = null;
  const PAGE = 200;
  const has = (key) => index.some(({ found }) => found.some((part) => key === "matched" ? part[2] + part[3] : part[4] + part[5]));

  // [source, responses, matched, unmatched, positive, negative, means]
  const passes = (part) =>
    (state.matched === "" || part[state.matched === "1" ? 2 : 3] > 0) && (state.label === "" || part[state.label === "1" ? 4 : 5] > 0);
  const shownResponse = (one) =>
    (state.matched === "" || one.matched === (state.matched === "1")) && (state.label === "" || one.label === (state.label === "1"));

  let searching = 0;
  async function search() {
    const mine = ++searching;
    const wanted = $("search").value.trim().toLowerCase();
    const fits = (entry) => (state.matched === "" && state.label === "") || entry.found.some(passes);
    const short = (entry) => !wanted || entry.lower.includes(wanted) || entry.id.startsWith(wanted);
    const places = [];
    const waiting = [];
    index.forEach((entry, place) => {
      if (!fits(entry)) return;
      if (short(entry)) places.push(place);
      else waiting.push(place);
    });
    show(places);
    // Queries are short in the index: the whole ones, and responses where wanted, are unpacked block by block.
    if (!wanted) return;
    const found = new Set(places);
    let block = -1;
    for (const place of waiting) {
      const entry = index[place];
      if (!$("whole").checked && !based && !entry.query.endsWith("…")) continue;
      if (entry.block !== block) {
        block = entry.block;
        $("found").textContent = `${found.size} found, searching ${Math.round(100 * block / blocks.length)} %`;
      }
      const whole = (await blockOf(entry.block))[entry.place];
      if (mine !== searching) return;
      const texts = [whole.query];
      if ($("whole").checked) for (const part of whole.parts) for (const one of part.responses) texts.push(one.text);
      if (texts.some((text) => text.toLowerCase().includes(wanted))) found.add(place);
    }
    show([...found].sort((a, b) => a - b));
  }

  // The mean of a metric over the responses of the first dataset that has it.
  function meanIn(entry, name) {
    for (const [source, , , , , , means] of entry.found) {
      const place = sources[source].metrics.findIndex((metric) => metric.name === name);
      if (place >= 0 && means[place] !== null && means[place] !== undefined) return means[place];
    }
    return -1e308;
  }

  function show(places) {
    hits = places;
    if (state.order) hits.sort((a, b) => meanIn(index[b], state.order) - meanIn(index[a], state.order) || a - b);
    listed = 0;
    $("list").replaceChildren();
    $("found").textContent = `${hits.length.toLocaleString("en")} of ${index.length.toLocaleString("en")} groups listed`;
    const chosen = hits.indexOf(state.at);
    extend(Math.max(chosen + 1, 1));
    if (chosen < 0 && hits.length) choose(hits[0]);
    else mark();
  }

  function extend(until) {
    while (listed < hits.length && (listed < until || listed % PAGE)) {
      $("list").append(item(hits[listed]));
      listed++;
    }
    $("more").hidden = listed >= hits.length;
  }

  function item(place) {
    const entry = index[place];
    const line = make("li");
    line.id = `g${place}`;
    line.setAttribute("role", "option");
    line.dataset.place = place;
    const query = make("span", "query", entry.query || "(no query)");
    query.dir = "auto";
    line.append(query, make("span", "counts", countsOf(entry)));
    return line;
  }

  function countsOf(entry) {
    return entry.found.map(([source, count, matched, unmatched, positive, negative]) => {
      const parts = [sources.length > 1 ? String(count) : `${count} ${count === 1 ? "response" : "responses"}`];
      if (positive + negative) parts.push(`▲ ${positive} ▼ ${negative}`);
      if (unmatched) parts.push(`✕ ${unmatched}`);
      return (sources.length > 1 ? `${source + 1}: ` : "") + (count ? parts.join(" · ") : "no response");
    }).join("  |  ");
  }

  function mark() {
    for (const old of $("list").querySelectorAll("[aria-selected=true]")) old.setAttribute("aria-selected", "false");
    const line = $(`g${state.at}`);
    if (!line) return;
    line.setAttribute("aria-selected", "true");
    $("list").setAttribute("aria-activedescendant", line.id);
    const list = $("list");
    if (line.offsetTop < list.scrollTop) list.scrollTop = line.offsetTop;
    else if (line.offsetTop + line.offsetHeight > list.scrollTop + list.clientHeight) {
      list.scrollTop = line.offsetTop + line.offsetHeight - list.clientHeight;
    }
  }

  async function choose(place) {
    const entry = index[place];
    if (!entry) return;
    state.at = place;
    mark();
    const block = await blockOf(entry.block);
    if (state.at !== place) return; // another one was chosen meanwhile
    group = block[entry.place];
    if (!group.parts.some((part) => part.source === state.source)) state.source = -1;
    history.replaceState(null, "", `#${entry.id}`);
    draw();
  }

  function step(by) {
    const place = hits.indexOf(state.at) + by;
    if (place < 0 || place >= hits.length) return;
    extend(place + 1);
    choose(hits[place]);
  }

  // --------------------------------------------------------------------------------------------- words of a text

  const WIDE = "\\u2e80-\\u9fff\\uac00-\\ud7af\\uf900-\\ufaff";
  const WORD = new RegExp(`[${WIDE}]|[^\\P{L}${WIDE}]+(?:['’][^\\P{L}${WIDE}]+)*|\\p{N}+`, "gu");
  const TOKEN = new RegExp(`[${WIDE}]|[^\\P{L}${WIDE}]+|\\p{N}+|[^\\s\\p{L}\\p{N}]`, "gu");
  const SENTENCE = /[^.!?。！？\n]+[.!?。！？\n]*/gu;
  const TAG = /<(\/?)(summary|outline|answer)>/g;
  const NGRAM = 4;
  const spans = (text, pattern, from = 0, to = text.length) =>
    [...text.slice(from, to).matchAll(pattern)].map((found) => [from + found.index, from + found.index + found[0].length]);

  // Pieces between tags: {start, end, inside}, and the tags themselves: {start, end, tag, closes}.
  function pieces(text) {
    const out = [];
    let at = 0, inside = "";
    for (const found of text.matchAll(TAG)) {
      if (found.index > at) out.push({ start: at, end: found.index, inside });
      at = found.index + found[0].length;
      inside = found[1] ? "" : found[2];
      out.push({ start: found.index, end: at, tag: found[2], closes: Boolean(found[1]) });
    }
    if (at < text.length) out.push({ start: at, end: text.length, inside });
    return out;
  }

  // Words of the document: of the answer where there is one, else of all that is no tag.
  function documentWords(text, cut) {
    const answer = cut.filter((piece) => piece.inside === "answer");
    const chosen = answer.length ? answer : cut.filter((piece) => !piece.tag);
    return chosen.flatMap(({ start, end }) => spans(text, WORD, start, end));
  }

  function repeats(text, found) {
    const counts = new Map();
    const keys = [];
    const lower = found.map(([start, end]) => text.slice(start, end).toLowerCase());
    for (let i = 0; i + NGRAM <= lower.length; i++) {
      const key = lower.slice(i, i + NGRAM).join(" ");
      keys.push(key);
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    const marks = [];
    let repeated = 0;
    keys.forEach((key, i) => {
      if (counts.get(key) < 2) return;
      repeated++;
      const [start, end] = [found[i][0], found[i + NGRAM - 1][1]];
      const last = marks.at(-1);
      if (last && start <= last.end) last.end = end;
      else marks.push({ start, end, name: "repeat" });
    });
    return { marks, share: keys.length ? repeated / keys.length : 0 };
  }

  // ---------------------------------------------------------------------------------------- differences of two texts

  const CELLS = 9e6; // of the table of common words; beyond it sentences are compared

  function difference(before, after) {
    for (const pattern of [TOKEN, SENTENCE]) {
      const found = aligned(before, after, spans(before, pattern), spans(after, pattern));
      if (found) return found;
    }
    return null;
  }

  // Words that both texts have in the same order stay; of the others those of `after` are new, those of `before` gone.
  function aligned(before, after, first, second) {
    const ids = new Map();
    const number = (text) => ([start, end]) => {
      const word = text.slice(start, end).trim();
      if (!ids.has(word)) ids.set(word, ids.size);
      return ids.get(word);
    };
    const a = first.map(number(before)), b = second.map(number(after));
    let head = 0, tail = 0;
    while (head < a.length && head < b.length && a[head] === b[head]) head++;
    while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
    const rows = a.length - head - tail, columns = b.length - head - tail;
    if (rows * columns > CELLS) return null;
    const same = common(a.slice(head, head + rows), b.slice(head, head + columns));
    return edits(before, first.slice(head, head + rows), second.slice(head, head + columns), same, after.length);
  }

  // Pairs of places of a longest common subsequence.
  function common(a, b) {
    const width = b.length + 1;
    const ways = new Uint8Array((a.length + 1) * width);
    let above = new Uint16Array(width), row = new Uint16Array(width);
    for (let i = 1; i <= a.length; i++) {
      for (let j = 1; j < width; j++) {
        if (a[i - 1] === b[j - 1]) { row[j] = above[j - 1] + 1; ways[i * width + j] = 1; }
        else if (above[j] >= row[j - 1]) { row[j] = above[j]; ways[i * width + j] = 2; }
        else row[j] = row[j - 1];
      }
      [above, row] = [row, above];
    }
    const pairs = [];
    for (let i = a.length, j = b.length; i && j;) {
      const way = ways[i * width + j];
      if (way === 1) pairs.push([--i, --j]);
      else if (way === 2) i--;
      else j--;
    }
    return pairs.reverse();
  }

  function edits(before, first, second, same, size) {
    const marks = [], gone = [];
    let i = 0, j = 0;
    for (const [x, y] of [...same, [first.length, second.length]]) {
      if (j < y) marks.push({ start: second[j][0], end: second[y - 1][1], name: "new" });
      if (i < x) {
        const at = j < second.length ? second[j][0] : second.length ? second.at(-1)[1] : size;
        gone.push({ at, text: before.slice(first[i][0], first[x - 1][1]) });
      }
      [i, j] = [x + 1, y + 1];
    }
    return { marks, gone, changed: marks.length + gone.length };
  }

  // ------------------------------------------------------------------------------------------------- drawing a text

  // Control characters and marks that turn the direction of what follows, as signs that can be seen.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g;
  function plainInto(element, text) {
    let at = 0;
    for (const found of text.matchAll(HIDDEN)) {
      element.append(text.slice(at, found.index));
      const code = found[0].codePointAt(0);
      element.append(make("span", "hidden-sign", `U+${code.toString(16).toUpperCase().padStart(4, "0")}`));
      at = found.index + 1;
    }
    element.append(text.slice(at));
  }

  // A stretch of a text with marks on it: cut wherever a mark begins or ends.
  function paint(element, text, start, end, marks, gone) {
    const within = marks.filter((mark) => mark.start < end && mark.end > start);
    const lost = gone.filter(({ at }) => at >= start && (at < end || (at === end && end === text.length)));
    const cuts = new Set([start, end]);
    for (const mark of within) cuts.add(Math.max(mark.start, start)).add(Math.min(mark.end, end));
    for (const { at } of lost) cuts.add(at);
    const order = [...cuts].sort((a, b) => a - b);
    order.forEach((from, place) => {
      for (const { at, text: words } of lost) if (at === from) plainInto(element.appendChild(make("del")), `${words} `);
      if (place + 1 === order.length) return;
      const to = order[place + 1];
      const names = within.filter((mark) => mark.start <= from && mark.end >= to).map((mark) => mark.name);
      let target = element;
      if (names.includes("new")) target = target.appendChild(make("ins"));
      if (names.includes("repeat")) target = target.appendChild(make("mark"));
      plainInto(target, text.slice(from, to));
    });
  }

  function body(text, cut, marks, gone) {
    const box = make("div", "text");
    box.tabIndex = 0;
    box.dir = "auto";
    let target = box;
    for (const piece of cut) {
      if (!piece.tag) {
        // White space between the parts of the form says nothing.
        const blank = target === box && cut.length > 1 && !text.slice(piece.start, piece.end).trim();
        if (!blank || gone.length) paint(target, text, piece.start, piece.end, marks, gone);
      } else {
        if (!piece.closes) target = box.appendChild(make("div", `part ${piece.tag}`));
        target.append(make("span", `tag ${piece.tag}`, text.slice(piece.start, piece.end)));
        if (piece.closes) target = box;
      }
    }
    if (!text.length) {
      paint(box, text, 0, 0, marks, gone);
      box.append(make("span", "empty", "(empty)"));
    }
    return box;
  }

  // ------------------------------------------------------------------------------------------------ drawing a group

  const number = (found) => found === null || found === undefined ? "–"
    : Number.isInteger(found) ? found.toLocaleString("en") : String(Number(found.toPrecision(4)));
  const signed = (found) => (found > 0 ? "+" : found < 0 ? "−" : "±") + number(Math.abs(found));

  function responses() {
    const out = [];
    for (const part of group.parts) {
      if (state.source !== -1 && part.source !== state.source) continue;
      part.responses.forEach((one, place) => out.push({ ...one, source: part.source, place, metrics: sources[part.source].metrics }));
    }
    return out;
  }

  const scoresOf = (one) => one.ratings.map((rating) => rating.score).filter((score) => score !== null);
  const meanOf = (found) => found.length ? found.reduce((a, b) => a + b, 0) / found.length : null;
  const valueOf = (one, name) => {
    if (name === "words") return one.words.length;
    if (name === "mean rating") return meanOf(scoresOf(one));
    const place = one.metrics.findIndex((metric) => metric.name === name);
    return place < 0 ? null : one.values[place];
  };

  function sorted(found) {
    if (!state.sort) return state.down ? found : [...found].reverse();
    const missing = state.down ? -Infinity : Infinity;
    return [...found].sort((a, b) => {
      const [x, y] = [a, b].map((one) => valueOf(one, state.sort) ?? missing);
      return x === y ? 0 : (x < y ? 1 : -1) * (state.down ? 1 : -1);
    });
  }

  // A response by its place, so that a choice holds in the next group too.
  const keyOf = (one) => `${one.source} ${one.place}`;

  // The text that differences are marked against: of the group, of a response, or of its namesake a dataset earlier.
  function baseOf(one, all, key) {
    if (key === "source") return group.base;
    if (key === "earlier") {
      const before = group.parts.filter((part) => part.source < one.source).at(-1);
      return before?.responses[one.place]?.text ?? null;
    }
    const chosen = all.find((other) => keyOf(other) === key);
    return chosen && keyOf(one) !== key ? chosen.text : null;
  }

  function draw() {
    const focus = document.activeElement?.dataset?.control;
    const all = responses();
    for (const one of all) {
      one.cut = pieces(one.text);
      one.words = documentWords(one.text, one.cut);
    }
    const shown = sorted(all.filter(shownResponse));
    const box = make("div", "responses");
    box.style.setProperty("--count", Math.max(Math.min(shown.length, 8), 1));
    for (const one of shown) box.append(card(one, all));
    const parts = [heading(), queryBox(), ...(all.length ? [toolbar(all)] : []), box];
    if (all.length && !shown.length) box.append(make("p", "empty", "No response of this group passes the filters."));
    $("group").replaceChildren(...parts);
    if (focus) $("group").querySelector(`[data-control="${focus}"]`)?.focus();
  }

  function heading() {
    const line = make("div", "heading");
    const place = hits.indexOf(state.at);
    const previous = control("button", "previous", "Previous group", () => step(-1));
    const next = control("button", "next", "Next group", () => step(1));
    previous.textContent = "←";
    next.textContent = "→";
    previous.disabled = place <= 0;
    next.disabled = place >= hits.length - 1;
    line.append(previous, next, make("span", "place", `${place < 0 ? "not listed" : place + 1} of ${hits.length.toLocaleString("en")}`));
    line.append(make("code", "id", group.id));
    return line;
  }

  function control(tag, name, label, act, event = "click") {
    const element = make(tag);
    if (tag === "button") element.type = "button";
    element.dataset.control = name;
    element.setAttribute("aria-label", label);
    element.addEventListener(event, act);
    return element;
  }

  function queryBox() {
    const box = make("div", "question");
    const text = make("div", "query-text");
    text.dir = "auto";
    plainInto(text, group.query || "(no query)");
    if (group.base) {
      const base = make("div", "query-text");
      base.dir = "auto";
      plainInto(base, group.base);
      box.append(make("h3", "", "Source"), folded(base, group.base));
    }
    if (!group.base) box.append(make("h3", "", "Query"), folded(text, group.query));
    else if (group.base !== group.query) {
      const prompt = make("details", "prompt");
      prompt.append(make("summary", "", "Query"), text);
      box.append(prompt);
    }
    // What several datasets say alike stands there once.
    const parts = group.parts.filter((part) => state.source === -1 || part.source === state.source);
    const said = new Map([...parts].reverse().map((part) => [JSON.stringify(part.fields), part]));
    for (const part of [...said.values()].reverse()) {
      const list = fieldList(part.fields);
      if (list && said.size > 1) list.prepend(make("span", "source", `${part.source + 1}:`));
      if (list) box.append(list);
    }
    if (group.criteria.length) box.append(criteria());
    return box;
  }

  // A long text is cut at a few lines until it is asked for.
  function folded(element, text) {
    if (text.length < 600) return element;
    const outer = make("details", "long");
    const head = make("summary");
    plainInto(head, `${text.slice(0, 300)}…`);
    outer.append(head, element);
    return outer;
  }

  function fieldList(fields) {
    const names = Object.keys(fields);
    if (!names.length) return null;
    const list = make("dl", "fields");
    for (const name of names) {
      const line = make("div", fields[name].length > 80 ? "wide-field" : "");
      const found = make("dd");
      found.dir = "auto";
      const text = fields[name].replace(/@([0-9a-f]{12})[0-9a-f]{28}/g, "@$1");
      if (text.length < 600) plainInto(found, text);
      else {
        const whole = make("div");
        plainInto(whole, text);
        found.append(folded(whole, text));
      }
      line.append(make("dt", "", name.replaceAll("_", " ")), found);
      list.append(line);
    }
    return list;
  }

  function criteria() {
    const outer = make("details", "criteria");
    outer.append(make("summary", "", `${group.criteria.length} criteria`));
    for (const one of group.criteria) {
      const { name, criteria_description: meaning, ...bands } = one;
      outer.append(make("h4", "", name ?? ""), make("p", "", meaning ?? ""));
      const list = fieldList(bands);
      if (list) outer.append(list);
    }
    return outer;
  }

  function toolbar(all) {
    const bar = make("div", "toolbar");
    if (sources.length > 1) bar.append(tabs());
    const names = [...new Set(all.flatMap((one) => one.metrics.map((metric) => metric.name)))];
    if (all.some((one) => one.ratings.length)) names.push("mean rating");
    const orders = [["", "as in the data"], ...[...names, "words"].map((name) => [name, name.replaceAll("_", " ")])];
    const sort = chooser("sort", "Sort", orders, state.sort, (found) => { state.sort = found; draw(); });
    const turn = control("button", "turn", "Turn the order round", () => { state.down = !state.down; draw(); });
    turn.textContent = state.down ? "↓" : "↑";
    turn.title = state.down ? "highest first" : "lowest first";
    bar.append(sort, turn, chooser("base", "Differences from", bases(all), baseIn(all), (found) => { state.base = found; draw(); }));
    const check = make("label", "check");
    const box = control("input", "repeats", "Mark repeated n-grams", () => { state.repeats = box.checked; draw(); }, "change");
    box.type = "checkbox";
    box.checked = state.repeats;
    check.append(box, `repeated ${NGRAM}-grams`);
    bar.append(check);
    return bar;
  }

  function tabs() {
    const line = make("div", "tabs");
    line.setAttribute("role", "group");
    line.setAttribute("aria-label", "Datasets");
    for (const place of [-1, ...sources.keys()]) {
      const there = place === -1 || group.parts.some((part) => part.source === place);
      const button = control("button", `source${place}`, place === -1 ? "All datasets" : sources[place].name,
        () => { state.source = place; draw(); });
      button.textContent = place === -1 ? "All" : `${place + 1}  ${sources[place].name}`;
      button.setAttribute("aria-pressed", String(state.source === place));
      button.disabled = !there;
      if (!there) button.title = "this query is not in it";
      line.append(button);
    }
    return line;
  }

  // Until something else is chosen, edits are marked against their source and chosen texts against rejected ones.
  function baseIn(all) {
    const keys = bases(all).map(([key]) => key);
    if (keys.includes(state.base)) return state.base;
    if (state.base !== null) return "";
    return group.base ? "source" : sources[0].kind === "preferences" && keys.includes("0 1") ? "0 1" : "";
  }

  function bases(all) {
    const found = [["", "nothing"]];
    if (group.base) found.push(["source", "the source text"]);
    if (group.parts.length > 1) found.push(["earlier", "the same place a dataset earlier"]);
    for (const one of all) found.push([keyOf(one), nameOf(one, true)]);
    return found;
  }

  function chooser(name, label, options, chosen, act) {
    const outer = make("label", "field", `${label} `);
    const select = control("select", name, label, () => act(select.value), "change");
    for (const [key, text] of options) {
      const option = make("option", "", text);
      option.value = key;
      option.selected = key === chosen;
      select.append(option);
    }
    outer.append(select);
    return outer;
  }

  const nameOf = (one, whole) => {
    const name = one.id.startsWith(`${group.id}-`) ? `response ${one.id.slice(group.id.length + 1)}` : /^\d+$/.test(one.id) ? `response ${one.id}` : one.id;
    return whole && group.parts.length > 1 ? `${one.source + 1}: ${name}` : name;
  };

  function card(one, all) {
    const box = make("article", "response");
    if (one.label === true) box.classList.add("positive");
    if (one.label === false) box.classList.add("negative");
    if (one.matched === false) box.classList.add("unmatched");
    box.setAttribute("aria-label", nameOf(one, true));
    const repeated = repeats(one.text, one.words);
    const key = baseIn(all);
    const base = key ? baseOf(one, all, key) : null;
    const changed = base === null ? null : difference(base, one.text);
    const marks = [...(state.repeats ? repeated.marks : []), ...(changed?.marks ?? [])];
    box.append(head(one), lengthLine(one, all), ...metricList(one));
    if (one.ratings.length) box.append(ratings(one));
    const said = [`${(100 * repeated.share).toFixed(1)} % of ${NGRAM}-grams repeated`];
    if (key && base === null) said.push(key === "earlier" ? "nothing a dataset earlier" : "the others are compared with it");
    else if (base !== null) said.push(differing(changed));
    box.append(make("p", "said", said.join(" · ")), body(one.text, one.cut, marks, changed?.gone ?? []));
    if (one.whole) {
      const more = make("details", "long");
      const whole = make("div", "text");
      whole.dir = "auto";
      plainInto(whole, one.whole);
      more.append(make("summary", "", "whole reply"), whole);
      box.append(more);
    }
    const list = fieldList(one.fields);
    if (list) box.append(list);
    return box;
  }

  function differing(changed) {
    if (!changed) return "too different to be marked";
    return changed.changed ? `${changed.changed} ${changed.changed === 1 ? "difference" : "differences"}` : "no difference";
  }

  function head(one) {
    const line = make("header");
    const title = make("h4", "", nameOf(one, true));
    title.dir = "auto";
    line.append(title);
    if (one.matched === false) line.append(make("span", "badge unmatched", "✕ unmatched"));
    if (one.label === true) line.append(make("span", "badge positive", "▲ positive"));
    if (one.label === false) line.append(make("span", "badge negative", "▼ negative"));
    return line;
  }

  function lengthLine(one, all) {
    const line = make("div", "length");
    const most = Math.max(...all.map((other) => other.words.length), 1);
    const mean = all.reduce((sum, other) => sum + other.words.length, 0) / all.length;
    const bar = make("div", "bar");
    bar.style.setProperty("--share", one.words.length / most);
    bar.style.setProperty("--mean", mean / most);
    const by = Math.round(one.words.length - mean);
    line.append(bar, make("span", "", `${number(one.words.length)} words, ${signed(by)} from the mean`));
    return line;
  }

  // Reward, weight and what is ranked stand first; other metrics are folded where there are many.
  function metricList(one) {
    const [first, rest] = [make("dl", "metrics"), make("dl", "metrics")];
    const ranked = one.metrics.some((metric) => metric.ranked) && one.metrics.length > 8;
    one.metrics.forEach((metric, place) => {
      if (one.values[place] === null && one.matched === false) return;
      const main = ["weight", "reward"].includes(metric.name);
      const line = make("div", main ? "main" : "");
      if (metric.name === state.sort) line.classList.add("sorted");
      const name = make("dt", "", metric.name.replaceAll("_", " "));
      if (metric.meaning) name.title = metric.meaning;
      const found = make("dd", "", number(one.values[place]));
      const rank = one.ranks?.[place];
      if (rank !== null && rank !== undefined) found.append(make("span", rank === 1 ? "rank best" : "rank", `#${number(rank)}`));
      line.append(name, found);
      (main || !ranked || metric.ranked || metric.name === state.sort ? first : rest).append(line);
    });
    if (!rest.children.length) return [first];
    const more = make("details", "more");
    more.open = state.more;
    more.append(make("summary", "", `${rest.children.length} more metrics`), rest);
    more.addEventListener("toggle", () => {
      if (more.open === state.more) return;
      state.more = more.open;
      for (const other of $("group").querySelectorAll("details.more")) other.open = state.more;
    });
    return [first, more];
  }

  function ratings(one) {
    const box = make("div", "ratings");
    const scores = scoresOf(one);
    const mean = number(meanOf(scores));
    box.append(make("p", "mean", `mean ${mean} over ${scores.length} ${scores.length === 1 ? "rating" : "ratings"}`));
    for (const rating of one.ratings) {
      const outer = make("details", "rating");
      const line = make("summary");
      const bar = make("span", "bar");
      bar.style.setProperty("--share", (rating.score ?? 0) / 10);
      const name = make("span", "criterion", rating.criterion + (rating.repeat ? ` (${rating.repeat + 1})` : ""));
      name.dir = "auto";
      line.append(make("span", "score", rating.score === null ? "–" : String(rating.score)), bar, name);
      const reason = make("p", "reason");
      reason.dir = "auto";
      plainInto(reason, rating.reason || (rating.score === null ? "No reply of the judge could be read." : "No reason given."));
      outer.append(line, reason);
      box.append(outer);
    }
    return box;
  }

  // ---------------------------------------------------------------------------------------------------------- keys

  function otherSource(by) {
    const there = [-1, ...group.parts.map((part) => part.source)];
    state.source = there[(there.indexOf(state.source) + by + there.length) % there.length];
    draw();
  }

  function cycle(id, by = 1) {
    const select = typeof id === "string" ? $(id) : id;
    if (!select || !select.offsetParent) return;
    select.selectedIndex = (select.selectedIndex + by + select.options.length) % select.options.length;
    select.dispatchEvent(new Event("change"));
  }

  function nextResponse(by) {
    const texts = [...$("group").querySelectorAll(".response > .text")];
    const at = texts.indexOf(document.activeElement);
    const next = texts[at < 0 ? (by > 0 ? 0 : texts.length - 1) : at + by];
    next?.focus({ preventScroll: true });
    next?.closest("article").scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  const inGroup = (name) => $("group").querySelector(`[data-control="${name}"]`);
  const KEYS = {
    j: () => step(1), ArrowRight: () => step(1),
    k: () => step(-1), ArrowLeft: () => step(-1),
    "[": () => otherSource(-1), "]": () => otherSource(1),
    "/": () => { $("search").focus(); $("search").select(); },
    s: () => cycle(inGroup("sort")), S: () => inGroup("turn")?.click(),
    m: () => cycle("matched"), l: () => cycle("label"),
    d: () => cycle(inGroup("base")), r: () => inGroup("repeats")?.click(),
    n: () => nextResponse(1), p: () => nextResponse(-1),
    "?": () => $("help").showModal(),
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || $("help").open || !group) return;
    const element = event.target;
    if (element.id === "search") {
      if (event.key === "Escape" || event.key === "Enter") { $("list").focus(); event.preventDefault(); }
      return;
    }
    if (element === $("list") && ["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) {
      event.preventDefault();
      if (event.key === "ArrowDown") step(1);
      else if (event.key === "ArrowUp") step(-1);
      else if (hits.length) { extend(event.key === "End" ? hits.length : 1); choose(event.key === "End" ? hits.at(-1) : hits[0]); }
      return;
    }
    // A list of choices takes letters and arrows itself.
    if (element.matches?.("select, input:not([type=checkbox]), textarea")) return;
    const act = KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // --------------------------------------------------------------------------------------------------------- start

  function wire() {
    let waiting = 0;
    $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 120); });
    $("whole").addEventListener("change", search);
    $("finder").addEventListener("submit", (event) => event.preventDefault());
    for (const id of ["matched", "label"]) {
      $(`${id}-field`).hidden = !has(id);
      $(id).addEventListener("change", () => { state[id] = $(id).value; search(); if (group) draw(); });
    }
    const names = [...new Set(sources.flatMap((source) => source.metrics.map((metric) => metric.name)))];
    for (const name of names) {
      const option = make("option", "", `mean ${name.replaceAll("_", " ")} ↓`);
      option.value = name;
      $("order").append(option);
    }
    $("order-field").hidden = !names.length;
    $("order").addEventListener("change", () => { state.order = $("order").value; search(); });
    $("list").addEventListener("click", (event) => {
      const line = event.target.closest("li");
      if (line) choose(Number(line.dataset.place));
    });
    $("more").addEventListener("click", () => extend(listed + PAGE));
  }

  readIndex().then(async () => {
    wire();
    $("loading").hidden = true;
    $("browser").hidden = false;
    const wanted = location.hash.slice(1);
    const place = index.findIndex((entry) => entry.id === wanted);
    if (place >= 0) state.at = place;
    show(index.map((_, number) => number));
    await choose(place >= 0 ? place : 0);
    performance.mark("shown");
    document.documentElement.dataset.ready = "1";
  }).catch((error) => {
    $("loading").textContent = `The texts cannot be unpacked: ${error.message}. A browser of 2023 or later is needed.`;
  });
})();
