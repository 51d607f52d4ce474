"use strict";

const $ = (id) => document.getElementById(id);
const BARS = 8;  // patches in the bars of a class
const SVG = "http://www.w3.org/2000/svg";
let chosen = null;  // the picture's file
let about = null;

function say(text, wrong = false) {
  $("state").textContent = text;
  $("state").className = wrong ? "wrong" : "";
}

// Blue, white, red: zero is white, the largest value of all classes shown is the darkest.
function colour(value, scale) {
  const share = Math.min(1, Math.abs(value) / scale);
  const end = value > 0 ? [178, 24, 43] : [33, 102, 172];
  return `rgb(${end.map((part) => Math.round(255 + (part - 255) * share)).join(",")})`;
}

function words(value, error) {
  const shown = (value > 0 ? "+" : "") + value.toFixed(4);
  return error == null ? shown : `${shown} ± ${(1.96 * error).toFixed(4)}`;
}

function map(one, scale, hover) {
  const rows = one.values.length, columns = one.values[0].length;
  const canvas = document.createElement("canvas");
  const size = 16;  // pixels of a patch; the style says how large that is on the screen
  canvas.width = columns * size;
  canvas.height = rows * size;
  const pen = canvas.getContext("2d");
  one.values.forEach((row, y) => row.forEach((value, x) => {
    pen.fillStyle = value == null ? "#ddd" : colour(value, scale);
    pen.fillRect(x * size, y * size, size, size);
  }));
  canvas.addEventListener("mousemove", (event) => {
    const y = Math.min(rows - 1, Math.floor(event.offsetY / canvas.clientHeight * rows));
    const x = Math.min(columns - 1, Math.floor(event.offsetX / canvas.clientWidth * columns));
    const error = one.stderr ? one.stderr[y][x] : null;
    hover.textContent = `row ${y + 1}, column ${x + 1}: ${words(one.values[y][x], error)}`;
  });
  return canvas;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text != null) made.textContent = text;
  return made;
}

// The largest patches, each with the interval that holds the value 95 times of 100.
function bars(one, scale) {
  const all = one.values.flatMap((row, y) => row.map((value, x) => ({value, y, x, error: one.stderr ? one.stderr[y][x] : null})));
  const largest = all.filter((each) => each.value != null).sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, BARS);
  const height = 14, left = 46, width = 224, middle = (width + left) / 2, half = (width - left) / 2 - 4;
  const reach = Math.max(scale, ...largest.map((each) => Math.abs(each.value) + 1.96 * (each.error ?? 0)));
  const svg = shape("svg", {viewBox: `0 0 ${width} ${height * largest.length + 2}`, role: "img", "aria-label": "largest patches"});
  svg.append(shape("line", {x1: middle, x2: middle, y1: 0, y2: height * largest.length, stroke: "#999"}));
  largest.forEach((each, index) => {
    const y = index * height + 2, length = each.value / reach * half;
    svg.append(shape("text", {x: 0, y: y + 9}, `${each.y + 1}, ${each.x + 1}`));
    svg.append(shape("rect", {x: Math.min(middle, middle + length), y, width: Math.abs(length), height: height - 4, fill: colour(each.value, scale), stroke: "#666", "stroke-width": .5}));
    if (each.error != null) {
      const spread = 1.96 * each.error / reach * half, at = middle + length, centre = y + height / 2 - 2;
      svg.append(shape("path", {d: `M${at - spread} ${centre}H${at + spread}M${at - spread} ${centre - 3}v6M${at + spread} ${centre - 3}v6`, stroke: "#000", fill: "none"}));
    }
  });
  return svg;
}

function show(answer) {
  const scale = Math.max(1e-12, ...answer.classes.flatMap((one) => one.values.flat().map((value) => Math.abs(value ?? 0))));
  $("picture").src = answer.picture;
  $("classes").replaceChildren(...answer.classes.map((one) => {
    const place = document.createElement("div"), title = document.createElement("h2"), hover = document.createElement("div");
    place.className = "class";
    hover.className = "hover";
    hover.textContent = "point at a patch for its value";
    title.textContent = `${one.name}: ${one.answer}`;
    place.append(title, map(one, scale, hover), hover, bars(one, scale));
    return place;
  }));
  $("result").hidden = false;
  const refined = answer.evaluations ? "; whiskers are 95 % intervals" : "; refined, they have error bars";
  $("legend").textContent = `The darkest colour is ${scale.toPrecision(2)} (${about.link}). Bars are the largest patches, by row and column${refined}.`;
  const spent = answer.evaluations ? `${answer.evaluations} evaluations` : "one pass";
  say(`Predicted: ${answer.predicted}. ${spent}, ${answer.seconds.toFixed(2)} s.`);
}

async function explain(refine) {
  if (!chosen) return;
  if (chosen.size > about.max_bytes) return say(`the picture has more than ${about.max_bytes.toLocaleString("en")} bytes`, true);
  say(refine ? "Refining …" : "Explaining …");
  $("refine").disabled = true;
  try {
    const response = await fetch(`api/explain?refine=${refine}`, {method: "POST", body: chosen});
    const answer = await response.json();
    if (response.ok) show(answer); else say(answer.error, true);
  } catch {
    say("the service cannot be reached", true);
  }
  $("refine").disabled = false;
}

function choose(files) {
  if (files.length) {
    chosen = files[0];
    $("result").hidden = true;
    $("legend").textContent = "";
    explain(0);
  }
}

$("file").addEventListener("change", (event) => choose(event.target.files));
$("refine").addEventListener("click", () => explain($("evaluations").value));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();  // or the browser would leave the page and show the picture
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files);
  });
}
fetch("api/about").then((response) => response.json()).then((found) => {
  about = found;
  const offered = [32, 64, 128, 256, 512, 1024, 2048].filter((number) => number <= about.max_refine);
  for (const number of offered.length ? offered : [about.max_refine]) $("evaluations").append(new Option(number, number));
  $("evaluations").value = offered.includes(256) ? 256 : offered.at(-1) ?? about.max_refine;
}).catch(() => say("the service cannot be reached", true));
