// Curves with their values at the pointer, in place of the picture that stands there where no script runs.

const SVG = "http://www.w3.org/2000/svg", WIDTH = 460, HEIGHT = 280, LEFT = 58, RIGHT = 22, TOP = 26, BOTTOM = 44;

const ROUND = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });

function element(name, attributes, ...content) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

// Some round numbers between two others.
function roundNumbers(low, high) {
  const rough = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, number) => (Math.ceil(low / step) + number) * step);
}

class Curves {
  constructor(panel) {
    this.panel = panel;
    const points = panel.lines.flatMap((line) => line.points);
    const placed = panel.lines.filter((line) => !line.level).flatMap((line) => line.points);
    this.places = [...new Set((placed.length ? placed : points).map(([x]) => x))].sort((a, b) => a - b);
    this.scale = panel.logarithmic ? Math.log2 : (value) => value;
    const ends = (values) => [Math.min(...values), Math.max(...values)];
    [this.low, this.high] = ends(this.places.map(this.scale));
    [this.bottom, this.top] = ends(points.map(([, y]) => y));
    if (this.panel.logarithmic) this.bottom = Math.max(this.bottom, 0);  // what is worse than nothing is cut off
    this.values = Object.assign(document.createElement("p"), { className: "readout values", role: "status" });
    this.drawing = this.draw();
    this.at = this.places.length - 1;
    this.figure = document.createElement("div");
    this.figure.className = "curves-panel";
    this.figure.append(this.drawing, this.values);
    this.listen();
    this.show(this.at);
  }

  x(value) { return LEFT + ((this.scale(value) - this.low) / (this.high - this.low || 1)) * (WIDTH - LEFT - RIGHT); }
  y(value) { return TOP + (1 - (value - this.bottom) / (this.top - this.bottom || 1)) * (HEIGHT - TOP - BOTTOM); }

  draw() {
    const { title, x, y, logarithmic, lines } = this.panel, text = (at, ...content) => element("text", at, ...content);
    const every = Math.ceil(this.places.length / 8);
    const along = logarithmic ? this.places.filter((_, number) => number % every === 0) : roundNumbers(this.low, this.high);
    const name = `${[title, y].filter(Boolean).join(", ")}${x ? ` by ${x}` : ""}: ${lines.length} curves; arrow keys read values`;
    const drawing = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: 0, role: "application", "aria-label": name });
    for (const one of roundNumbers(this.bottom, this.top)) {
      drawing.append(element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: this.y(one), y2: this.y(one) }));
      drawing.append(text({ x: LEFT - 6, y: this.y(one) + 4, "text-anchor": "end" }, ROUND.format(one)));
    }
    for (const one of along) drawing.append(text({ x: this.x(one), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, ROUND.format(one)));
    drawing.append(text({ x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, x || "epoch"));
    drawing.append(text({ x: LEFT, y: 14, class: "title" }, [title, y].filter(Boolean).join(" · ")));
    this.pointer = element("line", { class: "pointer", y1: TOP, y2: HEIGHT - BOTTOM });
    drawing.append(this.pointer);
    lines.forEach(({ points, level }, number) => {
      const across = (x) => (level ? Math.max(LEFT, Math.min(WIDTH - RIGHT, this.x(x))) : this.x(x));
      const shown = points.filter(([, value]) => value >= this.bottom).map(([a, b]) => `${across(a)},${this.y(b)}`).join(" ");
      drawing.append(element("polyline", { points: shown, class: `curve c${number % 8} d${Math.floor(number / 8) % 4}` }));
    });
    return drawing;
  }

  // All curves at one place, the highest first; of one without a point there, nothing.
  show(at) {
    this.at = Math.max(0, Math.min(this.places.length - 1, at));
    const place = this.places[this.at], found = [];
    this.panel.lines.forEach(({ name, points, level }, number) => {
      const point = level ? points[0] : points.find(([x]) => x === place);
      if (point) found.push({ name, value: point[1], number });
    });
    found.sort((a, b) => b.value - a.value);
    this.pointer.setAttribute("x1", this.x(place));
    this.pointer.setAttribute("x2", this.x(place));
    this.values.replaceChildren(`${this.panel.x || "epoch"} ${ROUND.format(place)}: `, ...found.flatMap(({ name, value, number }, order) => {
      const key = element("svg", { class: "key", viewBox: "0 0 24 8", "aria-hidden": "true" },
        element("polyline", { points: "0,4 24,4", class: `curve c${number % 8} d${Math.floor(number / 8) % 4}` }));
      const entry = document.createElement("span");
      entry.append(key, ` ${name} ${inWords(value)}`);
      return order ? ["; ", entry] : [entry];
    }));
  }

  listen() {
    this.drawing.addEventListener("pointermove", (event) => {
      const box = this.drawing.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * WIDTH;
      const distances = this.places.map((place) => Math.abs(this.x(place) - x));
      this.show(distances.indexOf(Math.min(...distances)));
    });
    this.drawing.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined) return;
      this.show(this.at + step);
      event.preventDefault();
    });
  }
}

function showCurves(data) {
  const panels = Object.assign(document.createElement("div"), { className: "curves-panels" });
  panels.append(...JSON.parse(data.textContent).map((panel) => new Curves(panel).figure));
  data.previousElementSibling.hidden = true;
  data.after(panels);
}
