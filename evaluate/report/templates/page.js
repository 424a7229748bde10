"use strict";
{
  const words = new Intl.Collator("en", { numeric: true });

  // Numbers carry their unrounded value; a cell without one is missing.
  const keyOf = (row, column, numeric) => {
    const cell = row.cells[column];
    if (numeric) return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    return cell.dataset.missing === undefined ? cell.dataset.text ?? cell.textContent.trim() : null;
  };

  const sorted = (rows, column, numeric, direction) => {
    const keyed = rows.map((row) => [keyOf(row, column, numeric), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return direction * (numeric ? a - b : words.compare(a, b));
    });
    return keyed.map(([, row]) => row);
  };

  const makeSortable = (table, show) => {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const numeric = header.classList.contains("number");
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      // Numbers begin with the largest, text with A; the third time brings the order of the file back.
      const turns = numeric ? ["descending", "ascending", null] : ["ascending", "descending", null];
      button.addEventListener("click", () => {
        const next = turns[(turns.indexOf(header.getAttribute("aria-sort")) + 1) % turns.length];
        headers.forEach((each) => each.removeAttribute("aria-sort"));
        if (next) header.setAttribute("aria-sort", next);
        const rows = next ? sorted([...body.rows], column, numeric, next === "ascending" ? 1 : -1) : original;
        body.append(...rows);
        show();
      });
    });
  };

  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  // A long table shows its first rows, or the first of those that hold what was searched for.
  const makeShort = (table) => {
    const first = Number(table.dataset.first);
    const number = table.tBodies[0].rows.length;
    if (!(number > first)) return () => {};
    const search = element("input", { type: "search" });
    const all = element("button", { type: "button" });
    const said = element("span", { className: "said" });
    said.setAttribute("role", "status");
    let short = true;
    const show = () => {
      const wanted = search.value.trim().toLowerCase();
      let found = 0;
      for (const row of table.tBodies[0].rows) {
        const fits = row.textContent.toLowerCase().includes(wanted);
        found += fits;
        row.hidden = !fits || (short && found > first);
      }
      const shown = short ? Math.min(found, first) : found;
      const count = (value) => value.toLocaleString("en");
      said.textContent = wanted
        ? `${count(shown)} of ${count(found)} rows found, of ${count(number)}`
        : `${count(shown)} of ${count(number)} rows`;
      all.textContent = short ? `Show all ${count(number)}` : `Show ${count(first)}`;
    };
    search.addEventListener("input", show);
    all.addEventListener("click", () => {
      short = !short;
      show();
    });
    table.parentElement.before(element("div", { className: "tools" }, element("label", {}, "Search ", search), all, said));
    show();
    return show;
  };

  for (const table of document.querySelectorAll("table")) {
    const show = table.dataset.first === undefined ? () => {} : makeShort(table);
    if (table.dataset.sortable !== undefined) makeSortable(table, show);
  }

  // Paper cannot be opened.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((each) => (each.open = true));
  });
  addEventListener("afterprint", () => opened.forEach((each) => (each.open = false)));
}
