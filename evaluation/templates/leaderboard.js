// What only the machine that trained can say stands in times.js, if that is there and knows the very model of a row.
const known = typeof runTimes === "undefined" ? {} : runTimes;
for (const place of document.querySelectorAll(".told")) {
  const { run, model, fact } = place.dataset;
  if (known[run]?.model !== model) continue;
  place.textContent = known[run].words[fact];
  if (place.dataset.value) place.dataset.value = known[run][fact];
  if (fact === "git") place.title = known[run].git;
  const sentence = place.closest(".timed");
  if (sentence) sentence.hidden = false;
}
for (const note of document.querySelectorAll(".untimed")) {
  const places = [...note.parentElement.querySelectorAll(".told")];
  note.hidden = places.every(({ dataset: { run, model } }) => known[run]?.model === model);
}

// Sort a table by the clicked heading: numbers from high to low first, text from a to z first.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    const isText = heading.dataset.kind === "text";
    const read = (row) => {
      const cell = row.cells[column];
      return isText ? cell.textContent.trim() : Number(cell.dataset.value ?? cell.textContent);
    };
    heading.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const next = now ? (now === "ascending" ? "descending" : "ascending") : isText ? "ascending" : "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const order = (a, b) => (isText ? read(a).localeCompare(read(b)) : read(a) - read(b));
      body.replaceChildren(...[...body.rows].sort((a, b) => sign * order(a, b)));
    });
  });
}

// A link of the contents opens the part it leads to; printing opens all.
const openPart = () => {
  const part = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (part instanceof HTMLDetailsElement) {
    part.open = true;
    part.scrollIntoView();
  }
};
addEventListener("hashchange", openPart);
for (const link of document.querySelectorAll("nav.contents a")) link.addEventListener("click", () => setTimeout(openPart));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
openPart();
