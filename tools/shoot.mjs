// Photographs pages for people to look at, wide and on a phone, in light and in dark:
//     node tools/shoot.mjs _build/html FOLDER [page.html …]
import fs from 'node:fs';
import path from 'node:path';
import {launch, open, pagesOf, serve} from './browser.mjs';

const [, , site, folder, ...only] = process.argv;
const root = path.resolve(site);
fs.mkdirSync(folder, {recursive: true});
const browser = await launch();
const {base, close} = await serve(root, 'http');
for (const [size, width, height] of [['wide', 1280, 900], ['phone', 360, 740]])
  for (const colorScheme of ['light', 'dark'])
    for (const name of only.length ? only : pagesOf(root)) {
      const page = await browser.newPage({viewport: {width, height}, colorScheme});
      await open(page, base + name);
      const file = `${name.replace(/\.html$/, '').replaceAll('/', '-')}-${size}-${colorScheme}.png`;
      await page.screenshot({path: path.join(folder, file), fullPage: true});
      console.log(path.join(folder, file));
      await page.close();
    }
await browser.close();
close();
