// The viewer of hotframe's flame graphs. It replaces the static picture by a
// canvas that draws the payload, and leaves the picture alone if it cannot.
//
// Written into the SVG without the lines that begin with "//" and without
// indentation, inside a CDATA section. Names from the profile are hostile:
// they reach the page only through textContent and fillText.
(() => {
'use strict';

const XHTML = 'http://www.w3.org/1999/xhtml';
const ROW = 17, BOX = 16, INSET = 3, FONT_SIZE = 11;
const FONT = FONT_SIZE + 'px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace';
const MOVE_MS = 160;

const svg = (document.currentScript && document.currentScript.ownerSVGElement) || document.documentElement;
const standalone = svg === document.documentElement;

// ---- payload ----

// inflate reads the payload; payload.go describes the format.
async function inflate() {
  let base64 = '';
  for (const e of svg.querySelectorAll('metadata.hotframe-payload')) base64 += e.textContent;
  const binary = atob(base64), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function decode(b) {
  let at = 0;
  const utf8 = new TextDecoder('utf-8', {ignoreBOM: true});
  const uvarint = () => {
    let v = 0, scale = 1, c;
    do {
      c = b[at++];
      v += (c & 127) * scale;
      scale *= 128;
    } while (c > 127);
    return v;
  };
  const bytes = n => b.subarray(at, at += n);
  const string = () => utf8.decode(bytes(uvarint()));
  const column = (Type, n) => {
    const out = new Type(n);
    for (let i = 0; i < n; i++) out[i] = uvarint();
    return out;
  };
  const list = (n, read) => Array.from({length: n}, read);
  const rgb = () => 'rgb(' + bytes(3).join() + ')';

  if (b[at++] !== 1) throw new Error('payload version ' + b[0]);
  const p = {title: string(), subtitle: string()};
  p.tones = uvarint();
  p.kinds = list(uvarint(), () => ({word: string(), light: list(p.tones, rgb), dark: list(p.tones, rgb)}));
  p.metrics = list(uvarint(), () => ({type: string(), unit: string()}));
  p.shown = uvarint();

  const lengths = column(Int32Array, uvarint());
  const size = lengths.reduce((sum, n) => sum + n, 0);
  const block = bytes(size), text = utf8.decode(block);
  let from = 0;
  // Only ASCII has as many characters as bytes.
  p.names = Array.from(lengths, n => {
    from += n;
    return text.length === size ? text.slice(from - n, from) : utf8.decode(block.subarray(from - n, from));
  });
  p.kind = bytes(lengths.length);
  p.tone = bytes(lengths.length);

  const n = uvarint();
  p.frame = column(Int32Array, n);
  const children = column(Int32Array, n);
  const columns = [];
  for (const m of p.metrics) {
    m.scale = uvarint();
    const same = uvarint();
    m.self = same ? columns[same - 1] : column(Float64Array, n);
    columns.push(m.self);
  }
  if (at !== b.length) throw new Error('payload is damaged');
  arrange(p, n, children);
  return p;
}

// arrange adds the columns that follow from the payload's: parent, depth, end
// (the first node behind a node's subtree), and by metric total and start.
function arrange(p, n, children) {
  const parent = p.parent = new Int32Array(n), depth = p.depth = new Int32Array(n), end = p.end = new Int32Array(n);
  for (let i = 0, up = -1; i < n; i++) {
    parent[i] = up;
    depth[i] = up < 0 ? 0 : depth[up] + 1;
    if (children[i] > 0) up = i;
    else while (up >= 0 && --children[up] === 0) up = parent[up];
  }
  for (let i = n - 1; i >= 0; i--) {
    end[i] = Math.max(end[i], i + 1);
    if (i > 0) end[parent[i]] = Math.max(end[parent[i]], end[i]);
  }
  const totals = new Map();
  for (const m of p.metrics) {
    m.total = totals.get(m.self);
    if (m.total) continue;
    const total = m.total = m.self.slice();
    for (let i = n - 1; i > 0; i--) total[parent[i]] += total[i];
    totals.set(m.self, total);
  }
  p.total = p.metrics[p.shown].total;
  p.start = new Float64Array(n);
  const next = new Float64Array(n);
  for (let i = 1; i < n; i++) {
    p.start[i] = next[i] = next[parent[i]];
    next[parent[i]] += p.total[i];
  }
}

// ---- labels, by the rules of label.go ----

const wide = c => c >= '\u2e80' && c !== '\ufffd' ? 2 : 1;

function cells(s) {
  let n = 0;
  for (const c of s) n += wide(c);
  return n;
}

function fit(forms, room) {
  if (room < 3) return '';
  for (const s of forms) if (s.length <= room && cells(s) <= room) return s;
  let n = 0, cut = 0, at = 0;
  const last = forms[forms.length - 1];
  for (const c of last) {
    if (n < room) cut = at;
    n += wide(c);
    if (n > room) return last.slice(0, cut) + '\u2026';
    at += c.length;
  }
  return last;
}

function shortForms(name) {
  name = name.slice(0, 1024);
  const forms = [name];
  const add = s => {
    if (s && s.length < forms[forms.length - 1].length) forms.push(s);
  };
  if (name.startsWith('[unknown: ')) {
    add('[' + name.slice(10));
    return forms;
  }
  let s = name;
  for (const mark of [' /', ':/', ' node:', ' file:']) if (s.indexOf(mark) > 0) s = s.slice(0, s.indexOf(mark));
  s = dropArguments(s);
  add(s);
  for (const x of ['.cold', '.isra.', '.part.', '.constprop.', '.llvm.', '.lto_priv.', '.localalias']) {
    if (s.indexOf(x) > 0) s = s.slice(0, s.indexOf(x));
  }
  s = dropTypeArguments(s);
  add(s);
  if (s.includes(' ') || s[0] === '[') return forms;
  const slash = lastOutside(s, '/');
  if (slash >= 0) add(s = s.slice(slash + 1));
  for (;;) {
    const [at, length] = nextSeparator(s);
    if (at < 0 || at + length >= s.length) return forms;
    add(s = s.slice(at + length));
  }
}

function dropArguments(s) {
  let t = s.endsWith(' const') ? s.slice(0, -6) : s;
  if (!t.endsWith(')')) return s;
  let depth = 0, open = t.length - 1;
  for (; open >= 0; open--) {
    if (t[open] === ')') depth++;
    else if (t[open] === '(' && --depth === 0) break;
  }
  if (open <= 0 || t[open - 1] === ':' || t[open - 1] === '.' || t.slice(0, open).endsWith('operator')) return s;
  t = t.slice(0, open);
  return t.includes('operator') ? t : t.slice(lastOutside(t, ' ') + 1);
}

function dropTypeArguments(s) {
  if (s.includes('operator') || s.includes('->') || s[0] === '[') return s;
  if (s[0] === '<') {
    const as = s.indexOf(' as '), close = s.indexOf('>::');
    if (as > 0 && close > as) s = s.slice(1, as) + s.slice(close + 1);
  }
  let out = '', depth = 0;
  for (const c of s) {
    if (c === '<' || c === '[') depth++;
    else if (c === '>' || c === ']') {
      if (--depth < 0) return s;
    } else if (depth === 0) out += c;
  }
  return depth !== 0 || out === '' || '.:'.includes(out[out.length - 1]) ? s : out;
}

function lastOutside(s, c) {
  for (let i = s.length - 1, depth = 0; i >= 0; i--) {
    if (')]}>'.includes(s[i])) depth++;
    else if ('([{<'.includes(s[i])) depth--;
    else if (depth === 0 && s[i] === c) return i;
  }
  return -1;
}

function nextSeparator(s) {
  for (let i = 0, depth = 0; i < s.length; i++) {
    if ('([{<'.includes(s[i])) depth++;
    else if (')]}>'.includes(s[i])) depth--;
    else if (depth !== 0 || i === 0) continue;
    else if (s[i] === '.') return [i, 1];
    else if (s.startsWith('::', i)) return [i, 2];
  }
  return [-1, 0];
}

// ---- numbers ----

const count = v => v.toLocaleString('en-US', {maximumFractionDigits: 0});
const percent = (v, of) => (of > 0 ? 100 * v / of : 0).toFixed(2) + '%';

function amount(m, v) {
  v *= m.scale;
  if (m.unit === 'count') return count(v) + ' ' + m.type;
  if (m.unit === 'nanoseconds') return duration(v) + ' of ' + m.type;
  if (m.unit === 'bytes') return byteSize(v) + ' of ' + m.type;
  return count(v) + ' ' + m.unit + ' of ' + m.type;
}

function duration(ns) {
  if (ns < 1e3) return ns + ' ns';
  if (ns < 1e6) return (ns / 1e3).toFixed(2) + ' \u00b5s';
  if (ns < 1e9) return (ns / 1e6).toFixed(2) + ' ms';
  return (ns / 1e9).toFixed(2) + ' s';
}

function byteSize(v) {
  let unit = 0;
  for (; v >= 1024 && unit < 4; unit++) v /= 1024;
  return +v.toPrecision(4) + ' ' + ['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit];
}

// ---- page ----

const CSS = [
  '.hf{--bg:#fff;--fg:#1b1b1b;--dim:#5a6068;--line:#d5d9de;--soft:#f3f5f7;--accent:#7a1fa2;--bad:#b3261e;',
  'position:relative;box-sizing:border-box;height:100%;display:flex;flex-direction:column;padding:10px;gap:6px;',
  'background:var(--bg);color:var(--fg);font:13px/1.35 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}',
  '@media(prefers-color-scheme:dark){.hf{--bg:#16181c;--fg:#e8eaed;--dim:#a3a9b2;--line:#3a3f47;--soft:#22262c;--accent:#e0a3ff;--bad:#ff8a80}}',
  '.hf *{box-sizing:border-box}',
  '.hf h1{font-size:17px;font-weight:600;margin:0}',
  '.hf .top,.hf form,.hf footer,.hf .legend{display:flex;flex-wrap:wrap;align-items:center;gap:6px}',
  '.hf .heading{flex:1 1 240px;min-width:0;overflow-wrap:anywhere}.hf .dim{color:var(--dim)}',
  '.hf button,.hf input{font:inherit;color:inherit;background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:3px 9px;min-height:28px}',
  '.hf button{cursor:pointer}.hf button:hover{border-color:var(--dim)}.hf button:disabled{opacity:.45;cursor:default}',
  '.hf button[aria-pressed=true]{background:var(--accent);border-color:var(--accent);color:var(--bg)}',
  '.hf input{width:240px}.hf input[aria-invalid=true]{border-color:var(--bad)}',
  '.hf output{min-width:96px;font-variant-numeric:tabular-nums}.hf .bad{color:var(--bad)}',
  '.hf nav{display:flex;align-items:center;white-space:nowrap;overflow:hidden;justify-content:flex-end}.hf nav :last-child{margin-right:auto}',
  '.hf nav button{background:none;border:0;padding:2px 5px;min-height:24px;color:var(--dim);flex:none}',
  '.hf nav button[aria-current]{color:var(--fg);font-weight:600}',
  '.hf .plot{position:relative;flex:0 1 auto;min-height:0}',
  '.hf canvas{position:absolute;left:0;top:0}',
  '.hf .scroll{position:absolute;inset:0;overflow:hidden auto;cursor:pointer;display:flex;flex-direction:column-reverse}',
  '.hf .scroll.icicle{flex-direction:column}',
  '.hf .content{position:relative;overflow:hidden;flex:none}',
  '.hf .ring{position:absolute;height:16px;pointer-events:none;border-radius:2px;outline:2px solid var(--fg);outline-offset:-1px}',
  '.hf .ring.hover{outline-width:1px}',
  '.hf .tip{position:absolute;z-index:1;left:0;top:0;max-width:min(640px,90%);pointer-events:none;background:var(--bg);',
  'border:1px solid var(--dim);border-radius:6px;padding:6px 9px;box-shadow:0 3px 12px rgb(0 0 0/.25)}',
  '.hf .tip b{display:block;overflow-wrap:anywhere;white-space:pre-wrap;max-height:12em;overflow:hidden;font-family:ui-monospace,Menlo,Consolas,monospace}',
  '.hf .tip td{padding:0 14px 0 0;font-variant-numeric:tabular-nums}',
  '.hf footer{justify-content:space-between;color:var(--dim);min-height:20px}',
  '.hf .status{flex:1 1 300px;min-width:0;overflow-wrap:anywhere;max-height:4.2em;overflow:hidden}',
  '.hf i{display:inline-block;width:11px;height:11px;border-radius:2px;margin:0 4px 0 10px;vertical-align:-1px}',
  '.hf :focus-visible{outline:2px solid var(--accent);outline-offset:1px}',
  '.hf [hidden]{display:none}',
].join('');

const HELP = 'Flame graph. Arrow keys move, Enter zooms, Escape resets, slash searches, ' +
  'n and Shift+n go to the next and previous match, c copies the name, i turns the graph over.';

// el makes an element; values of attributes and text are never parsed.
function el(tag, attributes, ...children) {
  const e = document.createElementNS(XHTML, tag);
  for (const [name, value] of Object.entries(attributes || {})) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

function button(text, label, act) {
  const b = el('button', {type: 'button', title: label, 'aria-label': label}, text);
  b.addEventListener('click', act);
  return b;
}

function show(p) {
  const {names, frame, parent, depth, end, total, start} = p;
  const N = frame.length, all = total[0];
  const dark = matchMedia('(prefers-color-scheme: dark)'), still = matchMedia('(prefers-reduced-motion: reduce)');

  // The view. from and to are what the width shows, in units of the metric;
  // they run behind the focused node while the picture moves.
  let focus = 0, from = 0, to = Math.max(all, 1), moving = 0;
  let selected = -1, hovered = -1;
  let rows = 1, icicle = false;
  let pattern = '', exact = false, searches = 0;
  let hit = null, matches = [], outermost = [], matched = 0;

  const input = el('input', {type: 'search', placeholder: 'Search: regular expression', 'aria-label': 'Search names by regular expression', spellcheck: 'false', autocomplete: 'off'});
  const caseButton = button('Aa', 'Match case', () => searchFor(pattern, !exact));
  const previous = button('\u2039', 'Previous match (Shift+n)', () => step(-1));
  const next = button('\u203a', 'Next match (n)', () => step(1));
  const result = el('output', {class: 'result'});
  const form = el('form', {role: 'search'}, input, caseButton, previous, next, result);
  const reset = button('Reset zoom', 'Reset zoom (Escape)', () => zoom(0));
  const turn = button('Icicle', 'Put the root at the top (i)', turnOver);
  const heading = el('div', {class: 'heading'}, el('h1', {}, p.title), el('div', {class: 'dim'}, p.subtitle));
  const crumbs = el('nav', {'aria-label': 'Callers of the zoomed frame'});
  const canvas = el('canvas', {'aria-hidden': 'true'});
  const rings = [el('div', {class: 'ring hover'}), el('div', {class: 'ring'})];
  const content = el('div', {class: 'content'}, ...rings);
  const scroll = el('div', {class: 'scroll', tabindex: '0', role: 'application', 'aria-label': HELP}, content);
  const plot = el('div', {class: 'plot'}, canvas, scroll);
  const status = el('div', {class: 'status', role: 'status', 'aria-live': 'polite'});
  const legend = el('div', {class: 'legend'});
  const tip = el('div', {class: 'tip', role: 'tooltip', hidden: ''});
  const app = el('div', {class: 'hf'}, el('style', {}, CSS), el('div', {class: 'top'}, heading, form, reset, turn),
    crumbs, plot, el('footer', {}, status, legend), tip);
  const context = canvas.getContext('2d');

  // ---- drawing ----

  let fills = [], accent = '', ink = '', inkOnAccent = '', background = '', letter = 6.6;

  function theme() {
    const row = dark.matches ? 'dark' : 'light';
    fills = p.kinds.flatMap(k => k[row]);
    [ink, inkOnAccent, accent, background] = dark.matches ?
      ['#f2f2f2', '#1b1b1b', '#e0a3ff', '#16181c'] : ['#1b1b1b', '#fff', '#7a1fa2', '#fff'];
    legend.replaceChildren(...p.kinds.filter((k, i) => p.kind.includes(i)).map(k => {
      const chip = el('i');
      chip.style.background = k[row][1];
      return el('span', {}, chip, k.word);
    }));
  }

  const forms = new Map();
  function label(n, room) {
    const f = frame[n];
    if (!forms.has(f)) forms.set(f, shortForms(names[f]));
    return fit(forms.get(f), room);
  }

  const rowTop = d => (icicle ? d : rows - 1 - d) * ROW;

  // The scroller counts from the root: down to the bottom row in a flame
  // graph, where scrollTop is 0 or negative, so that the root stays in place
  // when rows come and go.
  const slack = () => icicle ? 0 : Math.max(0, rows * ROW - scroll.clientHeight);
  const scrolled = () => scroll.scrollTop + slack();

  // walk visits what is to be seen between a and b at a width in pixels: each
  // node of half a pixel and more. It skips the subtrees of narrower ones, of
  // which it visits the first in each column of pixels and those with matches.
  function walk(a, b, width, deepest, visit) {
    const scale = width / (b - a), marked = [];
    for (let n = 0; n < N;) {
      const x = (start[n] - a) * scale, w = total[n] * scale, d = depth[n];
      if (d > deepest || (n > 0 && (x >= width || x + w <= 0))) {
        n = end[n];
      } else if (w < .5 && n > 0) {
        const column = Math.floor(x);
        if (!(marked[d] >= column) || (hit && within(matches, n))) {
          marked[d] = column;
          visit(n, d, column, column + 1, false);
        }
        n = end[n];
      } else {
        const right = n > 0 ? Math.min(x + w, width) : width;
        marked[d] = Math.floor(right) - 1;
        visit(n, d, Math.max(x, 0), right, true);
        n++;
      }
    }
  }

  // within tells whether one of the ascending nodes is in the subtree of n.
  function within(nodes, n) {
    let low = 0, high = nodes.length;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (nodes[mid] < n) low = mid + 1;
      else high = mid;
    }
    return low < nodes.length && nodes[low] < end[n];
  }

  function draw() {
    const width = scroll.clientWidth, height = scroll.clientHeight, ratio = devicePixelRatio || 1;
    const top = scrolled();
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    canvas.style.width = width + 'px';
    canvas.style.height = height + 'px';
    if (width <= 0) return;
    const c = context;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = background;
    c.fillRect(0, 0, width, height);
    c.font = FONT;
    letter = c.measureText('0').width;
    const deepest = icicle ? Math.ceil((top + height) / ROW) : rows - 1 - Math.floor(top / ROW);
    const texts = [];
    const snap = x => Math.round(x * ratio) / ratio;
    walk(from, to, width, deepest, (n, d, left, right, whole) => {
      const y = rowTop(d) - top;
      if (y < -ROW || y > height) return;
      const found = hit && (whole ? hit[frame[n]] === 1 : within(matches, n));
      const faint = hit ? !found : n < focus && focus < end[n];
      const f = frame[n];
      c.globalAlpha = faint ? .45 : 1;
      c.fillStyle = found ? accent : fills[p.kind[f] * p.tones + p.tone[f]];
      const l = snap(left), r = snap(right);
      c.fillRect(l, y, Math.max(r - l - (r - l > 2 ? .5 : 0), 1 / ratio), BOX);
      const text = whole ? label(n, Math.floor((right - left - 2 * INSET) / letter)) : '';
      if (text) texts.push(text, l + INSET, y + 12, found ? inkOnAccent : ink);
    });
    c.globalAlpha = 1;
    for (let i = 0; i < texts.length; i += 4) {
      c.fillStyle = texts[i + 3];
      c.fillText(texts[i], texts[i + 1], texts[i + 2]);
    }
    placeRing(rings[0], hovered, width);
    placeRing(rings[1], selected, width);
  }

  function placeRing(ring, n, width) {
    const scale = width / (to - from);
    const left = n < 0 ? 0 : Math.max(0, (start[n] - from) * scale);
    const right = n < 0 ? 0 : n === 0 ? width : Math.min(width, (start[n] + total[n] - from) * scale);
    ring.hidden = n < 0 || right < left;
    ring.style.left = left + 'px';
    ring.style.top = (n < 0 ? 0 : rowTop(depth[n])) + 'px';
    ring.style.width = Math.max(right - left, 2) + 'px';
  }

  let due = 0;
  function drawSoon() {
    if (!due) due = requestAnimationFrame(() => {
      due = 0;
      draw();
    });
  }

  // deepest is the deepest row that shows anything once n is zoomed.
  function deepestAt(n, width) {
    let d = 0;
    walk(start[n], start[n] + Math.max(total[n], 1), width, Infinity, (_, at) => {
      d = Math.max(d, at);
    });
    return d;
  }

  let ofRoot = {};
  function resize() {
    const width = Math.max(1, scroll.clientWidth);
    if (ofRoot.width !== width) ofRoot = {width, depth: deepestAt(0, width)};
    rows = 1 + Math.max(ofRoot.depth, focus ? deepestAt(focus, width) : 0);
    content.style.height = plot.style.height = rows * ROW + 'px';
  }

  // ---- zoom ----

  function move(a, b, jump) {
    cancelAnimationFrame(moving);
    const a0 = from, b0 = to, begin = performance.now();
    if (jump || still.matches || document.hidden) {
      [from, to] = [a, b];
      return draw();
    }
    const tick = now => {
      const t = Math.min(1, Math.max(0, now - begin) / MOVE_MS), s = t * (2 - t);
      from = a0 + (a - a0) * s;
      to = b0 + (b - b0) * s;
      if (t < 1) moving = requestAnimationFrame(tick);
      draw();
    };
    moving = requestAnimationFrame(tick);
  }

  function zoom(n, silent) {
    focus = n;
    hovered = -1;
    tip.hidden = true;
    resize();
    reveal(n);
    showCrumbs();
    showResult();
    reset.disabled = n === 0;
    move(start[n], start[n] + Math.max(total[n], 1), silent);
    if (!silent) {
      say((n ? 'Zoomed to ' : '') + summary(n));
      saveState(true);
    }
  }

  // reveal scrolls as little as shows the row of n.
  function reveal(n) {
    const y = rowTop(depth[n]);
    scroll.scrollTop = Math.min(y, Math.max(scrolled(), y + ROW - scroll.clientHeight)) - slack();
  }

  function showCrumbs() {
    const path = [];
    for (let n = focus; n >= 0; n = parent[n]) path.unshift(n);
    const gap = path.length > 10 ? path.splice(2, path.length - 9, -1) : null;
    crumbs.replaceChildren();
    for (const n of path) {
      if (crumbs.firstChild) crumbs.append(el('span', {class: 'dim', 'aria-hidden': 'true'}, '\u203a'));
      if (n < 0) {
        crumbs.append(el('span', {class: 'dim'}, '\u00a0\u2026 ' + gap.length + ' more\u00a0'));
        continue;
      }
      const b = button(label(n, 28), 'Zoom to ' + shorten(names[frame[n]], 300), () => zoom(n));
      if (n === focus) b.setAttribute('aria-current', 'true');
      crumbs.append(b);
    }
  }

  function turnOver() {
    setLayout(!icicle);
    saveState(false);
  }

  function setLayout(fromTop) {
    icicle = fromTop;
    turn.textContent = icicle ? 'Flame' : 'Icicle';
    scroll.classList.toggle('icicle', icicle);
    scroll.scrollTop = 0;
    tip.hidden = true;
    draw();
  }

  // ---- what is said ----

  const shorten = (s, limit) => s.length > limit ? s.slice(0, limit) + '\u2026 (' + count(s.length) + ' characters)' : s;

  function summary(n) {
    const parts = p.metrics.map(m => amount(m, m.total[n]));
    return shorten(names[frame[n]], 500) + ': ' + parts.join(', ') + ', ' + percent(total[n], all);
  }

  function say(text) {
    status.textContent = text;
  }

  function showTip(n, x, y) {
    const line = (...texts) => el('tr', {}, ...texts.map(t => el('td', {}, t)));
    const body = p.metrics.map(m => line(amount(m, m.total[n]), 'self ' + amount(m, m.self[n])));
    body.push(line(percent(total[n], all) + ' of all', 'self ' + percent(p.metrics[p.shown].self[n], all)));
    if (focus) body.push(line(percent(Math.min(total[n], total[focus]), total[focus]) + ' of the zoomed frame'));
    tip.replaceChildren(el('b', {}, shorten(names[frame[n]], 2000)),
      el('span', {class: 'dim'}, p.kinds[p.kind[frame[n]]].word), el('table', {}, ...body));
    tip.hidden = false;
    const room = app.getBoundingClientRect(), w = tip.offsetWidth, h = tip.offsetHeight;
    x += 14 - room.left;
    y += 18 - room.top;
    if (x + w > room.width) x = Math.max(0, room.width - w - 2);
    if (y + h > room.height) y = Math.max(0, y - h - 30);
    tip.style.transform = 'translate(' + Math.round(x) + 'px,' + Math.round(y) + 'px)';
  }

  // pick finds the node under a point of the window, or -1.
  function pick(e) {
    const r = scroll.getBoundingClientRect();
    const row = Math.floor((e.clientY - r.top + scrolled()) / ROW), d = icicle ? row : rows - 1 - row;
    const x = e.clientX - r.left;
    if (d < 0 || x < 0 || x >= scroll.clientWidth) return -1;
    const v = from + x / scroll.clientWidth * (to - from);
    let n = 0;
    while (depth[n] < d) {
      let child = n + 1;
      while (child < end[n] && v >= start[child] + total[child]) child = end[child];
      if (child >= end[n]) return -1;
      n = child;
    }
    return n;
  }

  // ---- search ----

  // A worker that could be stopped is not to be had in every place an SVG is
  // opened in, so a pattern that backtracks without end must be noticed from
  // within: names are tested once each, the shortest first, with a look at the
  // clock after each. The time of such a pattern grows with the length, so
  // that it is found too slow before a name takes forever.
  const LIMIT_MS = 2000, SLICE_MS = 12;
  const byLength = Array.from(names.keys()).sort((a, b) => names[a].length - names[b].length);

  async function test(re, ticket) {
    const found = new Uint8Array(names.length), begin = performance.now();
    let pause = begin + SLICE_MS;
    for (const f of byLength) {
      if (re.test(names[f])) found[f] = 1;
      if (performance.now() < pause) continue;
      if (performance.now() - begin > LIMIT_MS) throw new Error('this pattern takes too long');
      await new Promise(resolve => setTimeout(resolve));
      if (ticket !== searches) return null;
      pause = performance.now() + SLICE_MS;
    }
    return found;
  }

  // setSearch marks the frames whose names match; an empty text ends searching.
  async function setSearch(text, matchCase) {
    const ticket = ++searches;
    pattern = text;
    exact = matchCase;
    if (input.value !== text) input.value = text;
    caseButton.setAttribute('aria-pressed', exact);
    let found = null, problem = '';
    try {
      if (text) found = await test(new RegExp(text, exact ? '' : 'i'), ticket);
      if (ticket !== searches) return;
    } catch (e) {
      problem = e.message;
    }
    hit = found;
    countMatches();
    input.setAttribute('aria-invalid', problem !== '');
    showResult(problem);
    drawSoon();
  }

  function searchFor(text, matchCase) {
    setSearch(text, matchCase);
    saveState(false);
  }

  // Samples count once, however many frames of their stack match.
  function countMatches() {
    matches = [];
    outermost = [];
    matched = 0;
    for (let n = 0, covered = 0; hit && n < N; n++) {
      if (!hit[frame[n]]) continue;
      matches.push(n);
      if (n < covered) continue;
      covered = end[n];
      outermost.push(n);
      matched += total[n];
    }
  }

  function matchedIn(f) {
    let sum = 0;
    for (const n of outermost) {
      if (n <= f && f < end[n]) return total[f];
      if (n > f && n < end[f]) sum += total[n];
    }
    return sum;
  }

  function showResult(problem) {
    const text = problem || (!hit ? '' : percent(matched, all) + ' matched' +
      (focus ? ', ' + percent(matchedIn(focus), total[focus]) + ' of zoomed' : ''));
    result.className = problem ? 'result bad' : 'result';
    result.textContent = text;
    previous.disabled = next.disabled = outermost.length === 0;
  }

  // step selects the match behind or before the selection, and zooms where it
  // is too narrow to be seen.
  function step(direction) {
    if (outermost.length === 0) return say(pattern ? 'No matches' : 'Nothing is searched for');
    let i = outermost.findIndex(n => n > selected);
    if (direction < 0) {
      i = outermost.findIndex(n => n >= selected);
      i = (i < 0 ? outermost.length : i) - 1;
    }
    i = (i + outermost.length) % outermost.length;
    if (direction > 0 && selected >= outermost[outermost.length - 1]) i = 0;
    const n = outermost[i], width = scroll.clientWidth;
    let around = focus;
    while (!(around <= n && n < end[around])) around = parent[around];
    if (total[n] / total[around] * width < 4) {
      around = n;
      while (around > 0 && total[n] / total[parent[around]] * width >= 24) around = parent[around];
    }
    if (around !== focus) zoom(around);
    select(n);
    say('Match ' + (i + 1) + ' of ' + count(outermost.length) + ': ' + summary(n));
  }

  // ---- selection ----

  function select(n) {
    selected = n;
    reveal(n);
    placeRing(rings[1], n, scroll.clientWidth);
    say(summary(n));
  }

  const visible = n => total[n] / (to - from) * scroll.clientWidth >= .5 &&
    start[n] < to && start[n] + total[n] > from;

  // toward finds the node that an arrow key leads to, or -1.
  function toward(key) {
    const n = selected, deeper = key === (icicle ? 'ArrowDown' : 'ArrowUp');
    if (deeper) {
      let widest = -1;
      for (let c = n + 1; c < end[n]; c = end[c]) {
        if (visible(c) && (widest < 0 || total[c] > total[widest])) widest = c;
      }
      return widest;
    }
    if (key === 'ArrowUp' || key === 'ArrowDown') return parent[n];
    const d = depth[n];
    if (key === 'ArrowRight') {
      for (let i = end[n]; i < N; i++) if (depth[i] === d && visible(i)) return i;
      return -1;
    }
    for (let i = n - 1; i >= 0; i--) if (depth[i] === d && visible(i)) return i;
    return -1;
  }

  async function copyName(n) {
    const name = names[frame[n]];
    try {
      await navigator.clipboard.writeText(name);
      say('Copied ' + shorten(name, 500));
    } catch (e) {
      say('The browser did not allow to copy: ' + shorten(name, 500));
    }
  }

  // ---- state in the fragment ----

  // A path is known by a hash of its names, so that links survive when the
  // profile is rendered anew or compared with a later one.
  function hashName(f, seed) {
    const text = names[f] + (p.kinds[p.kind[f]].word === 'kernel' ? '_[k]' : '');
    let h = seed;
    for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
    return h;
  }

  const SEEDS = [0x811c9dc5 | 0, 0x2f7a31c9];
  const join = (h, name) => Math.imul(h ^ name, 0x85ebca6b) + 0x27d4eb2f | 0;

  function pathHash(n) {
    const path = [];
    for (; n > 0; n = parent[n]) path.push(frame[n]);
    return SEEDS.map(seed => {
      const h = path.reduceRight((h, f) => join(h, hashName(f, seed)), 0);
      return (h >>> 0).toString(16).padStart(8, '0');
    }).join('');
  }

  // findPath returns the node of a hash, 0 for none given, -1 where it is not.
  function findPath(hash) {
    if (!hash) return 0;
    const [a, b] = SEEDS.map((seed, i) => {
      const ofName = Int32Array.from(names, (_, f) => hashName(f, seed)), h = new Int32Array(N);
      for (let n = 1; n < N; n++) h[n] = join(h[parent[n]], ofName[frame[n]]);
      return {h, want: parseInt(hash.slice(8 * i, 8 * i + 8), 16) | 0};
    });
    for (let n = 1; n < N; n++) if (a.h[n] === a.want && b.h[n] === b.want) return n;
    return -1;
  }

  function saveState(push) {
    if (!standalone) return;
    const state = new URLSearchParams();
    if (focus) state.set('focus', pathHash(focus));
    if (pattern) state.set('search', pattern);
    if (exact) state.set('case', '1');
    if (icicle) state.set('layout', 'icicle');
    const text = '#' + state;
    if (text === (location.hash || '#')) return;
    try {
      history[push ? 'pushState' : 'replaceState'](null, '', text);
    } catch (e) {
      if (push) location.hash = text;
    }
  }

  function loadState() {
    const state = new URLSearchParams(standalone ? location.hash.slice(1) : '');
    setLayout(state.get('layout') === 'icicle');
    setSearch(state.get('search') || '', state.get('case') === '1');
    const n = findPath(state.get('focus'));
    zoom(Math.max(n, 0), true);
    say(n < 0 ? 'The linked frame is not in this profile' : summary(focus));
  }

  // ---- events ----

  scroll.addEventListener('mousemove', e => {
    const n = pick(e);
    if (n !== hovered) {
      hovered = n;
      placeRing(rings[0], n, scroll.clientWidth);
    }
    if (n < 0) tip.hidden = true;
    else showTip(n, e.clientX, e.clientY);
  });
  scroll.addEventListener('mouseleave', () => {
    hovered = -1;
    rings[0].hidden = tip.hidden = true;
  });
  scroll.addEventListener('click', e => {
    const n = pick(e);
    if (n < 0) return;
    selected = n;
    zoom(n);
  });
  scroll.addEventListener('scroll', drawSoon);
  form.addEventListener('submit', e => {
    e.preventDefault();
    step(1);
  });
  input.addEventListener('input', () => searchFor(input.value, exact));

  function key(e) {
    const typing = e.target === input, find = (e.ctrlKey || e.metaKey) && e.key === 'f';
    if (find || (!typing && e.key === '/')) {
      input.focus();
      input.select();
    } else if (e.ctrlKey || e.metaKey || e.altKey) {
      return;
    } else if (typing) {
      if (e.key === 'Enter' && e.shiftKey) step(-1);
      else if (e.key === 'Escape') {
        searchFor('', exact);
        scroll.focus();
      } else return;
    } else if (e.key === 'Escape' || e.key === '0') {
      zoom(0);
    } else if (e.key.startsWith('Arrow') && !crumbs.contains(e.target)) {
      const n = selected < 0 ? focus : toward(e.key);
      if (n >= 0) select(n);
    } else if (e.key === 'Enter' && e.target.localName !== 'button' && selected >= 0) {
      zoom(selected);
    } else if (e.key === 'n' || e.key === 'N') {
      step(e.key === 'n' ? 1 : -1);
    } else if (e.key === 'c' && selected >= 0) {
      copyName(selected);
    } else if (e.key === 'i') {
      turnOver();
    } else return;
    e.preventDefault();
  }
  (standalone ? document : app).addEventListener('keydown', key);
  dark.addEventListener('change', () => {
    theme();
    draw();
  });

  const host = document.createElementNS(svg.namespaceURI, 'foreignObject');
  host.setAttribute('width', '100%');
  host.setAttribute('height', '100%');
  host.append(app);
  svg.append(host);
  theme();
  resize();
  if (standalone) addEventListener('hashchange', loadState);
  new ResizeObserver(() => {
    resize();
    drawSoon();
  }).observe(plot);
  loadState();
}

// ---- start ----

// The static picture is put back if the live one cannot be made.
async function main() {
  const still = svg.querySelector('g.hotframe-static');
  const before = ['width', 'height', 'viewBox', 'role'].map(name => [name, svg.getAttribute(name)]);
  try {
    const p = decode(await inflate());
    svg.removeAttribute('viewBox');
    svg.removeAttribute('role');
    if (standalone) svg.setAttribute('height', '100%');
    show(p);
    still.setAttribute('display', 'none');
    performance.mark('hotframe-live');
  } catch (e) {
    console.warn('flame graph: only the static picture:', e);
    for (const host of svg.querySelectorAll('foreignObject')) host.remove();
    for (const [name, value] of before) if (value !== null) svg.setAttribute(name, value);
    still.removeAttribute('display');
  }
}
main();
})();
