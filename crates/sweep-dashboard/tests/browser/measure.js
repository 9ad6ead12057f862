(() => {
  const wrong = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) wrong.push(`the page is ${root.scrollWidth} px wide, not ${root.clientWidth}`);
  for (const entry of performance.getEntriesByType("resource")) {
    if (!entry.name.startsWith(location.origin)) wrong.push(`loads ${entry.name}`);
  }
  const channels = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = (colour) => {
    const [red, green, blue] = colour.map((channel) => {
      const part = channel / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  for (const element of document.querySelectorAll("body *:not(svg *)")) {
    const box = element.getBoundingClientRect();
    if (!own(element) || !element.checkVisibility() || box.width <= 1 || element.closest(".chart")) continue;
    const [one, other] = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4) wrong.push(`"${element.textContent.slice(0, 40)}" has a contrast of ${contrast.toFixed(1)}`);
    const cell = element.closest("td");
    if (cell && element.getBoundingClientRect().right > cell.getBoundingClientRect().right + 1) {
      wrong.push(`"${element.textContent.slice(0, 40)}" sticks out of its cell`);
    }
    const scroll = element.closest(".scroll, pre");
    if (!scroll && box.right > root.clientWidth + 1) wrong.push(`"${element.textContent.slice(0, 40)}" sticks out`);
  }
  const boxes = [...document.querySelectorAll("h1, h2, .tabs, .bar, .counts, #progress, .choices, .scale, .panel, .plot, .scroll:not(.panel .scroll), pre, dl")]
    .filter((element) => element.checkVisibility()).map((element) => [element, element.getBoundingClientRect()]).filter(([, box]) => box.height > 0);
  for (const [index, [element, box]] of boxes.entries()) {
    for (const [other, beside] of boxes.slice(0, index)) {
      const wide = Math.min(box.right, beside.right) - Math.max(box.left, beside.left);
      const high = Math.min(box.bottom, beside.bottom) - Math.max(box.top, beside.top);
      if (wide > 1 && high > 1) wrong.push(`${element.className || element.id} lies on ${other.className || other.id}`);
    }
  }
  for (const chart of document.querySelectorAll(".chart")) {
    const box = chart.getBoundingClientRect();
    for (const text of chart.querySelectorAll("text")) {
      const inner = text.getBoundingClientRect();
      if (inner.width > 0 && (inner.left < box.left - 1 || inner.right > box.right + 1)) {
        wrong.push(`${chart.id}: "${text.textContent}" sticks out`);
      }
    }
  }
  const levels = [...document.querySelectorAll("h1, h2, h3")].map((heading) => Number(heading.tagName[1]));
  levels.forEach((level, index) => { if (index && level > levels[index - 1] + 1) wrong.push(`heading ${level} after ${levels[index - 1]}`); });
  return { wrong, paper: getComputedStyle(document.body).backgroundColor, hacked: "hacked" in window };
})()
