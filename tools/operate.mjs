// Opens a page of figures as a file, on a phone, presses keys, and prints what is seen after each:
//     node tools/operate.mjs PAGE.html '[{"figure": 0, "input": 1, "keys": ["ArrowRight"]}]'
// input is the place of an input or button in its figure, or a selector.
// Fails on an error of a script, a request, or a page wider than the phone.
import path from 'node:path';
import {launch} from './browser.mjs';

const [, , file, steps] = process.argv;
const browser = await launch();
const page = await browser.newPage({viewport: {width: 360, height: 740}});
const address = `file://${path.resolve(file)}`;
const faults = [];
page.on('pageerror', (error) => faults.push(String(error)));
page.on('request', (request) => {
  if (request.url() !== address && !request.url().startsWith('data:')) faults.push(request.url());
});
await page.goto(address);
const seen = [];
for (const {figure, input, keys} of JSON.parse(steps)) {
  const root = page.locator('[data-mm]').nth(figure);
  const control = typeof input === 'string' ? root.locator(input) : root.locator('input, button').nth(input);
  await control.focus();
  for (const key of keys) await page.keyboard.press(key);
  seen.push(await root.evaluate((element) => {
    const texts = (name) => [...element.querySelectorAll(`[data-part="${name}"]`)]
      .map((part) => part.textContent);
    const lengths = (name, attribute) => [...element.querySelectorAll(`[data-part="${name}"]`)]
      .map((part) => +part.getAttribute(attribute));
    const place = (name) => element.querySelector(`[data-part="${name}"]`)?.getAttribute('transform')
      ?.match(/-?\d+/g);
    return {
      says: element.querySelector('output').value,
      alt: element.querySelector('svg, img').getAttribute('aria-label')
        ?? element.querySelector('img').alt,
      numbers: texts('number'), scores: texts('score'), asks: texts('asks'),
      moves: place('moves'), wanted: place('wanted'),
      blocked: element.querySelector('[data-part="wanted"]')?.getAttribute('visibility') === 'visible',
      widths: lengths('line', 'stroke-width'), bars: lengths('bar', 'width'),
    };
  }));
}
const wide = await page.evaluate(() => document.scrollingElement.scrollWidth);
if (wide > 360) faults.push(`${wide} pixels wide`);
await browser.close();
console.log(JSON.stringify({seen, faults}));
