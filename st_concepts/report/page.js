// Connects the controls of the page to plotly.js and DataTables. Text from the data reaches the page only through
// textContent, DataTable.render.text() and plain(), never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

// plotly reads a few tags and entities in text
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// long names leave room for what they name; the whole name is shown on hovering
const LONGEST = 30;
const cut = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text);

function bytes(b64) {
  const text = atob(b64);
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out.buffer;
}

// gzip in base64 as text
async function inflate(b64) {
  const stream = new Blob([bytes(b64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

// scripts travel compressed, and a script can be loaded from an address only
async function address(id) {
  return URL.createObjectURL(new Blob([await inflate($(id).textContent)], { type: "text/javascript" }));
}

async function plotlyLoaded() {
  const script = document.createElement("script");
  script.src = await address("plotly-library");
  const done = new Promise((resolve, reject) => Object.assign(script, { onload: resolve, onerror: reject }));
  document.head.append(script);
  await done;
  URL.revokeObjectURL(script.src);
}

function unpack(packed) {
  const steps = packed.bits === 8 ? new Uint8Array(bytes(packed.b64)) : new Uint16Array(bytes(packed.b64));
  const missing = 2 ** packed.bits - 1;
  const out = new Float64Array(steps.length);
  const range = packed.high - packed.low;
  for (let i = 0; i < steps.length; i++) out[i] = steps[i] === missing ? NaN : packed.low + (range * steps[i]) / (missing - 1);
  return out;
}

function short(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? value.toPrecision(digits) : value.toExponential(1);
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    return option;
  }));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

// the tissue

const KINDS = [["layers", "layers"], ["score", "concept score"], ["expression", "expression of a gene"],
  ["saliency", "saliency of a gene"], ["own", "saliency in the spot"], ["around", "saliency around the spot"],
  ["doubt", "doubt about the label"]];
// where a gene is read, for the maps of saliency
const WHERE = { saliency: "", own: ", in the spot", around: ", around the spot" };
const state = { section: 0, kind: "", concept: data.concepts[0], gene: "" };

function matching(kind, concept, gene) {
  return data.overlays.find((o) => o.kind === kind && (!o.concept || o.concept === concept) && (!o.gene || o.gene === gene));
}

function genesFor(kind, concept) {
  const own = data.overlays.filter((o) => o.kind === kind && (!o.concept || o.concept === concept)).map((o) => o.gene);
  if (kind !== "expression") return own;
  const first = data.genes[concept] || [];
  return first.filter((g) => own.includes(g)).concat(own.filter((g) => !first.includes(g)).sort());
}

function controls() {
  fill($("kind"), KINDS.filter(([kind]) => data.overlays.some((o) => o.kind === kind)), state.kind);
  state.kind = $("kind").value;
  const concepts = state.kind in WHERE
    ? data.concepts.filter((c) => data.overlays.some((o) => o.kind === state.kind && o.concept === c)) : data.concepts;
  fill($("concept"), concepts.map((c) => [c, c]), state.concept);
  state.concept = $("concept").value;
  const genes = genesFor(state.kind, state.concept);
  fill($("gene"), genes.map((g) => [g, g]), state.gene);
  state.gene = $("gene").value;
  $("concept-label").hidden = state.kind === "layers" || state.kind === "doubt";
  $("gene-label").hidden = state.kind === "score" || state.kind === "doubt" || (state.kind === "layers" && genes.length < 2);
  $("gene-label").firstElementChild.textContent = state.kind === "layers" ? "Column" : "Gene";
  $("section-label").hidden = data.sections.length < 2;
  $("image-label").hidden = !data.sections[state.section].image;
}

function heading(o) {
  if (o.kind === "layers") return o.gene;
  if (o.kind === "doubt") return o.unit;
  if (o.kind === "score") return `Score of ${o.concept}`;
  return o.kind in WHERE ? `Saliency of ${o.gene} for ${o.concept}${WHERE[o.kind]}` : `Expression of ${o.gene}`;
}

const PLOT = { width: 700, height: 620, left: 10, right: 130, top: 40, bottom: 10 };

// as high as the section needs, so that wide ones leave no gap
function heightFor(section) {
  const [x0, y0, x1, y1] = section.box;
  const needed = ((PLOT.width - PLOT.left - PLOT.right) * (y1 - y0)) / (x1 - x0);
  return Math.round(Math.min(620, Math.max(340, needed + PLOT.top + PLOT.bottom)));
}

function diameter(section, range) {
  const perPixel = Math.abs(range[1] - range[0]) / (PLOT.width - PLOT.left - PLOT.right);
  return Math.max(1.5, section.diameter / perPixel);
}

function ranges(section) {
  // both axes with the same scale, the section in the middle; pixel rows count downwards
  const [x0, y0, x1, y1] = section.box;
  const width = PLOT.width - PLOT.left - PLOT.right, height = PLOT.height - PLOT.top - PLOT.bottom;
  const per = Math.max((x1 - x0) / width, (y1 - y0) / height);
  const cx = (x0 + x1) / 2, cy = (y0 + y1) / 2;
  return [[cx - (per * width) / 2, cx + (per * width) / 2], [cy + (per * height) / 2, cy - (per * height) / 2]];
}

function traces(section, o, size) {
  const x = unpack(section.x), y = unpack(section.y);
  const type = data.webgl ? "scattergl" : "scatter";
  const opacity = Number($("opacity").value);
  const name = (i) => plain(data.spots[section.spots[i]]);
  const marker = { size, opacity, line: { width: 0 } };
  if (o.kind === "layers") {
    const codes = new Int16Array(bytes(o.codes));
    const groups = [...o.categories.map((c, k) => [k, c, o.colors[k]]), [-1, "no label", "#bdbdbd"]];
    return groups.map(([k, text, color]) => {
      const at = section.spots.map((s, i) => (codes[s] === k ? i : -1)).filter((i) => i >= 0);
      return { type, mode: "markers", name: plain(cut(text)), x: at.map((i) => x[i]), y: at.map((i) => y[i]),
        text: at.map((i) => `${name(i)}<br>${plain(o.gene)}: ${plain(text)}`), hovertemplate: "%{text}<extra></extra>",
        marker: { ...marker, color } };
    }).filter((t) => t.x.length);
  }
  const all = unpack(o.values);
  const values = section.spots.map((s) => all[s]);
  const drawn = values.map((v, i) => i).filter((i) => !Number.isNaN(values[i]));
  // strong spots last, so that they are not covered
  drawn.sort((a, b) => Math.abs(values[a]) - Math.abs(values[b]));
  const title = { text: plain(o.unit), side: "right", font: { size: 12 } };
  return [{ type, mode: "markers", x: drawn.map((i) => x[i]), y: drawn.map((i) => y[i]), showlegend: false,
    text: drawn.map((i) => `${name(i)}<br>${plain(heading(o))}: ${short(values[i], o.values.bits === 8 ? 2 : 3)}`), hovertemplate: "%{text}<extra></extra>",
    marker: { ...marker, color: drawn.map((i) => values[i]), colorscale: data.scales[o.scale], cmin: o.limits[0],
      cmax: o.limits[1] > o.limits[0] ? o.limits[1] : o.limits[0] + 1, colorbar: { title, thickness: 14, len: 0.75, x: 1.02 } } }];
}

let zoom = null;

function draw(keepZoom) {
  if (!data.sections.length) return;
  controls();
  const section = data.sections[state.section];
  const o = matching(state.kind, state.concept, state.gene);
  if (!o) return;
  const longest = o.categories ? Math.max(...o.categories.map((c) => cut(c).length)) : 0;
  PLOT.right = Math.round(Math.max(130, 64 + 6.4 * longest));
  PLOT.height = heightFor(section);
  const [xr, yr] = keepZoom && zoom ? zoom : ranges(section);
  if (!keepZoom) zoom = null;
  const size = diameter(section, xr);
  const images = [];
  if (section.image && $("image").checked) {
    const [x0, y0, x1, y1] = section.image_box;
    images.push({ source: section.image, xref: "x", yref: "y", x: x0, y: y0, sizex: x1 - x0, sizey: y1 - y0,
      xanchor: "left", yanchor: "top", sizing: "stretch", layer: "below" });
  }
  const axis = { visible: false, constrain: "domain" };
  const layout = { width: PLOT.width, height: PLOT.height, images, hovermode: "closest", dragmode: "zoom", paper_bgcolor: "#fff",
    margin: { l: PLOT.left, r: PLOT.right, t: PLOT.top, b: PLOT.bottom }, title: { text: plain(heading(o)), font: { size: 16 }, x: 0.02 },
    xaxis: { ...axis, range: xr }, yaxis: { ...axis, range: yr, scaleanchor: "x" }, legend: { itemsizing: "constant", x: 1.01 } };
  const config = { displaylogo: false, showTips: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
    toImageButtonOptions: { format: "svg", filename: "tissue" } };
  Plotly.react("tissue", traces(section, o, size), layout, config);
  $("caption").textContent = `${heading(o)}${section.name ? `, ${section.name}` : ""}. ${words(o)}`;
  $("advice").textContent = advice(o);
  document.body.dataset.overlay = [o.kind, o.concept, o.gene].join("|");
}

function advice(o) {
  return o.kind === "layers" ? "A click on a name in the legend hides it." : "";
}

function words(o) {
  if (o.kind === "score") return "Red: more like the layer than the average spot; blue: less. In standard deviations.";
  if (o.kind === "own") return "Brown: the gene in this spot speaks for the layer; green: against it.";
  if (o.kind === "around") return "Brown: the gene around this spot speaks for its being of the layer; green: against it.";
  if (o.kind === "saliency") return "Brown: the gene speaks for the layer at this spot; green: against it.";
  if (o.kind === "expression") return "Counts, normalised to a common total per spot, as log(1 + x).";
  if (o.kind === "doubt") return "1 minus the probability that the model gives to the label of the spot; spots without a label are left out.";
  return o.gene === data.best ? "Each spot in the colour of the layer that it scores highest for." : "As annotated.";
}

function startTissue() {
  if (!data.sections.length) {
    $("tissue-section").querySelector(".pair").textContent = "This result holds no coordinates (obsm['spatial']), so there is no tissue to draw on.";
    return;
  }
  state.kind = KINDS.map(([k]) => k).find((k) => data.overlays.some((o) => o.kind === k));
  fill($("section"), data.sections.map((s, i) => [String(i), s.name]), "0");
  draw(false);
  $("section").addEventListener("change", () => { state.section = Number($("section").value); draw(false); });
  for (const id of ["kind", "concept", "gene"]) {
    $(id).addEventListener("change", () => { state[id] = $(id).value; draw(true); });
  }
  $("image").addEventListener("change", () => draw(true));
  $("opacity").addEventListener("input", () => draw(true));
  $("tissue").on("plotly_relayout", (event) => {
    const zoomed = "xaxis.range[0]" in event, back = "xaxis.autorange" in event;
    if (!zoomed && !back) return;
    zoom = back ? null : [[event["xaxis.range[0]"], event["xaxis.range[1]"]], [event["yaxis.range[0]"], event["yaxis.range[1]"]]];
    draw(!back);
  });
}

// histograms

function histograms() {
  const n = data.histograms.length;
  if (!n) return;
  const columns = Math.min(3, n), rows = Math.ceil(n / columns);
  const layout = { width: 700, height: 70 + 200 * rows, barmode: "overlay", bargap: 0, grid: { rows, columns, pattern: "independent",
    xgap: 0.18, ygap: 0.5 }, margin: { l: 50, r: 10, t: 66, b: 40 }, annotations: [], legend: { orientation: "h", x: 0, y: 1 + 46 / (200 * rows), yanchor: "bottom" },
    font: { size: 11 }, paper_bgcolor: "#fff" };
  const all = [];
  data.histograms.forEach((h, k) => {
    const id = k ? String(k + 1) : "";
    for (const [side, text, color] of [["outside", "other labelled spots", data.outside], ["inside", "spots of the layer", data.inside]]) {
      all.push({ type: "bar", x: h.centers, y: h[side], xaxis: `x${id}`, yaxis: `y${id}`, name: text, legendgroup: side, showlegend: k === 0,
        marker: { color, opacity: 0.6 }, hovertemplate: `${text}: %{y:.1%} at %{x:.2f}<extra></extra>` });
    }
    layout[`yaxis${id}`] = { tickformat: ".0%", nticks: 4, rangemode: "tozero" };
    layout[`xaxis${id}`] = { nticks: 6 };
    const facts = `${h.n[0]} spots${h.auroc === null ? "" : `, AUROC ${h.auroc.toFixed(3)}`}`;
    layout.annotations.push({ text: `<b>${plain(cut(h.name))}</b><br>${facts}`, hovertext: plain(h.name), align: "left",
      xref: `x${id} domain`, yref: `y${id} domain`, x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 12 } });
  });
  Plotly.newPlot("histograms", all, layout, { displayModeBar: false, showTips: false });
}

// tables

// as in spreadsheet_safe of the package: text that a spreadsheet would read as a formula gets an apostrophe
const FORMULA = /^'*(?:[\s\x00-\x1f\u00ad\u200b-\u200f\u2060\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])/;

function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = FORMULA.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

// names go into the file as they are: DataTables' own export drops tags and line breaks
function download(table, titles, filename) {
  const rows = table.rows({ search: "applied", order: "applied" }).data().toArray();
  const text = [titles, ...rows].map((row) => row.map(csvCell).join(",") + "\r\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  link.download = `${filename}.csv`;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function csvButton(titles, filename) {
  return { text: "Download CSV", className: "csv", titleAttr: "All rows that match, on all pages",
    action: (event, table) => download(table, titles, filename) };
}

async function tables() {
  if (!data.markers && !(data.doubtful && data.doubtful.rows.length)) return;
  const module = await address("table-library");
  const { default: DataTable } = await import(module);
  URL.revokeObjectURL(module);
  const text = DataTable.render.text();
  const shown = (write) => (value, kind) => (kind === "display" ? write(value) : kind === "sort" || kind === "type" ? (value === null ? -Infinity : value) : value);
  const renders = { text, whole: shown((v) => (v === null ? "–" : String(v))), number: shown((v) => short(v)),
    share: shown((v) => (v === null ? "–" : `${Math.round(100 * v)}%`)), doubt: shown((v) => (v === null ? "–" : v.toFixed(3))) };
  if (data.markers) await markers(DataTable, renders);
  if (data.doubtful && data.doubtful.rows.length) {
    const titles = ["Spot", "Label", "Best other layer by score", "Doubt"];
    const columns = titles.map((title, k) => ({ title, render: k === 3 ? renders.doubt : text }));
    new DataTable("#doubtful", { data: data.doubtful.rows, columns, order: [[3, "desc"]], pageLength: 10, language: { search: "Search:" },
      layout: { topStart: { buttons: [csvButton(titles, "doubtful_labels")] } } });
  }
  document.body.dataset.tables = "ready";
}

// columns of values, text as numbers of a list, to rows
function rowsOf(packed) {
  const columns = packed.map((v) => (Array.isArray(v) ? v : v.codes.map((c) => v.words[c])));
  return columns[0].map((_, i) => columns.map((values) => values[i]));
}

async function markers(DataTable, renders) {
  const m = data.markers;
  const at = (name) => m.columns.findIndex((c) => c.name === name);
  const rows = rowsOf(JSON.parse(await inflate(m.values)));
  const drawable = new Set(data.sections.length ? data.overlays.filter((o) => o.kind === "expression").map((o) => o.gene) : []);
  const columns = m.columns.map((c) => ({ title: c.title, render: renders[c.kind], searchable: c.name === "names",
    className: c.kind === "text" ? "" : "dt-right",
    ...(c.name === "names" ? { createdCell: (cell, value) => cell.classList.toggle("gene", drawable.has(value)) } : {}) }));
  const language = { search: "Search genes:", thousands: ",",
    zeroRecords: m.held < m.n_vars ? `No such gene among the ${m.held} of each layer that are held here.` : "No such gene." };
  const table = new DataTable("#markers", { data: rows, columns, order: [], pageLength: 15, lengthMenu: [15, 50, 200], language, autoWidth: false,
    layout: { topStart: { buttons: [csvButton(m.columns.map((c) => c.title), "markers")] } } });
  const select = $("table-concept");
  const ranked = [...new Set(rows.map((r) => r[at("concept")]))];
  fill(select, [["all", "all"], ...ranked.map((c, i) => [String(i), c])], "all");
  select.addEventListener("change", () => {
    const wanted = select.value === "all" ? null : ranked[Number(select.value)];
    table.column(at("concept")).search.fixed("layer", wanted === null ? null : (cell, row) => row[at("concept")] === wanted).draw();
  });
  $("markers").addEventListener("click", (event) => {
    const cell = event.target.closest("td.gene");
    const row = cell && table.row(cell.closest("tr")).data();
    if (!row || !drawable.has(row[at("names")])) return;
    Object.assign(state, { kind: "expression", concept: row[at("concept")], gene: row[at("names")] });
    draw(true);
    $("tissue-section").scrollIntoView({ behavior: "smooth" });
  });
}

// both wait for their library; a reader of numbers does not wait for the drawing
async function start() {
  if (typeof DecompressionStream === "undefined") {
    $("old").hidden = false;
    return;
  }
  const table = tables();
  await plotlyLoaded();
  startTissue();
  histograms();
  document.body.dataset.drawn = "ready";
  await table;
}
start();
