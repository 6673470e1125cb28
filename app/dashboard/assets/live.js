// Draws the charts, and keeps the cards in view as fresh as the server: every two seconds, only while looked at.

const REFRESH_MS = 2000;

const live = document.querySelector(".live");
const inView = new Set();

function colour(index) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--v${index % 10}`).trim();
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Plotly takes the text of a time as it is; this is the time where the reader sits.
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
    margin: { t: 8, r: 8, b: 34, l: 46 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: "inherit", size: 12, color: ink("muted") },
    showlegend: false,
    hovermode: "x unified",
    hoverlabel: { bgcolor: ink("surface"), bordercolor: ink("line"), font: { color: ink("text") }, namelength: 40 },
    xaxis: { type: "date", gridcolor: ink("line"), linecolor: ink("line"), fixedrange: false },
    yaxis: { range: [0, 1], tickformat: ".0%", dtick: 0.25, gridcolor: ink("line"), fixedrange: true, zeroline: false },
  };
}

function draw(card) {
  const chart = card.querySelector(".chart");
  const data = card.querySelector("script.history");
  if (!data || chart.classList.contains("empty")) return;
  const history = JSON.parse(data.textContent);
  window.Plotly.react(chart, traces(history), layout(card.dataset.key), { displayModeBar: false, responsive: true });
}

// The chart's element stays, so that zoom and hover survive; everything else is the server's.
function replace(card, text) {
  const fresh = new DOMParser().parseFromString(text, "text/html").querySelector(".card");
  const old = card.querySelector(".chart");
  if (!old.classList.contains("empty")) fresh.querySelector(".chart").replaceWith(old);
  card.replaceChildren(...fresh.childNodes);
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
      tell("stale", "server does not answer");
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
