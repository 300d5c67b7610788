// Opens every page of a rendered book in Chromium, light and dark, at 1280 and 390 px, and says what is wrong with it.
//
//     node tests/pages/check.mjs FOLDER [PAGE ...]
//
// FOLDER holds the rendered book; a PAGE is a part of an address in it, such as 03_ or ledger. Needs the npm packages
// playwright-core and axe-core, found from NODE_PATH, and Chromium, found from CHROMIUM. Prints one line of JSON for
// each page, theme and width: what axe-core finds, what is cut off, and what scrolls without being reachable by key.
import { createRequire } from "node:module";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const require = createRequire(join(process.env.NODE_PATH ?? process.cwd(), "anything.js"));
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core");
const [folder, ...wanted] = process.argv.slice(2);

function pages(at) {
  return readdirSync(at, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() && !entry.name.startsWith("_") ? pages(join(at, entry.name))
      : entry.name.endsWith(".html") ? [join(at, entry.name)] : []);
}

// In the page: text and formulas that stick out of a box which hides or scrolls them.
function cut() {
  const said = new Set();
  const name = (node) => `${node.tagName.toLowerCase()}.${node.className?.baseVal ?? node.className} ` +
    `"${(node.textContent ?? "").trim().slice(0, 40)}"`;
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth + 1) said.add(`the page scrolls sideways by ${root.scrollWidth - root.clientWidth} px`);
  for (const node of document.querySelectorAll(".bd-article *")) {
    if (node.matches("div.math")) continue;  // its formula is looked at, which may scroll
    const drawn = node.matches("span.math, mjx-container") && node.querySelector("svg");  // hidden text is wider
    const over = drawn ? drawn.getBoundingClientRect().width - node.getBoundingClientRect().width
      : node.scrollWidth - node.clientWidth;
    if (over < 2 || node.clientWidth === 0 || node.closest("mjx-assistive-mml, svg, .visually-hidden, math")) continue;
    const style = getComputedStyle(node);
    if (style.display === "inline" || style.overflowX === "visible") continue;
    if (style.overflowX === "hidden") said.add(`cut by ${over} px: ${name(node)}`);
    else if (node.tabIndex < 0 || !(node.getAttribute("aria-label") || node.getAttribute("aria-labelledby")))
      said.add(`scrolls without a tab stop and a label: ${name(node)}`);
  }
  const box = document.querySelector(".bd-article")?.getBoundingClientRect();
  for (const node of document.querySelectorAll(".bd-article :is(table, img, figure, pre, mjx-container > svg, .verdict)")) {
    const right = node.getBoundingClientRect().right;
    let holder = node.parentElement;
    while (holder && getComputedStyle(holder).overflowX === "visible") holder = holder.parentElement;
    if (box && right > box.right + 2 && (!holder || holder.contains(document.querySelector(".bd-article"))))
      said.add(`sticks out by ${Math.round(right - box.right)} px: ${name(node)}`);
  }
  const stops = [...document.querySelectorAll("mjx-container[tabindex='0']")]
    .filter((node) => !(node.scrollWidth > node.clientWidth + 1)).length;
  if (stops) said.add(`${stops} formulas are tab stops`);
  return [...said];
}

// Links of a page to places that are not there, on it or on another page of the book.
const ids = new Map();
function idsOf(path) {
  if (!ids.has(path)) {
    const text = existsSync(path) ? readFileSync(path, "utf8") : null;
    ids.set(path, text && new Set([...text.matchAll(/\sid="([^"]+)"/g)].map(([, id]) => id)));
  }
  return ids.get(path);
}
function dead(links) {
  const said = new Set();
  for (const link of links.filter((link) => link.startsWith("file:"))) {
    const url = new URL(link);
    const found = idsOf(fileURLToPath(url.origin === "null" ? `file://${url.pathname}` : url));
    const id = decodeURIComponent(url.hash.slice(1));
    if (!found || (id && !found.has(id))) said.add(`leads nowhere: ${decodeURIComponent(link.split("/").pop())}`);
  }
  return [...said];
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
let faults = 0;
for (const path of pages(folder)) {
  const page = relative(folder, path);
  if (/^(genindex|search|index)\.html/.test(page) || (wanted.length && !wanted.some((part) => page.includes(part)))) continue;
  for (const width of [1280, 390]) {
    const tab = await browser.newPage({ viewport: { width, height: 900 } });
    tab.setDefaultTimeout(300000);
    await tab.goto(pathToFileURL(path).href);
    await tab.evaluate(() => window.MathJax?.startup?.promise);
    await tab.addScriptTag({ path: axe });
    await tab.addStyleTag({ content: "*, *::before, *::after { transition: none !important }" });
    const links = await tab.evaluate(() => [...document.querySelectorAll(".bd-article a[href]")].map(({ href }) => href));
    for (const theme of ["light", "dark"]) {
      await tab.evaluate((mode) => {
        document.documentElement.dataset.theme = mode;
        document.documentElement.dataset.mode = mode;
      }, theme);
      const { violations } = await tab.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      const found = violations.map(({ id, nodes }) => `${id} (${nodes.length}): ` +
        nodes.slice(0, 3).map(({ html, any }) => `${html.slice(0, 110)} ${any[0]?.data?.contrastRatio ?? ""}`).join(" | "));
      const cutOff = await tab.evaluate(cut);
      const lost = theme === "light" && width === 1280 ? dead(links) : [];
      faults += found.length + cutOff.length + lost.length;
      console.log(JSON.stringify({ page, theme, width, axe: found, cut: cutOff, links: lost }));
    }
    await tab.close();
  }
}
await browser.close();
process.exitCode = faults ? 1 : 0;
