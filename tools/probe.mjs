// Opens every page of the site over http and as a file, with the network cut, and operates it:
//     node tools/probe.mjs _build/html [page.html …]
// Fails on a request to another host, a failed request, an error on the console, mathematics that
// is not set, a figure that does not move (by keyboard, on Play, under a finger), a page wider than
// a phone, or a formula of which a phone shows a part and lets nobody scroll to the rest.
import path from 'node:path';
import {launch, open, pagesOf, serve} from './browser.mjs';

const [, , site, ...only] = process.argv;
const root = path.resolve(site);
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

// Formulas that stick out of a box that cuts and does not scroll, the folded ones unfolded before.
const cut = () => [...document.querySelectorAll('.bd-article mjx-container > svg')].filter((svg) => {
  const right = svg.getBoundingClientRect().right;
  for (let box = svg.parentElement; box !== document.body; box = box.parentElement) {
    const {overflowX} = getComputedStyle(box);
    const sticksOut = right > box.getBoundingClientRect().right + 1;
    if (sticksOut && ['auto', 'scroll'].includes(overflowX)) return false;
    if (sticksOut && ['hidden', 'clip'].includes(overflowX)) return true;
  }
  return right > document.documentElement.clientWidth + 1;
}).map((svg) => (svg.closest('p, div, td, li') ?? svg).textContent.slice(0, 80)
  || svg.nextElementSibling?.textContent.slice(0, 80));

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

// Marks what says of itself that it can be grabbed, and counts it.
const grabbed = () => [...document.querySelectorAll('[data-mm] *')].filter((element) =>
  getComputedStyle(element).cursor === 'grab' && getComputedStyle(element.parentElement).cursor !== 'grab')
  .map((element) => element.setAttribute('data-drag', '')).length;

// A finger on a phone: what can be grabbed goes where the finger goes, and the page stays; from any
// other place of the same picture the finger scrolls the page.
async function touch(address, where) {
  const context = await browser.newContext({viewport: PHONE, hasTouch: true, isMobile: true});
  const page = await context.newPage();
  await open(page, address);
  const session = await context.newCDPSession(page);
  const finger = (type, ...at) => session.send('Input.dispatchTouchEvent', {
    type, touchPoints: at.map(([x, y]) => ({x, y})),
  });
  // From one point by (right, down) pixels; how far the page went meanwhile.
  const draw = async ([x, y], [right, down]) => {
    const before = await page.evaluate(() => scrollY);
    await finger('touchStart', [x, y]);
    for (let n = 1; n <= 20; n += 1) {
      await finger('touchMove', [x + right * n / 20, y + down * n / 20]);
      await page.waitForTimeout(16);
    }
    await finger('touchEnd');
    await page.waitForTimeout(300);
    return await page.evaluate(() => scrollY) - before;
  };
  const middle = (locator) => locator.evaluate((element) => {
    const box = element.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  });
  let held = 0;
  await page.evaluate(grabbed);
  for (const handle of await page.locator('[data-drag]').all()) {
    held += 1;
    const surface = handle.locator('xpath=ancestor::*[name()="svg"][1]');
    await surface.evaluate((element) => element.scrollIntoView({block: 'center'}));
    const [x, y] = await middle(handle);
    const [toX, toY] = await middle(surface);
    // to the other side of the picture and upwards, which is where a page would scroll
    const way = [1.4 * (toX - x), Math.min(-60, 1.4 * (toY - y))];
    if (await draw([x, y], way) !== 0) fault(where, 'the page scrolls under a finger that drags');
    const [endX, endY] = await middle(handle);
    const [gone, wanted] = [Math.hypot(endX - x, endY - y), Math.hypot(...way)];
    if (gone < wanted / 2)
      fault(where, `dragged ${wanted.toFixed(0)} pixels by a finger, a figure goes ${gone.toFixed(0)}`);
    const box = await surface.boundingBox();
    const corners = [[5, 5], [box.width - 5, 5], [5, box.height - 5]].map(([a, b]) => [box.x + a, box.y + b]);
    const empty = corners.sort((a, b) => Math.hypot(b[0] - endX, b[1] - endY)
      - Math.hypot(a[0] - endX, a[1] - endY))[0];
    if (await draw(empty, [0, -120]) < 30) fault(where, 'a picture does not let a finger scroll the page');
  }
  await context.close();
  return held;
}

for (const how of ['http', 'file']) {
  const {base, close} = await serve(root, how);
  for (const name of only.length ? only : pagesOf(root)) {
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
    await page.evaluate(() => { for (const fold of document.querySelectorAll('details')) fold.open = true; });
    await page.waitForTimeout(150);
    for (const text of await page.evaluate(cut)) fault(where, `a formula is cut on a phone: ${text}`);
    const asked = requests;  // what the finger's page asks for is the same
    const held = await page.evaluate(grabbed) ? await touch(base + name, where) : 0;
    console.log(`${where}: ${asked} requests, ${formulas} formulas, ${figures.length} figures operated, `
      + `${held} things dragged`);
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
