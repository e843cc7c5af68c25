// Opens every page of the site over http and as a file, with the network cut, and operates it:
//     node tools/probe.mjs _build/html
// Fails on a request to another host, a failed request, an error on the console, mathematics that
// is not set, a figure that does not move, or a page wider than a phone.
import path from 'node:path';
import {launch, open, pagesOf, serve} from './browser.mjs';

const root = path.resolve(process.argv[2]);
const PHONE = {width: 360, height: 740};
const browser = await launch();
let faults = 0;
const fault = (where, what) => { faults += 1; console.log(`FAULT ${where}: ${what}`); };

// Raw TeX that a reader would see, outside code.
const unsetMathematics = () => [...document.querySelectorAll('.bd-article .math, .bd-article mjx-merror')]
  .filter((element) => element.matches('mjx-merror') || element.querySelector('mjx-merror, [data-mjx-error]')
    || !element.querySelector('mjx-container'))
  .map((element) => element.textContent.slice(0, 80));

// What sticks out to the right of the window and is not inside a box that scrolls.
const sideways = () => {
  const wide = document.documentElement.clientWidth;
  if (document.scrollingElement.scrollWidth <= wide) return [];
  return [...document.querySelectorAll('body *')]
    .filter((element) => element.getBoundingClientRect().right > wide + 1)
    .slice(-3).map((element) => element.outerHTML.slice(0, 100));
};

const picture = (figure) => figure.evaluate((element) => {
  const image = element.querySelector('img');
  return (image ? image.src : element.querySelector('svg, canvas, table')?.outerHTML)
    + (element.querySelector('output')?.value ?? '');
});

// A slider or a choice by keyboard, then Play: the picture must change each time, then stop on Pause.
async function operate(page, figure, where) {
  const control = figure.locator('input[type=range], input:checked').first();
  let before = await picture(figure);
  await control.focus();
  await page.keyboard.press('ArrowRight');
  if (await picture(figure) === before) fault(where, 'a figure does not move by keyboard');
  const play = figure.getByRole('button', {name: 'Play'});
  if (await play.count() === 0) return;
  before = await picture(figure);
  await play.first().click();
  for (let waited = 0; waited < 5000 && await picture(figure) === before; waited += 100)
    await page.waitForTimeout(100);
  if (await picture(figure) === before) return fault(where, 'a figure does not move on Play');
  await figure.getByRole('button', {name: 'Pause'}).first().click();
  before = await picture(figure);
  await page.waitForTimeout(1200);
  if (await picture(figure) !== before) fault(where, 'a figure goes on after Pause');
}

for (const how of ['http', 'file']) {
  const {base, close} = await serve(root, how);
  for (const name of pagesOf(root)) {
    const where = `${how} ${name}`;
    const context = await browser.newContext({reducedMotion: 'no-preference'});
    const page = await context.newPage();
    let requests = 0;
    page.on('request', (request) => {
      requests += 1;
      const url = request.url();
      if (!url.startsWith(base) && !/^(data|blob):/.test(url)) fault(where, `asks for ${url.slice(0, 200)}`);
    });
    page.on('requestfailed', (request) => fault(where, `failed: ${request.url().slice(0, 200)}`));
    page.on('response', (response) => {
      if (response.status() >= 400) fault(where, `${response.status()} ${response.url()}`);
    });
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) fault(where, `console: ${message.text().slice(0, 300)}`);
    });
    page.on('pageerror', (error) => fault(where, `script: ${String(error).slice(0, 300)}`));
    await open(page, base + name);

    const formulas = await page.locator('.bd-article mjx-container').count();
    for (const text of await page.evaluate(unsetMathematics)) fault(where, `mathematics not set: ${text}`);
    const figures = await page.locator('[data-mm]').all();
    for (const figure of figures) await operate(page, figure, where);

    await page.setViewportSize(PHONE);
    await page.waitForTimeout(150);
    for (const text of await page.evaluate(sideways)) fault(where, `wider than a phone: ${text}`);
    console.log(`${where}: ${requests} requests, ${formulas} formulas, ${figures.length} figures operated`);
    await context.close();
  }

  // The search finds a word of the book, over http and from a file alike.
  const page = await browser.newPage();
  await open(page, `${base}search.html?q=attention`);
  await page.locator('#search-results li').first().waitFor({timeout: 10000})
    .catch(() => fault(`${how} search.html`, 'the search finds nothing for "attention"'));
  await page.close();
  close();
}
await browser.close();
console.log(faults ? `${faults} faults` : 'no fault');
process.exitCode = faults ? 1 : 0;
