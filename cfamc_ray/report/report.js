// Without this script the page is complete: it adds sorting, filters, buttons, and links between figures and tables.

const INK = () => getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();

const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

// Figures: Plotly comes compressed with the page, and draws in the page's colour.
const unpacked = async packed => {
  const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const draw = async () => {
  const figures = [...document.querySelectorAll("script[data-plot]")];
  if (!("DecompressionStream" in window)) {
    const words = "This browser is too old to draw the figures. They lie beside this page as files.";
    figures.forEach(figure => document.getElementById(figure.dataset.plot).append(words));
    return;
  }
  const code = await unpacked(document.getElementById("plotly").textContent);
  document.head.append(make("script", {textContent: code}));
  const config = {responsive: true, displayModeBar: false};
  await Promise.all(figures.map(figure => {
    const {data, layout} = JSON.parse(figure.textContent);
    return Plotly.newPlot(figure.dataset.plot, data, {...layout, font: {...layout.font, color: INK()}}, config);
  }));
};
const follow = () => document.querySelectorAll(".js-plotly-plot").forEach(plot =>
  Plotly.relayout(plot, {"font.color": INK()}));

// Commands: a button that copies.
const copied = async text => {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a browser that gives pages without a server no clipboard
    const area = make("textarea", {value: text});
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};
const addCopyButton = command => {
  const button = make("button", {type: "button", textContent: "Copy", className: "copy"});
  button.setAttribute("aria-label", `Copy: ${command.textContent}`);
  button.addEventListener("click", async () => {
    await copied(command.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  command.before(button);
};

// Tables: headings sort, and a field above long ones filters. A row is shown if all filters of its table say so.
const FILTERED = 8; // rows from which a table has a field
const rowsOf = table => [...table.tBodies[0].rows];
const showRows = table => {
  const filters = Object.values(table.filters);
  rowsOf(table).forEach(row => { row.hidden = !filters.every(fits => fits(row)); });
  const shown = rowsOf(table).filter(row => !row.hidden).length;
  if (table.count) table.count.textContent = `${shown} of ${rowsOf(table).length} rows`;
};
const valueIn = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};
const isMissing = value => value === "–" || value === "";
const compare = (one, other) =>
  isMissing(one) || isMissing(other) ? isMissing(one) - isMissing(other)
    : typeof one === typeof other && typeof one === "number" ? one - other
    : String(one).localeCompare(String(other), undefined, {numeric: true});
const sortBy = (table, heading, column) => {
  const falls = heading.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const placed = rowsOf(table).map(row => [valueIn(row, column), row]);
  placed.sort(([one], [other]) => {
    const missing = isMissing(one) || isMissing(other); // missing values come last either way
    return falls && !missing ? compare(other, one) : compare(one, other);
  });
  table.tBodies[0].append(...placed.map(([, row]) => row));
};
const prepareTable = table => {
  table.filters = {};
  if (rowsOf(table).length < 2) return;
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = make("button", {type: "button", className: "sort"}, ...heading.childNodes);
    button.addEventListener("click", () => sortBy(table, heading, column));
    heading.append(button);
  });
  if (rowsOf(table).length < FILTERED) return;
  const field = make("input", {type: "search"});
  table.count = make("span", {className: "soft"});
  table.count.setAttribute("role", "status");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    table.filters.words = row => words.every(word => row.textContent.toLowerCase().includes(word));
    showRows(table);
  });
  table.parentElement.before(make("p", {}, make("label", {}, "Rows with the words ", field), " ", table.count));
  showRows(table);
};

// Parallel coordinates: a selected interval on an axis selects rows of the table of trials.
const within = (value, ranges) => !ranges || (Array.isArray(ranges[0]) ? ranges : [ranges])
  .some(([low, high]) => low <= value && value <= high);
const linkParallel = () => {
  const plot = document.getElementById("parallel-0");
  const table = document.querySelector("table[data-name=trials]");
  if (!plot?.on || !table) return;
  plot.on("plotly_restyle", () => {
    const [lines] = plot.data;
    const selected = lines.dimensions.filter(axis => axis.constraintrange);
    const chosen = new Set(lines.ids.filter((_, line) =>
      selected.every(axis => within(axis.values[line], axis.constraintrange))));
    table.filters.selected = row => !selected.length || chosen.has(row.dataset.id);
    showRows(table);
  });
};

// The front: a click on a point keeps its description and command below the figure.
const linkFront = () => {
  const plot = document.getElementById("front-0");
  if (!plot?.on) return;
  const place = make("div", {className: "answer", id: "picked", hidden: true});
  place.setAttribute("aria-live", "polite");
  plot.closest(".panels").after(place);
  plot.on("plotly_click", ({points: [point]}) => {
    if (!point.customdata) return;
    const command = make("pre", {tabIndex: 0, textContent: point.customdata});
    const [name, ...lines] = point.hovertext.split("<br>");
    place.replaceChildren(make("p", {}, make("strong", {textContent: name}), ` ${lines.join(", ")}`), command);
    addCopyButton(command);
    place.hidden = false;
  });
};

// The price of the first objective: a slider shows the best choice at a price, and rings it in the figure.
const linkPrice = () => {
  const place = document.getElementById("price");
  const plot = document.getElementById("front-0");
  if (!place) return;
  const choices = [...place.querySelectorAll("[data-low]")];
  const lows = choices.slice(1).map(choice => Number(choice.dataset.low));
  const slider = place.querySelector("input");
  slider.min = Math.floor(Math.log10(Math.min(0.1, lows[0] / 2)) * 20) / 20;
  slider.max = Math.ceil(Math.log10(Math.max(10, lows.at(-1) * 2)) * 20) / 20;
  slider.value = 0;
  let ring = -1;
  const show = () => {
    const price = 10 ** Number(slider.value);
    const written = price.toPrecision(2);
    place.querySelector("output").textContent = slider.ariaValueText = String(Number(written));
    const best = choices.filter(choice => Number(choice.dataset.low) <= price).at(-1);
    choices.forEach(choice => { choice.hidden = choice !== best; });
    const [x, y] = [[Number(best.dataset.x)], [Number(best.dataset.y)]];
    if (ring >= 0) Plotly.restyle(plot, {x: [x], y: [y]}, [ring]);
    else if (plot?.data) {
      ring = plot.data.length;
      const marker = {size: 24, symbol: "circle-open", line: {width: 3}, color: "#d62728"};
      Plotly.addTraces(plot, {x, y, mode: "markers", marker, name: "the choice at this price", hoverinfo: "skip"});
    }
  };
  slider.addEventListener("input", show);
  place.querySelector("label").hidden = false;
  show();
};

window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", follow);
document.querySelectorAll("table").forEach(prepareTable);
document.querySelectorAll("pre.command").forEach(addCopyButton);
draw().then(() => {
  linkParallel();
  linkFront();
  linkPrice();
});
