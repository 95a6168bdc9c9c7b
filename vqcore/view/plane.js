// Codewords that are dragged. Draws on a canvas what draw.py draws in matplotlib; counts what `assign` counts.
// Plane and weights stand side by side in JupyterLab on a projector, at 125 %, beside its list of files.
const SIZE = 425, VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const floats = (view) => new Float64Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

// Code of every point; number, sum and squared error of every cell; ties go to the lowest index.
export function measure(points, book) {
  const k = book.length / 2, n = points.length / 2, codes = new Uint16Array(n);
  const counts = new Float64Array(k), sums = new Float64Array(2 * k), errors = new Float64Array(k);
  for (let i = 0; i < n; i++) {
    const x = points[2 * i], y = points[2 * i + 1];
    let best = Infinity, code = 0;
    for (let j = 0; j < k; j++) {
      const dx = x - book[2 * j], dy = y - book[2 * j + 1], sqDist = dx * dx + dy * dy;
      if (sqDist < best) { best = sqDist; code = j; }
    }
    codes[i] = code; counts[code]++; sums[2 * code] += x; sums[2 * code + 1] += y; errors[code] += best;
  }
  return { codes, counts, sums, errors, distortion: errors.reduce((a, b) => a + b, 0) / n };
}

// The same for codewords that have moved while the points kept their codes: the first half of a Lloyd step.
export function keep(found, points, book) {
  const errors = new Float64Array(book.length / 2), n = points.length / 2;
  for (let i = 0; i < n; i++) {
    const j = found.codes[i], dx = points[2 * i] - book[2 * j], dy = points[2 * i + 1] - book[2 * j + 1];
    errors[j] += dx * dx + dy * dy;
  }
  return { ...found, errors, distortion: errors.reduce((a, b) => a + b, 0) / n };
}

// Of the distortion, by the place of every codeword: twice its weight times the way from the mean of its cell.
export function gradient({ counts, sums }, book, n) {
  return book.map((value, i) => (2 / n) * (counts[i >> 1] * value - sums[i]));
}

// The box cut by every bisector: the polygon of one cell; empty for a copy of an earlier codeword.
export function cell(box, book, j) {
  const cx = book[2 * j], cy = book[2 * j + 1];
  let shape = [[box[0], box[2]], [box[1], box[2]], [box[1], box[3]], [box[0], box[3]]];
  for (let i = 0; i < book.length / 2 && shape.length; i++) {
    const dx = book[2 * i] - cx, dy = book[2 * i + 1] - cy;
    if (i === j) continue;
    if (dx === 0 && dy === 0) { if (i < j) return []; continue; }
    const above = shape.map(([x, y]) => (x - cx) * dx + (y - cy) * dy - (dx * dx + dy * dy) / 2), kept = [];
    shape.forEach((here, v) => {
      const w = (v || shape.length) - 1, share = above[w] / (above[w] - above[v]);
      if ((above[v] > 0) !== (above[w] > 0))
        kept.push([shape[w][0] + share * (here[0] - shape[w][0]), shape[w][1] + share * (here[1] - shape[w][1])]);
      if (above[v] <= 0) kept.push(here);
    });
    shape = kept;
  }
  return shape;
}

function viridis(share) {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return `rgba(${VIRIDIS[low].map((v, c) => Math.round(v + (at - low) * (VIRIDIS[low + 1][c] - v))).join(",")},0.4)`;
}

function render({ model, el }) {
  const box = model.get("box"), points = floats(model.get("points")), start = floats(model.get("codebook"));
  const n = points.length / 2, sharp = Math.max(window.devicePixelRatio || 1, 1.5);
  const scale = SIZE / Math.max(box[1] - box[0], box[3] - box[2]);
  const width = (box[1] - box[0]) * scale, height = Math.max((box[3] - box[2]) * scale, 40), side = 140;
  const px = (x, y) => [(x - box[0]) * scale, (box[3] - y) * scale];
  // `held`: what was measured before the codewords moved, while the points still keep those codes.
  let book = start.slice(), chosen = 0, dragging = false, past = [], held = null;

  const make = (tag, parent, props) => parent.appendChild(Object.assign(document.createElement(tag), props));
  const canvasOf = (parent, w, h, props) => {
    const made = make("canvas", parent, { width: w * sharp, height: h * sharp, ...props });
    made.style.cssText = `width:${w}px;height:${h}px;display:block`;
    const ink = made.getContext("2d");
    ink.scale(sharp, sharp);
    return [made, ink];
  };
  const across = make("div", el, {});
  across.style.cssText = "display:flex;flex-wrap:wrap;gap:12px";
  const [canvas, ctx] = canvasOf(across, width, height, { className: "vqcore-plane", tabIndex: 0 });
  const [bars, barInk] = canvasOf(across, side, height, { className: "vqcore-weights" });
  const [dots, ink] = canvasOf(el, width, height, {});
  dots.remove();
  canvas.style.cssText += ";touch-action:none;cursor:grab;outline-offset:-2px;box-shadow:0 0 0 1px #949494";
  canvas.setAttribute("role", "application");
  // Arrow keys and letters are ours, not JupyterLab's, which asks the element that has the focus.
  el.addEventListener("focusin", (e) => { e.target.dataset.lmSuppressShortcuts = "true"; });
  bars.setAttribute("role", "img");
  const row = make("div", el, {}), words = make("div", el, {});
  row.style.cssText = "display:flex;flex-wrap:wrap;gap:6px;margin:8px 0";
  words.style.cssText = "font:14px/1.45 sans-serif;color:var(--jp-ui-font-color1,#222);font-variant-numeric:tabular-nums";
  words.setAttribute("role", "status");
  ink.fillStyle = "#4D4D4D"; // darker than on white: a quantity lies under them
  for (let i = 0; i < points.length; i += 2) {
    const [x, y] = px(points[i], points[i + 1]);
    ink.fillRect(x - 0.9, y - 0.9, 1.8, 1.8);
  }

  const path = (ink, corners) => {
    ink.beginPath();
    corners.forEach(([x, y]) => ink.lineTo(x, y));
    ink.closePath();
  };
  function arrow(x, y, dx, dy) {
    const long = Math.hypot(dx, dy), ex = x + dx, ey = y + dy;
    if (long < 3) return;
    const [ux, uy] = [dx / long, dy / long], head = Math.min(7, long);
    ctx.beginPath(); ctx.moveTo(x, y); ctx.lineTo(ex - ux * head, ey - uy * head);
    ctx.lineWidth = 4; ctx.strokeStyle = "#fff"; ctx.stroke(); // a white edge, over any fill
    ctx.lineWidth = 2; ctx.strokeStyle = ctx.fillStyle = "#0072B2"; ctx.stroke();
    path(ctx, [[ex, ey], [ex - head * (ux + 0.5 * uy), ey - head * (uy - 0.5 * ux)],
      [ex - head * (ux - 0.5 * uy), ey - head * (uy + 0.5 * ux)]]);
    ctx.lineWidth = 1.5; ctx.strokeStyle = "#fff"; ctx.stroke(); ctx.fill();
  }
  function diamond(x, y, r, hollow) {
    path(ctx, [[x, y - r], [x + r, y], [x, y + r], [x - r, y]]);
    ctx.fillStyle = "#D55E00"; ctx.lineWidth = 1.6; ctx.strokeStyle = hollow ? "#D55E00" : "#fff";
    if (!hollow) ctx.fill();
    ctx.stroke();
  }

  function drawPlane(found, slope) {
    const k = book.length / 2, most = Math.max(...found.errors, Number.MIN_VALUE), owners = held ? held.book : book;
    ctx.fillStyle = "#fff"; ctx.fillRect(0, 0, width, height);
    for (let j = 0; j < k; j++) {
      path(ctx, cell(box, owners, j).map(([x, y]) => px(x, y)));
      ctx.fillStyle = viridis(found.errors[j] / most); ctx.fill();
      ctx.lineWidth = 1.1; ctx.strokeStyle = "#4D4D4D"; ctx.stroke();
    }
    ctx.drawImage(dots, 0, 0, width, height);
    ctx.font = "bold 13px sans-serif";
    for (let j = 0; held && j < k; j++) diamond(...px(owners[2 * j], owners[2 * j + 1]), 6, true);
    // A cell of weight 1 / k has its mean at the tip.
    for (let j = 0; j < k; j++) arrow(...px(book[2 * j], book[2 * j + 1]), -slope[2 * j] * scale * k / 2, slope[2 * j + 1] * scale * k / 2);
    for (let j = 0; j < k; j++) {
      const [x, y] = px(book[2 * j], book[2 * j + 1]);
      diamond(x, y, j === chosen ? 9 : 7);
      if (j === chosen) { ctx.beginPath(); ctx.arc(x, y, 14, 0, 7); ctx.lineWidth = 2; ctx.strokeStyle = "#000"; ctx.stroke(); }
      if (k > 40 && j !== chosen) continue;
      ctx.lineWidth = 3; ctx.strokeStyle = "#fff"; ctx.strokeText(j, x + 10, y - 10);
      ctx.fillStyle = "#000"; ctx.fillText(j, x + 10, y - 10);
    }
  }

  function drawWeights({ counts }) {
    const k = counts.length, top = 22, step = (height - top - 4) / k, left = k > 32 ? 4 : 26, room = side - left - 4;
    const longest = Math.max(...counts, 1), end = left + room * (n / k / longest);
    barInk.fillStyle = "#fff"; barInk.fillRect(0, 0, side, height);
    barInk.fillStyle = "#222"; barInk.font = "bold 12px sans-serif"; barInk.textAlign = "left";
    barInk.fillText("weight of each cell", 2, 12);
    for (let j = 0; j < k; j++) {
      barInk.fillStyle = j === chosen ? "#D55E00" : "#4D4D4D";
      barInk.fillRect(left, top + (j + 0.12) * step, Math.max(room * counts[j] / longest, 1), 0.76 * step);
      if (k > 32) continue;
      barInk.fillStyle = "#000"; barInk.textAlign = "right"; barInk.font = `bold ${Math.min(12, 0.9 * step)}px sans-serif`;
      barInk.fillText(j, left - 5, top + (j + 0.5) * step + Math.min(4, 0.32 * step));
    }
    // On white, since grey on dark bars could not be seen.
    for (const [dash, colour, wide] of end < side ? [[[], "#fff", 2.8], [[4, 3], "#757575", 1.4]] : []) {
      Object.assign(barInk, { strokeStyle: colour, lineWidth: wide });
      barInk.setLineDash(dash); barInk.beginPath(); barInk.moveTo(end, top - 4); barInk.lineTo(end, height); barInk.stroke();
    }
    barInk.setLineDash([]);
  }

  function draw() {
    const found = held ? keep(held.found, points, book) : measure(points, book), slope = gradient(found, book, n);
    drawPlane(found, slope);
    drawWeights(found);
    const best = model.get("best"), k = book.length / 2, weight = found.counts[chosen] / n;
    const above = best ? found.distortion / best - 1 : null, length = Math.hypot(...slope);
    const steep = length < 1e-12 ? "0" : length.toPrecision(3);
    words.textContent = `Distortion ${found.distortion.toPrecision(5)}`
      + (best ? `, ${(100 * above).toFixed(2)} % above the best known ${best.toPrecision(5)}` : "")
      + `; its gradient has length ${steep}; codeword ${chosen} speaks for ${(100 * weight).toFixed(1)} % of the points.`
      + (held ? " The codewords are at the means of the cells as they were." : "")
      + " Fill: share of the distortion, yellow most. Arrows: down the gradient. Dashed: equal weights.";
    canvas.setAttribute("aria-label", `Plane with ${k} codewords. ${words.textContent} Tab chooses, arrow keys move.`);
    bars.setAttribute("aria-label", `Weights: ${Array.from(found.counts, (c, j) => `${j}: ${(100 * c / n).toFixed(1)} %`).join(", ")}`);
    for (const [half, off] of [[first, held], [second, !held]]) { half.disabled = !!off; half.style.opacity = off ? 0.45 : 1; }
    Object.assign(canvas.dataset, {
      distortion: found.distortion, chosen, gradient: length, half: held ? 1 : 0,
      places: Array.from({ length: k }, (_, j) => px(book[2 * j], book[2 * j + 1]).join(" ")).join(" "),
    });
  }
  const tell = () => { model.set("codebook", new DataView(book.slice().buffer)); model.save_changes(); };
  const remember = () => { past.push([book.slice(), held]); if (past.length > 200) past.shift(); };
  const change = (next, hold = null) => { remember(); held = hold; book = next; draw(); tell(); };
  const place = (x, y) => {
    book[2 * chosen] = Math.min(Math.max(x, box[0]), box[1]); book[2 * chosen + 1] = Math.min(Math.max(y, box[2]), box[3]);
    held = null; draw(); tell();
  };
  const where = (e) => {
    const r = canvas.getBoundingClientRect();
    return [box[0] + (e.clientX - r.left) / scale, box[3] - (e.clientY - r.top) / scale];
  };

  canvas.onpointerdown = (e) => {
    const [x, y] = where(e), gap = (j) => Math.hypot(book[2 * j] - x, book[2 * j + 1] - y);
    const near = [...Array(book.length / 2).keys()].reduce((a, j) => (gap(j) < gap(a) ? j : a), 0);
    if (gap(near) * scale > 24) return;
    chosen = near; dragging = true; remember(); canvas.setPointerCapture(e.pointerId); canvas.focus(); draw();
  };
  canvas.onpointermove = (e) => { if (dragging) place(...where(e)); };
  canvas.onpointerup = canvas.onpointercancel = () => { dragging = false; };
  canvas.onkeydown = (e) => {
    const by = (box[1] - box[0]) * (e.shiftKey ? 0.002 : 0.02), k = book.length / 2;
    const move = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] }[e.key];
    const next = chosen + (e.shiftKey ? -1 : 1);
    if (move) { remember(); place(book[2 * chosen] + move[0], book[2 * chosen + 1] + move[1]); }
    else if (e.key === "Tab" && next >= 0 && next < k) { chosen = next; draw(); } // past the last one, Tab leaves
    else return;
    e.preventDefault(); e.stopPropagation();
  };
  const button = (text, act) => {
    const made = make("button", row, { textContent: text, className: "jupyter-button vqcore-button", onclick: act });
    made.style.cssText = "width:auto;height:auto;min-height:28px;padding:0 10px;line-height:1.2";
    return made;
  };
  const means = (found) => book.map((value, i) => (found.counts[i >> 1] ? found.sums[i] / found.counts[i >> 1] : value));
  const advance = (whole) => { // an empty cell keeps its codeword
    const found = held ? held.found : measure(points, book), after = means(found);
    change(after, whole ? null : { found, book: book.slice() });
  };
  const first = button("1st half-step: codewords to the means", () => advance(false));
  const second = button("2nd half-step: points to the nearest", () => change(book.slice()));
  button("Lloyd step", () => { if (held) change(book.slice()); else advance(true); });
  button("Undo", () => { if (past.length) { [book, held] = past.pop(); draw(); tell(); } });
  button("Start again", () => change(start.slice()));
  const follow = () => {
    const told = floats(model.get("codebook"));
    if (dragging || told.every((value, i) => value === book[i]) && told.length === book.length) return; // what we said ourselves
    book = told; held = null; chosen = Math.min(chosen, book.length / 2 - 1);
    draw();
  };
  model.on("change:codebook", follow);
  draw();
  return () => model.off("change:codebook", follow);
}
export default { render };
