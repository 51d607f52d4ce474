// Tables that sort, filter and copy, and show below each row the columns for which there is no room beside.

const LONG = 8;  // rows from which a table has a filter

class ResultTable {
  constructor(figure) {
    this.wide = figure.querySelector(".wide");
    this.table = figure.querySelector("table");
    this.heads = [...this.table.querySelectorAll("thead th")];
    this.body = this.table.tBodies[0];
    this.rows = [...this.body.rows].map((row) => [...row.cells]);
    this.order = this.rows.slice();
    this.sorted = null;
    this.fitting = this.heads.length;
    this.words = "";
    this.heads.forEach((head, column) => this.upgrade(head, column));
    this.wide.before(this.tools(figure.querySelector("figcaption").textContent));
    new ResizeObserver(() => this.fit()).observe(this.wide);
    addEventListener("beforeprint", () => this.fit());
  }

  upgrade(head, column) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
    button.addEventListener("click", () => this.sort(column));
    if (head.title) explain(button, head.title);
    head.removeAttribute("title");
    head.replaceChildren(button);
  }

  tools(caption) {
    const tools = Object.assign(document.createElement("div"), { className: "tools" });
    if (this.rows.length > LONG) {
      const search = Object.assign(document.createElement("input"), { type: "search", placeholder: "filter rows", ariaLabel: `Filter rows of ${caption}` });
      search.addEventListener("input", () => { this.words = search.value.toLowerCase(); this.show(); });
      tools.append(search);
    }
    const copy = Object.assign(document.createElement("button"), { type: "button", textContent: "copy", ariaLabel: `Copy ${caption}` });
    copy.addEventListener("click", async () => {
      await toClipboard(this.text());
      copy.textContent = "copied";
      setTimeout(() => { copy.textContent = "copy"; }, 1500);
    });
    tools.append(copy);
    return tools;
  }

  // Columns and rows as they are shown, numbers in full precision, for a spreadsheet.
  text() {
    const lines = [this.heads.map((head) => head.dataset.name), ...this.shown().map((row) => row.map((cell) => cell.dataset.value ?? cell.textContent))];
    return lines.map((line) => line.map((cell) => cell.replace(/\s+/g, " ")).join("\t")).join("\n");
  }

  sort(column) {
    const numeric = this.heads[column].classList.contains("number");
    const descending = this.sorted?.column === column ? !this.sorted.descending : numeric;
    this.sorted = { column, descending };
    const keyOf = (row) => (numeric ? Number(row[column].dataset.value ?? NaN) : row[column].textContent);
    const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en", { numeric: true });
    this.order = this.rows.toSorted((one, other) => {
      const [a, b] = [keyOf(one), keyOf(other)];
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);  // what is missing comes last
      return descending ? compare(b, a) : compare(a, b);
    });
    this.heads.forEach((head, number) => {
      if (number === column) head.ariaSort = descending ? "descending" : "ascending";
      else head.removeAttribute("aria-sort");
    });
    this.show();
  }

  shown() {
    return this.order.filter((row) => row.some((cell) => cell.textContent.toLowerCase().includes(this.words)));
  }

  // As many columns as there is room for; the table is laid out whole once for every width.
  fit() {
    if (this.width === this.wide.clientWidth) return;
    this.width = this.wide.clientWidth;
    this.table.classList.remove("fits");
    this.fitting = this.heads.length;
    this.show();
    if (this.table.offsetWidth <= this.width) return;
    const ends = this.heads.map((head) => head.offsetLeft + head.offsetWidth);
    this.fitting = Math.max(1, ends.filter((end) => end <= this.width).length);
    this.show();
    this.table.classList.toggle("fits", this.table.offsetWidth > this.width);  // a single long column is broken
  }

  show() {
    const below = this.fitting < this.heads.length;
    this.heads.forEach((head, column) => { head.hidden = column >= this.fitting; });
    const rows = this.shown().flatMap((cells) => {
      const row = document.createElement("tr");
      row.append(...cells.slice(0, this.fitting));
      return below ? [row, this.rest(cells)] : [row];
    });
    this.body.replaceChildren(...rows);
  }

  rest(cells) {
    const row = Object.assign(document.createElement("tr"), { className: "below" });
    const cell = row.insertCell(), list = document.createElement("dl");
    cell.colSpan = this.fitting;
    for (let column = this.fitting; column < cells.length; column++) {
      const pair = document.createElement("div"), name = document.createElement("dt"), value = document.createElement("dd");
      name.textContent = this.heads[column].textContent;
      value.append(...[...cells[column].childNodes].map((node) => node.cloneNode(true)));
      value.classList.toggle("best", cells[column].classList.contains("best"));
      pair.append(name, value);
      list.append(pair);
    }
    cell.append(list);
    return row;
  }
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // where a page of a file may not
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// A text that shows while an element has the pointer or the focus.
function explain(element, text) {
  const tip = Object.assign(document.createElement("span"), { className: "tip", id: `tip-${explain.number++}`, role: "tooltip", textContent: text, hidden: true });
  document.body.append(tip);
  element.setAttribute("aria-describedby", tip.id);
  const show = () => {
    tip.hidden = false;
    const box = element.getBoundingClientRect(), room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${scrollX + Math.max(8, Math.min(box.left, room))}px`;
    tip.style.top = `${scrollY + box.bottom + 6}px`;
  };
  const hide = () => { tip.hidden = true; };
  for (const [event, act] of [["pointerenter", show], ["focus", show], ["pointerleave", hide], ["blur", hide]]) element.addEventListener(event, act);
  element.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}
explain.number = 0;
