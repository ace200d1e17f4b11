"use strict";
// The interactive frontier and sortable tables. Rules are `pick` of selection.py on the same numbers; tests hold them together.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent), f = data.frontier, s = data.cheapest;
  const $ = (id) => document.getElementById(id);
  const live = $("live"), svg = live.querySelector("svg"), rule = data.rule, SIMPLICITY = 1.1;
  const short = (value) => String(Number(value.toPrecision(3)));
  const first = (places, key) => places.reduce((best, i) => (key(i) < key(best) ? i : best));

  // Rule lambda: the most value for money, or the cheapest that ties with it.
  function byWorth(lambda) {
    const gain = f.names.map((_, i) => lambda * f.value[i] - f.cost[i]);
    const best = gain.indexOf(Math.max(...gain));
    const tied = gain.map((_, i) => i).filter((i) => i === best ||
      gain[best] - gain[i] <= Math.hypot(lambda * f.value_half[best][i], f.cost_half[best][i]));
    const order = (a, b) => f.cost[a] - f.cost[b] || f.steps[a] - f.steps[b] || a - b;
    return { chosen: [...tied].sort(order)[0], tied };
  }

  // Rule cheapest: of those within the limits the cheapest; of those that tie with it, the simplest of the best.
  function cheapest({ maxDrop, level, p95, size }) {
    const good = s.names.map((_, i) => i)
      .filter((i) => s.upper[level][i] <= maxDrop && s.p95[i] <= p95 && s.size[i] <= size);
    if (!good.length) return null;
    const least = first(good, (i) => s.cost[i]), tied = good.filter((i) => s.costs_tie[i][least]);
    const best = first(tied, (i) => -s.value[i]), equal = tied.filter((i) => s.values_tie[best][i]);
    const low = s.cost[first(equal, (i) => s.cost[i])];
    const near = equal.filter((i) => s.cost[i] <= SIMPLICITY * low);
    return near.reduce((a, b) => (s.steps[b] - s.steps[a] || s.cost[b] - s.cost[a]) < 0 ? b : a);
  }

  const drawn = (tag, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // Round numbers between two: evenly spaced, about five; and for a logarithmic axis 1, 2 and 5 times powers of ten.
  function even(low, high) {
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= rough), found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(k * step);
    return found;
  }
  function decades(low, high, most) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); 10 ** e <= high; e++) found.push(...[1, 2, 5].map((m) => m * 10 ** e));
    const inside = found.filter((v) => v >= low && v <= high), step = Math.ceil(inside.length / most);
    return inside.filter((_, i) => i % step === 0);
  }

  // Names beside their points, each where it meets no other name and no point; the rest have their numbers.
  function labels(places, left, width) {
    const taken = places.map(({ x, y }) => [x - 7, y - 7, x + 7, y + 7]), put = [];
    const free = (b) => b[0] > left && b[2] < width - 2 && taken.every((t) => b[2] < t[0] || b[0] > t[2] || b[3] < t[1] || b[1] > t[3]);
    const rank = ({ p, best }) => (best ? 0 : p.chosen ? 1 : p.front ? 2 : p.able ? 3 : 4);
    for (const place of [...places].sort((a, b) => rank(a) - rank(b))) {
      const { x, y, p } = place;
      for (const text of [p.label, String(p.number)]) {
        const w = (place.best ? 7.4 : 6.4) * text.length + 4;
        const spots = [[x + 8, y - 9, "start"], [x - 8, y - 9, "end"], [x + 8, y + 19, "start"], [x - 8, y + 19, "end"],
          [x, y - 13, "middle"], [x, y + 23, "middle"], [x + 12, y + 4, "start"], [x - 12, y + 4, "end"]];
        const box = ([a, b, anchor]) => {
          const from = anchor === "start" ? a : anchor === "end" ? a - w : a - w / 2;
          return [from, b - 11, from + w, b + 3];
        };
        const spot = spots.find((one) => free(box(one)));
        if (!spot) continue;
        taken.push(box(spot));
        put.push(drawn("text", { class: place.best ? "bold" : p.able ? "" : "faint", x: spot[0], y: spot[1], "text-anchor": spot[2] }, text));
        break;
      }
    }
    return put;
  }

  function draw() {
    const { limits, name: picked } = state(), kx = $("x").value, ky = $("y").value, near = $("zoom").checked;
    const W = Math.max(320, Math.min(1140, svg.clientWidth || 860)), phone = W < 560, H = phone ? 360 : 440;
    const L = 48, R = 16, T = 22, B = 44;
    const all = data.points.filter((p) => p[kx] > 0 && p[ky] !== null);
    const able = all.filter((p) => p.able), floor = limits && ["value", "kept"].includes(ky) ? data.base - limits.maxDrop : null;
    let points = near && able.length > 1 ? all.filter((p) => p.able || p.base) : all;
    if (near && able.length > 1) {  // and what is nearly good enough
      const ends = [...points.map((p) => p[ky]), ...(floor === null ? [] : [floor])], low = Math.min(...ends);
      const margin = Math.max(1, Math.max(...ends) - low);
      points = all.filter((p) => points.includes(p) || p[ky] >= low - margin);
    }
    const level = limits ? limits.level : -1;
    const kept = (p) => {  // the bound at the slider's confidence
      const i = level < 0 ? -1 : s.names.indexOf(p.name);
      return i < 0 ? p.kept : data.base - s.upper[level][i];
    };
    const bounds = (p) => ky === "value" ? (kept(p) === null ? null : [Math.min(kept(p), p.value), p.value]) : p.intervals[ky];
    const at = points.map((p) => p[kx]), widest = 3;  // times what is there: an interval may be much wider
    const ends = points.flatMap((p) => p.intervals[kx] || []);
    const xs = [...at, ...ends.map((v) => Math.min(widest * Math.max(...at), Math.max(Math.min(...at) / widest, v)))].map(Math.log);
    const ys = [...points.flatMap((p) => [p[ky], ...(bounds(p) || [])]), ...(floor === null ? [] : [floor])];
    const [x0, x1] = [Math.min(...xs) - 0.15, Math.max(...xs) + 0.15];
    const margin = Math.max(0.3, 0.08 * (Math.max(...ys) - Math.min(...ys)));
    const [y0, y1] = [Math.min(...ys) - margin, Math.max(...ys) + margin];
    const x = (v) => L + (W - L - R) * (Math.log(v) - x0) / (x1 - x0), y = (v) => T + (H - T - B) * (y1 - v) / (y1 - y0);
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    svg.replaceChildren();
    if (floor !== null && floor > y0) {
      svg.append(drawn("rect", { class: "refused", x: L, y: y(floor), width: W - L - R, height: Math.max(0, y(y0) - y(floor)) }));
      svg.append(drawn("text", { x: W - R - 4, y: y(floor) + 14, "text-anchor": "end" }, `loses more than ${short(limits.maxDrop)}`));
    }
    const limit = limits && { p95: limits.p95, size: limits.size }[kx];
    if (limit && Number.isFinite(limit) && Math.log(limit) < x1) {
      const from = Math.max(L, x(limit));
      svg.append(drawn("rect", { class: "refused", x: from, y: T, width: Math.max(0, W - R - from), height: H - T - B }));
    }
    for (const vy of even(y0, y1)) {
      svg.append(drawn("line", { class: "grid", x1: L, x2: W - R, y1: y(vy), y2: y(vy) }));
      svg.append(drawn("text", { x: L - 8, y: y(vy) + 4, "text-anchor": "end" }, short(vy)));
    }
    for (const vx of decades(Math.exp(x0), Math.exp(x1), phone ? 5 : 9)) {
      svg.append(drawn("text", { x: x(vx), y: H - B + 19, "text-anchor": "middle" }, short(vx)));
    }
    svg.append(drawn("text", { x: W - R, y: H - 6, "text-anchor": "end" }, `${data.axes.x[kx]} (log)`));
    svg.append(drawn("text", { x: 4, y: 12 }, data.axes.y[ky]));
    let top = -Infinity;
    const front = points.filter((p) => p.able).sort((a, b) => a[kx] - b[kx] || b[ky] - a[ky])
      .filter((p) => p[ky] > top && ((top = p[ky]), true));
    svg.append(drawn("polyline", { class: "front", points: front.map((p) => `${x(p[kx])},${y(p[ky])}`).join(" ") }));
    const places = points.map((p) => ({ p, x: x(p[kx]), y: y(p[ky]), best: p.name === picked }));
    for (const { p, x: px, y: py, best } of places) {
      const span = bounds(p), across = p.intervals[kx];
      const words = `${p.name}: ${data.axes.x[kx]} ${short(p[kx])}` + (across ? ` (${short(across[0])} to ${short(across[1])})` : "") +
        `, ${data.axes.y[ky]} ${p[ky].toFixed(2)}` + (span ? ` (${ky === "value" ? "keeps at least " : ""}${span[0].toFixed(2)}${ky === "value" ? "" : ` to ${span[1].toFixed(2)}`})` : "") +
        (p.chosen ? ", chosen" : "") + (p.able ? "" : ", cannot be selected");
      const g = drawn("g", { tabindex: 0, role: "img", "aria-label": words, "data-name": p.name });
      if (span) g.append(drawn("line", { class: "interval", stroke: p.colour, x1: px, x2: px, y1: y(span[0]), y2: y(span[1]) }));
      if (across) g.append(drawn("line", { class: "interval", stroke: p.colour, x1: x(Math.max(across[0], Math.exp(x0))), x2: x(Math.min(across[1], Math.exp(x1))), y1: py, y2: py }));
      g.append(drawn("circle", { cx: px, cy: py, r: 6, fill: p.able ? p.colour : "transparent", stroke: p.colour }));
      if (p.chosen) g.append(drawn("circle", { class: "ring", cx: px, cy: py, r: 11 }));
      if (best && !p.chosen) g.append(drawn("rect", { class: "ring", x: px - 13, y: py - 13, width: 26, height: 26 }));
      g.append(drawn("title", {}, words));
      for (const event of ["mouseenter", "focus"]) g.addEventListener(event, () => { $("about").textContent = words; });
      svg.append(g);
    }
    svg.append(...labels(places, L, W));
    const hidden = all.length - points.length;
    $("zoomed").textContent = hidden ? `(${hidden} far below not drawn)` : "";
  }

  // What the sliders say: for rule cheapest its limits, for rule lambda what a point is worth.
  const range = (values) => [Math.min(...values), Math.max(...values)];
  const log = (id) => 10 ** Number($(id).value), atEnd = (id) => Number($(id).value) >= Number($(id).max) - 1e-9;
  function state() {
    if (rule.rule === "cheapest") {
      const limits = {
        maxDrop: Number($("max_drop").value), level: Number($("confidence").value),
        p95: atEnd("p95") ? Infinity : log("p95"), size: atEnd("size") ? Infinity : log("size"),
      };
      const i = cheapest(limits);
      return { limits, name: i === null ? null : s.names[i] };
    }
    if (rule.rule !== "lambda") return { name: data.points.find((p) => p.chosen).name };
    const { chosen, tied } = byWorth(log("lambda"));
    return { name: f.names[chosen], tied: tied.filter((i) => i !== chosen).map((i) => f.names[i]) };
  }

  function figures(p, limits) {
    return `: ${short(p.cost)} ${data.currency} per million requests, ${short(p.p50)} ms, ${short(p.size)} MB, loses ` +
      `${(data.base - p.value).toFixed(2)} points of validation` +
      (limits ? `, at most ${s.upper[limits.level][s.names.indexOf(p.name)].toFixed(2)}` : "");
  }

  function say() {
    const { limits, name, tied = [] } = state(), now = data.points.find((p) => p.chosen).name;
    if (limits) {
      const level = s.confidences[limits.level];
      $("max_drop_is").textContent = `${short(limits.maxDrop)} point${limits.maxDrop === 1 ? "" : "s"}`;
      $("confidence_is").textContent = level ? `${Math.round(100 * level)} % confidence` : "as measured, not tested";
      $("p95_is").textContent = Number.isFinite(limits.p95) ? `${short(limits.p95)} ms` : "any";
      $("size_is").textContent = Number.isFinite(limits.size) ? `${short(limits.size)} MB` : "any";
    } else if (rule.rule === "lambda") {
      const worth = `${short(log("lambda"))} ${data.currency} per million requests and point`;
      $("worth").textContent = worth;
      $("lambda").setAttribute("aria-valuetext", `${worth}: ${name}`);
    }
    $("picked").dataset.name = name ?? "";
    const found = data.points.find((p) => p.name === name);
    $("picked").textContent = !name ? "No candidate keeps these limits." :
      `${name === now ? "Selected" : "This would select"} ${name}` + (found ? figures(found, limits) : "") +
      (tied.length ? `; it ties with ${tied.join(", ")}` : "") + ".";
    draw();
  }

  function set(id, low, high, value, step = "any") {
    Object.assign($(id), { min: low, max: high, step });
    $(id).value = value;
  }
  function reset() {
    if (rule.rule === "cheapest") {
      const most = Math.min(20, Math.max(1, ...s.upper.flat().filter(Number.isFinite)));
      set("max_drop", 0, Math.max(2 * rule.max_drop, most), rule.max_drop);
      set("confidence", 0, s.confidences.length - 1, s.confidences.indexOf(rule.confidence), 1);
      for (const [id, key] of [["p95", "p95_ms"], ["size", "size_mb"]]) {
        const given = rule.budgets[key], [low, high] = range([...s[id], ...(given ? [given] : [])]);
        set(id, Math.log10(low) - 0.02, Math.log10(high) + 0.1, given ? Math.log10(given) : Math.log10(high) + 0.1);
      }
    } else if (rule.rule === "lambda") {
      const breaks = data.lambda.flatMap((r) => (r.to ? [r.to] : [])), now = rule.value_per_point;
      set("lambda", Math.floor(Math.log10(Math.min(...breaks, now || 1, 0.01))) - 1,
        Math.ceil(Math.log10(Math.max(...breaks, now || 1, 1))) + 1, Math.log10(now || breaks[0] || 0.1));
    }
  }

  for (const side of ["x", "y"]) {
    for (const [key, text] of Object.entries(data.axes[side])) {
      if (data.points.every((p) => p[key] !== null)) $(side).append(new Option(text, key));
    }
    $(side).addEventListener("change", draw);
  }
  for (const slider of live.querySelectorAll("input[type=range]")) slider.addEventListener("input", say);
  $("zoom").addEventListener("change", draw);
  $("reset").addEventListener("click", () => { reset(); say(); });
  for (const kind of ["cheapest", "lambda"]) $(`of_${kind}`).hidden = kind !== rule.rule;
  live.hidden = false;
  $("static").hidden = true;
  reset();
  say();
  addEventListener("resize", draw);

  // Tables: a click on a title sorts by it, a second one the other way round.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const key = (row, at) => {
      const text = row.cells[at].firstChild?.textContent.trim() ?? "", number = parseFloat(text.replace(/,/g, ""));
      return at === 0 || Number.isNaN(number) ? text : number;
    };
    heads.forEach((head, at) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [key(row, at), row]), turn = down ? -1 : 1;
        rows.sort(([a], [b]) => (a === "") - (b === "") || turn * (typeof a === "number" && typeof b === "number"
          ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })));
        body.append(...rows.map(([, row]) => row));
      });
    });
  }
})();
