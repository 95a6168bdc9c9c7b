// Codewords that are dragged. Draws on a canvas what draw.py draws in matplotlib; counts what `assign` counts.
const SIZE = 460, VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const floats = (view) => new Float64Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

// Weight, sum and squared error of every cell; ties go to the lowest index.
export function measure(points, book) {
  const k = book.length / 2, n = points.length / 2;
  const counts = new Float64Array(k), sums = new Float64Array(2 * k), errors = new Float64Array(k);
  for (let i = 0; i < n; i++) {
    const x = points[2 * i], y = points[2 * i + 1];
    let best = Infinity, code = 0;
    for (let j = 0; j < k; j++) {
      const dx = x - book[2 * j], dy = y - book[2 * j + 1], sqDist = dx * dx + dy * dy;
      if (sqDist < best) { best = sqDist; code = j; }
    }
    counts[code]++; sums[2 * code] += x; sums[2 * code + 1] += y; errors[code] += best;
  }
  return { counts, sums, errors, distortion: errors.reduce((a, b) => a + b, 0) / n };
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
  return `rgba(${VIRIDIS[low].map((v, c) => Math.round(v + (at - low) * (VIRIDIS[low + 1][c] - v))).join(",")},0.45)`;
}

function render({ model, el }) {
  const box = model.get("box"), points = floats(model.get("points")), start = floats(model.get("codebook"));
  const scale = SIZE / Math.max(box[1] - box[0], box[3] - box[2]), sharp = Math.max(window.devicePixelRatio || 1, 1.5);
  const width = (box[1] - box[0]) * scale, height = (box[3] - box[2]) * scale;
  const px = (x, y) => [(x - box[0]) * scale, (box[3] - y) * scale];
  let book = start.slice(), chosen = 0, dragging = false, past = [];

  const make = (tag, parent, props) => parent.appendChild(Object.assign(document.createElement(tag), props));
  const sheet = () => { const c = make("canvas", el, { width: width * sharp, height: height * sharp }); c.remove(); return c; };
  const canvas = make("canvas", el, { className: "vqcore-plane", width: width * sharp, height: height * sharp, tabIndex: 0 });
  canvas.style.cssText = `width:${width}px;height:${height}px;touch-action:none;cursor:grab;display:block;`
    + "border:1px solid #bbb";
  canvas.setAttribute("role", "application");
  canvas.dataset.lmSuppressShortcuts = "true"; // the arrow keys are ours, not JupyterLab's
  const row = make("div", el, {}), words = make("div", el, {});
  row.style.cssText = "display:flex;gap:6px;margin:6px 0";
  words.style.cssText = "font:14px/1.4 sans-serif;color:var(--jp-ui-font-color1,#222);font-variant-numeric:tabular-nums";
  words.setAttribute("role", "status");
  const ctx = canvas.getContext("2d"), dots = sheet(), ink = dots.getContext("2d");
  ink.scale(sharp, sharp); ink.fillStyle = "#777777";
  for (let i = 0; i < points.length; i += 2) {
    const [x, y] = px(points[i], points[i + 1]);
    ink.fillRect(x - 0.9, y - 0.9, 1.8, 1.8);
  }

  function draw() {
    const k = book.length / 2, found = measure(points, book), most = Math.max(...found.errors, Number.MIN_VALUE);
    ctx.setTransform(sharp, 0, 0, sharp, 0, 0);
    ctx.fillStyle = "#fff"; ctx.fillRect(0, 0, width, height);
    ctx.lineWidth = 1.1; ctx.strokeStyle = "#4D4D4D";
    for (let j = 0; j < k; j++) {
      ctx.beginPath();
      cell(box, book, j).forEach(([x, y]) => ctx.lineTo(...px(x, y)));
      ctx.closePath(); ctx.fillStyle = viridis(found.errors[j] / most); ctx.fill(); ctx.stroke();
    }
    ctx.drawImage(dots, 0, 0, width, height);
    ctx.font = "bold 13px sans-serif";
    for (let j = 0; j < k; j++) {
      const [x, y] = px(book[2 * j], book[2 * j + 1]), r = j === chosen ? 9 : 7;
      ctx.beginPath();
      for (const [dx, dy] of [[0, -r], [r, 0], [0, r], [-r, 0]]) ctx.lineTo(x + dx, y + dy);
      ctx.closePath(); ctx.fillStyle = "#D55E00"; ctx.fill(); ctx.lineWidth = 1.6; ctx.strokeStyle = "#fff"; ctx.stroke();
      if (j === chosen) { ctx.beginPath(); ctx.arc(x, y, 14, 0, 7); ctx.lineWidth = 2; ctx.strokeStyle = "#000"; ctx.stroke(); }
      ctx.lineWidth = 3; ctx.strokeStyle = "#fff"; ctx.strokeText(j, x + 10, y - 10);
      ctx.fillStyle = "#000"; ctx.fillText(j, x + 10, y - 10);
    }
    const best = model.get("best"), weight = found.counts[chosen] / (points.length / 2);
    words.textContent = `distortion ${found.distortion.toPrecision(5)}` + (best ? ` (best known ${best.toPrecision(5)})` : "")
      + `; codeword ${chosen} speaks for ${(100 * weight).toFixed(1)} % of the points. Fill: share of the distortion, yellow most.`;
    canvas.setAttribute("aria-label", `Plane with ${k} codewords. ${words.textContent} Tab chooses, arrow keys move.`);
    Object.assign(canvas.dataset, { distortion: found.distortion, chosen });
  }
  const tell = () => { model.set("codebook", new DataView(book.slice().buffer)); model.save_changes(); };
  const remember = () => { past.push(book.slice()); if (past.length > 200) past.shift(); };
  const change = (next) => { remember(); book = next; draw(); tell(); };
  const place = (x, y) => {
    book[2 * chosen] = Math.min(Math.max(x, box[0]), box[1]); book[2 * chosen + 1] = Math.min(Math.max(y, box[2]), box[3]);
    draw(); tell();
  };
  const where = (e) => {
    const r = canvas.getBoundingClientRect(); // within its border of one pixel
    return [box[0] + (e.clientX - r.left - 1) / scale, box[3] - (e.clientY - r.top - 1) / scale];
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
    make("button", row, { textContent: text, className: "jupyter-button", onclick: act }).style.width = "auto";
  };
  button("Lloyd step", () => { // an empty cell keeps its codeword
    const { counts, sums } = measure(points, book);
    change(book.map((value, i) => (counts[i >> 1] ? sums[i] / counts[i >> 1] : value)));
  });
  button("Undo", () => { if (past.length) { book = past.pop(); draw(); tell(); } });
  button("Start again", () => change(start.slice()));
  const follow = () => {
    if (dragging) return; // the hand is ahead of what comes back
    book = floats(model.get("codebook")); chosen = Math.min(chosen, book.length / 2 - 1);
    draw();
  };
  model.on("change:codebook", follow);
  draw();
  return () => model.off("change:codebook", follow);
}
export default { render };
