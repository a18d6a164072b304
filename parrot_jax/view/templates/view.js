// Keys to walk, and what is new. The pages work without it.
"use strict";

const search = document.getElementById("search");
const rows = [...document.querySelectorAll(".rows a[id]")];

function follow(rel) {
  const link = document.querySelector(`a[rel="${rel}"]`);
  if (link) link.click();
}

function walk(step) {
  const at = rows.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step;
  if (rows[next]) rows[next].focus();
  else follow(step > 0 ? "next" : "prev");
}

const keys = rows.length || search
  ? { j: () => walk(1), ArrowDown: () => walk(1), k: () => walk(-1), ArrowUp: () => walk(-1) }
  : {
      j: () => follow("next"), ArrowRight: () => follow("next"),
      k: () => follow("prev"), ArrowLeft: () => follow("prev"),
    };
Object.assign(keys, {
  u: () => follow("up"),
  Escape: () => follow("up"),
  "/": () => (search ? search.select() || search.focus() : follow("up")),
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (Object.hasOwn(keys, event.key)) {
    event.preventDefault();
    keys[event.key]();
  }
});

// Back from a dialogue: its row has the focus.
if (rows.length && location.hash) {
  const row = document.getElementById(location.hash.slice(1));
  if (row) row.focus();
}

// Addresses to share have only what was filled in.
const form = document.querySelector("form.search");
if (form) {
  const fields = form.querySelectorAll("input, select");
  form.addEventListener("submit", () => {
    for (const field of fields) field.disabled = !field.value;
  });
  addEventListener("pageshow", () => {
    for (const field of fields) field.disabled = false;
  });
}

const news = document.getElementById("news");
let said = news ? news.textContent : "";

function say(text, address) {
  if (text === said) return;
  said = text;
  const link = document.createElement("a");
  link.href = address || location.href;
  link.textContent = text;
  news.replaceChildren(address === null ? document.createTextNode(text) : link);
}

function tell(found) {
  const seen = news.dataset;
  const more = seen.matching === "" ? 0 : found.matching - Number(seen.matching);
  if (String(found.generation) !== seen.generation) say("The files have changed: show them");
  else if (found.problem) say(found.problem, null);
  else if (seen.version !== "" && found.version !== seen.version) say("This dialogue has changed: show it");
  else if (more > 0) {
    const progress = found.progress ? ` (${found.progress})` : "";
    say(`${more.toLocaleString("en")} new${progress}`, seen.fresh);
  } else say(found.progress, null);
}

async function poll() {
  if (!document.hidden) {
    try {
      const reply = await fetch(news.dataset.from);
      if (!reply.ok) return say(`The server says: ${reply.statusText || reply.status}`, null);
      tell(await reply.json());
    } catch {
      return say("The server has stopped.", null);
    }
  }
  setTimeout(poll, 2000);
}
if (news) setTimeout(poll, 1000);
