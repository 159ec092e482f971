const graph = JSON.parse(document.getElementById("graph").textContent);
const [height, width] = graph.size;
const colors = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C99", "#8C6D31", "#A0525E"];
const page = 40; // lines of a list at a time
const find = (id) => document.getElementById(id);
const pruned = new Set();
const past = [];
let exported = "";
let current = null;
let limit = page;

for (const [level, layer] of graph.layers.entries()) {
  const seen = new Map();
  layer.number = layer.filter.map((filter) => {
    seen.set(filter, (seen.get(filter) ?? -1) + 1);
    return seen.get(filter);
  });
  layer.children = layer.filter.map(() => []);
  layer.parents.forEach((parents, row) => parents.forEach((parent, i) => {
    graph.layers[level - 1].children[parent].push([row, layer.weight[row][i]]);
  }));
  for (const row of layer.pruned) pruned.add(`${level}.${row}`);
  find("filters").elements.layer.append(new Option(`${layer.name} (${layer.filter.length})`, level));
}
exported = pruned.size ? [...pruned].sort().join() : "";

// Nodes are made from texts only, never from markup: names may hold anything.
function make(tag, attributes = {}, ...children) {
  const vector = ["svg", "use", "rect", "path", "circle", "line", "text", "title", "g"].includes(tag);
  const element = vector ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function vectorLink(href, ...children) {
  const link = document.createElementNS("http://www.w3.org/2000/svg", "a");
  link.setAttribute("href", href);
  link.append(...children);
  return link;
}

const short = (level, row) => `${graph.layers[level].filter[row]}/${graph.layers[level].number[row]}`;
const name = (level, row) => `${graph.layers[level].name}/${short(level, row)}`;
const number = (value, digits = 1) => value === null ? "–" : value.toFixed(digits);
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;

function patchBox(x, y) {
  const corner = (at, whole) => Math.min(Math.max(at + 0.5 - graph.side / 2, 0), whole - graph.side);
  return [corner(x, width), corner(y, height), graph.side, graph.side];
}

function patch(level, row, which = 0, attributes = {}) {
  const sight = graph.layers[level].sights[row][which];
  const box = sight ? patchBox(sight[1], sight[2]).join(" ") : "0 0 1 1";
  const drawn = make("svg", { class: "patch", viewBox: box, "aria-hidden": "true", ...attributes });
  if (sight) drawn.append(make("use", { href: `#picture-${sight[0]}` }));
  return drawn;
}

function tick(level, row, text) {
  const key = `${level}.${row}`;
  const box = make("input", {
    type: "checkbox", "aria-label": `prune ${name(level, row)}`, "data-key": key,
    onchange: () => { past.push([key, pruned.has(key)]); mark(key, box.checked); },
  });
  box.checked = pruned.has(key);
  return make("label", { class: "tick" }, box, text);
}

function mark(key, out) {
  if (out) pruned.add(key);
  else pruned.delete(key);
  for (const box of document.querySelectorAll(`[data-key="${key}"]`)) {
    box.checked = out;
    box.closest("[data-pattern]").classList.toggle("out", out);
  }
  count();
}

function names() {
  return [...pruned].map((key) => key.split(".").map(Number)).sort((a, b) => a[0] - b[0] || a[1] - b[1])
    .map(([level, row]) => name(level, row));
}

function count() {
  find("count").value = `${pruned.size} pattern${pruned.size === 1 ? "" : "s"} pruned`;
  find("undo").disabled = past.length === 0;
  const link = find("export");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([JSON.stringify({ pruned: names() }, null, 1)], { type: "application/json" }));
}

function overview() {
  const { rows, edges } = graph.overview;
  const [icon, step, line] = [88, 104, 186];
  const most = Math.max(...rows.map((row) => row.length), 1);
  const left = (level, slot) => 150 + (slot + (most - rows[level].length) / 2) * step;
  const drawn = make("svg", { class: "overview", viewBox: `0 0 ${150 + most * step} ${rows.length * line - 64}`, role: "group", "aria-label": "Overview" });
  for (const [level, child, parent, weight] of edges) {
    const [x0, y0] = [left(level - 1, parent) + icon / 2, (level - 1) * line + icon + 24];
    const [x1, y1, middle] = [left(level, child) + icon / 2, level * line, level * line - 37];
    drawn.append(make("path", { d: `M${x0} ${y0}C${x0} ${middle} ${x1} ${middle} ${x1} ${y1}`, stroke: colors[parent % 9], "stroke-width": 0.8 + weight * 9 }));
  }
  rows.forEach((row, level) => {
    const layer = graph.layers[level];
    drawn.append(make("text", { x: 0, y: level * line + 30, "font-size": 14 }, layer.name.length > 19 ? `${layer.name.slice(0, 18)}…` : layer.name, make("title", {}, layer.name)));
    drawn.append(make("text", { x: 0, y: level * line + 50, class: "faint" }, `${row.length} of ${layer.filter.length}`));
    row.forEach((pattern, slot) => {
      const [x, y] = [left(level, slot), level * line];
      drawn.append(vectorLink(`#${level}.${pattern}`,
        make("title", {}, name(level, pattern)),
        patch(level, pattern, 0, { x, y, width: icon, height: icon }),
        make("rect", { x, y, width: icon, height: icon, fill: "none", stroke: "var(--line)" }),
        make("text", { x: x + icon / 2, y: y + icon + 16, "text-anchor": "middle" }, `${short(level, pattern)} · ${number(layer.score[pattern])}`)));
    });
  });
  find("overview").append(drawn);
}

function chosen() {
  const wanted = Object.fromEntries(new FormData(find("filters")));
  const level = Number(wanted.layer);
  const layer = graph.layers[level];
  const seen = new Set();
  const rows = layer.order.filter((row) => {
    if (wanted.filter !== "" && layer.filter[row] !== Number(wanted.filter)) return false;
    if ("pruned" in wanted && !pruned.has(`${level}.${row}`)) return false;
    if ("once" in wanted && seen.has(layer.filter[row])) return false;
    seen.add(layer.filter[row]);
    return true;
  });
  return [level, rows];
}

function item(level, row) {
  const key = `${level}.${row}`;
  const classes = [pruned.has(key) ? "out" : "", key === current ? "chosen" : ""].join(" ");
  return make("li", { class: classes, "data-pattern": key },
    patch(level, row),
    make("a", { href: `#${key}` }, make("span", { class: "label" }, name(level, row)), make("small", {}, `score ${number(graph.layers[level].score[row], 2)}`)),
    tick(level, row, "prune"));
}

function list() {
  const [level, rows] = chosen();
  const items = rows.slice(0, limit).map((row) => item(level, row));
  if (rows.length > limit) {
    const more = make("button", { type: "button", onclick: () => {
      const next = limit;
      limit += page;
      list();
      find("list").children[next].querySelector("a").focus({ preventScroll: true });
    } }, `Show ${Math.min(page, rows.length - limit)} more of ${rows.length - limit}`);
    items.push(make("li", { style: "display:block" }, more));
  }
  find("list").replaceChildren(...items);
  find("found").value = `${rows.length} of ${graph.layers[level].filter.length} patterns`;
}

function marks(sight, layer, row) {
  const [x, y] = [sight[1] + 0.5, sight[2] + 0.5];
  const [left, top, side] = patchBox(sight[1], sight[2]);
  const arm = width / 40;
  const cross = `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`;
  return ["under", "over"].flatMap((style) => [
    make("rect", { class: `box ${style}`, x: left, y: top, width: side, height: side }),
    make("path", { class: `cross ${style}`, d: cross }),
    make("circle", { class: `ring ${style}`, cx: layer.x[row] + 0.5, cy: layer.y[row] + 0.5, r: layer.width[row] ?? 0 }),
  ]);
}

function inImage(level, row, which) {
  const layer = graph.layers[level];
  const sight = layer.sights[row][which];
  const drawn = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "the pattern in an image" });
  drawn.append(make("use", { href: `#picture-${sight[0]}` }), ...marks(sight, layer, row));
  return make("figure", {}, drawn, make("figcaption", {}, "In the image: cross and square where it is; dashed circle its mean place and prior width."));
}

function edgeMap(level, row, edges) {
  const layer = graph.layers[level];
  const at = (l, r) => [graph.layers[l].x[r] + 0.5, graph.layers[l].y[r] + 0.5];
  const size = width / 60;
  const [x, y] = at(level, row);
  const drawn = make("svg", { class: "map", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "mean places of parents and children" });
  for (const [kind, other, pattern, weight] of edges) {
    const [x1, y1] = at(other, pattern);
    drawn.append(make("line", { class: kind, x1: x, y1: y, x2: x1, y2: y1, "stroke-width": size * (0.08 + 1.5 * weight / 1000) }));
    drawn.append(make("circle", { class: kind, cx: x1, cy: y1, r: size * 0.6 }));
  }
  drawn.append(make("circle", { class: "own", cx: x, cy: y, r: size }));
  return make("figure", {}, drawn, make("figcaption", {}, "Mean places on the image: this pattern (dark), ",
    make("span", { style: "color:var(--parent)" }, "parents (blue)"), " and ",
    make("span", { style: "color:var(--child)" }, "children (orange)"), "; lines by weight."));
}

function edgeTable(title, level, links, offset, empty) {
  const box = make("div", {}, make("h4", {}, `${title} (${links.length})`));
  if (!links.length) {
    box.append(make("p", { class: "muted" }, empty));
    return box;
  }
  const body = make("table", {}, make("tr", {}, make("th"), make("th", {}, "pattern"), make("th", { class: "number" }, "Δx, Δy in pixels"), make("th", { class: "number" }, "weight")));
  const line = ([row, weight]) => make("tr", {},
    make("td", {}, patch(level, row)),
    make("td", {}, make("a", { href: `#${level}.${row}`, title: name(level, row) }, short(level, row))),
    make("td", { class: "number" }, offset(row).map(signed).join(", ")),
    make("td", { class: "number" }, (weight / 1000).toFixed(3)));
  body.append(...links.slice(0, 15).map(line));
  box.append(body);
  if (links.length > 15) {
    const more = make("button", { type: "button", onclick: () => { more.remove(); body.append(...links.slice(15, 215).map(line)); } },
      `Show ${Math.min(links.length, 215) - 15} more`);
    box.append(more);
  }
  return box;
}

function edgesOf(level, row) {
  const layer = graph.layers[level];
  const heaviest = (links) => links.sort((a, b) => b[1] - a[1]);
  return [heaviest(layer.parents[row].map((parent, i) => [parent, layer.weight[row][i]])), heaviest([...layer.children[row]])];
}

function strip(level, row, images) {
  const buttons = graph.layers[level].sights[row].map((_, i) => make("button", {
    type: "button", "aria-pressed": String(i === 0), "aria-label": `image ${i + 1} of those it is strongest in`,
    onclick: () => {
      buttons.forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
      images.replaceChildren(inImage(level, row, i));
    },
  }, patch(level, row, i)));
  return make("div", { class: "patches" }, ...buttons);
}

function detail(level, row) {
  const layer = graph.layers[level];
  const [parents, children] = edgesOf(level, row);
  const edges = [...parents.map(([r, w]) => ["parent", level - 1, r, w]), ...children.slice(0, 15).map(([r, w]) => ["child", level + 1, r, w])];
  const images = make("div");
  const maps = make("div", { class: "maps" });
  const parts = [
    make("h3", { style: "margin-top:0" }, make("span", { class: "label" }, name(level, row))),
    make("p", {}, `score ${number(layer.score[row], 2)} · mean place (${number(layer.x[row])}, ${number(layer.y[row])}), prior width ${number(layer.width[row])} pixels `, tick(level, row, "prune")),
  ];
  if (layer.sights[row].length) {
    images.append(inImage(level, row, 0));
    maps.append(images);
    parts.push(strip(level, row, images));
  }
  maps.append(edgeMap(level, row, edges));
  const from = (l, r) => [layer.x[row] - graph.layers[l].x[r], layer.y[row] - graph.layers[l].y[r]];
  parts.push(maps, make("p", { class: "muted", style: "margin-top:10px" }, "Δ is the child's mean place less the parent's, weight the parent's share in the child's predicted displacement."),
    make("div", { class: "tables" },
      edgeTable("Parents", level - 1, parents, (r) => from(level - 1, r), level ? "No parents." : "The top layer has none."),
      edgeTable("Children", level + 1, children, (r) => from(level + 1, r).map((d) => -d), level + 1 < graph.layers.length ? "No pattern below leans on it." : "The lowest layer has none.")));
  const article = find("detail");
  article.dataset.pattern = `${level}.${row}`;
  article.classList.toggle("out", pruned.has(`${level}.${row}`));
  article.replaceChildren(...parts);
}

function follow() {
  const match = /^#(\d+)\.(\d+)$/.exec(location.hash);
  const [level, row] = match ? [Number(match[1]), Number(match[2])] : [0, graph.layers[0].order[0]];
  if (graph.layers[level]?.filter[row] === undefined) return;
  current = `${level}.${row}`;
  const form = find("filters");
  if (Number(form.elements.layer.value) !== level) {
    form.reset();
    form.elements.layer.value = level;
    limit = page;
    list();
  }
  for (const line of find("list").children) line.classList.toggle("chosen", line.dataset.pattern === current);
  detail(level, row);
  if (match) {
    const article = find("detail");
    article.focus({ preventScroll: true });
    const { top } = article.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) article.scrollIntoView();
  }
}

find("undo").addEventListener("click", () => mark(...past.pop()));
find("export").addEventListener("click", () => { exported = [...pruned].sort().join(); });
find("filters").addEventListener("submit", (event) => event.preventDefault());
find("filters").addEventListener("input", () => { limit = page; list(); });
addEventListener("hashchange", follow);
addEventListener("beforeunload", (event) => { if ([...pruned].sort().join() !== exported) event.preventDefault(); });
overview();
count();
list();
follow();
