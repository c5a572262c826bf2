"use strict";
// Draws the data of the page: tracks over one axis of time, charts below them, and what a hand asks of both.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const { colours } = data;
const DURATION = Math.max(data.duration_s, 0.1), LEAST = Math.min(0.5, DURATION); // s, of the view
const LEFT = 54, RIGHT = 14, CHART = 230; // px
const FANS = 60; // chunks drawn at once
const FLAT_MM = 0.1; // errors up to here are drawn flat
const MARKS = { jump: "▼", brake: "■", none: "✕" };
const DECADES = [0.001, 0.01, 0.1, 1].flatMap((power) => [1, 2, 5].map((factor) => factor * power)).concat(10);
const AGAINST = { recorded: "what was recorded", finest: data.finest };
const view = { from: 0, to: DURATION, joint: "", against: Object.keys(data.errors.of).at(-1) };
const hidden = new Set(); // precisions
const shown = () => Object.keys(colours).filter((one) => !hidden.has(one));

// --- values ---
const known = (values) => values.filter((value) => value !== null);
const mm = (values) => values.map((value) => (value === null ? null : 1e3 * value));
const LEAST_SAID = 0.001; // what is less is said to be
function said(value, unit = "") {
  if (value === null) return "not known";
  if (value !== 0 && Math.abs(value) < LEAST_SAID) return `< ${LEAST_SAID}${unit}`;
  return `${Number(value.toPrecision(3))}${unit}`;
}
const inView = ([from, to]) => to >= view.from && from <= view.to;

// Place of the last time that is not after t; -1 where there is none.
function before(times, t) {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= t) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

// Lowest and highest value in view, of lines that are [times, values].
function extent(lines) {
  let [low, high] = [Infinity, -Infinity];
  for (const [times, values] of lines)
    values.forEach((value, i) => {
      if (value === null || times[i] < view.from || times[i] > view.to) return;
      [low, high] = [Math.min(low, value), Math.max(high, value)];
    });
  return low > high ? [0, 1] : [low, high];
}

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw), found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + 1e-9 * step; place++)
    found.push(Number((place * step).toPrecision(12)));
  return found;
}

// --- SVG as text ---
const escape = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const facts = (of) => Object.entries(of).map(([key, value]) => ` ${key}="${escape(value)}"`).join("");
const tag = (name, of, inner = "") => `<${name}${facts(of)}>${inner}</${name}>`;
const label = (x, y, text, of = {}) => tag("text", { x, y, ...of }, escape(text));
const paint = (one) => `stroke:${colours[one]};--fill:${colours[one]}`;

// A plane to draw on: its scales, and how it is drawn with grid and numbers; what lies outside is cut off.
function plane({ width, height, x, y, title = "", bottom = 0, log = false, lines = 3 }) {
  const top = title ? 19 : 1, w = width - LEFT - RIGHT, h = height - top - bottom, at = log ? Math.log10 : Number;
  const px = (value) => ((at(value) - at(x[0])) / (at(x[1]) - at(x[0]))) * w;
  const py = (value) => h - ((value - y[0]) / (y[1] - y[0])) * h;
  const columns = log ? DECADES.filter((v) => v >= x[0] && v <= x[1]) : ticks(...x, Math.max(2, w / 90));
  const rows = lines ? ticks(...y, lines) : [];
  const draw = (inside, number = said) => {
    const texts = rows.map((v) => label(LEFT - 7, top + py(v) + 4, said(v), { "text-anchor": "end" }));
    if (title) texts.push(label(LEFT, 14, title, { class: "name" }));
    if (bottom)
      texts.push(...columns.map((v) => label(LEFT + px(v), top + h + 16, number(v), { "text-anchor": "middle" })));
    const grid = columns.map((v) => tag("line", { x1: px(v), x2: px(v), y1: 0, y2: h, class: "grid" }));
    grid.push(...rows.map((v) => tag("line", { x1: 0, x2: w, y1: py(v), y2: py(v), class: "grid" })));
    const cut = tag("svg", { x: LEFT, y: top, width: w, height: h }, grid.join("") + inside);
    return tag("svg", { width, height }, texts.join("") + cut);
  };
  return { px, py, w, h, draw };
}

// The way of a line in view; broken where values are not known, and over pauses that are longer than `gap`.
function way(times, values, { px, py }, gap = Infinity, [from, to] = [view.from, view.to]) {
  let path = "", down = false;
  values.forEach((value, i) => {
    const beyond = times[Math.min(i + 1, times.length - 1)] < from || times[Math.max(i - 1, 0)] > to;
    down &&= times[i] - times[i - 1] <= gap;
    if (value !== null && !beyond) path += `${down ? "L" : "M"}${px(times[i]).toFixed(1)} ${py(value).toFixed(1)}`;
    down = value !== null && !beyond;
  });
  return path;
}

// A dashed line across a plane, with a word at its end.
const across = ({ w, py }, value, word, line, text) =>
  tag("line", { x1: 0, x2: w, y1: py(value), y2: py(value), ...line })
  + label(w - 6, py(value) - 5, word, { "text-anchor": "end", class: text });
const boundMm = (against) => 1e3 * (data.bounds_m[against] ?? 0); // 0: none
function bound(on, against) {
  const value = boundMm(against);
  return value && across(on, value, `bound: ${said(value)} mm`, { class: "bound" }, "name bad");
}

// --- tracks: each draws itself into a width ---
const track = (width, height, of = {}) => plane({ width, height, x: [view.from, view.to], y: [0, 1], lines: 0, ...of });
const spans = ({ px, h }, list, of) => list.filter(inView).map(([from, to, text]) =>
  tag("rect", { x: px(from), width: Math.max(px(to) - px(from), 1), y: 0, height: h, ...of(text) })).join("");
const blocked = (on) => spans(on, data.spans.blocked, () => ({ fill: "url(#blocked)" }));
const hatched = (on) => blocked(on) + spans(on, data.spans.late, () => ({ fill: "url(#late)" }));

function instructions(width) {
  const on = track(width, 24), ends = data.instructions.slice(1).map(([t]) => t).concat(DURATION);
  return on.draw(data.instructions.map(([t, text], i) => {
    if (!text || !inView([t, ends[i]])) return "";
    const x = Math.max(on.px(t), 0), wide = Math.min(on.px(ends[i]), on.w) - x, fits = Math.floor((wide - 10) / 6.4);
    const cut = text.length > fits ? `${text.slice(0, Math.max(fits - 1, 0))}…` : text;
    const box = { x, y: 2, width: Math.max(wide - 2, 1), height: 20, rx: 3, class: "task" };
    return tag("rect", box) + (fits > 3 ? label(x + 6, 16, cut) : "");
  }).join(""));
}

// A frame begins at its stamp; where more are in view than fit, they lie side by side, each near its time.
const strip = (camera) => (width) => {
  const on = track(width, 96, { title: camera }), wide = on.h * (data.frames[camera][0]?.[2] ?? 1);
  const slots = on.w / (wide + 2), step = (view.to - view.from) / slots;
  const inside = data.frames[camera].filter(([t]) => t > view.from - step && t < view.to);
  const evenly = Array.from({ length: Math.ceil(slots) }, (_, i) => view.from + i * step);
  const nearest = (t) => inside.reduce((a, b) => (Math.abs(b[0] - t) < Math.abs(a[0] - t) ? b : a));
  const frames = inside.length < slots ? inside.map((frame) => [frame[0], frame]) : evenly.map((t) => [t, nearest(t)]);
  let free = -Infinity;
  return on.draw(frames.map(([t, [stamp, jpeg]]) => {
    const x = on.px(t);
    if (x < free || Math.abs(stamp - t) > step) return "";
    free = x + wide + 1;
    return tag("image", { x, y: 0, width: wide, height: on.h, href: `data:image/jpeg;base64,${jpeg}` });
  }).join(""));
};

function sensitivity(width) {
  const { t, s } = data.sensitivity, high = 1.06 * Math.max(extent([[t, s]])[1], 0.5);
  const title = "sensitivity S of the motion, and the precision it asks for";
  const on = track(width, 170, { y: [0, high], lines: 3, title });
  const bands = spans(on, data.spans.precision, (one) => ({ fill: colours[one], class: "band" }));
  const thresholds = Object.entries(data.thresholds).slice(0, -1).filter(([, at]) => at > 0 && at < high)
    .map(([one, at]) => across(on, at, `above: ${one}`, { class: "limit", style: paint(one) }, "name"));
  return on.draw(bands + hatched(on) + thresholds.join("") + tag("path", { d: way(t, s, on), class: "curve" }));
}

function precisions(width) {
  const on = track(width, 22), bands = spans(on, data.spans.precision, (one) => ({ fill: colours[one] }));
  const names = data.spans.precision.filter(inView).map(([from, to, one]) => {
    const x = Math.max(on.px(from), 0), wide = Math.min(on.px(to), on.w) - x;
    return wide > 7 * one.length + 10 ? label(x + 6, 15.5, one, { class: "on" }) : "";
  });
  return on.draw(bands + hatched(on) + names.join(""));
}

function marks(width) {
  const lanes = Object.entries(data.marks).filter(([, list]) => list.length), on = track(width, 17 * lanes.length + 3);
  return on.draw(lanes.flatMap(([kind, list], i) => list.filter(([t]) => inView([t, t])).map(([t]) =>
    label(on.px(t), 17 * i + 14, MARKS[kind], { class: "mark", "text-anchor": "middle" }))).join(""));
}

const errors = (against) => (width) => {
  const { t, of: { [against]: of }, pause_s: gap } = data.errors;
  const lines = shown().filter((one) => of[one]).map((one) => [one, mm(of[one])]);
  const high = 1.08 * Math.max(extent(lines.map(([, values]) => [t, values]))[1], boundMm(against), FLAT_MM);
  const title = `action error: distance of the tool from ${AGAINST[against]}, mm`;
  const on = track(width, 140, { y: [0, high], lines: 3, title });
  const drawn = lines.map(([one, values]) =>
    tag("path", { d: way(t, values, on, gap), style: paint(one), class: one === "flown" ? "error flown" : "error" }));
  return on.draw(blocked(on) + drawn.join("") + bound(on, against));
};

const joint = (index, height) => (width) => {
  const { t, names, measured, told } = data.joints;
  const near = data.chunks.filter((chunk) => inView([chunk.t, chunk.t + chunk.steps.at(-1)]));
  const chunks = near.filter((_, i) => i % Math.ceil(near.length / FANS) === 0);
  const fans = shown().reverse().map((one) => [one, chunks.filter((chunk) => chunk.lines[one]).map((chunk) =>
    [chunk.steps.map((step) => chunk.t + step), chunk.lines[one][index]])]);
  const recorded = Object.entries({ measured, told }).filter(([, columns]) => columns.length);
  const lines = [...recorded.map(([, columns]) => [t, columns[index]]), ...fans.flatMap(([, fan]) => fan)];
  const [low, high] = extent(lines), room = Math.max(0.08 * (high - low), 1e-3);
  const on = track(width, height, { y: [low - room, high + room], lines: height > 100 ? 5 : 3, title: names[index] });
  const curves = recorded.map(([kind, columns]) => tag("path", { d: way(t, columns[index], on), class: kind }));
  curves.push(...fans.map(([one, fan]) =>
    tag("path", { d: fan.map((line) => way(...line, on)).join(""), style: paint(one), class: "fan" })));
  const starts = chunks.map((chunk) => [chunk.t, Object.values(chunk.lines)[0][index][0]]);
  curves.push(...starts.map(([at, value]) => tag("circle", { cx: on.px(at), cy: on.py(value), r: 1.6 })));
  return on.draw(curves.join(""));
};

const axis = (width) => track(width, 26, { bottom: 24 }).draw("", (t) => said(t, " s"));

function tracks() {
  const { names } = data.joints, chosen = names.indexOf(view.joint);
  const joints = chosen < 0 ? names.map((_, index) => joint(index, 96)) : [joint(chosen, 280)];
  const cameras = Object.keys(data.frames).map(strip), distances = Object.keys(data.errors.of).map(errors);
  return [instructions, ...cameras, sensitivity, precisions, marks, ...distances, axis, ...joints, axis];
}

// --- charts ---
function latency(width) {
  const { edges_s: edges, counts } = data.latency, names = shown().filter((one) => counts[one]);
  const used = [...edges.keys()].filter((i) => names.some((one) => counts[one][i]));
  if (!used.length) return "";
  const x = [edges[Math.max(used[0] - 4, 0)], edges[Math.min(used.at(-1) + 5, edges.length - 1)]];
  const y = [0, 1.08 * Math.max(...names.flatMap((one) => counts[one]))];
  const on = plane({ width, height: CHART, x, y, bottom: 24, log: true });
  const bars = names.map((one) => {
    const steps = counts[one].map((count, i) => `L${on.px(edges[i])} ${on.py(count)}H${on.px(edges[i + 1])}`);
    const d = `M${on.px(edges[0])} ${on.h}${steps.join("")}V${on.h}`;
    return tag("path", { d, style: paint(one), class: "steps" });
  });
  return on.draw(bars.join(""), (value) => said(1e3 * value, " ms"));
}

// Lines of errors over any axis, each { one, x, y } in mm; `dots` marks their points.
function curves(width, lines, { dots = false, number = said, from = 0 } = {}) {
  const xs = known(lines.flatMap(({ x }) => x)), ys = known(lines.flatMap(({ y }) => y));
  if (!ys.length) return "";
  const x = [from, Math.max(...xs)], y = [0, 1.08 * Math.max(...ys, boundMm(view.against), FLAT_MM)];
  const on = plane({ width, height: CHART, x, y, bottom: 24 });
  const drawn = lines.map((line) => {
    const points = line.x.map((at, i) => [at, line.y[i]]).filter(([, value]) => dots && value !== null);
    return tag("path", { d: way(line.x, line.y, on, Infinity, x), style: paint(line.one), class: line.kind ?? "error" })
      + points.map(([at, v]) => tag("circle", { cx: on.px(at), cy: on.py(v), r: 3, style: paint(line.one) })).join("");
  });
  return on.draw(bound(on, view.against) + drawn.join(""), number);
}

function horizon(width) {
  const { step_s, [view.against]: of } = data.horizon;
  const lines = shown().filter((one) => of[one]).flatMap((one) => ["p50", "p95"].map((kind) =>
    ({ one, kind: `error ${kind}`, x: of[one][kind].map((_, i) => (i + 1) * step_s), y: mm(of[one][kind]) })));
  return curves(width, lines, { number: (t) => said(t, " s") });
}

function concentration(width) {
  if (!data.by_sensitivity) return "";
  const { sensitivity: x, ee_error_p95_m: { [view.against]: of } } = data.by_sensitivity;
  const lines = shown().filter((one) => of[one]).map((one) => ({ one, x, y: mm(of[one]) }));
  return curves(width, lines, { dots: true, from: Math.min(...x) });
}

function bargain(width) {
  const key = view.against === "recorded" ? "ee_error_p95_m" : "ee_deviation_p95_m";
  const lines = shown().filter((one) => data.counterfactual[one]).map((one) => {
    const rows = data.counterfactual[one];
    return { one, x: rows.map((row) => 100 * row.share), y: mm(rows.map((row) => row[key])) };
  });
  return curves(width, lines, { dots: true, number: (share) => said(share, " %") });
}

const CHARTS = { latency, horizon, concentration, bargain };

function render() {
  const width = byId("tracks").clientWidth;
  byId("drawn").innerHTML = tracks().map((one) => one(width)).join("");
  byId("whole").disabled = view.from === 0 && view.to === DURATION;
  for (const [id, chart] of Object.entries(CHARTS)) byId(id).innerHTML = chart(byId(id).clientWidth);
}

// --- the hand ---
function look(from, to) {
  const length = Math.min(Math.max(to - from, LEAST), DURATION);
  view.from = Math.min(Math.max((from + to - length) / 2, 0), DURATION - length);
  view.to = view.from + length;
  render();
}

// What is known of a moment.
function card(t) {
  const during = (list) => list.filter(([from, to]) => from <= t && t < to).map(([, , text]) => text);
  const near = (list) => list.filter(([at]) => Math.abs(at - t) * 100 < view.to - view.from).map(([, text]) => text);
  const last = (list) => list[before(list.map(([at]) => at), t)];
  const { sensitivity: { t: looks, s }, errors: { t: answers, of }, spans: found } = data;
  const rows = [["time", said(t, " s"), ""], ["S", said(s[before(looks, t)] ?? null), ""]];
  rows.push(...during(found.precision).map((one) => ["precision", one, colours[one]]));
  for (const [against, errors] of Object.entries(of))
    for (const one of shown().filter((name) => errors[name])) {
      const value = mm(errors[one])[before(answers, t)] ?? null;
      rows.push([`${one} from ${AGAINST[against]}`, said(value, " mm"), colours[one]]);
    }
  const table = rows.map(([what, text, colour]) => {
    const chip = colour && tag("i", { style: `background:${colour}` });
    return tag("tr", {}, tag("th", {}, chip + escape(what)) + tag("td", {}, escape(text)));
  });
  const frames = Object.values(data.frames).map(last).filter(Boolean);
  const faults = [...during(found.blocked), ...during(found.late), ...Object.values(data.marks).flatMap(near)];
  return frames.map(([, jpeg]) => `<img alt="" src="data:image/jpeg;base64,${jpeg}">`).join("")
    + tag("p", {}, escape(last(data.instructions)?.[1] ?? "")) + tag("table", {}, table.join(""))
    + faults.map((text) => tag("p", { class: "bad" }, escape(text))).join("");
}

function hands() {
  const area = byId("tracks"), line = byId("hand"), tip = byId("card"), chosen = byId("selected");
  const time = (x) => view.from + ((x - LEFT) / (area.clientWidth - LEFT - RIGHT)) * (view.to - view.from);
  const place = ({ clientX }) =>
    Math.min(Math.max(clientX - area.getBoundingClientRect().left, LEFT), area.clientWidth - RIGHT);
  let start = null;
  area.addEventListener("pointermove", (event) => {
    const x = place(event), y = event.clientY - area.getBoundingClientRect().top, from = start ?? x;
    area.classList.add("hovered");
    line.style.left = `${x}px`;
    tip.innerHTML = card(time(x));
    tip.style.left = `${x < area.clientWidth / 2 ? x + 16 : x - 16 - tip.offsetWidth}px`;
    tip.style.top = `${Math.min(Math.max(y - tip.offsetHeight / 2, 0), area.clientHeight - tip.offsetHeight)}px`;
    Object.assign(chosen.style, { left: `${Math.min(from, x)}px`, width: `${Math.abs(x - from)}px` });
  });
  area.addEventListener("pointerleave", () => area.classList.remove("hovered"));
  area.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button) return;
    start = place(event);
    area.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  area.addEventListener("pointerup", (event) => {
    const ends = [start, place(event)].sort((a, b) => a - b);
    if (start !== null && ends[1] - ends[0] > 6) look(...ends.map(time));
    start = null;
  });
  area.addEventListener("dblclick", () => look(0, DURATION));
}

function controls() {
  const every = (chosen, kind, act) => document.querySelectorAll(chosen).forEach((one) =>
    one.addEventListener(kind, () => act(one)));
  every("[data-precision]", "click", (button) => {
    const one = button.dataset.precision;
    if (!hidden.delete(one)) hidden.add(one);
    button.setAttribute("aria-pressed", !hidden.has(one));
    render();
  });
  every("[data-moment]", "click", ({ dataset: { moment } }) => look(Number(moment) - 1, Number(moment) + 3));
  every("select", "change", (choice) => {
    view[choice.name] = choice.value;
    render();
  });
  const move = (by, factor) => () => {
    const half = (view.to - view.from) / 2, middle = view.from + half + by * half;
    look(middle - factor * half, middle + factor * half);
  };
  const acts = { earlier: move(-1, 1), later: move(1, 1), closer: move(0, 0.5), farther: move(0, 2) };
  for (const [id, act] of Object.entries(acts)) byId(id).addEventListener("click", act);
  byId("whole").addEventListener("click", () => look(0, DURATION));
}

hands();
controls();
const [begin, end] = data.flown_s ?? [0, DURATION];
look(begin - 0.5, end + 0.5);
new ResizeObserver(render).observe(byId("tracks"));
