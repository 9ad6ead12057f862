// Measures a report in frames of two widths and writes what is wrong into #result.
"use strict";

const inside = (inner, outer, slack) =>
  inner.left >= outer.left - slack && inner.right <= outer.right + slack &&
  inner.top >= outer.top - slack && inner.bottom <= outer.bottom + slack;

const overlap = (one, other) =>
  Math.min(one.right, other.right) - Math.max(one.left, other.left) > 1 &&
  Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 2;

function measure(frame) {
  const wrong = [];
  const width = frame.clientWidth;
  const page = frame.contentDocument;
  const say = (text) => wrong.push(`${width} px: ${text}`);
  if (page.documentElement.scrollWidth > width) {
    say(`the page is ${page.documentElement.scrollWidth} px wide`);
  }
  for (const entry of frame.contentWindow.performance.getEntriesByType("resource")) {
    say(`loads ${entry.name}`);
  }
  const panels = [...page.querySelectorAll("svg.panel")];
  for (const panel of panels) {
    const name = panel.getAttribute("aria-label");
    const box = panel.getBoundingClientRect();
    if (!inside(box, panel.closest("figure").getBoundingClientRect(), 1)) say(`${name}: outside its figure`);
    for (const part of panel.querySelectorAll("text, polyline, polygon, circle, path")) {
      if (!inside(part.getBoundingClientRect(), box, 1)) say(`${name}: ${part.tagName} ${part.textContent} sticks out`);
    }
    const texts = [...panel.querySelectorAll("text")];
    const boxes = texts.map((text) => text.getBoundingClientRect());
    for (let one = 0; one < texts.length; one += 1) {
      if (boxes[one].height < 8) say(`${name}: "${texts[one].textContent}" is ${boxes[one].height} px high`);
      for (let other = 0; other < one; other += 1) {
        if (overlap(boxes[one], boxes[other])) {
          say(`${name}: "${texts[one].textContent}" lies on "${texts[other].textContent}"`);
        }
      }
    }
  }
  for (const entry of page.querySelectorAll(".legend li")) {
    if (!inside(entry.getBoundingClientRect(), entry.closest("figure").getBoundingClientRect(), 1)) {
      say(`legend entry ${entry.textContent} sticks out`);
    }
  }
  return { panels: panels.length, paper: getComputedStyle(page.body).backgroundColor, wrong };
}

window.addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  const results = frames.map(measure);
  frames.forEach((frame) => frame.remove());
  document.getElementById("result").textContent = JSON.stringify(results);
});
