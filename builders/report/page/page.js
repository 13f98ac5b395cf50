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
  const nameTheme = () => { $("theme").textContent = dark() ? "Light page" : "Dark page"; };
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
  // Texts as the search sees them: a phrase is found over the ends of lines too.
  const plain = (text) => text.replace(/\s+/g, " ").toLowerCase();

  async function readIndex() {
    words = decoder.decode(await inflated(document.querySelector("script.words"))).split("\n");
    const parts = await Promise.all([...document.querySelectorAll("script.index")].map(inflated));
    index = parts.flatMap((bytes) => JSON.parse(decoder.decode(bytes))).map(
      ([block, place, id, query, found]) => ({ block, place, id, query, found, plain: plain(query) }));
  }

  async function blockOf(number) {
    if (!kept.has(number)) {
      kept.set(number, inflated(blocks[number]).then((bytes) => JSON.parse(textOf(bytes, words))));
      if (kept.size > 12) kept.delete(kept.keys().next().value);
    }
    return kept.get(number);
  }

  // ------------------------------------------------------------------------------------------- what is chosen

  const state = { at: -1, source: -1, sort: "", down: true, matched: "", label: "", base: null, repeats: true, more: false, order: "", cards: 0 };
  let hits = []; // places in the index of the groups that are listed
  let group = null;
  const has = (key) => index.some(({ found }) => found.some((part) => key === "matched" ? part[2] + part[3] : part[4] + part[5]));
  const counted = (count, one, several = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : several}`;
  // Names of columns as people read them; one may be empty.
  const nice = (name) => name.replaceAll("_", " ").trim() || "(no name)";

  // [source, responses, matched, unmatched, positive, negative, means, [matched and positive, matched and negative, …]]
  function passes(part) {
    if (state.matched && state.label) return part[7][(state.matched === "1" ? 0 : 2) + (state.label === "1" ? 0 : 1)] > 0;
    return (state.matched === "" || part[state.matched === "1" ? 2 : 3] > 0) && (state.label === "" || part[state.label === "1" ? 4 : 5] > 0);
  }
  const shownResponse = (one) =>
    (state.matched === "" || one.matched === (state.matched === "1")) && (state.label === "" || one.label === (state.label === "1"));

  let searching = 0;
  async function search() {
    const mine = ++searching;
    const wanted = plain($("search").value).trim();
    const fits = (entry) => (state.matched === "" && state.label === "") || entry.found.some(passes);
    const short = (entry) => !wanted || entry.plain.includes(wanted) || entry.id.startsWith(wanted);
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
        $("found").textContent = `${found.size.toLocaleString("en")} found, searching ${Math.round(100 * block / blocks.length)} %`;
      }
      const whole = (await blockOf(entry.block))[entry.place];
      if (mine !== searching) return;
      const texts = [whole.query, whole.base ?? ""];
      if ($("whole").checked) for (const part of whole.parts) for (const one of part.responses) texts.push(one.text);
      if (texts.some((text) => plain(text).includes(wanted))) found.add(place);
    }
    show([...found].sort((a, b) => a - b));
  }

  // The mean of a metric over the responses of the first dataset that has it.
  function meanIn(entry, name) {
    for (const [source, , , , , , means] of entry.found) {
      const place = sources[source].metrics.findIndex((metric) => `=${metric.name}` === name);
      if (place >= 0 && means[place] !== null && means[place] !== undefined) return means[place];
    }
    return -1e308;
  }

  function show(places) {
    hits = places;
    if (state.order) hits.sort((a, b) => meanIn(index[b], state.order) - meanIn(index[a], state.order) || a - b);
    $("found").textContent = `${hits.length.toLocaleString("en")} of ${counted(index.length, "group")} listed`;
    const chosen = hits.indexOf(state.at);
    list(chosen < 0 ? 0 : chosen);
    if (chosen < 0 && hits.length && group) {
      open(hits[0]);
      remember(false);
    } else {
      mark();
      placeAgain();
    }
  }

  // The list holds a window of the hits, since a browser takes long over the entries of 100,000 groups.
  const PAGE = 200;
  let first = 0, end = 0; // of the window, places in `hits`
  const items = (from, to) => hits.slice(from, to).map((place, i) => item(place, from + i));

  function list(around) {
    first = Math.max(around - PAGE / 2, 0);
    end = Math.min(first + PAGE, hits.length);
    $("list").replaceChildren(...items(first, end));
    nameMore();
  }

  function extend(by) {
    const list = $("list");
    const [from, to, below] = [first, end, list.scrollHeight - list.scrollTop];
    if (by > 0) list.append(...items(to, end = Math.min(to + PAGE, hits.length)));
    else {
      list.prepend(...items(first = Math.max(from - PAGE, 0), from));
      list.scrollTop = list.scrollHeight - below; // what was in view stays there
    }
    nameMore();
  }

  function nameMore() {
    $("earlier").hidden = first === 0;
    $("more").hidden = end >= hits.length;
    $("earlier").textContent = `Show ${Math.min(first, PAGE)} before`;
    $("more").textContent = `Show ${Math.min(hits.length - end, PAGE)} more`;
  }

  function item(place, at) {
    const entry = index[place];
    const line = make("li");
    line.id = `g${place}`;
    line.setAttribute("role", "option");
    line.setAttribute("aria-posinset", at + 1);
    line.setAttribute("aria-setsize", hits.length);
    line.dataset.place = place;
    const query = make("span", "query", entry.query || "(no query)");
    query.dir = "auto";
    line.append(query, make("span", "counts", countsOf(entry)));
    return line;
  }

  function countsOf(entry) {
    return entry.found.map(([source, count, matched, unmatched, positive, negative]) => {
      const parts = [sources.length > 1 ? count.toLocaleString("en") : counted(count, "response")];
      if (positive + negative) parts.push(`▲ ${positive} ▼ ${negative}`);
      if (unmatched) parts.push(`✕ ${unmatched}`);
      return (sources.length > 1 ? `${source + 1}: ` : "") + (count ? parts.join(" · ") : "no response");
    }).join("  |  ");
  }

  function mark() {
    for (const old of $("list").querySelectorAll("[aria-selected=true]")) old.setAttribute("aria-selected", "false");
    const place = hits.indexOf(state.at);
    if (place >= 0 && (place < first || place >= end)) list(place);
    const line = place >= 0 && $(`g${state.at}`);
    if (!line) return $("list").removeAttribute("aria-activedescendant");
    line.setAttribute("aria-selected", "true");
    $("list").setAttribute("aria-activedescendant", line.id);
    const box = $("list");
    if (line.offsetTop < box.scrollTop) box.scrollTop = line.offsetTop;
    else if (line.offsetTop + line.offsetHeight > box.scrollTop + box.clientHeight) {
      box.scrollTop = line.offsetTop + line.offsetHeight - box.clientHeight;
    }
  }

  async function open(place) {
    const entry = index[place];
    state.at = place;
    state.cards = CARDS;
    mark();
    const block = await blockOf(entry.block);
    if (state.at !== place) return; // another one was chosen meanwhile
    group = block[entry.place];
    measure(group);
    if (!group.parts.some((part) => part.source === state.source)) state.source = -1;
    draw();
  }

  function choose(place) {
    if (place === undefined || place === state.at) return;
    open(place);
    remember(true);
  }

  function step(by) {
    choose(hits[hits.indexOf(state.at) + by]);
  }

  // ------------------------------------------------------------------------------------------------- the address

  // A move of the reader is a step of the browser's history, but a key held down is one step; a search is none.
  let moved = -Infinity;
  function remember(byReader) {
    const again = performance.now() - moved < 1000;
    if (byReader) moved = performance.now();
    const { id } = index[state.at];
    history[byReader && !again ? "pushState" : "replaceState"]({ group: id }, "", `#${encodeURIComponent(id)}`);
    $("unknown").hidden = true;
  }

  function hash() {
    const text = location.hash.slice(1);
    try { return decodeURIComponent(text); } catch { return text; }
  }

  // Where the address leads: to a group, or to a section, beside which the group stays that was shown before.
  async function follow() {
    moved = -Infinity;
    const wanted = hash();
    const placeOf = (id) => index.findIndex((entry) => entry.id === id);
    const place = placeOf(wanted);
    const unknown = place < 0 && wanted !== "" && !$(wanted);
    const next = [place, placeOf(history.state?.group), state.at, 0].find((found) => found >= 0);
    if (next !== state.at || !group) await open(next);
    if (hash() !== wanted) return;
    history.replaceState({ group: index[next].id }, "");
    $("unknown").hidden = !unknown;
    $("unknown").textContent = `No group of this page has the id “${wanted.slice(0, 80)}”; another one is shown.`;
    if (place >= 0 || unknown) $(unknown ? "groups" : "group").scrollIntoView({ behavior: "instant" });
  }

  // --------------------------------------------------------------------------------------------- words of a text

  const WIDE = "\\u2e80-\\u9fff\\uac00-\\ud7af\\uf900-\\ufaff";
  // A letter with its marks, which are vowels in many scripts; joiners stand within words of Persian and Hindi.
  const LETTERS = `[^\\P{L}${WIDE}](?:[^\\P{L}${WIDE}]|[\\p{M}\\u200c\\u200d])*`;
  const WORD = new RegExp(`[${WIDE}]\\p{M}*|${LETTERS}(?:['’]${LETTERS})*|\\p{N}+`, "gu");
  const TOKEN = new RegExp(`[${WIDE}]\\p{M}*|${LETTERS}|\\p{N}+|[^\\s\\p{L}\\p{N}]`, "gu");
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

  // The document: of a text its answer where there is one, else all that is no tag.
  function documentOf(cut) {
    const answer = cut.filter((piece) => piece.inside === "answer");
    return answer.length ? answer : cut.filter((piece) => !piece.tag);
  }
  const documentWords = (text, cut) => documentOf(cut).flatMap(({ start, end }) => spans(text, WORD, start, end));

  // Only counted: a list of all words of a text of 50 MB would take a gigabyte.
  function countWords(text) {
    let count = 0;
    for (const { start, end } of documentOf(pieces(text))) {
      const piece = text.slice(start, end);
      WORD.lastIndex = 0;
      while (WORD.test(piece)) count++;
    }
    return count;
  }

  // Where a long text is cut: at a blank, where there is one near, and never within a character.
  const LONG = 200_000;
  function cutAt(text, limit) {
    if (text.length <= limit) return text.length;
    for (let at = limit; at > limit - 1000; at--) if (/\s/.test(text[at])) return at;
    return limit - (text.codePointAt(limit - 1) > 0xffff ? 1 : 0);
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
      if (found) return { ...found, blank: before !== after, sentences: pattern === SENTENCE };
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
    const [rows, columns] = [a.length - tail, b.length - tail];
    if ((rows - head) * (columns - head) > CELLS) return null;
    const same = common(a.slice(head, rows), b.slice(head, columns)).map(([x, y]) => [x + head, y + head]);
    return edits(before, after, first, second, [[head - 1, head - 1], ...same, [rows, columns]]);
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

  // What stands between the places that both texts have: new there, gone from there, or one for the other.
  function edits(before, after, first, second, same) {
    const marks = [], gone = [];
    let changed = 0, words = 0;
    same.slice(1).forEach(([x, y], place) => {
      const [i, j] = [same[place][0] + 1, same[place][1] + 1];
      if (j < y) {
        marks.push({ start: second[j][0], end: second[y - 1][1], name: "new" });
        words += spans(after, WORD, second[j][0], second[y - 1][1]).length;
      }
      if (i < x) {
        const at = j < second.length ? second[j][0] : second.at(-1)?.[1] ?? after.length;
        // What stood apart from the word before does so here too.
        const apart = /\s/.test(before[first[i][0] - 1] ?? "") && /\S/.test(after[at - 1] ?? " ");
        gone.push({ at, text: `${apart ? " " : ""}${before.slice(first[i][0], first[x - 1][1])} ` });
        words += spans(before, WORD, first[i][0], first[x - 1][1]).length;
      }
      changed += i < x || j < y;
    });
    const all = spans(before, WORD).length + spans(after, WORD).length;
    return { marks, gone, changed, share: all ? words / all : 0 };
  }

  // ------------------------------------------------------------------------------------------------- drawing a text

  // Control characters and marks that turn the direction of what follows, as signs that can be seen.
  // The \r of a \r\n is none: it is a part of the line's end.
  const HIDDEN = /\r(?!\n)|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g;
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

  // A text without marks; of a long one its first part, with a button for the next.
  function prose(element, text, from = 0) {
    const to = cutAt(text, from + LONG);
    plainInto(element, text.slice(from, to));
    if (to === text.length) return;
    const more = moreText(to, text.length);
    more.lastChild.addEventListener("click", () => { more.remove(); prose(element, text, to); });
    element.append(more);
  }

  function moreText(to, size) {
    const line = make("p", "portion", `${number(to)} of ${number(size)} characters shown `);
    const button = make("button", "", `Show ${number(Math.min(LONG, size - to))} more`);
    button.type = "button";
    line.append(button);
    return line;
  }

  function lose(element, gone, start, end) {
    for (const { at, text } of gone) if (at >= start && at < end) plainInto(element.appendChild(make("del")), text);
  }

  // A stretch of a text with marks on it: cut wherever a mark begins or ends. Marks of one name stand in their order.
  function paint(element, text, start, end, marks, gone) {
    const within = marks.filter((mark) => mark.start < end && mark.end > start);
    const cuts = new Set([start, end]);
    for (const mark of within) cuts.add(Math.max(mark.start, start)).add(Math.min(mark.end, end));
    const lost = new Map(gone.filter(({ at }) => at >= start && at < end).map((one) => [one.at, one]));
    for (const at of lost.keys()) cuts.add(at);
    const order = [...cuts].sort((a, b) => a - b);
    const runs = ["new", "repeat"].map((name) => within.filter((mark) => mark.name === name));
    const at = [0, 0];
    for (let place = 0; place + 1 < order.length; place++) {
      const [from, to] = [order[place], order[place + 1]];
      if (lost.has(from)) lose(element, [lost.get(from)], from, to);
      let target = element;
      runs.forEach((run, which) => {
        while (at[which] < run.length && run[at[which]].end <= from) at[which]++;
        if (run[at[which]]?.start <= from) target = target.appendChild(make(which ? "mark" : "ins"));
      });
      plainInto(target, text.slice(from, to));
    }
  }

  function body(text, cut, marks, gone) {
    const box = make("div", "text");
    box.tabIndex = 0;
    box.dir = "auto";
    let target = box;
    const added = marks.filter((mark) => mark.name === "new");
    for (const piece of cut) {
      if (!piece.tag) {
        // White space between the parts of the form says nothing.
        const blank = target === box && cut.length > 1 && !text.slice(piece.start, piece.end).trim();
        if (!blank || gone.length) paint(target, text, piece.start, piece.end, marks, gone);
      } else {
        lose(target, gone, piece.start, piece.end);
        if (!piece.closes) target = box.appendChild(make("div", `part ${piece.tag}`));
        paint(target.appendChild(make("span", `tag ${piece.tag}`)), text, piece.start, piece.end, added, []);
        if (piece.closes) target = box;
      }
    }
    lose(target, gone, text.length, Infinity);
    if (!text.length) box.append(make("span", "empty", "(empty)"));
    return box;
  }

  // ------------------------------------------------------------------------------------------------ drawing a group

  const missing = (found) => found === null || found === undefined;
  // Whole numbers too large for JavaScript come as texts; of other large ones no digit is shown that is not known.
  function number(found) {
    if (missing(found)) return "–";
    if (typeof found === "string" && /^-?\d{1,40}$/.test(found)) return BigInt(found).toLocaleString("en");
    if (Math.abs(found) > Number.MAX_SAFE_INTEGER) return Number(found).toExponential(3).replace(/\.?0+e/, "e");
    return Number.isInteger(found) ? found.toLocaleString("en") : String(Number(Number(found).toPrecision(4)));
  }
  const signed = (found) => (found > 0 ? "+" : found < 0 ? "−" : "±") + number(Math.abs(found));

  // What the cards need of each response, once: where it is from, how long it is, and how much of it is shown.
  function measure(group) {
    for (const part of group.parts) {
      part.responses.forEach((one, place) => {
        const [source, { metrics }] = [part.source, sources[part.source]];
        Object.assign(one, { source, place, metrics, size: one.size ?? countWords(one.text), until: cutAt(one.text, LONG) });
      });
    }
  }

  const partsShown = () => group.parts.filter((part) => state.source === -1 || part.source === state.source);

  const scoresOf = (one) => one.ratings.map((rating) => rating.score).filter((score) => score !== null);
  const meanOf = (found) => found.length ? found.reduce((a, b) => a + b, 0) / found.length : null;
  // Ways to sort are the page's own and the metrics, whose names begin with `=` here, since they may be any.
  const WORDS = "words", MEAN = "mean rating";
  function valueOf(one, way) {
    if (way === WORDS) return one.size;
    if (way === MEAN) return meanOf(scoresOf(one));
    const place = one.metrics.findIndex((metric) => `=${metric.name}` === way);
    const value = place < 0 ? null : one.values[place];
    return missing(value) ? null : Number(value);
  }

  function sorted(found) {
    if (!state.sort) return state.down ? found : [...found].reverse();
    const last = state.down ? -Infinity : Infinity;
    return [...found].sort((a, b) => {
      const [x, y] = [a, b].map((one) => valueOf(one, state.sort) ?? last);
      return x === y ? 0 : (x < y ? 1 : -1) * (state.down ? 1 : -1);
    });
  }

  // A response by its place, so that a choice holds in the next group too.
  const keyOf = (one) => `${one.source} ${one.place}`;

  // The text that differences are marked against: of the group, of a response, or of its namesake a dataset earlier.
  function baseOf(one, view) {
    if (view.base === "source") return group.base;
    if (view.base === "earlier") {
      const before = group.parts.filter((part) => part.source < one.source).at(-1);
      return before?.responses[one.place]?.text ?? null;
    }
    return view.chosen && view.chosen !== one ? view.chosen.text : null;
  }

  // A group may have more responses than a page can show at once: they come in portions.
  const CARDS = 50;
  let view = null;
  function viewed() {
    const all = partsShown().flatMap((part) => part.responses);
    const base = baseIn(all);
    let most = 1, sum = 0;
    for (const { size } of all) {
      most = Math.max(most, size);
      sum += size;
    }
    const chosen = all.find((one) => keyOf(one) === base);
    return { all, shown: sorted(all.filter(shownResponse)), base, chosen, most, mean: sum / all.length, box: make("div", "responses") };
  }

  // What is drawn anew takes the focus from the control that had it.
  function again(draw) {
    const focus = document.activeElement?.dataset?.control;
    draw();
    if (focus) $("group").querySelector(`[data-control="${focus}"]`)?.focus();
  }

  function draw() {
    view = viewed();
    const { all, shown, box } = view;
    box.style.setProperty("--count", Math.max(Math.min(shown.length, 8), 1));
    box.append(...shown.slice(0, state.cards).map(card));
    const parts = [heading(), queryBox(), ...(all.length ? [toolbar(), portion()] : []), box];
    if (all.length && !shown.length) box.append(make("p", "empty", "No response of this group passes the filters."));
    again(() => $("group").replaceChildren(...parts));
  }

  // How many of the responses are shown, where these are not all, with a button for the next.
  function portion() {
    const { shown } = view;
    const line = make("p", "portion");
    line.hidden = shown.length <= state.cards;
    const next = control("button", "cards", "Show more responses", more);
    next.textContent = `Show ${Math.min(CARDS, shown.length - state.cards)} more`;
    line.append(`${number(Math.min(state.cards, shown.length))} of ${counted(shown.length, "response")} shown `, next);
    return line;
  }

  function more() {
    if (state.cards >= view.shown.length) return;
    view.box.append(...view.shown.slice(state.cards, state.cards + CARDS).map(card));
    state.cards += CARDS;
    again(() => {
      $("group").querySelector(":scope > .portion").replaceWith(portion());
      $("group").querySelector(".toolbar").replaceWith(toolbar());
    });
  }

  // The place in the list, which changes with its order, with a search and with the filters too.
  function heading() {
    const line = make("div", "heading");
    const place = hits.indexOf(state.at);
    const previous = control("button", "previous", "Previous group", () => step(-1));
    const next = control("button", "next", "Next group", () => step(1));
    previous.textContent = "←";
    next.textContent = "→";
    previous.disabled = place <= 0;
    next.disabled = place >= hits.length - 1;
    const where = place >= 0 ? `${number(place + 1)} of ${number(hits.length)}`
      : hits.length ? `not among the ${number(hits.length)} listed` : "not listed: no group is";
    line.append(previous, next, make("span", "place", where), make("code", "id", group.id));
    return line;
  }

  function placeAgain() {
    const old = $("group").querySelector(".heading");
    if (old) again(() => old.replaceWith(heading()));
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
    prose(text, group.query || "(no query)");
    if (group.base) {
      const base = make("div", "query-text");
      base.dir = "auto";
      prose(base, group.base);
      box.append(make("h3", "", "Source"), folded(base, group.base));
    }
    if (!group.base) box.append(make("h3", "", "Query"), folded(text, group.query));
    else if (group.base !== group.query) {
      const prompt = make("details", "prompt");
      prompt.append(make("summary", "", "Query"), text);
      box.append(prompt);
    }
    // What several datasets say alike stands there once.
    const said = new Map([...partsShown()].reverse().map((part) => [JSON.stringify(part.fields), part]));
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
        prose(whole, text);
        found.append(folded(whole, text));
      }
      line.append(make("dt", "", nice(name)), found);
      list.append(line);
    }
    return list;
  }

  function criteria() {
    const outer = make("details", "criteria");
    outer.append(make("summary", "", counted(group.criteria.length, "criterion", "criteria")));
    for (const one of group.criteria) {
      const { name, criteria_description: meaning, ...bands } = one;
      outer.append(make("h4", "", name ?? ""), make("p", "", meaning ?? ""));
      const list = fieldList(bands);
      if (list) outer.append(list);
    }
    return outer;
  }

  function toolbar() {
    const bar = make("div", "toolbar");
    if (sources.length > 1) bar.append(tabs());
    const sort = chooser("sort", "Sort", waysToSort(), state.sort, (found) => { state.sort = found; draw(); });
    const turn = control("button", "turn", "Turn the order round", () => { state.down = !state.down; draw(); });
    turn.textContent = state.down ? "↓" : "↑";
    turn.title = state.down ? "highest first" : "lowest first";
    bar.append(sort, turn, chooser("base", "Differences from", bases(), view.base, (found) => { state.base = found; draw(); }));
    const check = make("label", "check");
    const box = control("input", "repeats", "Mark repeated n-grams", () => { state.repeats = box.checked; draw(); }, "change");
    box.type = "checkbox";
    box.checked = state.repeats;
    check.append(box, `repeated ${NGRAM}-grams`);
    bar.append(check);
    return bar;
  }

  function waysToSort() {
    const names = [...new Set(partsShown().flatMap((part) => sources[part.source].metrics.map((metric) => metric.name)))];
    const taken = new Set(names.map(nice));
    const own = view.all.some((one) => one.ratings.length) ? [MEAN, WORDS] : [WORDS];
    return [
      ["", "as in the data"],
      ...names.map((name) => [`=${name}`, nice(name)]),
      ...own.map((name) => [name, taken.has(name) ? `${name} (counted here)` : name]),
    ];
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
    const has = (key) => key === "source" ? group.base : key === "earlier" ? group.parts.length > 1 : all.some((one) => keyOf(one) === key);
    if (state.base !== null) return has(state.base) ? state.base : "";
    return group.base ? "source" : sources[0].kind === "preferences" && has("0 1") ? "0 1" : "";
  }

  // Of very many responses those are offered that are shown, and the chosen one.
  const OFFERED = 200;
  function bases() {
    const found = [["", "nothing"]];
    if (group.base) found.push(["source", "the source text"]);
    if (group.parts.length > 1) found.push(["earlier", "the same place a dataset earlier"]);
    const { all, shown, chosen } = view;
    const offered = all.length <= OFFERED ? all : new Set([...(chosen ? [chosen] : []), ...shown.slice(0, state.cards)]);
    for (const one of offered) found.push([keyOf(one), nameOf(one, true)]);
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

  function card(one) {
    const box = make("article", "response");
    if (one.label === true) box.classList.add("positive");
    if (one.label === false) box.classList.add("negative");
    if (one.matched === false) box.classList.add("unmatched");
    box.setAttribute("aria-label", nameOf(one, true));
    box.append(head(one), lengthLine(one), ...metricList(one));
    if (one.ratings.length) box.append(ratings(one));
    box.append(...marked(one, () => box.replaceWith(card(one))));
    if (one.whole) {
      const more = make("details", "long");
      const whole = make("div", "text");
      whole.dir = "auto";
      prose(whole, one.whole);
      more.append(make("summary", "", "whole reply"), whole);
      box.append(more);
    }
    const list = fieldList(one.fields);
    if (list) box.append(list);
    return box;
  }

  // The text, as much of it as is shown, with its marks, and what is said of them.
  function marked(one, redraw) {
    const { length } = one.text;
    const text = one.text.slice(0, one.until), cut = pieces(text);
    const repeated = repeats(text, documentWords(text, cut));
    const base = view.base ? baseOf(one, view) : null;
    const changed = base === null ? null : difference(base.slice(0, cutAt(base, Math.max(one.until, LONG))), text);
    const said = [`${(100 * repeated.share).toFixed(1)} % of ${NGRAM}-grams repeated`];
    if (view.base && base === null) said.push(view.base === "earlier" ? "nothing a dataset earlier" : "the others are compared with it");
    else if (base !== null) said.push(differing(changed));
    if (one.until < length || base?.length > Math.max(one.until, LONG)) said.push("the rest of a long text is neither counted nor compared");
    const marks = [...(state.repeats ? repeated.marks : []), ...(changed?.marks ?? [])];
    const out = [make("p", "said", said.join(" · ")), body(text, cut, marks, changed?.gone ?? [])];
    if (one.until < length) {
      const more = moreText(one.until, length);
      more.lastChild.addEventListener("click", () => { one.until = cutAt(one.text, one.until + LONG); redraw(); });
      out.push(more);
    }
    return out;
  }

  function differing(found) {
    if (!found) return "too different to be marked";
    const { changed, share, blank, sentences } = found;
    if (!changed) return blank ? "they differ in white space alone" : "no difference";
    const percent = 100 * share;
    const words = !share ? "in signs alone" : `${percent < 0.1 ? "less than 0.1" : percent.toFixed(percent < 10 ? 1 : 0)} % of the words`;
    return `${counted(changed, "difference")}${sentences ? " of sentences, too many for words" : ""}, ${words}`;
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

  function lengthLine(one) {
    const line = make("div", "length");
    const { most, mean } = view;
    const bar = make("div", "bar");
    bar.style.setProperty("--share", one.size / most);
    bar.style.setProperty("--mean", mean / most);
    const by = Math.round(one.size - mean);
    line.append(bar, make("span", "", `${counted(one.size, "word")}, ${signed(by)} from the mean`));
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
      const chosen = `=${metric.name}` === state.sort;
      if (chosen) line.classList.add("sorted");
      const name = make("dt", "", nice(metric.name));
      if (metric.meaning) name.title = metric.meaning;
      const found = make("dd", "", number(one.values[place]));
      const rank = one.ranks?.[place];
      if (rank !== null && rank !== undefined) found.append(make("span", rank === 1 ? "rank best" : "rank", `#${number(rank)}`));
      line.append(name, found);
      (main || !ranked || metric.ranked || chosen ? first : rest).append(line);
    });
    if (!rest.children.length) return [first];
    const more = make("details", "more");
    more.open = state.more;
    more.append(make("summary", "", counted(rest.children.length, "more metric")), rest);
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
    box.append(make("p", "mean", `mean ${mean} over ${counted(scores.length, "rating")}`));
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
    n: () => nextResponse(1), p: () => nextResponse(-1), "+": more,
    "?": () => $("help").showModal(),
  };

  addEventListener("keydown", (event) => {
    // Signs that some keyboards have on AltGr or on Option come with ctrl and alt, or with alt.
    const sign = event.altKey && "[]/?+".includes(event.key);
    if (((event.ctrlKey || event.altKey) && !sign) || event.metaKey || $("help").open || !group) return;
    const element = event.target;
    if (element.id === "search") {
      if (event.key === "Escape" || event.key === "Enter") { $("list").focus(); event.preventDefault(); }
      return;
    }
    if (element === $("list") && ["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) {
      event.preventDefault();
      if (event.key === "ArrowDown") step(1);
      else if (event.key === "ArrowUp") step(-1);
      else choose(event.key === "End" ? hits.at(-1) : hits[0]);
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
      $(id).addEventListener("change", () => { state[id] = $(id).value; state.cards = CARDS; search(); if (group) draw(); });
    }
    const names = [...new Set(sources.flatMap((source) => source.metrics.map((metric) => metric.name)))];
    for (const name of names) {
      const option = make("option", "", `mean ${nice(name)} ↓`);
      option.value = `=${name}`;
      $("order").append(option);
    }
    $("order-field").hidden = !names.length;
    $("order").addEventListener("change", () => { state.order = $("order").value; search(); });
    $("list").addEventListener("click", (event) => {
      const line = event.target.closest("li");
      if (line) choose(Number(line.dataset.place));
    });
    $("more").addEventListener("click", () => extend(1));
    $("earlier").addEventListener("click", () => extend(-1));
    addEventListener("hashchange", follow);
    // Paper has nothing to unfold.
    addEventListener("beforeprint", () => {
      for (const folded of document.querySelectorAll("main details:not([open])")) folded.open = folded.dataset.printed = true;
    });
    addEventListener("afterprint", () => {
      for (const folded of document.querySelectorAll("details[data-printed]")) {
        folded.open = false;
        delete folded.dataset.printed;
      }
    });
  }

  readIndex().then(async () => {
    wire();
    $("loading").hidden = true;
    $("browser").hidden = false;
    show(index.map((_, number) => number));
    await follow();
    $(hash())?.scrollIntoView({ behavior: "instant" }); // the groups have moved what is below them
    performance.mark("shown");
    document.documentElement.dataset.ready = "1";
  }).catch((error) => {
    const old = typeof DecompressionStream === "undefined";
    $("loading").hidden = false;
    $("loading").textContent = old ? "The texts cannot be unpacked: a browser of 2023 or later is needed."
      : `The texts cannot be shown: ${error.message}. The file may be damaged; write the page again.`;
  });
})();
