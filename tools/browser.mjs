// What the three browser tools share: the pages of a built site, a Chromium without a network, and
// a page that is ready when its mathematics is set.
import {execSync} from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import {chromium} from 'playwright-core';

const TYPES = {
  '.css': 'text/css', '.html': 'text/html', '.js': 'text/javascript', '.json': 'application/json',
  '.png': 'image/png', '.svg': 'image/svg+xml', '.woff2': 'font/woff2',
};

// Every page of the site, the search page too; not the sources that lie beside them.
export function pagesOf(root) {
  const walk = (folder) => fs.readdirSync(folder, {withFileTypes: true}).flatMap((entry) => {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) return entry.name.startsWith('_') ? [] : walk(full);
    return entry.name.endsWith('.html') ? [path.relative(root, full)] : [];
  });
  return walk(root).sort();
}

function findBrowser() {
  if (process.env.BROWSER) return process.env.BROWSER;
  return execSync('command -v chromium || command -v chromium-browser || command -v google-chrome',
    {encoding: 'utf8'}).trim();
}

export function launch() {
  return chromium.launch({
    executablePath: findBrowser(),
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
      '--disable-background-networking', '--disable-component-update',
      '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'],
  });
}

// Serves the site, or names it as a file: {base, close}.
export async function serve(root, how) {
  if (how === 'file') return {base: `file://${root}/`, close() {}};
  const server = http.createServer((request, response) => {
    const file = path.join(root, decodeURIComponent(new URL(request.url, 'http://x').pathname));
    fs.readFile(file, (error, data) => {
      if (error) return response.writeHead(404).end();
      response.writeHead(200, {'content-type': TYPES[path.extname(file)] || 'application/octet-stream'});
      response.end(data);
    });
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  return {base: `http://127.0.0.1:${server.address().port}/`, close: () => server.close()};
}

// Opens a page and waits until it has loaded, its mathematics is set and the theme has settled.
export async function open(page, address) {
  await page.goto(address, {waitUntil: 'load'});
  await page.waitForURL((url) => !url.pathname.endsWith('/index.html') || url.pathname.includes('/book/'));
  await page.waitForLoadState('load');
  await page.evaluate(() => window.MathJax?.startup?.promise);
  await page.evaluate(() => document.fonts.ready);
  await page.waitForTimeout(300);  // the observers that repair the page wait 100 ms
}
