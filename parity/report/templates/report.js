"use strict";
(() => {
  const root = document.documentElement;

  // The theme: as the system says, until a reader says otherwise.
  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  function remember(value) {
    try { return value === undefined ? localStorage.getItem("parity-theme") : localStorage.setItem("parity-theme", value); }
    catch { return null; } // a page opened from a file may not have a store
  }
  function show(theme) {
    root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    button.setAttribute("aria-label", `Theme: ${theme === "auto" ? "as the system" : theme}`);
  }
  const known = remember();
  show(themes.includes(known) ? known : "auto");
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    show(next);
    remember(next);
  });

  // Everything open, to search the page or to print all of it.
  const openAll = document.getElementById("open-all");
  openAll.addEventListener("click", () => {
    const open = openAll.getAttribute("aria-pressed") !== "true";
    openAll.setAttribute("aria-pressed", String(open));
    openAll.textContent = open ? "Close all" : "Open all";
    for (const details of document.querySelectorAll("details")) details.open = open;
  });

  // A link to a case opens it.
  function openTarget() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
    if (target) target.scrollIntoView();
  }
  addEventListener("hashchange", openTarget);
  if (location.hash) openTarget();

  // A grid of cells: one stop of Tab, arrow keys inside it, a click or Enter to read a cell.
  const far = 1e6;
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -far], End: [0, far] };
  function shownRows(grid) {
    const rows = [...grid.querySelectorAll("tbody tr:not([hidden])")].map((row) => [...row.querySelectorAll("[role=gridcell]")]);
    return rows.filter((row) => row.length);
  }
  function stopAt(grid, cell) {
    for (const other of grid.querySelectorAll('[role=gridcell][tabindex="0"]')) other.tabIndex = -1;
    if (cell) cell.tabIndex = 0;
  }
  function navigate(grid, read) {
    function move(cell, down, right) {
      const rows = shownRows(grid);
      const y = rows.findIndex((row) => row.includes(cell));
      const x = rows[y].indexOf(cell);
      const next = rows[Math.min(Math.max(y + down, 0), rows.length - 1)];
      const target = next[Math.min(Math.max(x + right, 0), next.length - 1)];
      stopAt(grid, target);
      target.focus();
    }
    grid.addEventListener("click", (event) => {
      const cell = event.target.closest("[role=gridcell]");
      if (cell) read(cell);
    });
    grid.addEventListener("keydown", (event) => {
      const cell = event.target.closest("[role=gridcell]");
      if (!cell) return;
      if (event.key in moves) move(cell, ...moves[event.key]);
      else if (event.key === "Enter" || event.key === " ") read(cell);
      else return;
      event.preventDefault();
    });
  }
  function tell(readout, name, text) {
    const bold = document.createElement("b");
    bold.textContent = name;
    readout.replaceChildren(bold, text);
  }

  // Heat maps: which run is shown, and reading a cell.
  for (const heat of document.querySelectorAll(".heat")) {
    const readout = heat.querySelector(".readout");
    const runs = [...heat.querySelectorAll(".run")];
    for (const input of heat.querySelectorAll(".switch input")) {
      input.addEventListener("change", () => { for (const run of runs) run.hidden = run.dataset.run !== input.value; });
    }

    function read(cell) {
      for (const other of heat.querySelectorAll('[aria-selected="true"]')) other.removeAttribute("aria-selected");
      const lines = runs.map((run) => {
        const twin = [...run.querySelectorAll("td[data-node]")].find((each) => each.dataset.node === cell.dataset.node);
        if (!twin) return "";
        twin.setAttribute("aria-selected", "true");
        const what = run.dataset.run === "free" ? "in a free run" : "given the oracle's inputs";
        return `${twin.dataset.distance} ${what}`;
      });
      const marks = [];
      if (cell.classList.contains("root")) marks.push("first divergence");
      if (cell.classList.contains("wrong")) marks.push("wrong by itself");
      const mark = marks.length ? ` (${marks.join(", ")})` : "";
      tell(readout, cell.dataset.node, `: distance ${lines.filter(Boolean).join(", ")}${mark}`);
    }

    for (const grid of heat.querySelectorAll("[role=grid]")) navigate(grid, read);
  }

  // Kill matrices: which mutants are shown, and reading what became of one.
  for (const kills of document.querySelectorAll(".kills")) {
    const grid = kills.querySelector("[role=grid]");
    const readout = kills.querySelector(".readout");
    const inputs = [...kills.querySelectorAll(".switch input")];

    function choose() {
      const wanted = inputs.filter((input) => input.checked && input.value);
      for (const group of grid.tBodies) {
        const mutants = [...group.querySelectorAll("tr[data-mutant]")];
        for (const row of mutants) row.hidden = !wanted.every((input) => row.dataset[input.name] === input.value);
        group.hidden = mutants.every((row) => row.hidden);
      }
      stopAt(grid, shownRows(grid)[0]?.[0]);
    }
    for (const input of inputs) input.addEventListener("change", choose);

    navigate(grid, (cell) => {
      for (const other of grid.querySelectorAll('[aria-selected="true"]')) other.removeAttribute("aria-selected");
      cell.setAttribute("aria-selected", "true");
      const mutant = cell.closest("tr").dataset;
      tell(readout, mutant.mutant, ` in ${mutant.case}: ${cell.dataset.gate} ${cell.dataset.did}. ${mutant.detail}`);
    });
  }
})();
