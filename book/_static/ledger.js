// The ledger shows the claims that are asked for; without this script it shows all. An address such as
// ledger.html?paper=kim2021&state=held asks, too.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector(".claims-filter");
  if (!form) return;
  delete document.body.dataset.bsSpy; // which takes every link for one to a heading, and trips over names of results
  const rows = [...document.querySelectorAll("details.claim")];
  const selects = [...form.querySelectorAll("select")];
  const asked = new URLSearchParams(location.search);

  function choose() {
    for (const row of rows)
      row.parentElement.hidden = selects.some(({ name, value }) => value && value !== row.dataset[name]);
    for (const group of [...document.querySelectorAll(".claims-group"), ...document.querySelectorAll("section.claims")])
      group.hidden = !group.querySelector("li:not([hidden])");
    const shown = rows.filter((row) => !row.parentElement.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${rows.length} claims`;
  }
  function unfold() {
    const row = document.getElementById(location.hash.slice(1));
    if (!rows.includes(row)) return;
    row.open = true;
    row.scrollIntoView();
  }

  for (const select of selects) {
    if ([...select.options].some(({ value }) => value === asked.get(select.name))) select.value = asked.get(select.name);
    select.addEventListener("change", choose);
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  choose();
  unfold();
  addEventListener("hashchange", unfold);
});
