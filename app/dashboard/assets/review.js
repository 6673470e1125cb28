// Keys for the page of one response, the time that it was in view, and signs of life for its lease.
// The page works without this script.

const review = document.querySelector(".review");
const form = review.querySelector("form.answer");
const labels = [...form.querySelectorAll("input[name=label]")];
const dialog = review.querySelector("dialog");
const banner = review.querySelector(".banner[role=status]");
const help = review.querySelector("button.help");

let seenMs = 0;
let since = document.hidden ? null : performance.now();
let active = true;

function choose(index) {
  const label = labels[Math.min(Math.max(index, 0), labels.length - 1)];
  label.checked = true;
  label.focus({ preventScroll: true });
}

function move(step) {
  const chosen = labels.findIndex((label) => label.checked);
  choose(chosen < 0 ? (step > 0 ? 0 : labels.length - 1) : chosen + step);
}

function toggleHelp() {
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

function open(selector, target) {
  review.querySelector(selector).open = true;
  review.querySelector(`${selector} ${target}`).focus();
}

const KEYS = {
  ArrowLeft: () => move(-1),
  ArrowUp: () => move(-1),
  ArrowRight: () => move(1),
  ArrowDown: () => move(1),
  Enter: () => (form.checkValidity() ? form.requestSubmit() : form.reportValidity()),
  c: () => open(".more", "textarea"),
  s: () => open(".skip", "button"),
  u: () => review.querySelector("a.undo")?.click(),
  "?": toggleHelp,
};

function typing(target) {
  return target.matches("textarea, input:not([type=radio])");
}

// Enter presses the button or link in focus; arrows scroll a text in focus.
function taken(event) {
  if (event.key === "Enter") return event.target.closest("button, a, summary") !== null;
  return event.key.startsWith("Arrow") && event.target.closest(".text") !== null;
}

document.addEventListener("keydown", (event) => {
  active = true;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (dialog.open) {
    if (event.key === "?") toggleHelp();
    return;
  }
  const index = labels.findIndex((label) => label.value === event.key);
  const act = index >= 0 ? () => choose(index) : taken(event) ? undefined : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

for (const name of ["pointerdown", "scroll", "touchstart"]) {
  document.addEventListener(name, () => { active = true; }, { passive: true, capture: true });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    if (since !== null) seenMs += performance.now() - since;
    since = null;
  } else {
    since = performance.now();
  }
});

// A second click or Enter must not send the form again.
for (const each of review.querySelectorAll("form[method=post]")) {
  each.addEventListener("submit", (event) => {
    if (each.dataset.sent) return event.preventDefault();
    each.dataset.sent = "yes";
    const ms = seenMs + (since === null ? 0 : performance.now() - since);
    const seconds = each.querySelector("input[name=seconds]");
    if (seconds) seconds.value = (ms / 1000).toFixed(1);
  });
}
window.addEventListener("pageshow", () => {
  for (const each of review.querySelectorAll("form[method=post]")) delete each.dataset.sent;
});

const WARNINGS = {
  401: "Your session has ended. Sign in again in another tab before you save.",
  409: "This response is no longer reserved for you. You can save if no one else has taken it.",
};

function warn(text) {
  banner.textContent = text;
  banner.hidden = false;
}

async function renew() {
  if (document.hidden || !active) return;
  active = false;
  try {
    const path = `/review/${review.dataset.experiment}/renew`;
    const answer = await fetch(path, { method: "POST", credentials: "same-origin" });
    if (answer.ok) banner.hidden = true;
    else if (answer.status in WARNINGS) warn(WARNINGS[answer.status]);
  } catch {
    warn("The server does not answer. Wait before you save.");
  }
}

if (review.dataset.leaseS) setInterval(renew, (1000 * Number(review.dataset.leaseS)) / 3);
help.hidden = false;
help.addEventListener("click", toggleHelp);
