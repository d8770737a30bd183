(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const print = matchMedia("print");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const PRINTED = 640; // a figure's width on paper, in pixels
  const FONT = getComputedStyle(document.documentElement).getPropertyValue("--sans").trim();
  const say = document.body.dataset; // the few words that are written here, in the page's language
  const SVG = "http://www.w3.org/2000/svg";

  // Plotly's strings are escaped; shown elsewhere they are not.
  const plain = (text) => text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function make(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /* ---- layout: as many panels side by side as fit, then rows; titles broken into lines ---- */

  const pen = document.createElement("canvas").getContext("2d");

  // A word, or one of the signs between which Chinese may be broken; with the space before it.
  const PIECES = /\s*(?:[\u2e80-\u9fff\uff00-\uffef][\u3001\u3002\uff0c\uff1a\uff1b\uff09\u300d]*|[^\s\u2e80-\u9fff\uff00-\uffef]+)/g;

  /** Break escaped text into lines of at most so many pixels; a word that is too long is cut. */
  function wrap(text, pixels, size) {
    pen.font = `${size}px ${FONT}`;
    const fits = (line) => pen.measureText(line).width <= pixels;
    const lines = [""];
    for (let piece of plain(text).match(PIECES) ?? []) {
      while (piece) {
        const last = lines[lines.length - 1];
        if (!last) piece = piece.trimStart();
        if (fits(last + piece) || (last + piece).length === 1) {
          lines[lines.length - 1] = last + piece;
          break;
        }
        if (last) {
          lines.push("");
          continue;
        }
        let cut = piece.length - 1;
        while (cut > 1 && !fits(piece.slice(0, cut))) cut -= 1;
        lines[lines.length - 1] = piece.slice(0, cut);
        piece = piece.slice(cut);
      }
    }
    return lines.map(escaped);
  }

  function theme() {
    const read = getComputedStyle(document.documentElement);
    const colour = (name) => read.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
      tickcolor: colour("--line"), ticks: "outside", ticklen: 4, tickfont: { color: colour("--quiet"), size: 11 },
      exponentformat: "power", minexponent: 4, nticks: 6, fixedrange: coarse,
    };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: FONT, size: 12, color: colour("--text") },
        hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--quiet"), font: { color: colour("--text") }, namelength: -1 },
        modebar: { color: colour("--quiet"), activecolor: colour("--text"), bgcolor: "rgba(0,0,0,0)" },
        xaxis: axis, yaxis: axis,
      },
    };
  }

  function arranged(figure, width) {
    const base = figure.layout;
    const count = base.grid.columns;
    const fit = Math.max(1, Math.min(count, Math.floor((width + 40) / 300)));
    const rows = Math.ceil(count / fit);
    const columns = Math.ceil(count / rows);
    const yTitles = Object.keys(base).filter((key) => key.startsWith("yaxis"));
    const guess = (width - 70 * columns) / columns;
    const tall = Math.round(Math.min(columns === 1 ? 360 : 300, Math.max(210, 0.72 * guess)));
    const broken = Object.fromEntries(yTitles.map((key) => [key, wrap(base[key].title.text, tall, 12)]));
    const deepest = Math.max(1, ...Object.values(broken).map((lines) => lines.length));
    const left = 46 + 16 * deepest;
    const right = 14;
    const wide = Math.floor((width - left * columns - right) / columns);
    const titles = base.annotations.map((note) => wrap(note.text, wide, 13));
    const above = 12 + 17 * Math.max(0, ...titles.map((lines) => (lines.join("") ? lines.length : 0)));
    const xTitles = Object.fromEntries(
      Object.keys(base).filter((key) => key.startsWith("xaxis")).map((key) => [key, wrap(base[key].title.text, wide, 12)]));
    const below = 34 + 16 * Math.max(1, ...Object.values(xTitles).map((lines) => lines.length));
    const inner = { width: width - left - right, height: rows * tall + (rows - 1) * (above + below) };
    // Plotly takes a gap as a share of one cell, gap included.
    const share = (gap, cells, whole) => (cells > 1 ? (gap * cells) / (whole + gap) : 0);
    const layout = {
      ...base, width, height: inner.height + above + below, template: theme(), uirevision: "kept",
      margin: { l: left, r: right, t: above, b: below, pad: 0 }, showlegend: false, sliders: [], updatemenus: [],
      dragmode: coarse ? false : "zoom",
      grid: {
        ...base.grid, rows, columns,
        xgap: share(left + 6, columns, inner.width), ygap: share(above + below, rows, inner.height),
      },
      annotations: base.annotations.map((note, nth) => ({ ...note, text: titles[nth].join("<br>"), font: { size: 13 } })),
    };
    for (const [key, lines] of Object.entries({ ...broken, ...xTitles })) {
      layout[key] = { ...base[key], title: { text: lines.join("<br>"), font: { size: 12 }, standoff: 8 } };
      // Plotly sets powers of ten a quarter larger than other ticks.
      if (base[key].dtick) layout[key].tickfont = { size: 9 };
    }
    return layout;
  }

  /* ---- legend and slider: in HTML, so that they wrap, take the keyboard and print ---- */

  const DASHES = { solid: "", dot: "2 3", dash: "7 4", longdash: "12 4", dashdot: "7 3 2 3", longdashdot: "12 3 2 3" };
  const MARKS = {
    circle: "M13 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", square: "M13.5 2.5h7v7h-7z", diamond: "M17 1l5 5l-5 5l-5-5z",
    x: "M14 1l3 3l3-3l2 2l-3 3l3 3l-2 2l-3-3l-3 3l-2-2l3-3l-3-3z", cross: "M15.5 1h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
    "triangle-up": "M17 1.5l4.5 8h-9z", "triangle-down": "M17 10.5l4.5-8h-9z",
    "triangle-left": "M12.5 6l8-4.5v9z", "triangle-right": "M21.5 6l-8-4.5v9z", hourglass: "M13 2h8l-8 8h8z",
    star: "M17 1l1.4 3.4l3.6 .2l-2.8 2.3l1 3.6l-3.2-2l-3.2 2l1-3.6l-2.8-2.3l3.6-.2z",
  };

  function swatch(trace) {
    const drawn = document.createElementNS(SVG, "svg");
    drawn.setAttribute("viewBox", "0 0 34 12");
    drawn.setAttribute("aria-hidden", "true");
    const add = (d, attributes) => {
      const path = document.createElementNS(SVG, "path");
      for (const [key, value] of Object.entries({ d, ...attributes })) path.setAttribute(key, value);
      drawn.append(path);
    };
    if (trace.mode.includes("lines")) {
      add("M0 6H34", { stroke: trace.line.color, "stroke-width": 2, "stroke-dasharray": DASHES[trace.line.dash], fill: "none" });
    }
    add(MARKS[trace.marker.symbol], { fill: trace.marker.color });
    return drawn;
  }

  function legend(figure, plot) {
    const entries = figure.data.filter((trace) => trace.showlegend);
    if (!entries.length) return;
    const list = make("ul", { class: "legend", "aria-label": say.curves });
    for (const trace of entries) {
      const button = make("button", { type: "button", "aria-pressed": "true" }, swatch(trace), plain(trace.name));
      const own = figure.data.flatMap((other, nth) => (other.legendgroup === trace.legendgroup ? [nth] : []));
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") === "false";
        button.setAttribute("aria-pressed", String(on));
        draw(plot);
        Plotly.restyle(plot, { visible: on }, own);
      });
      list.append(make("li", {}, button));
    }
    plot.before(list);
  }

  function slider(figure, plot) {
    const { steps, currentvalue } = figure.layout.sliders[0];
    const output = make("output", {}, plain(steps[0].label));
    const name = `${plot.dataset.figure}-slider`;
    const label = make("label", { for: name }, plain(currentvalue.prefix), output);
    const range = make("input", { type: "range", id: name, min: 0, max: steps.length - 1, step: 1, value: 0 });
    const play = make("button", { type: "button" }, say.play);
    let timer = 0;
    const show = () => {
      const step = steps[range.valueAsNumber];
      output.textContent = plain(step.label);
      range.setAttribute("aria-valuetext", plain(currentvalue.prefix + step.label));
      draw(plot);
      Plotly.animate(plot, ...step.args);
    };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = say.play;
    };
    const next = () => {
      range.valueAsNumber += 1;
      show();
      if (range.valueAsNumber === steps.length - 1) stop();
    };
    range.addEventListener("input", () => { stop(); show(); });
    play.addEventListener("click", () => {
      if (timer) {
        stop();
        return;
      }
      if (range.valueAsNumber === steps.length - 1) {
        range.valueAsNumber = 0;
        show();
      }
      play.textContent = say.pause;
      timer = setInterval(next, 400);
    });
    plot.after(make("div", { class: "slider" }, label, play, range));
  }

  /* ---- drawing ---- */

  const plots = [...document.querySelectorAll(".plot")];
  const widths = new Map();
  const config = { displaylogo: false, displayModeBar: coarse ? false : "hover", responsive: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], toImageButtonOptions: { format: "svg" } };
  let printing = false;
  const room = (plot) => (printing && plot.clientWidth ? PRINTED : Math.floor(plot.clientWidth)); // 0: filtered out

  function fitted(plot) {
    const layout = arranged(figures[plot.dataset.figure], room(plot));
    plot.style.minHeight = `${layout.height}px`;
    return layout;
  }

  /** Hold a figure's place open, with its legend and slider, so that links land where they should. */
  function prepare(plot) {
    const figure = figures[plot.dataset.figure];
    legend(figure, plot);
    if (figure.frames.length) slider(figure, plot);
    if (room(plot)) fitted(plot);
  }

  function draw(plot) {
    if (widths.has(plot) || !room(plot)) return;
    const figure = figures[plot.dataset.figure];
    widths.set(plot, room(plot));
    near.unobserve(plot);
    Plotly.newPlot(plot, { data: figure.data, layout: fitted(plot), frames: figure.frames, config });
    if (widths.size === plots.length) document.documentElement.dataset.drawn = "all";
  }

  function redraw(plot) {
    if (!room(plot)) return;
    if (!widths.has(plot)) {
      fitted(plot);
      return;
    }
    widths.set(plot, room(plot));
    Plotly.react(plot, plot.data, fitted(plot), config);
  }

  const changed = new ResizeObserver((entries) => {
    for (const { target } of entries) if (widths.get(target) !== room(target)) redraw(target);
  });
  // Drawing takes a tenth of a second each: a figure is drawn when the reader comes within two screens.
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "200% 0px" });
  plots.forEach((plot) => { prepare(plot); changed.observe(plot); near.observe(plot); });
  dark.addEventListener("change", () => plots.forEach(redraw));

  let closed = [];
  function paper(on) {
    if (printing === on) return;
    printing = on;
    document.documentElement.classList.toggle("printing", on); // light colours, before the browser switches
    if (on) closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((part) => { part.open = on; });
    if (on) plots.forEach(draw);
    plots.forEach(redraw);
  }
  print.addEventListener("change", () => paper(print.matches));
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
  paper(print.matches);

  document.documentElement.dataset.drawn ??= plots.length ? "near" : "all";
})();
