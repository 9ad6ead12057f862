// Charts, and what changes while one looks. Pages are whole without this script.
"use strict";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Draws a figure in the page's colours. The server says what is drawn, the style sheet in which colours.
const draw = (element) => {
  if (!window.Plotly || !element.dataset.figure) return;
  const figure = JSON.parse(element.dataset.figure);
  const [ink, faint, grid] = [colour("--ink"), colour("--faint"), colour("--grid")];
  figure.data.forEach((trace, index) => {
    const own = colour(`--curve-${index}`);
    trace.line = { ...trace.line, color: own };
    trace.marker = { ...trace.marker, color: own, size: 5 };
  });
  const layout = figure.layout;
  Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: "kept" });
  layout.font = { ...layout.font, color: ink, family: getComputedStyle(document.body).fontFamily, size: 13 };
  layout.hoverlabel = { bgcolor: colour("--paper"), bordercolor: faint, font: { color: ink } };
  for (const axis of [layout.xaxis, layout.yaxis, layout.yaxis2].filter(Boolean)) {
    Object.assign(axis, { gridcolor: grid, linecolor: faint, tickcolor: faint });
  }
  window.Plotly.react(element, figure.data, layout, figure.config);
};

const drawAll = () => document.querySelectorAll(".chart").forEach(draw);

// Writes times as the time since; the hint keeps the date.
const since = (ms) => {
  const seconds = Math.max(0, Math.round((Date.now() - ms) / 1000));
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
};

const tell = () => {
  for (const time of document.querySelectorAll("time[data-ms]")) {
    const text = since(Number(time.dataset.ms));
    if (time.textContent !== text) time.textContent = text;
    time.title = time.dateTime;
  }
};

// Puts new content into an element; whoever is in it by keyboard stays on the same link.
const put = (element, html) => {
  const focused = element.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const scrolled = [...element.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  element.innerHTML = html;
  element.querySelectorAll(".scroll").forEach((box, index) => { box.scrollLeft = scrolled[index] ?? 0; });
  if (focused) [...element.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
};

const live = document.getElementById("live");
const say = (text) => { if (live.textContent !== text) live.textContent = text; };

const change = ({ id, html, class: name, figure }) => {
  const element = document.getElementById(id);
  if (!element) return false;
  if (figure !== undefined) {
    element.dataset.figure = figure;
    draw(element);
  } else {
    put(element, html);
    if (name !== undefined) element.className = name;
  }
  return true;
};

// Follows the page until it is left; the browser connects again by itself.
const follow = () => {
  const { events, since: version } = document.body.dataset;
  if (!events) return;
  const source = new EventSource(`${events}${events.includes("?") ? "&" : "?"}since=${version}`);
  source.addEventListener("open", () => say("live"));
  source.addEventListener("error", () => say("not connected"));
  source.addEventListener("parts", (event) => {
    const known = JSON.parse(event.data).map(change);
    tell();
    say(known.every(Boolean) ? "live" : "there is more than this page shows: load it again");
  });
  window.addEventListener("pagehide", () => source.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
};

drawAll();
tell();
setInterval(tell, 5000);
follow();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
for (const choice of document.querySelectorAll("form.choices select")) {
  choice.addEventListener("change", () => choice.form.requestSubmit());
}
