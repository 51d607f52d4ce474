// Everything starts here.

for (const figure of document.querySelectorAll("figure.results")) new ResultTable(figure);
for (const data of document.querySelectorAll("script.curves")) showCurves(data);

const embedded = document.getElementById("explorer-data");
if (embedded) globalThis.explorer = new Explorer(JSON.parse(embedded.textContent), document.getElementById("explorer-body"));

for (const code of document.querySelectorAll("header pre")) {
  const copy = Object.assign(document.createElement("button"), { type: "button", textContent: "copy", ariaLabel: "Copy the lines" });
  copy.addEventListener("click", () => toClipboard(code.textContent));
  code.after(copy);
}
