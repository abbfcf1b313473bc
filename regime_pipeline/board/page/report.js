"use strict";
// Draws the charts of one driver at a time from the JSON in the page. Points: t (open, epoch seconds), p price, s state digits, a and e deltas.
const data = JSON.parse(document.getElementById("data").textContent);
const timeframes = ["1d", "1h", "1m"];
const flagLooks = {
  buy: ["triangle-up", "S3", 10], rebuy: ["triangle-up-open", "S3", 9], trim: ["triangle-down-open", "S1", 7],
  emergency_exit: ["x-thin-open", "S0", 7], reclaimed_ema333: ["circle-open", "S2", 7], exit_position: ["x", "S0", 10],
};
const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
let chosen = data.tracks.length ? data.tracks[0].driver : null;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const stamps = (seconds) => seconds.map((t) => new Date(t * 1000).toISOString().slice(0, 19).replace("T", " "));

function axis(extra) {
  return { gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("line"), ...extra };
}

function layout(extra) {
  return {
    margin: { l: 62, r: 12, t: 8, b: 30 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("soft"), size: 12 },
    hoverlabel: { bgcolor: colour("card"), font: { color: colour("ink") } }, hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("line"), activecolor: colour("soft") }, ...extra,
  };
}

// One line per state: the piece that leads to a bar has the colour of that bar's state, null breaks the line elsewhere and at gaps.
function stateLines(track, x) {
  const gaps = new Set(track.gaps);
  return [0, 1, 2, 3, 4].filter((code) => track.s.includes(code)).map((code) => {
    const xs = [], ys = [];
    for (let i = 0; i < x.length; i++) {
      if (track.s[i] !== String(code)) continue;
      if (gaps.has(i)) { xs.push(null); ys.push(null); } else if (i > 0 && track.s[i - 1] !== track.s[i]) { xs.push(null, x[i - 1]); ys.push(null, track.p[i - 1]); }
      xs.push(x[i]); ys.push(track.p[i]);
    }
    return { x: xs, y: ys, name: "S" + code, mode: "lines", line: { color: colour("S" + code), width: 1.8 }, connectgaps: false,
      hovertemplate: "%{x}<br>%{y}<extra>S" + code + "</extra>" };
  });
}

function flagMarks(track) {
  return data.flags.map((flag, i) => {
    const [symbol, shade, size] = flagLooks[flag];
    const mark = track.marks[i];
    return { x: stamps(mark.t), y: mark.p, name: flag, mode: "markers", visible: mark.t.length > 150 ? "legendonly" : true,
      marker: { symbol, size, color: colour(shade), line: { width: 1.5, color: colour(shade) } }, hovertemplate: "%{x}<br>%{y}<extra>" + flag + "</extra>" };
  }).filter((trace) => trace.x.length);
}

function steps(x, y, name, shade, extra) {
  return { x, y, name, mode: "lines", line: { shape: "hv", width: 1.3, color: colour(shade) }, hovertemplate: "%{x}<br>%{y}<extra>" + name + "</extra>", ...extra };
}

// Logarithmic where the price has tripled, with ticks at 1, 2 and 5.
function scale(prices) {
  const low = prices.reduce((a, b) => Math.min(a, b)), high = prices.reduce((a, b) => Math.max(a, b));
  return high > 3 * low ? { type: "log", dtick: "D2" } : { type: "linear" };
}

function drawTrack(timeframe) {
  const target = document.getElementById("chart-" + timeframe);
  const track = data.tracks.find((each) => each.driver === chosen && each.timeframe === timeframe);
  target.classList.toggle("empty", !track);
  if (!track) { Plotly.purge(target); target.textContent = "No state of " + chosen + " on " + timeframe + " in this data."; return; }
  if (!target.classList.contains("js-plotly-plot")) target.textContent = "";
  const x = stamps(track.t);
  const lower = { yaxis: "y2", showlegend: false };
  Plotly.react(target, [...stateLines(track, x), ...flagMarks(track), steps(x, track.a, "ΔA", "a", lower), steps(x, track.e, "ΔE", "e", lower)], layout({
    xaxis: axis({ anchor: "y2", type: "date" }), yaxis: axis({ domain: [0.32, 1], ...scale(track.p) }),
    yaxis2: axis({ domain: [0, 0.24], title: { text: "ΔA  ΔE" }, zeroline: true }), legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    margin: { l: 62, r: 12, t: 40, b: 30 },
  }), config);
}

const leverDays = 60;

function firstShown(t) {
  return t.findIndex((at) => at >= t[t.length - 1] - leverDays * 86400);
}

function drawLever(lever, i) {
  const x = stamps(lever.t);
  Plotly.react("lever-" + i, [steps(x, lever.a, "A", "a"), steps(x, lever.e, "E", "e")], layout({
    title: { text: lever.name, font: { size: 13, color: colour("ink") }, x: 0, xref: "paper", y: 0.98 }, margin: { l: 40, r: 12, t: 34, b: 30 },
    xaxis: axis({ type: "date", range: [x[Math.max(0, firstShown(lever.t))], x[x.length - 1]] }), yaxis: axis({ range: [-0.03, 1.03] }), legend: { orientation: "h", y: 1.0, yanchor: "bottom", x: 1, xanchor: "right" },
  }), config);
}

function drawEquity() {
  const target = document.getElementById("equity");
  if (!target || !data.equity || !data.equity.t.length) return;
  const x = stamps(data.equity.t);
  // Where a trade ended, on the curve: the last mark before it.
  const at = (t) => data.equity.v[Math.max(0, data.equity.t.findLastIndex((each) => each <= t))];
  const closed = (name, shade, keep) => {
    const trades = data.equity.trades.filter(keep);
    return { x: stamps(trades.map((each) => each.t)), y: trades.map((each) => at(each.t)), text: trades.map((each) => each.n), name, mode: "markers",
      marker: { size: 6, color: colour(shade) }, hovertemplate: "%{x}<br>%{text}<extra></extra>" };
  };
  Plotly.react(target, [
    { x, y: data.equity.v, name: "equity", mode: "lines", line: { width: 1.6, color: colour("S2") }, hovertemplate: "%{x}<br>%{y:,.2f}<extra>equity</extra>" },
    closed("closed with a profit", "a", (each) => each.p > 0), closed("closed with a loss", "e", (each) => each.p <= 0),
    { x, y: data.equity.d, name: "drawdown, %", yaxis: "y2", mode: "lines", fill: "tozeroy", line: { width: 1, color: colour("e") },
      hovertemplate: "%{x}<br>%{y:.2f} %<extra>drawdown</extra>" },
  ], layout({
    xaxis: axis({ anchor: "y2", type: "date" }), yaxis: axis({ domain: [0.32, 1] }), yaxis2: axis({ domain: [0, 0.24], ticksuffix: " %" }),
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, margin: { l: 72, r: 12, t: 40, b: 30 },
  }), config);
}

function draw() {
  for (const button of document.querySelectorAll("button[data-driver]")) button.setAttribute("aria-pressed", String(button.dataset.driver === chosen));
  if (chosen) timeframes.forEach(drawTrack);
  data.levers.forEach(drawLever);
  drawEquity();
}

for (const button of document.querySelectorAll("button[data-driver]")) {
  button.addEventListener("click", () => { chosen = button.dataset.driver; draw(); });
}
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
