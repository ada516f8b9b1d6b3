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

  // Heat maps: which run is shown, moving with the arrow keys, and reading a cell.
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
      const name = document.createElement("b");
      name.textContent = cell.dataset.node;
      const mark = marks.length ? ` (${marks.join(", ")})` : "";
      readout.replaceChildren(name, `: distance ${lines.filter(Boolean).join(", ")}${mark}`);
    }

    for (const grid of heat.querySelectorAll("[role=grid]")) {
      const rows = [...grid.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")]);
      function move(cell, down, right) {
        const y = rows.findIndex((row) => row.includes(cell));
        const x = rows[y].indexOf(cell);
        const next = rows[Math.min(Math.max(y + down, 0), rows.length - 1)];
        const target = next[Math.min(Math.max(x + right, 0), next.length - 1)];
        cell.tabIndex = -1;
        target.tabIndex = 0;
        target.focus();
      }
      const far = 1e6;
      const keys = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -far], End: [0, far] };
      grid.addEventListener("click", (event) => {
        const cell = event.target.closest("td[data-node]");
        if (cell) read(cell);
      });
      grid.addEventListener("keydown", (event) => {
        const cell = event.target.closest("td[data-node]");
        if (!cell) return;
        if (event.key in keys) move(cell, ...keys[event.key]);
        else if (event.key === "Enter" || event.key === " ") read(cell);
        else return;
        event.preventDefault();
      });
    }
  }
})();
