// The canvas: regions of a layout on a sheet of the image's shape, and a list beside it. It runs once, as the
// `js_on_load` of a gr.HTML whose value is {objects, width, height}; objects are entries of a layout file.
const SIDE = 1000; // width of the drawing's own coordinates
const SVG = "http://www.w3.org/2000/svg";
const COLORS = props.colors, MOST = props.most, RADIUS = props.radius;
const sheet = element.querySelector("svg"), list = element.querySelector("ol"), live = element.querySelector(".live");
const tool = (name) => element.querySelector(`[data-tool="${name}"]`);
let objects = [], selected = -1, undone = [], redone = [], shape = "disc", drag = null;

const clone = (value) => JSON.parse(JSON.stringify(value));
const clamp = (value, least = 0, most = 1) => Math.min(most, Math.max(least, value));
const round = (value) => Math.round(value * 1000) / 1000;
const tall = () => SIDE * (props.value.height || 1) / (props.value.width || 1);
const color = (i) => COLORS[i % COLORS.length];
const dark = (hex) => { // whether white letters can be read on it
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return 0.3 * r + 0.59 * g + 0.11 * b < 140;
};

// ------------------------------------------------------------------------------------------------ shapes
// Each kind: its middle, how it moves, and the points by which it is resized, all as fractions of the sides.
const kindOf = (o) => ["box", "ellipse", "polygon", "mask"].find((kind) => kind in o) || "disc";
const KINDS = {
  disc: {
    middle: (o) => [o.x, o.y],
    move: (o, dx, dy) => { o.x = clamp(o.x + dx); o.y = clamp(o.y + dy); },
    handles: (o) => [[1, 0], [0, 1], [-1, 0], [0, -1]].map(([x, y]) => [o.x + x * rim(o), o.y + y * rim(o)]),
    resize: (o, i, x, y) => { o.radius = clamp(i % 2 ? Math.abs(y - o.y) : Math.abs(x - o.x), 0.02, 1); },
    grow: (o, by) => { o.radius = clamp(rim(o) + by, 0.02, 1); },
    about: (o) => `radius ${percent(rim(o))}`,
  },
  box: {
    middle: ({ box: [l, t, r, b] }) => [(l + r) / 2, (t + b) / 2],
    move: (o, dx, dy) => {
      const [l, t, r, b] = o.box;
      dx = clamp(dx, -l, 1 - r); dy = clamp(dy, -t, 1 - b);
      o.box = [l + dx, t + dy, r + dx, b + dy];
    },
    handles: ({ box: [l, t, r, b] }) => [[l, t], [r, t], [r, b], [l, b]],
    resize: (o, i, x, y) => {
      const [l, t, r, b] = o.box, gap = 0.02;
      if (i === 0 || i === 3) o.box[0] = clamp(x, 0, r - gap); else o.box[2] = clamp(x, l + gap, 1);
      if (i < 2) o.box[1] = clamp(y, 0, b - gap); else o.box[3] = clamp(y, t + gap, 1);
    },
    grow: (o, by) => {
      const [l, t, r, b] = o.box;
      if (r - l + 2 * by > 0.02 && b - t + 2 * by > 0.02) o.box = [l - by, t - by, r + by, b + by].map((v) => clamp(v));
    },
    about: ({ box: [l, t, r, b] }) => `${percent(r - l)} by ${percent(b - t)}`,
  },
  ellipse: {
    middle: ({ ellipse: [x, y] }) => [x, y],
    move: (o, dx, dy) => { o.ellipse[0] = clamp(o.ellipse[0] + dx); o.ellipse[1] = clamp(o.ellipse[1] + dy); },
    handles: ({ ellipse: [x, y, rx, ry] }) => [[x + rx, y], [x, y + ry], [x - rx, y], [x, y - ry]],
    resize: ({ ellipse: e }, i, x, y) => { e[2 + i % 2] = clamp(Math.abs(i % 2 ? y - e[1] : x - e[0]), 0.02, 1); },
    grow: ({ ellipse: e }, by) => { e[2] = clamp(e[2] + by, 0.02, 1); e[3] = clamp(e[3] + by, 0.02, 1); },
    about: ({ ellipse: e }) => `${percent(2 * e[2])} by ${percent(2 * e[3])}`,
  },
  polygon: {
    middle: ({ polygon: p }) => [0, 1].map((axis) => p.reduce((sum, point) => sum + point[axis], 0) / p.length),
    move: ({ polygon: p }, dx, dy) => {
      const free = (axis, by) => clamp(by, -Math.min(...p.map((q) => q[axis])), 1 - Math.max(...p.map((q) => q[axis])));
      [dx, dy] = [free(0, dx), free(1, dy)];
      p.forEach((point) => { point[0] += dx; point[1] += dy; });
    },
    handles: ({ polygon: p }) => p,
    resize: ({ polygon: p }, i, x, y) => { p[i] = [clamp(x), clamp(y)]; },
    grow: (o, by) => {
      const [x, y] = KINDS.polygon.middle(o);
      o.polygon = o.polygon.map((p) => [clamp(x + (p[0] - x) * (1 + 4 * by)), clamp(y + (p[1] - y) * (1 + 4 * by))]);
    },
    about: ({ polygon: p }) => `${p.length} corners`,
  },
};
const rim = (o) => o.radius || RADIUS;
const percent = (value) => `${Math.round(value * 100)}%`;
const told = (o) => {
  const kind = KINDS[kindOf(o)], [x, y] = kind.middle(o);
  return `${o.phrase || "unnamed"}, ${kindOf(o)} at ${percent(x)} from the left, ${percent(y)} from the top, ${kind.about(o)}`;
};

// ----------------------------------------------------------------------------------------------- changes
function publish() {
  const tidy = (value) => typeof value === "number" ? round(value) : Array.isArray(value) ? value.map(tidy) : value;
  const places = ["x", "y", "radius", "box", "ellipse", "polygon"];
  for (const o of objects) for (const key of places) if (key in o) o[key] = tidy(o[key]);
  props.value = { ...props.value, objects: clone(objects) };
  trigger("input");
}
function remember() { undone.push(clone(objects)); if (undone.length > 100) undone.shift(); redone = []; }
function change(action, say) { // one step of the history
  remember(); action(); publish(); render(); if (say) announce(say);
}
function step(from, to) {
  if (!from.length) return;
  to.push(clone(objects)); objects = from.pop(); selected = Math.min(selected, objects.length - 1);
  publish(); render(); announce(`${objects.length} objects`);
}
const undo = () => step(undone, redone), redo = () => step(redone, undone);
function announce(text) { live.textContent = text; }
function add(x = 0.5, y = 0.5) {
  if (objects.length >= MOST) return announce(`No more than ${MOST} objects.`);
  [x, y] = [round(x), round(y)];
  const place = shape === "disc" ? { x, y } : { box: [clamp(x - 0.2), clamp(y - 0.2), clamp(x + 0.2), clamp(y + 0.2)] };
  change(() => { objects.push({ phrase: "a new object", ...place }); selected = objects.length - 1; }, "New object added");
  const name = list.querySelector("li.selected input");
  name.focus(); name.select();
}
function remove(i) {
  if (i < 0) return;
  const name = objects[i].phrase;
  change(() => { objects.splice(i, 1); selected = Math.min(i, objects.length - 1); }, `${name} removed`);
  (sheet.querySelector("g.selected") || sheet).focus();
}
function select(i) { if (i !== selected) { selected = i; render(); } }

// ----------------------------------------------------------------------------------------------- drawing
function make(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}
function outline(o, look, parent) {
  const h = tall(), kind = kindOf(o);
  if (kind === "box") {
    const [l, t, r, b] = o.box;
    return make("rect", { x: l * SIDE, y: t * h, width: (r - l) * SIDE, height: (b - t) * h, ...look }, parent);
  }
  if (kind === "polygon") {
    return make("polygon", { points: o.polygon.map(([x, y]) => `${x * SIDE},${y * h}`).join(" "), ...look }, parent);
  }
  const [x, y, rx, ry] = kind === "ellipse" ? o.ellipse : [o.x, o.y, rim(o), rim(o)];
  return make("ellipse", { cx: x * SIDE, cy: y * h, rx: rx * SIDE, ry: ry * h, ...look }, parent);
}
function render() {
  const focused = document.activeElement, kept = sheet.contains(focused) && focused !== sheet;
  const h = tall(), scale = SIDE / (sheet.clientWidth || SIDE); // drawing units in a pixel of the screen
  sheet.setAttribute("viewBox", `0 0 ${SIDE} ${h}`);
  sheet.style.aspectRatio = `${SIDE} / ${h}`;
  sheet.replaceChildren();
  if (props.image && tool("below").checked) {
    make("image", { href: props.image, width: SIDE, height: h, preserveAspectRatio: "none" }, sheet);
  }
  if (!objects.length) {
    make("text", { x: SIDE / 2, y: h / 2, class: "empty", "font-size": 15 * scale }, sheet, props.image && tool("below").checked ? "" : "Double-click to place an object");
  }
  const order = [...objects.keys()].sort((a, b) => (a === selected) - (b === selected)); // the chosen one on top
  for (const i of order) {
    const o = objects[i], chosen = i === selected, [x, y] = KINDS[kindOf(o)].middle(o);
    const group = make("g", { tabindex: 0, role: "button", "aria-label": told(o), "aria-pressed": chosen, "data-i": i, class: chosen ? "selected" : "" }, sheet);
    outline(o, { fill: color(i), "fill-opacity": chosen ? 0.34 : 0.2, stroke: color(i), "stroke-width": (chosen ? 3 : 2) * scale }, group);
    const size = 14 * scale, name = o.phrase.length > 26 ? `${o.phrase.slice(0, 24)}…` : o.phrase;
    const wide = name.length * size * 0.56 + size, at = clamp(x * SIDE, wide / 2, SIDE - wide / 2);
    make("rect", { x: at - wide / 2, y: y * h - size * 0.85, width: wide, height: size * 1.7, rx: size * 0.4, fill: color(i) }, group);
    make("text", { x: at, y: y * h + size * 0.34, class: "name", "font-size": size, fill: dark(color(i)) ? "#fff" : "#111" }, group, name);
    if (chosen) KINDS[kindOf(o)].handles(o).forEach(([hx, hy], k, all) => {
      const inside = ([u, v]) => u >= 0 && u <= 1 && v >= 0 && v <= 1;
      if (!inside([hx, hy]) && all.some(inside)) return;
      make("circle", { cx: clamp(hx) * SIDE, cy: clamp(hy) * h, r: 6.5 * scale, class: "handle", "data-handle": k, stroke: color(i), "stroke-width": 2.5 * scale }, group);
    });
  }
  if (kept) sheet.querySelector(`g[data-i="${selected}"]`)?.focus();
  tool("undo").disabled = !undone.length; tool("redo").disabled = !redone.length; tool("delete").disabled = selected < 0;
  for (const name of ["disc", "box"]) tool(name).setAttribute("aria-pressed", shape === name);
  element.querySelector(".below").hidden = !props.image;
  rows();
}

// --------------------------------------------------------------------------------------------- the list
const FIELDS = [ // key, label, kind, hint, title
  ["prompt", "Text", "text", (o) => `a photo of ${o.phrase}`, "What the region shows, instead of “a photo of” its phrase"],
  ["negative_prompt", "Not", "text", () => "nothing", "What the region must not show"],
  ["weight", "Weight", "number", () => "auto", "How hard it is steered; empty for the preset's own weight"],
  ["start", "From", "number", () => "0", "Share of the steps after which it begins, 0 to 1"],
  ["end", "To", "number", () => "1", "Share of the steps at which it ends, 0 to 1"],
  ["optimize", "Weight stays as it is", "flag", () => "", "Its weight is not optimized"],
];
function rows() {
  if (list.contains(document.activeElement) && list.children.length === objects.length &&
      list.querySelector("li.selected")?.dataset.i === String(selected)) return fill(); // somebody is typing
  list.replaceChildren(...objects.map((o, i) => {
    const row = document.createElement("li");
    row.dataset.i = i;
    row.className = i === selected ? "selected" : "";
    row.style.setProperty("--own", color(i));
    row.innerHTML = `<div class="row"><span class="dot"></span><input data-key="phrase" aria-label="Phrase of object ${i + 1}">
      <span class="kind">${kindOf(o)}</span><button type="button" class="x" aria-label="Remove object ${i + 1}">×</button></div>`;
    if (i === selected) {
      const more = document.createElement("div");
      more.className = "more";
      for (const [key, label, kind, , title] of FIELDS) {
        const box = document.createElement("label");
        box.className = kind;
        box.title = title;
        const types = { number: 'type="number" step="0.1"', flag: 'type="checkbox"', text: "" };
        box.innerHTML = `<span>${label}</span><input data-key="${key}" ${types[kind]}>`;
        box.querySelector("input").setAttribute("aria-label", `${label} of object ${i + 1}`);
        more.append(box);
      }
      row.append(more);
    }
    return row;
  }));
  fill();
}
function fill() {
  list.querySelectorAll("input[data-key]").forEach((input) => {
    const o = objects[input.closest("li").dataset.i], key = input.dataset.key;
    const hint = FIELDS.find((entry) => entry[0] === key)?.[3];
    if (hint) input.placeholder = hint(o);
    if (key === "optimize") input.checked = o.optimize === false;
    else if (input !== document.activeElement) input.value = o[key] ?? "";
  });
}
list.addEventListener("focusin", (event) => {
  const row = event.target.closest("li"), key = event.target.dataset.key;
  if (!row || Number(row.dataset.i) === selected) return;
  selected = Number(row.dataset.i);
  document.activeElement.blur();
  render();
  if (key) list.querySelector(`li.selected input[data-key="${key}"]`).focus();
});
list.addEventListener("change", (event) => {
  const input = event.target, o = objects[input.closest("li").dataset.i], key = input.dataset.key, text = input.value.trim();
  const value = key === "optimize" ? (input.checked ? false : undefined) : input.type === "number" ? (text === "" ? undefined : Number(text)) : text || undefined;
  if (key === "phrase" && !value) return fill();
  change(() => {
    if (value === undefined) delete o[key]; else o[key] = value;
    if (key === "phrase") delete o.name; // the category belonged to the old phrase
  });
});
list.addEventListener("click", (event) => {
  if (event.target.classList.contains("x")) remove(Number(event.target.closest("li").dataset.i));
  else if (event.target.closest(".row") && event.target.tagName !== "INPUT") select(Number(event.target.closest("li").dataset.i));
});

// --------------------------------------------------------------------------------------- pointer and keys
function at(event) {
  const box = sheet.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}
sheet.addEventListener("pointerdown", (event) => {
  const group = event.target.closest("g");
  if (event.button || !group) { if (!event.button) select(-1); return; }
  event.preventDefault();
  selected = Number(group.dataset.i);
  const handle = event.target.dataset.handle;
  drag = { from: at(event), before: clone(objects[selected]), all: clone(objects), handle: handle === undefined ? -1 : Number(handle), moved: false };
  sheet.setPointerCapture(event.pointerId);
  render();
  sheet.querySelector(`g[data-i="${selected}"]`).focus({ preventScroll: true });
});
sheet.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [x, y] = at(event), kind = KINDS[kindOf(drag.before)], o = clone(drag.before);
  if (!drag.moved && Math.hypot(x - drag.from[0], y - drag.from[1]) < 0.004) return;
  drag.moved = true;
  if (drag.handle < 0) kind.move(o, x - drag.from[0], y - drag.from[1]); else kind.resize(o, drag.handle, x, y);
  objects[selected] = o;
  render();
});
function drop() {
  if (drag?.moved) { undone.push(drag.all); redone = []; publish(); announce(told(objects[selected])); }
  drag = null;
  render();
}
sheet.addEventListener("pointerup", drop);
sheet.addEventListener("pointercancel", drop);
sheet.addEventListener("dblclick", (event) => { if (!event.target.closest("g")) add(...at(event)); });
sheet.addEventListener("focusin", (event) => { const g = event.target.closest("g"); if (g && !drag) select(Number(g.dataset.i)); });
element.querySelector(".board").addEventListener("keydown", (event) => {
  const typing = event.target.tagName === "INPUT" && event.target.type !== "checkbox", far = event.shiftKey ? 0.05 : 0.01;
  const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const held = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
  if (typing) { if (event.key === "Enter") event.target.blur(); return; }
  if (held && key === "z") event.shiftKey ? redo() : undo();
  else if (held && key === "y") redo();
  else if (!event.target.closest("svg") || selected < 0 || held) return;
  else if (arrow) change(() => KINDS[kindOf(objects[selected])].move(objects[selected], arrow[0] * far, arrow[1] * far), told(objects[selected]));
  else if (event.key === "+" || event.key === "=") change(() => KINDS[kindOf(objects[selected])].grow(objects[selected], 0.01), told(objects[selected]));
  else if (event.key === "-" || event.key === "_") change(() => KINDS[kindOf(objects[selected])].grow(objects[selected], -0.01), told(objects[selected]));
  else if (event.key === "Delete" || event.key === "Backspace") remove(selected);
  else if (event.key === "Escape") select(-1);
  else if (event.key === "Enter") list.querySelector("li.selected input").focus();
  else return;
  event.preventDefault();
});
element.querySelector(".tools").addEventListener("click", (event) => {
  const name = event.target.closest("[data-tool]")?.dataset.tool;
  if (name === "disc" || name === "box") { shape = name; render(); }
  if (name === "add") add(0.5, 0.5);
  if (name === "undo") undo();
  if (name === "redo") redo();
  if (name === "delete") remove(selected);
  if (name === "below") render();
});

// -------------------------------------------------------------------------------------- what Python sends
function take() {
  const given = clone(props.value.objects || []);
  if (JSON.stringify(given) !== JSON.stringify(objects)) {
    if (objects.length) remember();
    objects = given;
    selected = -1;
  }
  render();
}
watch(["value", "image"], take);
new ResizeObserver(render).observe(sheet);
take();
