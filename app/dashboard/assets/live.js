// Draws the charts, and updates the visible cards every two seconds while the page is in view.

const REFRESH_MS = 2000;

const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "local";

const live = document.querySelector(".live");
const inView = new Set();

function colour(index) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--v${index % 10}`).trim();
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Plotly shows the text of a time unchanged, so this is the local time of the reader.
function localTime(ms) {
  return new Date(ms - new Date(ms).getTimezoneOffset() * 60_000).toISOString().slice(0, -1);
}

function traces(history) {
  const times = history.times.map(localTime);
  return history.variants.map((name, index) => ({
    name,
    x: times,
    y: history.shares[index],
    type: "scatter",
    mode: "lines",
    stackgroup: "share",
    line: { shape: "hv", width: 1, color: colour(index) },
    fillcolor: `${colour(index)}99`,
    hovertemplate: "%{y:.1%}",
  }));
}

function layout(key) {
  return {
    uirevision: key,
    margin: { t: 8, r: 8, b: 46, l: 62 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: "inherit", size: 12, color: ink("muted") },
    showlegend: false,
    hovermode: "x unified",
    hoverlabel: { bgcolor: ink("surface"), bordercolor: ink("line"), font: { color: ink("text") }, namelength: 40 },
    xaxis: { type: "date", title: { text: `time (${ZONE})`, standoff: 8 }, gridcolor: ink("line"), linecolor: ink("line"), fixedrange: false },
    yaxis: { title: { text: "share of traffic", standoff: 8 }, range: [0, 1], tickformat: ".0%", dtick: 0.25, gridcolor: ink("line"), fixedrange: true, zeroline: false },
  };
}

function draw(card) {
  const chart = card.querySelector(".chart");
  const data = card.querySelector("script.history");
  if (!data || chart.classList.contains("empty")) return;
  const history = JSON.parse(data.textContent);
  window.Plotly.react(chart, traces(history), layout(card.dataset.key), { displayModeBar: false, responsive: true });
}

// Changes only what differs, so that a table keeps its scroll position, a link its focus, a chart its zoom,
// and a reader the selection.
function update(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = fresh.data;
    return;
  }
  if (old.classList.contains("js-plotly-plot") && !fresh.classList.contains("empty")) return;
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const present = [...old.childNodes];
  const wanted = [...fresh.childNodes];
  wanted.forEach((node, index) => (index < present.length ? update(present[index], node) : old.append(node)));
  present.slice(wanted.length).forEach((node) => node.remove());
}

function replace(card, text) {
  update(card, new DOMParser().parseFromString(text, "text/html").querySelector(".card"));
  draw(card);
}

async function refresh(card) {
  const answer = await fetch(card.dataset.url, { credentials: "same-origin" });
  if (answer.status === 401) return location.reload();
  if (answer.status === 404) return card.remove();
  if (!answer.ok) throw new Error(`${answer.status}`);
  replace(card, await answer.text());
}

function tell(state, text) {
  live.dataset.state = state;
  live.textContent = text;
}

async function tick() {
  if (document.hidden) {
    tell("paused", "paused");
  } else {
    try {
      await Promise.all([...inView].map(refresh));
      tell("fresh", `live, ${new Date().toLocaleTimeString()}`);
    } catch {
      tell("stale", "the server does not answer");
    }
  }
  setTimeout(tick, REFRESH_MS);
}

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) inView.add(target);
    else inView.delete(target);
  }
});

function drawAll() {
  document.querySelectorAll(".card").forEach(draw);
}

document.querySelectorAll(".card").forEach((card) => observer.observe(card));
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
setTimeout(tick, REFRESH_MS);
