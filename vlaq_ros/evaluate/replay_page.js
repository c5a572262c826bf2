"use strict";
// Draws the inline data of the page: tracks over one time axis, and the charts below them.

const data = JSON.parse(document.getElementById("data").textContent);
const LEFT = 54, RIGHT = 14, FANS = 60; // px, px, chunks drawn at once
const DECADES = [0.001, 0.01, 0.1, 1].flatMap((power) => [1, 2, 5].map((factor) => factor * power)).concat(10);
const { colours } = data;
const paint = (one) => `stroke:${colours[one]};--fill:${colours[one]}`;
const hidden = new Set();
const view = { from: 0, to: data.duration_s, joint: "", against: Object.keys(data.errors.of)[0] };
const byId = (id) => document.getElementById(id);

// --- SVG as text ---
const escape = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const tag = (name, facts, inner = "") =>
  `<${name}${Object.entries(facts).map(([key, value]) => ` ${key}="${escape(value)}"`).join("")}>${inner}</${name}>`;
const label = (x, y, text, facts = {}) => tag("text", { x, y, ...facts }, escape(text));
const shown = () => Object.keys(colours).filter((one) => !hidden.has(one));
const short = (value) => (value === null ? "not known" : Number(value.toPrecision(3)).toString());

const mm = (values) => values.map((value) => (value === null ? null : 1e3 * value));

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + 1e-9 * step; place++)
    found.push(Number((place * step).toPrecision(12)));
  return found;
}

// A plane to draw on: scales, grid and numbers, and a window that cuts off what lies outside.
function plane({ width, height, x, y, title = "", left = LEFT, right = RIGHT, bottom = 0, log = false, lines = 3 }) {
  const top = title ? 19 : 1;
  const [w, h] = [width - left - right, height - top - bottom], at = log ? Math.log10 : (value) => value;
  const px = (value) => ((at(value) - at(x[0])) / (at(x[1]) - at(x[0]))) * w;
  const py = (value) => h - ((value - y[0]) / (y[1] - y[0])) * h;
  const columns = log ? DECADES.filter((v) => v >= x[0] && v <= x[1]) : ticks(...x, Math.max(2, w / 90));
  const rows = lines ? ticks(...y, lines) : [];
  const draw = (inside, number = short) => {
    const grid = columns.map((v) => tag("line", { x1: px(v), x2: px(v), y1: 0, y2: h, class: "grid" }))
      .concat(rows.map((v) => tag("line", { x1: 0, x2: w, y1: py(v), y2: py(v), class: "grid" })));
    const said = rows.map((v) => label(left - 7, top + py(v) + 4, short(v), { "text-anchor": "end" }));
    if (title) said.push(label(left, 14, title, { class: "name" }));
    if (bottom) said.push(...columns.map((v) =>
      label(left + px(v), top + h + 16, number(v), { "text-anchor": "middle" })));
    const cut = tag("svg", { x: left, y: top, width: w, height: h }, grid.join("") + inside);
    return tag("svg", { width, height }, said.join("") + cut);
  };
  return { px, py, w, h, draw };
}

// Only what lies between two times; broken where values are not known, or further apart than `gap`.
function path(times, values, { px, py }, [from, to] = [-Infinity, Infinity], gap = Infinity) {
  let way = "", down = false;
  values.forEach((value, i) => {
    const beyond = times[Math.min(i + 1, times.length - 1)] < from || times[Math.max(i - 1, 0)] > to;
    down &&= times[i] - times[i - 1] <= gap;
    if (value !== null && !beyond) way += `${down ? "L" : "M"}${px(times[i]).toFixed(1)} ${py(value).toFixed(1)}`;
    down = value !== null && !beyond;
  });
  return way;
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

// --- tracks: each draws itself into a width ---
const now = (width, height, y, facts = {}) => plane({ width, height, x: [view.from, view.to], y, ...facts });
const box = ({ px, h }, [from, to], facts) =>
  tag("rect", { x: px(from), width: Math.max(px(to) - px(from), 1), y: 0, height: h, ...facts });
const inView = ([from, to]) => to >= view.from && from <= view.to;
const spans = (on, list, facts) => list.filter(inView).map((span) => box(on, span, facts(span))).join("");

function instructions(width) {
  const on = now(width, 24, [0, 1], { lines: 0 });
  const ends = data.instructions.slice(1).map(([t]) => t).concat(data.duration_s);
  return on.draw(data.instructions.map(([t, text], i) => {
    if (!text || !inView([t, ends[i]])) return "";
    const x = Math.max(on.px(t), 0), wide = Math.min(on.px(ends[i]), on.w) - x, fits = Math.floor((wide - 10) / 6.4);
    const cut = text.length > fits ? `${text.slice(0, Math.max(fits - 1, 0))}…` : text;
    return tag("rect", { x, y: 2, width: Math.max(wide - 2, 1), height: 20, rx: 3, class: "task" }, tag("title", {}, escape(text)))
      + (fits > 3 ? label(x + 6, 16, cut) : "");
  }).join(""));
}

// A frame begins at its stamp; where there are more than fit, they are laid side by side.
const strip = (camera) => (width) => {
  const on = now(width, 96, [0, 1], { lines: 0, title: camera }), kept = data.frames[camera];
  if (!kept.length) return on.draw("");
  const wide = on.h * kept[0][2], fit = Math.ceil(on.w / (wide + 2)), step = (view.to - view.from) / (on.w / (wide + 2));
  const inside = kept.filter(([t]) => t > view.from - step && t < view.to);
  const places = inside.length < fit ? inside.map(([t]) => t) : Array.from({ length: fit }, (_, i) => view.from + i * step);
  let free = -Infinity;
  return on.draw(places.map((t) => {
    const x = on.px(t), nearest = inside.reduce((a, b) => (Math.abs(b[0] - t) < Math.abs(a[0] - t) ? b : a));
    if (x < free || Math.abs(nearest[0] - t) > step) return "";
    free = x + wide + 1;
    return tag("image", { x, y: 0, width: wide, height: on.h, href: `data:image/jpeg;base64,${nearest[1]}` });
  }).join(""));
};

function sensitivity(width) {
  const { t, s } = data.sensitivity, high = 1.06 * Math.max(extent([[t, s]])[1], 0.5), on = now(width, 170, [0, high], { title: "sensitivity S of the motion, and the precision it asks for" });
  const bands = spans(on, data.spans.precision, ([, , one]) => ({ fill: colours[one], class: "band" }));
  const lines = Object.entries(data.thresholds).slice(0, -1).filter(([, at]) => at > 0 && at < high).map(([one, at]) =>
    tag("line", { x1: 0, x2: on.w, y1: on.py(at), y2: on.py(at), style: paint(one), class: "limit" })
    + label(on.w - 6, on.py(at) - 5, `above: ${one}`, { "text-anchor": "end", class: "name" }));
  const curve = tag("path", { d: path(t, s, on, [view.from, view.to]), class: "curve" });
  return on.draw(bands + hatched(on) + lines.join("") + curve);
}
const hatched = (on) => spans(on, data.spans.blocked, () => ({ fill: "url(#blocked)" }))
  + spans(on, data.spans.late, () => ({ fill: "url(#late)" }));

function precisions(width) {
  const on = now(width, 22, [0, 1], { lines: 0 });
  const names = data.spans.precision.filter(inView).map(([from, to, one]) => {
    const x = Math.max(on.px(from), 0), wide = Math.min(on.px(to), on.w) - x;
    return wide > 7 * one.length + 10 ? label(x + 6, 15.5, one, { class: "on" }) : "";
  });
  return on.draw(spans(on, data.spans.precision, ([, , one]) => ({ fill: colours[one] })) + hatched(on) + names.join(""));
}

const SIGNS = { jump: "▼", brake: "■", none: "✕" };
function marks(width) {
  const lanes = Object.entries(data.marks).filter(([, list]) => list.length), on = now(width, 17 * lanes.length + 3, [0, 1], { lines: 0 });
  return on.draw(lanes.map(([kind, list], i) => list.filter(([t]) => inView([t, t])).map(([t]) =>
    label(on.px(t), 17 * i + 14, SIGNS[kind], { class: "mark", "text-anchor": "middle" })).join("")).join(""));
}

const limit = ({ w, py }) => (data.bound_mm ? tag("line", { x1: 0, x2: w, y1: py(data.bound_mm), y2: py(data.bound_mm), class: "bound" })
  + label(w - 6, py(data.bound_mm) - 5, `bound: ${short(data.bound_mm)} mm`, { "text-anchor": "end", class: "name bad" }) : "");

function errors(width) {
  const { t, of } = data.errors, names = shown().filter((one) => of[view.against][one]);
  const all = Object.fromEntries(names.map((one) => [one, mm(of[view.against][one])]));
  const top = extent(names.map((one) => [t, all[one]]))[1];
  const on = now(width, 170, [0, 1.08 * Math.max(top, data.bound_mm || 0)], { title: `action error of the tool against ${view.against}, mm` });
  const gap = 5 * data.duration_s / t.length;
  const lines = names.map((one) =>
    tag("path", { d: path(t, all[one], on, [view.from, view.to], gap), style: paint(one), class: `error ${one}` }));
  return on.draw(spans(on, data.spans.blocked, () => ({ fill: "url(#blocked)" })) + lines.join("") + limit(on));
}

const joint = (index, height) => (width) => {
  const { t, names, measured, told } = data.joints, inside = data.chunks.filter(({ t: at, steps }) => inView([at, at + steps.at(-1)]));
  const chunks = inside.filter((_, i) => i % Math.ceil(inside.length / FANS) === 0);
  const lines = chunks.flatMap((chunk) => shown().filter((one) => chunk.lines[one]).map((one) =>
    ({ one, line: [chunk.steps.map((step) => chunk.t + step), chunk.lines[one][index]] })));
  const recorded = [measured, told].filter((columns) => columns.length).map((columns) => [t, columns[index]]);
  const [low, high] = extent([...recorded, ...lines.map(({ line }) => line)]), room = Math.max(0.08 * (high - low), 1e-3);
  const on = now(width, height, [low - room, high + room], { lines: height > 100 ? 5 : 3, title: names[index] });
  const fans = shown().reverse().map((one) => tag("path", { class: "fan", style: paint(one),
    d: lines.filter((fan) => fan.one === one).map(({ line }) => path(...line, on)).join("") }));
  const dots = chunks.map((chunk) => tag("circle", { cx: on.px(chunk.t), cy: on.py(Object.values(chunk.lines)[0][index][0]), r: 1.6 }));
  const curves = recorded.map((line, i) =>
    tag("path", { d: path(...line, on, [view.from, view.to]), class: line[1] === measured[index] ? "measured" : "told" }));
  return on.draw(curves.join("") + fans.join("") + dots.join(""));
};

const axis = (width) => now(width, 26, [0, 1], { lines: 0, bottom: 24 }).draw("", (t) => `${short(t)} s`);

// --- the page ---
function tracks() {
  const { names } = data.joints, one = names.indexOf(view.joint);
  const joints = one < 0 ? names.map((_, index) => joint(index, 96)) : [joint(one, 280)];
  return [instructions, ...Object.keys(data.frames).map(strip), sensitivity, precisions, marks,
    ...(view.against ? [errors] : []), axis, ...joints, axis];
}

function render() {
  const width = byId("tracks").clientWidth;
  byId("drawn").innerHTML = tracks().map((track) => track(width)).join("");
  byId("whole").disabled = view.from === 0 && view.to === data.duration_s;
  for (const [id, chart] of Object.entries(CHARTS)) if (byId(id)) byId(id).innerHTML = chart(byId(id).clientWidth);
}

function look(from, to) {
  const least = Math.min(0.5, data.duration_s);
  const length = Math.min(Math.max(to - from, least), data.duration_s);
  view.from = Math.min(Math.max((from + to - length) / 2, 0), data.duration_s - length);
  view.to = view.from + length;
  render();
}

// --- charts ---
function latency(width) {
  const { edges_s: edges, counts } = data.latency, names = shown().filter((one) => counts[one]);
  const used = edges.slice(1).map((_, i) => i).filter((i) => names.some((one) => counts[one][i]));
  if (!used.length) return "";
  const x = [edges[Math.max(used[0] - 4, 0)], edges[Math.min(used.at(-1) + 5, edges.length - 1)]];
  const on = plane({ width, height: 230, x, y: [0, 1.08 * Math.max(...names.flatMap((one) => counts[one]))], bottom: 24, log: true });
  const steps = names.map((one) => {
    const way = counts[one].map((count, i) => `L${on.px(edges[i])} ${on.py(count)}H${on.px(edges[i + 1])}`).join("");
    return tag("path", { d: `M${on.px(edges[0])} ${on.h}${way}V${on.h}`, style: paint(one), class: "steps" });
  });
  return on.draw(steps.join(""), (value) => `${short(1e3 * value)} ms`);
}

// Lines over any axis, each { one, x, y, kind }; `dots` marks their points.
function curves(width, lines, { dots = false, number = short, zero = false } = {}) {
  const known = (values) => values.filter((value) => value !== null), xs = known(lines.flatMap((line) => line.x));
  const high = Math.max(...known(lines.flatMap((line) => line.y)), data.bound_mm || 0);
  if (!xs.length || !(high > 0)) return "";
  const low = zero ? 0 : Math.min(...xs), on = plane({ width, height: 230, x: [low, Math.max(...xs)], y: [0, 1.08 * high], bottom: 24 });
  const drawn = lines.map(({ one, x, y, kind }) => tag("path", { d: path(x, y, on), style: paint(one), class: kind })
    + (dots ? x.map((at, i) => (y[i] === null ? "" : tag("circle", { cx: on.px(at), cy: on.py(y[i]), r: 3, style: paint(one) }))).join("") : ""));
  return on.draw(limit(on) + drawn.join(""), number);
}

function horizon(width) {
  const { step_s, [view.against]: of } = data.horizon;
  return curves(width, shown().filter((one) => of[one]).flatMap((one) => ["p50", "p95"].map((kind) =>
    ({ one, kind: `error ${kind}`, x: of[one][kind].map((_, i) => (i + 1) * step_s), y: mm(of[one][kind]) }))),
    { number: (t) => `${short(t)} s`, zero: true });
}

function concentration(width) {
  if (!data.by_sensitivity) return "";
  const { sensitivity: x, ee_error_p95_m: { [view.against]: of } } = data.by_sensitivity;
  return curves(width, shown().filter((one) => of[one]).map((one) => ({ one, kind: "error", x, y: mm(of[one]) })), { dots: true });
}

function bargain(width) {
  const key = view.against === "recorded" ? "ee_error_p95_m" : "ee_deviation_p95_m";
  return curves(width, shown().filter((one) => data.counterfactual[one]).map((one) => {
    const rows = data.counterfactual[one];
    return { one, kind: "error", x: rows.map((row) => 100 * row.share), y: mm(rows.map((row) => row[key])) };
  }), { dots: true, number: (share) => `${short(share)} %`, zero: true });
}

const CHARTS = { latency, horizon, concentration, bargain };

// --- hand ---
const before = (times, t) => {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= t) low = middle + 1; else high = middle;
  }
  return low - 1;
};
const during = (list, t) => list.filter(([from, to]) => from <= t && t < to).map(([, , text]) => text);

function card(t) {
  const row = (what, said, chip) => `<tr><th>${chip ? `<i style="background:${chip}"></i>` : ""}${escape(what)}</th><td>${escape(said)}</td></tr>`;
  const { sensitivity: S, errors: { t: times, of } } = data, i = before(S.t, t), j = before(times, t);
  const near = (list) => list.filter(([at]) => Math.abs(at - t) * 250 < view.to - view.from).map(([, text]) => text);
  const rows = [row("time", `${t.toFixed(2)} s`), row("S", i < 0 ? "not known" : short(S.s[i]))];
  for (const one of during(data.spans.precision, t)) rows.push(row("precision", one, colours[one]));
  if (j >= 0) for (const one of shown().filter((one) => of[view.against][one]))
    rows.push(row(`error of ${one}`, of[view.against][one][j] === null ? "not known" : `${short(1e3 * of[view.against][one][j])} mm`, colours[one]));
  const said = [...during(data.spans.blocked, t), ...during(data.spans.late, t), ...Object.values(data.marks).flatMap(near)];
  const task = data.instructions[before(data.instructions.map(([at]) => at), t)];
  const frames = Object.values(data.frames).map((list) => list[Math.max(before(list.map(([at]) => at), t), 0)]).filter(Boolean);
  return `${frames.map(([, jpeg]) => `<img alt="" src="data:image/jpeg;base64,${jpeg}">`).join("")}
    ${task && task[1] ? `<p>${escape(task[1])}</p>` : ""}<table>${rows.join("")}</table>${said.map((text) => `<p class="bad">${escape(text)}</p>`).join("")}`;
}

function hands() {
  const area = byId("tracks"), hand = byId("hand"), tip = byId("card"), mark = byId("selected");
  let start = null;
  const place = (event) => event.clientX - area.getBoundingClientRect().left;
  const width = () => area.clientWidth - LEFT - RIGHT;
  const time = (x) => view.from + Math.min(Math.max((x - LEFT) / width(), 0), 1) * (view.to - view.from);
  area.addEventListener("pointermove", (event) => {
    const x = Math.min(Math.max(place(event), LEFT), area.clientWidth - RIGHT), y = event.clientY - area.getBoundingClientRect().top;
    hand.style.left = `${x}px`;
    tip.innerHTML = card(time(x));
    tip.style.left = `${x < area.clientWidth / 2 ? x + 16 : x - 16 - tip.offsetWidth}px`;
    tip.style.top = `${Math.min(Math.max(y - tip.offsetHeight / 2, 0), area.clientHeight - tip.offsetHeight)}px`;
    area.classList.add("hovered");
    if (start !== null) Object.assign(mark.style, { left: `${Math.min(start, x)}px`, width: `${Math.abs(x - start)}px` });
  });
  area.addEventListener("pointerleave", () => area.classList.remove("hovered"));
  area.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button) return;
    start = place(event);
    area.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  area.addEventListener("pointerup", (event) => {
    const from = start, to = place(event);
    start = null;
    mark.style.width = 0;
    if (from !== null && Math.abs(to - from) > 6) look(...[time(from), time(to)].sort((a, b) => a - b));
  });
  area.addEventListener("dblclick", () => look(0, data.duration_s));
}

function controls() {
  for (const button of document.querySelectorAll("[data-precision]"))
    button.addEventListener("click", () => {
      const one = button.dataset.precision;
      if (!hidden.delete(one)) hidden.add(one);
      button.setAttribute("aria-pressed", !hidden.has(one));
      render();
    });
  for (const button of document.querySelectorAll("[data-moment]"))
    button.addEventListener("click", () => {
      const at = Number(button.dataset.moment);
      look(at - 1, at + 3);
      byId("timeline").scrollIntoView();
    });
  for (const choice of document.querySelectorAll("select"))
    choice.addEventListener("change", () => { view[choice.name] = choice.value; render(); });
  const zoom = (factor) => look(...[view.from, view.to].map((end) => (view.from + view.to) / 2 + factor * (end - (view.from + view.to) / 2)));
  const slide = (part) => look(view.from + part * (view.to - view.from), view.to + part * (view.to - view.from));
  const acts = { closer: () => zoom(0.5), farther: () => zoom(2), earlier: () => slide(-0.5), later: () => slide(0.5), whole: () => look(0, data.duration_s) };
  for (const [id, act] of Object.entries(acts)) byId(id).addEventListener("click", act);
}

hands();
controls();
render();
new ResizeObserver(render).observe(byId("tracks"));
