// How long the chapters of a rendered book are, at 1280 by 900 px, with what is folded folded.
//
//     node tests/pages/length.mjs FOLDER [PAGE ...]
//
// As check.mjs, which says what is needed. Prints one line of JSON for each chapter: its height in screens, and how many
// screens down its first figure or table and its first verdict begin (null where there is none to be seen).
import { createRequire } from "node:module";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.env.NODE_PATH ?? process.cwd(), "anything.js"));
const { chromium } = require("playwright-core");
const [folder, ...wanted] = process.argv.slice(2);

function lengths() {
  const screens = (y) => Math.round((10 * y) / innerHeight) / 10;
  const first = (selector) => {
    const node = [...document.querySelectorAll(selector)].find((each) => each.checkVisibility());
    return node ? screens(node.getBoundingClientRect().top + scrollY) : null;
  };
  const article = document.querySelector(".bd-article");
  return { screens: screens(article.getBoundingClientRect().bottom + scrollY),
           figure: first(".bd-article :is(figure, .result-table)"), verdict: first(".bd-article .verdict") };
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const chapters = readdirSync(join(folder, "notebooks")).filter((name) => name.endsWith(".html")).sort();
for (const page of chapters.filter((name) => !wanted.length || wanted.some((part) => name.includes(part)))) {
  const tab = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  await tab.goto(pathToFileURL(join(folder, "notebooks", page)).href, { timeout: 300000 });
  await tab.evaluate(() => window.MathJax?.startup?.promise);
  console.log(JSON.stringify({ page, ...(await tab.evaluate(lengths)) }));
  await tab.close();
}
await browser.close();
