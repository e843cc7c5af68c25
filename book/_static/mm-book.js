// From file:// the search page may not fetch the excerpt of a hit: leave excerpts out there.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// On a phone a numbered formula starts at the left; centred, it would need its number's width twice.
if (window.MathJax && matchMedia("(max-width: 600px)").matches)
  MathJax.svg = {...MathJax.svg, displayAlign: "left", displayIndent: "0"};

// What axe-core finds in the theme: names that hide the visible text, a title outside all landmarks,
// and boxes that scroll but that the keyboard cannot reach.
function repair() {
  for (const element of document.querySelectorAll(
    ".search-button-field[aria-label], .theme-switch-button[aria-label], details.hide > summary[aria-label]"))
    element.removeAttribute("aria-label");
  for (const item of document.querySelectorAll(".sidebar-primary-item:has(> .navbar-brand)")) {
    item.setAttribute("role", "navigation");
    item.setAttribute("aria-label", "Home");
  }
  for (const box of document.querySelectorAll(
    ".bd-article pre, .bd-article div.math, .bd-article .cell_output > .output, .pst-scrollable-table-container"))
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
}
// A folded cell that begins with "#@title Solution of 4.2" is named so, as it is in Colab.
function nameFolded() {
  for (const summary of document.querySelectorAll("details.hide.above-input > summary")) {
    const title = summary.closest(".cell")?.querySelector("pre")?.textContent.match(/^#\s*@title (.+)/);
    if (title) for (const text of summary.querySelectorAll("span, p")) text.textContent = title[1];
  }
}
document.addEventListener("DOMContentLoaded", nameFolded);

let wait;
new MutationObserver(() => { clearTimeout(wait); wait = setTimeout(repair, 100); })
  .observe(document.documentElement, {childList: true, subtree: true});
addEventListener("resize", repair);
