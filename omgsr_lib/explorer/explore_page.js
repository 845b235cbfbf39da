// The explorer's face: images, curves and choices of a case; `data` is what page.py fills in.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const unique = values => [...new Set(values)];
const live = data.live && frameElement.closest(".omgsr-explorer");  // the notebook around this page, else undefined
const state = { photo: null, strength: data.start, centre: null, view: Object.keys(data.views)[0], index: 0, border: 50, detail: null };
let current;  // the case that is shown: what `case_of` of page.py makes; its images are loaded

const timestep = () => current.timesteps[state.index];
const frameOf = variant => variant ? current.frames[timestep()]?.[variant] : current;
const imageOf = (variant, panel) => frameOf(variant)?.loaded?.[panel];
const columns = () => data.views[state.view].columns.filter(column => current.reference === "photo" || column.panel !== "photo");
const titleOf = ({ variant, panel, title }) => panel === "lq" && current.reference === "lq" ? "Photograph" : title;

function make(tag, parent, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  parent.append(element);
  return element;
}

async function load(frame) {
  frame.loaded = Object.fromEntries(await Promise.all(Object.entries(frame.images).map(async ([panel, place]) => {
    const image = Object.assign(new Image(), { src: data.images?.[place] ?? place });
    await image.decode();
    return [panel, image];
  })));
}

// ---- drawing ----

function pixels(image) {
  const size = current.size;
  const context = Object.assign(document.createElement("canvas"), { width: size, height: size }).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, size, size);
}

function detailBox() {
  const size = current.size, side = Math.min(data.detail[data.views[state.view].columns.length], size >> 1);
  const [left, top] = state.detail.map(c => Math.min(Math.max(c - (side >> 1), 0), size - side));
  return { left, top, side };
}

function drawWhole(canvas, image, scale) {
  const size = current.size, context = canvas.getContext("2d");
  canvas.width = canvas.height = scale * size;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, scale * size, scale * size);
  return context;
}

function drawImage(canvas, image, variant) {
  const context = drawWhole(canvas, image, 2);
  if (!variant) {
    const box = detailBox();
    context.strokeStyle = "#FFD400";
    context.lineWidth = 2;
    context.strokeRect(2 * box.left + 1, 2 * box.top + 1, 2 * box.side - 2, 2 * box.side - 2);
  }
}

function drawDetail(canvas, image) {
  const { left, top, side } = detailBox();
  canvas.width = canvas.height = side;
  canvas.getContext("2d").drawImage(image, -left, -top);
}

function drawDifference(canvas, image) {
  const here = pixels(image), there = pixels(current.loaded[current.reference]).data, values = here.data;
  for (let i = 0; i < values.length; i += 4) {
    const sum = Math.abs(values[i] - there[i]) + Math.abs(values[i + 1] - there[i + 1]) + Math.abs(values[i + 2] - there[i + 2]);
    [values[i], values[i + 1], values[i + 2]] = data.colours[Math.min(Math.floor(sum / 3), data.limit)];
  }
  canvas.width = canvas.height = current.size;
  canvas.getContext("2d").putImageData(here, 0, 0);
}

const painters = { image: drawImage, detail: drawDetail, difference: drawDifference, half: (canvas, image) => drawWhole(canvas, image, 3) };

function draw() {
  for (const element of document.querySelectorAll("#matrix [data-panel]")) {
    const variant = element.dataset.variant || null, panel = element.dataset.panel, image = imageOf(variant, panel);
    if (element.className === "caption") element.textContent = frameOf(variant)?.captions[panel] ?? "computing ...";
    else if (image) painters[element.className](element, image, variant);
    else element.width = element.height = 1;  // grey
  }
  const here = Object.entries(current.mids).filter(([, mid]) => mid === timestep()).map(([v]) => ` = t* of OMGSR-${v.toUpperCase()}`);
  $("position").textContent = `t = ${timestep()}${here.join("")}`;
  $("timestep").setAttribute("aria-valuetext", $("position").textContent);
  moveMarkers();
  if ($("large").open) drawLarge();
}

function moveMarkers() {
  for (const line of document.querySelectorAll("#plots line.marker")) {
    const x = +line.dataset.left + timestep() / line.dataset.last * line.dataset.wide;
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    for (const circle of line.parentNode.querySelectorAll("circle.marker")) {
      const { points } = line.parentNode.querySelector(`polyline[data-curve="${circle.dataset.curve}"]`);
      let i = 1;
      while (i < points.length - 1 && points[i].x < x) i++;
      const [a, b] = [points[i - 1], points[i]];
      circle.setAttribute("cx", x);
      circle.setAttribute("cy", a.y + (b.y - a.y) * (x - a.x) / (b.x - a.x));
    }
  }
}

// ---- the elements of a view ----

function build() {
  $("matrix").replaceChildren();
  if (state.view === "compare") buildComparison($("matrix"));
  else buildMatrix($("matrix"), columns());
  $("plots").replaceChildren();
  for (const svg of current.plots[state.view]) buildPlot(make("div", $("plots"), { className: "plot", innerHTML: svg }));
}

const place = ({ variant, panel }) => variant ? { variant, panel } : { panel };

function makeCanvas(parent, kind, label, column) {
  const canvas = make("canvas", parent, { className: kind });
  Object.assign(canvas.dataset, place(column));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

function makeHead(parent, column, title) {
  const head = make("div", parent);
  make("h2", head, { textContent: title });
  Object.assign(make("p", head, { className: "caption" }).dataset, place(column));
}

const ICONS = { Larger: "M6.5 2.5h-4v4M9.5 13.5h4v-4M2.5 2.5l4.5 4.5M13.5 13.5l-4.5-4.5", Save: "M8 2v8M4.5 7l3.5 3.5 3.5-3.5M3 13.5h10" };

function makeTools(parent, column) {
  const tools = make("div", parent, { className: "tools" });
  for (const [name, act] of [["Larger", enlarge], ["Save", save]]) {
    const button = make("button", tools, { title: name, innerHTML: `<svg viewBox="0 0 16 16"><path d="${ICONS[name]}"/></svg>` });
    button.setAttribute("aria-label", `${name}: ${titleOf(column)}`);
    button.addEventListener("click", () => act(column));
  }
}

function buildMatrix(matrix, columns) {
  matrix.style.gridTemplateColumns = `18px repeat(${data.views[state.view].columns.length}, minmax(0, 1fr))`;
  make("div", matrix);
  for (const column of columns) makeHead(matrix, column, titleOf(column));
  for (const [row, kind] of ["image", "detail", "difference"].entries()) {
    make("div", matrix, { className: "row", textContent: data.rows[row] }).style.gridColumn = 1;
    for (const column of columns) {
      if (kind === "difference" && column.panel === current.reference) { makeScale(matrix); continue; }
      const cell = make("div", matrix, { className: "cell" });
      const canvas = makeCanvas(cell, kind, `${data.rows[row]}: ${titleOf(column)}`, column);
      if (kind !== "image") continue;
      makeTools(cell, column);
      canvas.addEventListener("click", event => {
        state.detail = [event.offsetX, event.offsetY].map(pixel => Math.round(pixel / canvas.clientWidth * current.size));
        draw();
      });
    }
  }
}

function makeScale(parent) {
  const scale = make("div", parent, { className: "scale" });
  make("p", scale, { textContent: current.reference === "lq" ? "from this one" : "from photograph" });
  make("div", scale).style.background = `linear-gradient(to right, ${data.colours.map(c => `rgb(${c})`).join()})`;
  const ends = make("p", scale);
  make("span", ends, { textContent: "0" });
  make("span", ends, { textContent: `${data.limit}+ levels` });
}

function buildComparison(matrix) {
  matrix.style.gridTemplateColumns = `repeat(${data.variants.length}, minmax(0, 1fr))`;
  for (const variant of data.variants) {
    const column = { variant, panel: "tuned", title: `OMGSR-${variant.toUpperCase()}` }, parts = make("div", matrix);
    makeHead(parts, column, `${current.reference === "lq" ? "Photograph" : "Low quality"} | ${column.title}`);
    const cell = make("div", parts, { className: "cell" }), compare = make("div", cell, { className: "compare" });
    for (const side of [{ panel: "lq" }, column]) makeCanvas(compare, "half", titleOf({ title: "Low quality", ...side }), side);
    const border = make("input", compare, { type: "range", min: 0, max: 100, step: 0.5 });
    border.setAttribute("aria-label", "Border in percent of the width");
    border.addEventListener("input", () => setBorder(+border.value));
    makeTools(cell, column);
  }
  setBorder(state.border);
}

function setBorder(value) {
  state.border = value;
  for (const compare of document.querySelectorAll(".compare")) {
    compare.style.setProperty("--border", `${value}%`);
    compare.querySelector("input").value = value;
  }
}

const UNITS = { snr: " dB", gap: "" };

function buildPlot(plot) {  // the values under the pointer are read to it, a click moves the slider there
  const svg = plot.firstElementChild, line = svg.querySelector("line.marker"), reading = make("output", plot, { hidden: true });
  const [name] = svg.querySelector("polyline").dataset.curve.split("-");
  const under = event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    return Math.min(Math.max((x - line.dataset.left) / line.dataset.wide, 0), 1) * line.dataset.last;
  };
  svg.addEventListener("pointermove", event => {
    const t = under(event), parts = [];
    let shown;
    for (const curve of svg.querySelectorAll("polyline")) {
      const variant = curve.dataset.curve.split("-")[1], { timestep, [name]: values } = current.curves[variant];
      const i = nearest(timestep, t);
      shown = timestep[i];
      parts.push(`${variant.toUpperCase()} ${values[i] === null ? "without limit" : +values[i].toPrecision(3) + UNITS[name]}`);
    }
    reading.textContent = `t = ${shown}   ${parts.join("   ")}`;
    reading.hidden = false;
    reading.style.left = `${Math.min(event.offsetX + 8, plot.clientWidth - reading.offsetWidth)}px`;
  });
  svg.addEventListener("pointerleave", () => { reading.hidden = true; });
  svg.addEventListener("click", event => move(nearest(current.timesteps, under(event))));
}

const nearest = (values, wanted) => values.reduce((best, value, i) => Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? i : best, 0);

// ---- one image, larger or as a file ----

let enlarged;  // its column

function enlarge(column) {
  enlarged = column;
  $("large").showModal();
  drawLarge();
}

function drawLarge() {
  const image = imageOf(enlarged.variant, enlarged.panel), canvas = $("large").querySelector("canvas");
  $("large").querySelector("h2").textContent = titleOf(enlarged);
  $("large").querySelector("p").textContent = `${$("position").textContent}   ${frameOf(enlarged.variant)?.captions[enlarged.panel] ?? "computing ..."}`;
  if (!image) return;
  const side = Math.min(innerWidth, innerHeight - 60) - 60;
  drawWhole(canvas, image, Math.max(2, Math.ceil(side / current.size)));
  canvas.style.width = canvas.style.height = `${Math.max(side, 200)}px`;
}

function save({ variant, panel, title }) {
  const image = imageOf(variant, panel);
  if (!image) return;
  const canvas = Object.assign(document.createElement("canvas"), { width: current.size, height: current.size });
  canvas.getContext("2d").drawImage(image, 0, 0);
  const name = [current.photo, current.strength, title, ...variant ? [`t${timestep()}`] : []].join("_");
  Object.assign(document.createElement("a"), { href: canvas.toDataURL(), download: `${name.replace(/[^\p{L}\p{N}_.-]+/gu, "-")}.png` }).click();
}

$("save").addEventListener("click", () => save(enlarged));
$("close").addEventListener("click", () => $("large").close());

// ---- choices ----

async function open() {  // what was chosen
  $("matrix").classList.toggle("stale", Boolean(current));
  if (live) { wish(); return; }
  const ofPhoto = data.cases.filter(c => c.photo === state.photo);
  const chosen = ofPhoto.find(c => c.strength === state.strength) || ofPhoto[0];
  await Promise.all(Object.values(chosen.frames).flatMap(Object.values).map(load));
  await show(chosen);
  for (const input of $("strengths").querySelectorAll("input")) input.disabled = !ofPhoto.some(c => c.strength === input.value);
}

async function show(chosen) {
  await load(chosen);
  if (chosen.photo !== state.photo && !live) return;  // another was chosen meanwhile
  const wanted = current ? timestep() : Object.values(chosen.mids)[0];
  if (!state.detail || current.photo !== chosen.photo || String(current.box) !== String(chosen.box)) state.detail = chosen.centre;
  for (const frame of [current, ...Object.values(current?.frames ?? {}).flatMap(Object.values)]) if (frame && current !== chosen) delete frame.loaded;
  current = chosen;
  Object.assign(state, { photo: chosen.photo, strength: chosen.strength, index: nearest(chosen.timesteps, wanted) });
  $("timestep").max = chosen.timesteps.length - 1;
  $("timestep").value = state.index;
  $("timestep").disabled = false;
  $("photo").value = state.photo;
  for (const input of $("strengths").querySelectorAll("input")) input.checked = input.value === state.strength;
  $("warning").hidden = !chosen.warning;
  $("warning").textContent = chosen.warning;
  $("matrix").classList.remove("stale");
  build();
  draw();
}

function move(index) {
  state.index = Math.min(Math.max(index, 0), current.timesteps.length - 1);
  $("timestep").value = state.index;
  draw();
  if (live && Object.keys(current.frames).length < current.timesteps.length) wish();  // the nearest is computed first
}

function radios(fieldset, name, options, chosen, change) {
  for (const [value, text] of options) {
    const label = make("label", fieldset);
    const input = make("input", label, { type: "radio", name, value, checked: value === chosen });
    make("span", label, { textContent: text });
    input.addEventListener("change", () => change(value));
  }
}

function list(photos) {
  $("photo").replaceChildren();
  for (const photo of photos) make("option", $("photo"), { value: photo, textContent: photo, selected: photo === state.photo });
}

function choose(photo) {
  Object.assign(state, { photo, centre: null });
  open();
}

// ---- start ----

const photos = data.live?.photos ?? unique(data.cases.map(c => c.photo));
const strengths = data.live?.strengths ?? unique(data.cases.map(c => c.strength));
state.photo = photos[0];
list(photos);
radios($("strengths"), "strength", strengths.map(s => [s, s]), state.strength, value => { state.strength = value; open(); });
radios($("views"), "view", Object.entries(data.views).map(([view, { name }]) => [view, name]), state.view, value => { state.view = value; build(); draw(); });
$("photo").addEventListener("change", event => choose(event.target.value));
$("timestep").addEventListener("input", event => move(+event.target.value));
document.addEventListener("keydown", event => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && current && !event.target.matches("input, select")) move(state.index + step);
});
if (live) connect();
else open();
