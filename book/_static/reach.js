// What a keyboard, a finger and a narrow screen need. Without this script the page is whole, and wide things scroll.
document.addEventListener("DOMContentLoaded", () => {
  const article = document.querySelector(".bd-article");
  if (!article) return;

  // The theme names neither its side bar, nor what folds there, nor, in full, its search button.
  const side = document.querySelector(".bd-sidebar-primary");
  side?.setAttribute("role", "complementary");
  side?.setAttribute("aria-label", "Pages of the book");
  side?.querySelectorAll("summary").forEach((toggle) =>
    toggle.setAttribute("aria-label", `Pages below ${toggle.closest("li").querySelector("a").innerText}`));
  document.querySelectorAll(".search-button__button").forEach((button) =>
    button.setAttribute("aria-label", button.innerText.replace(/\s+/g, " ").trim() || "Search"));

  // Formulas and tables of results are set smaller where they then fit, down to 70 %. What is wider scrolls, and what
  // scrolls is a tab stop with a label.
  const fitted = "mjx-container[display], span.math, .result-table";
  const scrolling = `${fitted}, .ledger, .pst-scrollable-table-container, .text_html, pre`;
  const kinds = [["mjx-container, span.math", "Formula"], ["pre", "Code"], ["*", "Table"]];

  // Of a formula the drawing counts: the text beside it, for screen readers, is wider.
  const inside = (box) => (box.matches(".result-table") ? box.querySelector("table") : box.querySelector("svg"));
  function isWide(box) {
    if (!box.clientWidth) return false;
    const drawn = box.matches("mjx-container, span.math") && box.querySelector("svg");
    return (drawn ? drawn.getBoundingClientRect().width : box.scrollWidth) > box.clientWidth + 1;
  }
  let least = 0.7;
  function fit() {
    article.querySelectorAll(fitted).forEach((box) => {
      const inner = inside(box);
      if (!inner) return;
      inner.style.zoom = 1;
      if (!isWide(box)) return;
      const share = (0.98 * box.clientWidth) / inner.getBoundingClientRect().width;
      if (share > least) inner.style.zoom = share;
    });
    article.querySelectorAll(scrolling).forEach((box) => {
      if (isWide(box)) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        const what = kinds.find(([selector]) => box.matches(selector))[1];
        box.setAttribute("aria-label", `${what}, scrolls sideways`);
      } else if (box.getAttribute("aria-label")?.endsWith("scrolls sideways")) {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      }
    });
  }

  // What a link leads to may be folded.
  function unfold() {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const folded = place?.closest("details:not([open])");
    if (!folded) return;
    for (let box = folded; box; box = box.parentElement.closest("details")) box.open = true;
    place.scrollIntoView();
  }
  unfold();
  addEventListener("hashchange", unfold);

  // A title is shown by a mouse alone. Here it also appears when its word has the focus or is touched; Escape hides it.
  const tip = document.createElement("div");
  tip.className = "tip-box";
  tip.id = "tip-box";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  article.append(tip);

  function show(word) {
    tip.textContent = word.dataset.tip;
    tip.hidden = false;
    word.setAttribute("aria-describedby", tip.id);
    const place = word.getBoundingClientRect();
    const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = place.bottom + tip.offsetHeight + 12 < innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? place.bottom + 4 : place.top - tip.offsetHeight - 4}px`;
  }
  function hide() {
    tip.hidden = true;
  }
  article.querySelectorAll("abbr[title], a[title]:not(.headerlink)").forEach((word) => {
    word.dataset.tip = word.title;
    word.removeAttribute("title");
    if (word.matches("abbr")) {
      word.tabIndex = 0;
      word.setAttribute("role", "note");
    }
    for (const event of ["focus", "mouseenter", "click"]) word.addEventListener(event, () => show(word));
    word.addEventListener("blur", hide);
    word.addEventListener("mouseleave", () => setTimeout(() => tip.matches(":hover") || hide(), 100));
  });
  tip.addEventListener("mouseleave", hide);
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", ({ key }) => key === "Escape" && hide());

  fit();
  addEventListener("load", () => window.MathJax?.startup?.promise?.then(fit));
  addEventListener("resize", fit);
  article.addEventListener("toggle", fit, true);
  // Paper is narrower than the column, and nothing on it can be unfolded.
  addEventListener("beforeprint", () => {
    article.style.maxWidth = "38rem";
    least = 0.3;  // paper does not scroll
    article.querySelectorAll("details").forEach((box) => (box.open = true));
    fit();
  });
  addEventListener("afterprint", () => {
    article.style.maxWidth = "";
    least = 0.7;
    fit();
  });
});
