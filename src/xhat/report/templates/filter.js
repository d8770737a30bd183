(() => {
  "use strict";
  const bar = document.querySelector(".filters");
  if (!bar) return;
  const buttons = [...bar.querySelectorAll("button")];
  const input = bar.querySelector("input");
  const output = bar.querySelector("output");
  const rows = [...document.querySelectorAll(".glance tbody tr")];
  const parts = [...document.querySelectorAll("[data-claim]")];
  const around = [...document.querySelectorAll("[data-part]")]; // sections that are nothing without claims
  let verdict = "";

  function apply() {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = ({ dataset }) => (!verdict || dataset.verdict === verdict)
      && wanted.every((word) => dataset.text.toLowerCase().includes(word));
    const shown = new Set(rows.filter(fits).map((row) => row.dataset.claim));
    for (const part of parts) part.hidden = !shown.has(part.dataset.claim);
    for (const section of around) section.hidden = !section.querySelector("article:not([hidden])");
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
    document.querySelector(".none-fits").hidden = shown.size > 0;
    const all = !verdict && !wanted.length;
    output.textContent = all ? "" : bar.dataset.shown.replace("{shown}", shown.size).replace("{all}", rows.length);
  }

  function showAll() {
    verdict = "";
    input.value = "";
    apply();
  }

  /** A link to a part that is filtered out shows everything again. */
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target?.closest("[hidden]")) return;
    showAll();
    target.scrollIntoView();
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      verdict = button.dataset.verdict;
      apply();
    });
  }
  input.addEventListener("input", apply);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") showAll();
  });
  document.addEventListener("click", (event) => {
    // The same link twice changes no hash.
    if (event.target.closest("a[href^='#']")) setTimeout(reveal);
  });
  addEventListener("hashchange", reveal);
  document.querySelector(".first .tally").hidden = true;
  bar.hidden = false;
  apply(); // the browser may have kept the field's text over a reload
})();
