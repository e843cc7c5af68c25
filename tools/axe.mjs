// Asks axe-core about every page of the site, wide and on a phone, in light and in dark:
//     node tools/axe.mjs _build/html
// Fails on any finding of WCAG 2.1 A and AA or of axe's best practices.
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';
import {launch, open, pagesOf, serve} from './browser.mjs';

const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'];
const root = path.resolve(process.argv[2]);
const axe = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const browser = await launch();
const {base, close} = await serve(root, 'http');
let found = 0;
let looked = 0;
for (const name of pagesOf(root)) {
  const page = await (await browser.newContext()).newPage();
  await open(page, base + name);
  await page.evaluate(axe);
  for (const [width, height] of [[1280, 900], [360, 740]])
    for (const colorScheme of ['light', 'dark']) {
      await page.setViewportSize({width, height});
      await page.emulateMedia({colorScheme});
      await page.waitForTimeout(300);
      const violations = await page.evaluate(async (rules) =>
        (await window.axe.run(document, {runOnly: rules})).violations.map((violation) => ({
          what: `${violation.impact} ${violation.id}`,
          nodes: violation.nodes.map((node) => `${node.target.join(' ')} ${node.html.slice(0, 120)} `
            + `${(node.any[0] ?? node.all[0] ?? node.none[0])?.message ?? ''}`),
        })), RULES);
      looked += 1;
      for (const {what, nodes} of violations) {
        found += nodes.length;
        console.log(`${name} ${width} ${colorScheme}: ${what}, ${nodes.length} times`);
        for (const text of nodes.slice(0, 3)) console.log(`    ${text}`);
      }
    }
  await page.context().close();
}
await browser.close();
close();
console.log(`${looked} looks, ${found} findings`);
process.exitCode = found ? 1 : 0;
