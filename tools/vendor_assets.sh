#!/bin/sh
# Renew the JavaScript and the fonts that the site ships, so that no page asks another host for them.
# Needs npm; the result is committed, byte for byte what the packages hold.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
npm install --silent --no-audit --no-fund --prefix "$work" mathjax@3.2.2 \
  @fontsource-variable/source-serif-4@5.3.1 @fontsource-variable/source-sans-3@5.3.1 \
  @fontsource-variable/source-code-pro@5.3.1
vendor=book/_static/vendor
rm -rf "$vendor"
mkdir -p "$vendor/mathjax" "$vendor/fonts"

# One file with all TeX extensions and no fonts of its own: nothing is loaded later.
cp "$work/node_modules/mathjax/es5/tex-svg-full.js" "$work/node_modules/mathjax/LICENSE" "$vendor/mathjax/"

fonts="$work/node_modules/@fontsource-variable"
cp "$fonts/source-serif-4/LICENSE" "$vendor/fonts/LICENSE"
for file in source-serif-4-latin-wght-normal source-serif-4-latin-wght-italic \
            source-serif-4-greek-wght-normal source-sans-3-latin-wght-normal \
            source-code-pro-latin-wght-normal; do
  find "$fonts" -name "$file.woff2" -exec cp {} "$vendor/fonts/" \;
done
