"use strict";
// The interactive frontier. The rule is Frontier.pick of selection.py, on the same numbers; a test holds them together.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent), f = data.frontier;

  function pick(lambda) {
    const gain = f.names.map((_, i) => lambda * f.value[i] - f.cost[i]);
    const best = gain.indexOf(Math.max(...gain));
    const tied = gain.map((_, i) => i).filter((i) => i === best ||
      gain[best] - gain[i] <= Math.hypot(lambda * f.value_half[best][i], f.cost_half[best][i]));
    const order = (a, b) => f.cost[a] - f.cost[b] || f.steps[a] - f.steps[b] || a - b;
    return { chosen: [...tied].sort(order)[0], tied };
  }

  const $ = (id) => document.getElementById(id);
  const live = $("live"), svg = live.querySelector("svg"), W = 860, H = 420, L = 56, R = 16, T = 18, B = 46;
  const drawn = (tag, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const short = (value) => String(Number(value.toPrecision(3)));

  // Round numbers between two: evenly spaced, about five; and for a logarithmic axis 1, 2 and 5 times powers of ten.
  function even(low, high) {
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= rough), found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(k * step);
    return found;
  }
  function decades(low, high) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); 10 ** e <= high; e++) found.push(...[1, 2, 5].map((m) => m * 10 ** e));
    const inside = found.filter((v) => v >= low && v <= high), step = Math.ceil(inside.length / 9);
    return inside.filter((_, i) => i % step === 0);
  }

  function draw() {
    const kx = $("x").value, ky = $("y").value;
    const points = data.points.filter((p) => p[kx] > 0 && p[ky] !== null);
    const xs = points.map((p) => Math.log(p[kx])), ys = points.map((p) => p[ky]);
    const [x0, x1] = [Math.min(...xs) - 0.2, Math.max(...xs) + 0.2];
    const margin = Math.max(0.3, 0.08 * (Math.max(...ys) - Math.min(...ys)));
    const [y0, y1] = [Math.min(...ys) - margin, Math.max(...ys) + margin];
    const x = (v) => L + (W - L - R) * (Math.log(v) - x0) / (x1 - x0), y = (v) => T + (H - T - B) * (y1 - v) / (y1 - y0);
    const lambdaPick = f.names[pick(worth()).chosen];
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    svg.replaceChildren();
    for (const vy of even(y0, y1)) {
      svg.append(drawn("line", { class: "grid", x1: L, x2: W - R, y1: y(vy), y2: y(vy) }));
      svg.append(drawn("text", { x: L - 8, y: y(vy) + 4, "text-anchor": "end" }, short(vy)));
    }
    for (const vx of decades(Math.exp(x0), Math.exp(x1))) {
      svg.append(drawn("text", { x: x(vx), y: H - B + 19, "text-anchor": "middle" }, short(vx)));
    }
    svg.append(drawn("text", { x: W - R, y: H - 6, "text-anchor": "end" }, `${data.axes.x[kx]} (log)`));
    svg.append(drawn("text", { x: L + 4, y: T - 4 }, data.axes.y[ky]));
    let top = -Infinity;
    const front = points.filter((p) => p.able).sort((a, b) => a[kx] - b[kx] || b[ky] - a[ky])
      .filter((p) => p[ky] > top && ((top = p[ky]), true));
    svg.append(drawn("polyline", { class: "front", points: front.map((p) => `${x(p[kx])},${y(p[ky])}`).join(" ") }));
    for (const p of points) {
      const words = `${p.name}: ${data.axes.x[kx]} ${short(p[kx])}, ${data.axes.y[ky]} ${p[ky].toFixed(2)}` +
        (p.chosen ? ", chosen" : "") + (p.able ? "" : ", cannot be picked");
      const g = drawn("g", { tabindex: 0, role: "img", "aria-label": words, "data-name": p.name });
      g.append(drawn("circle", { cx: x(p[kx]), cy: y(p[ky]), r: 6, fill: p.able ? p.colour : "transparent", stroke: p.colour }));
      if (p.chosen) g.append(drawn("circle", { class: "ring", cx: x(p[kx]), cy: y(p[ky]), r: 11 }));
      g.append(p.chosen
        ? drawn("text", { class: "bold", x: x(p[kx]), y: y(p[ky]) + 27, "text-anchor": "middle" }, `${p.number}: chosen`)
        : drawn("text", { x: x(p[kx]) + 9, y: y(p[ky]) - 7 }, p.number));
      if (p.name === lambdaPick) g.append(drawn("rect", { class: "ring", x: x(p[kx]) - 15, y: y(p[ky]) - 15, width: 30, height: 30 }));
      g.append(drawn("title", {}, words));
      for (const event of ["mouseenter", "focus"]) g.addEventListener(event, () => { $("about").textContent = words; });
      svg.append(g);
    }
  }

  const worth = () => 10 ** Number($("lambda").value);

  function slide() {
    const { chosen, tied } = pick(worth()), others = tied.filter((i) => i !== chosen).map((i) => f.names[i]);
    const unit = `${data.currency} per million requests and point`;
    $("worth").textContent = `${short(worth())} ${unit}`;
    $("lambda").setAttribute("aria-valuetext", `${short(worth())} ${unit}: ${f.names[chosen]}`);
    $("picked").dataset.name = f.names[chosen];
    $("picked").textContent = `Rule lambda would pick ${f.names[chosen]}` +
      (others.length ? `; it ties with ${others.join(", ")}` : "") + ".";
    draw();
  }

  for (const side of ["x", "y"]) {
    for (const [key, text] of Object.entries(data.axes[side])) {
      if (data.points.every((p) => p[key] !== null)) $(side).append(new Option(text, key));
    }
    $(side).addEventListener("change", draw);
  }
  const breaks = data.lambda.flatMap((r) => (r.to ? [r.to] : [])), slider = $("lambda");
  slider.min = Math.floor(Math.log10(Math.min(...breaks, data.now || 1, 0.01))) - 1;
  slider.max = Math.ceil(Math.log10(Math.max(...breaks, data.now || 1, 1))) + 1;
  slider.value = Math.log10(data.now || breaks[0] || 0.1);
  slider.addEventListener("input", slide);
  live.hidden = false;
  $("static").hidden = true;
  slide();
})();
