// The explorer: which image, pipeline, map and class are chosen, and what follows from that.

const NONE = "–";

class Explorer {
  constructor(data, root) {
    this.data = data;
    this.at = (id) => root.querySelector(`#${id}`);
    this.table = colourTable(data.colours);
    this.pictures = data.images.map(() => null);
    this.owners = new Map();
    this.state = { view: 0, image: 0, place: 0, panel: 0, player: null, removed: new Set(), shownPlace: null, filters: {} };
    root.classList.toggle("few", Math.max(...data.size) <= 64);
    this.at("large").dataset.side = 560;
    this.listen();
    this.showViews();
    this.showFilters();
    this.showStrip();
    root.hidden = false;
    this.choose({});
  }

  get view() { return this.data.views[this.state.view]; }
  get panel() { return this.view.panels[this.state.panel]; }
  get place() { return this.state.shownPlace ?? this.state.place; }
  get className() { return this.data.classNames[this.view.classes[this.state.image][this.place]]; }

  unpacked(holder, key) {
    if (holder[key] && !(holder[key] instanceof Packed)) holder[key] = new Packed(holder[key]);
    return holder[key];
  }

  values(panel, place = this.place) { return this.unpacked(panel, "values").row(this.state.image, place); }
  stderr(panel) { return this.unpacked(panel, "stderr")?.row(this.state.image, this.place) ?? null; }

  limit(panel) {
    const alike = panel.comparable ? this.view.panels.filter((one) => one.comparable) : [panel];
    return Math.max(...alike.map((one) => this.unpacked(one, "values")).filter((one) => one.has(this.state.image, 0))
      .map((one) => one.largest(this.state.image)), 0);
  }

  // Changes the state; what an image, a view or a class makes meaningless starts anew.
  choose(change) {
    if ("image" in change || "view" in change) Object.assign(this.state, { place: 0, player: null, removed: new Set() });
    Object.assign(this.state, { shownPlace: null }, change);
    if (this.state.panel >= this.view.panels.length) this.state.panel = 0;
    this.showClasses();
    this.showPanels();
    this.draw();
  }

  async picture(url) {
    const picture = new Image();
    picture.src = url;
    await picture.decode();
    return picture;
  }

  async load(image) {
    this.pictures[image] ??= await this.picture(this.data.images[image]);
    const key = this.data.segments ? `segments ${image}` : `grid ${this.view.grid}`;
    if (!this.owners.has(key)) {
      const segments = this.data.segments;
      this.owners.set(key, segments ? ownersOfSegments(await this.picture(segments[image]), this.data.size) : ownersOfGrid(this.data.size, this.view.grid));
    }
    return this.owners.get(key);
  }

  async draw() {
    const { image, view } = this.state;
    const owners = await this.load(image);
    if (image !== this.state.image || view !== this.state.view) return;  // something else was chosen meanwhile
    this.owner = owners;
    const common = { picture: this.pictures[image], size: this.data.size, owners, table: this.table };
    const { removed, player } = this.state, limit = this.limit(this.panel);
    const mix = this.at("mix").value / 100;
    paint(this.at("large"), { ...common, values: this.values(this.panel), limit, mix, removed, player });
    this.view.panels.forEach((panel, number) => {
      const canvas = this.at("panels").querySelectorAll("canvas")[number];
      paint(canvas, { ...common, values: this.values(panel), limit: this.limit(panel), mix, removed, player: null });
    });
    this.showLegend(limit);
    this.showPlayer();
    this.showAnswer();
  }

  // A group of radio buttons: one stop of the tab key, arrow keys choose.
  radios(container, items, chosen, choose) {
    const legend = container.querySelector("legend");
    container.replaceChildren(legend, ...items.map(({ key, content, title, kind }) => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, { type: "radio", name: container.id, value: key, checked: key === chosen, ariaLabel: title });
      input.addEventListener("change", () => choose(key));
      label.title = title;
      if (kind) label.className = kind;
      label.append(input, ...content);
      return label;
    }));
  }

  // Rebuilding a group would take the focus away: what does not change its length is filled anew.
  check(container, chosen) {
    for (const input of container.querySelectorAll("input")) input.checked = Number(input.value) === chosen;
  }

  showViews() {
    this.at("views").hidden = this.data.views.length < 2;
    const items = this.data.views.map((view, key) => ({ key, title: view.name, content: [view.name] }));
    this.radios(this.at("views"), items, 0, (view) => {
      this.choose({ view });
      this.showFilters();
      this.showStrip();
    });
  }

  // What images can be chosen by: only what tells some from others.
  criteria() {
    const { right, predictions } = this.view;
    const all = {
      label: this.data.labels,
      prediction: predictions,
      classifier: (right ?? []).map((one) => (one ? "right" : "wrong")),
      subset: this.data.groups,
    };
    const several = ([, of]) => new Set(of).size > 1 && new Set(of).size < Math.max(of.length, 3);
    return Object.fromEntries(Object.entries(all).filter(several));
  }

  showFilters() {
    const controls = Object.entries(this.criteria()).map(([name, of]) => {
      const label = document.createElement("label"), select = document.createElement("select");
      select.ariaLabel = name;
      const sorted = [...new Set(of)].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      select.append(new Option("all", ""), ...sorted.map((one) => new Option(one || NONE, `=${one}`)));
      if (sorted.includes((this.state.filters[name] ?? "").slice(1))) select.value = this.state.filters[name];
      select.addEventListener("change", () => {
        this.state.filters[name] = select.value;
        this.showStrip();
      });
      label.append(name, select);
      return label;
    });
    this.at("filters").replaceChildren(...controls);
  }

  showStrip() {
    const criteria = Object.entries(this.criteria());
    const wanted = ([name, of], image) => !this.state.filters[name] || `=${of[image]}` === this.state.filters[name];
    const shown = this.data.images.map((_, image) => image).filter((image) => criteria.every((one) => wanted(one, image)));
    const number = this.data.images.length;
    this.at("count").textContent = shown.length === number ? `${number} images` : `${shown.length} of ${number} images`;
    this.at("strip").hidden = number < 2;
    const items = shown.map((key) => {
      const picture = Object.assign(document.createElement("img"), { src: this.data.images[key], alt: "", loading: "lazy" });
      return { key, content: [picture], title: this.caption(key), kind: this.view.right?.[key] === false ? "wrong" : "" };
    });
    const image = shown.includes(this.state.image) || !shown.length ? this.state.image : shown[0];
    this.radios(this.at("strip"), items, image, (one) => this.choose({ image: one }));
    if (image !== this.state.image) this.choose({ image });
  }

  caption(image) {
    const label = this.data.labels[image], prediction = this.view.predictions[image];
    return `${this.data.names[image]}: ${label ? `label ${label}, ` : ""}predicted ${prediction}`;
  }

  showClasses() {
    const { image, place } = this.state, answers = this.view.answers[image], container = this.at("classes");
    const most = this.data.bounded ? 1 : Math.max(...answers.map(Math.abs), Number.MIN_VALUE);
    this.at("classes-legend").textContent = `${this.data.answer} by ${this.data.noun}`;
    const items = this.view.classes[image].map((k, key) => {
      const [name, amount] = [this.data.classNames[k], inWords(answers[key])].map((text, number) => {
        return Object.assign(document.createElement("span"), { className: number ? "amount" : "name", textContent: text });
      });
      return { key, content: [name, bar(Math.abs(answers[key]) / most), amount], title: `${name.textContent}: ${amount.textContent}` };
    });
    const held = container.contains(document.activeElement);
    this.radios(container, items, place, (one) => this.choose({ place: one }));
    if (held) container.querySelector(":checked").focus();
    container.querySelectorAll("label").forEach((label, key) => {
      const show = (shownPlace) => { this.state.shownPlace = shownPlace; this.draw(); this.showPanelNotes(); };
      label.addEventListener("pointerenter", () => show(key));
      label.addEventListener("pointerleave", () => show(null));
    });
  }

  showPanels() {
    const container = this.at("panels"), panels = this.view.panels;
    container.hidden = panels.length < 2;
    if (container.querySelectorAll("label").length !== panels.length || this.panelsOf !== this.state.view) {
      this.panelsOf = this.state.view;
      const items = panels.map((panel, key) => {
        const canvas = Object.assign(document.createElement("canvas"), { ariaHidden: "true" });
        canvas.dataset.side = 180;
        return { key, content: [canvas, panel.name], title: panel.note ? `${panel.name}: ${panel.note}` : panel.name };
      });
      this.radios(container, items, this.state.panel, (panel) => this.choose({ panel }));
    }
    this.check(container, this.state.panel);
    this.showPanelNotes();
  }

  showPanelNotes() {
    this.at("panels").querySelectorAll("label").forEach((label, key) => {
      label.classList.toggle("none", !this.values(this.view.panels[key]));
    });
    const known = this.values(this.panel) ? this.panel.name : `${this.panel.name}: not known of this image and ${this.data.noun}`;
    this.at("caption").textContent = `${this.caption(this.state.image)} · map of ${this.className}: ${known}`;
    this.at("large").ariaLabel = `Map of ${this.className} by ${this.panel.name}`;
  }

  showLegend(limit) {
    const signed = this.panel.kind === "attribution", canvas = this.at("scale"), context = canvas.getContext("2d");
    for (let step = 0; step <= 128; step++) {
      const [red, green, blue, alpha] = this.table[signed ? 2 * step : 128 + step];
      context.fillStyle = "white";
      context.fillRect(step, 0, 1, 1);
      context.fillStyle = `rgb(${red} ${green} ${blue} / ${alpha / 255})`;
      context.fillRect(step, 0, 1, 1);
    }
    this.at("lowest").textContent = signed ? inWords(-limit) : "lowest";
    this.at("highest").textContent = signed ? inWords(limit, true) : "highest";
    const unit = this.panel.addsUp ? `Shapley value (${this.view.space})` : `${this.panel.kind}, on a scale of its own`;
    this.at("unit").textContent = `${unit}. ${signed ? "Red raises the answer, blue lowers it" : "Red is high"}; ${signed ? "zero" : "low"} is clear.`;
  }

  where(player) {
    if (this.data.segments) return `Segment ${player + 1}`;
    const columns = this.view.grid[1];
    return `Row ${Math.floor(player / columns) + 1}, column ${(player % columns) + 1}`;
  }

  showPlayer() {
    const { player, removed } = this.state, values = this.values(this.panel), stderr = this.stderr(this.panel);
    let text = `No player chosen. ${this.className} has ${this.players()} players.`;
    if (player !== null && values) {
      const error = stderr ? ` ± ${inWords(1.96 * stderr[player])} (95 %)` : "";
      const rank = 1 + values.reduce((above, value) => above + (value > values[player]), 0);
      const others = this.view.panels.filter((panel) => panel !== this.panel && panel.addsUp && this.values(panel));
      const beside = this.panel.addsUp ? others.map((panel) => `${panel.name} ${inWords(this.values(panel)[player], true)}`) : [];
      text = `${this.where(player)}: ${inWords(values[player], true)}${error}, rank ${rank} of ${this.players()}`;
      text += `${removed.has(player) ? ", removed" : ""}. ${beside.join(", ")}`;
    } else if (player !== null) {
      text = `${this.where(player)}: not known.`;
    } else {
      text = `${this.players()} players. None is chosen.`;
    }
    this.at("player").textContent = text;
  }

  players() {
    const values = this.values(this.view.panels[0], 0);
    return values ? values.filter((value) => !Number.isNaN(value)).length : this.view.grid[0] * this.view.grid[1];
  }

  // The game's answer to a coalition, where the evaluation knows it.
  stored(removed) {
    const game = this.view.game, values = game && this.unpacked(game, "values").row(this.state.image, this.place);
    if (!values) return null;
    game.bits ??= bytes(game.coalitions);
    const length = Math.ceil(this.players() / 8), start = this.state.image * game.number * length;
    const wanted = new Uint8Array(length);
    for (let player = 0; player < this.players(); player++) if (!removed.has(player)) wanted[player >> 3] |= 128 >> (player & 7);
    for (let number = 0; number < game.number; number++) {
      if (wanted.every((byte, place) => game.bits[start + number * length + place] === byte)) return values[number];
    }
    return null;
  }

  showAnswer() {
    const { removed } = this.state, whole = this.stored(new Set()), nobody = this.stored(new Set(this.allPlayers()));
    const panel = this.panel.addsUp ? this.panel : null, values = panel && this.values(panel);
    const lost = values && [...removed].reduce((sum, player) => sum + values[player], 0);
    const what = `for ${this.className} (${this.view.space})`;
    let text;
    if (!removed.size) {
      text = whole === null ? "Click players away to see what the values say the answer becomes."
        : `All present, the surrogate's answer ${what} is ${inWords(whole)}; nobody present, ${inWords(nobody)}.`;
    } else {
      const of = `Without ${removed.size} of ${this.players()} players, `, known = this.stored(removed);
      const added = !values ? `maps of ${this.panel.name} do not add up to an answer.`
        : whole === null ? `the answer ${what} changes by ${inWords(-lost, true)}, as the values of ${panel.name} add up.`
        : `${inWords(whole - lost)}, as the values of ${panel.name} add up.`;
      text = known !== null ? `${of}the surrogate's answer ${what} is ${inWords(known)} (evaluated). Predicted: ${added}`
        : whole !== null && values ? `${of}the answer ${what} is predicted, not evaluated: ${added}` : of + added;
    }
    this.at("answer").textContent = text;
    this.at("restore").disabled = !removed.size;
    this.at("strongest").disabled = removed.size >= this.players() || !this.values(this.panel);
  }

  allPlayers() { return Array.from({ length: this.players() }, (_, player) => player); }

  toggle(player) {
    const { removed } = this.state;
    if (!removed.delete(player)) removed.add(player);
    this.draw();
  }

  removeStrongest() {
    const values = this.values(this.panel), left = this.allPlayers().filter((player) => !this.state.removed.has(player));
    if (left.length) this.toggle(left.reduce((best, player) => (values[player] > values[best] ? player : best)));
  }

  restore() {
    this.state.removed.clear();
    this.draw();
  }

  move(key) {
    const [rows, columns] = this.view.grid ?? [1, this.players()], player = this.state.player ?? -1;
    if (player < 0) return 0;
    const [row, column] = [Math.floor(player / columns), player % columns];
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
    if (rows === 1) return (player + down + right + columns) % columns;
    return Math.max(0, Math.min(rows - 1, row + down)) * columns + Math.max(0, Math.min(columns - 1, column + right));
  }

  listen() {
    const large = this.at("large");
    const under = (event) => {
      const box = large.getBoundingClientRect(), [height, width] = this.data.size, inset = large.clientLeft;
      const row = Math.floor(((event.clientY - box.top - inset) / large.clientHeight) * height);
      const column = Math.floor(((event.clientX - box.left - inset) / large.clientWidth) * width);
      return this.owner && row >= 0 && column >= 0 && row < height && column < width ? this.owner[row * width + column] : null;
    };
    const point = (player) => {
      if (player === this.state.player) return;
      this.state.player = player;
      this.draw();
    };
    large.addEventListener("pointermove", (event) => point(under(event)));
    large.addEventListener("click", (event) => {
      const player = under(event);
      if (player === null) return;
      this.state.player = player;
      this.toggle(player);
    });
    large.addEventListener("keydown", (event) => {
      if (event.key.startsWith("Arrow")) point(this.move(event.key));
      else if ((event.key === "Enter" || event.key === " ") && this.state.player !== null) this.toggle(this.state.player);
      else if (event.key === "Escape") this.restore();
      else return;
      event.preventDefault();
    });
    this.at("mix").addEventListener("input", () => this.draw());
    this.at("strongest").addEventListener("click", () => this.removeStrongest());
    this.at("restore").addEventListener("click", () => this.restore());
  }
}

function bar(share) {
  const [svg, rectangle] = ["svg", "rect"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  svg.setAttribute("aria-hidden", "true");
  rectangle.setAttribute("width", `${100 * share}%`);
  rectangle.setAttribute("height", "100%");
  svg.append(rectangle);
  return svg;
}
