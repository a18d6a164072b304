// Sends each verdict, and shows the next item once it is saved. Keys press the buttons.
"use strict";

// Nobody reads an item in less; a second press of the same key is meant for the item before it.
const PAUSE_MS = 400;
const TIMEOUT_MS = 20000;

const byId = (id) => document.getElementById(id);
const stage = byId("stage");
const edit = byId("edit");
const annotator = stage.dataset.annotator;
const choices = [...document.querySelectorAll("[data-value]")];

let isBusy = false;
let shownAt = 0;
let unsaved = null; // the request that failed

const item = () => stage.querySelector(".item").dataset;

function arrange() {
  shownAt = performance.now();
  for (const button of choices) {
    button.setAttribute("aria-pressed", "false");
    button.disabled = !item().item;
  }
  byId("undo").disabled = !item().undo;
  edit.hidden = true;
  const marked = [...stage.querySelectorAll(".marked")];
  if (!marked.length) return;
  marked[0].tabIndex = -1;
  marked[0].focus({ preventScroll: true }); // a screen reader reads it; Tab leads to the buttons
  const room = window.innerHeight - document.querySelector(".verdict").offsetHeight - 64;
  const bottom = Math.max(...marked.map((turn) => turn.getBoundingClientRect().bottom));
  const isTall = bottom - marked[0].getBoundingClientRect().top > room;
  if (isTall) marked[0].scrollIntoView({ block: "start" });
  else marked.at(-1).scrollIntoView({ block: "end" });
}

function fail(reason) {
  byId("problem").textContent = `Not saved: ${reason}`;
  byId("retry").hidden = !edit.hidden; // an edit has a button of its own
}

async function send(request) {
  if (isBusy) return;
  isBusy = true;
  byId("said").textContent = "";
  try {
    const reply = await fetch(request.path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ annotator, ...request.body }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    unsaved = request;
    if (reply.status === 403) {
      fail("the server was restarted: open its new link in this browser, then try again.");
      return;
    }
    const found = await reply.json();
    if (!reply.ok && reply.status !== 409) {
      fail(found.error);
      return;
    }
    unsaved = null;
    byId("retry").hidden = true;
    byId("problem").textContent = reply.ok ? "" : found.said;
    byId("said").textContent = reply.ok ? found.said : "";
    byId("count").textContent = `${found.done.toLocaleString("en")} of ${found.total.toLocaleString("en")}`;
    byId("progress").value = found.done;
    byId("progress").max = found.total;
    stage.innerHTML = found.html; // the server has escaped all texts
    arrange();
  } catch {
    unsaved = request;
    fail(
      "the server does not answer. Start the same command again and open its new link: it continues " +
        "with this one. If the address is still the same, you can also try again here."
    );
  } finally {
    isBusy = false;
  }
}

function judge(value, text = "") {
  for (const button of choices) {
    button.setAttribute("aria-pressed", String(button.dataset.value === value));
  }
  send({ path: "/verdict", body: { item: item().item, value, text } });
}

function press(button) {
  if (isBusy || button.disabled || performance.now() - shownAt < PAUSE_MS) return;
  if (button.id === "undo") {
    send({ path: "/undo", body: { undo: item().undo } });
  } else if (button.dataset.value === "edit") {
    edit.hidden = false;
    byId("text").value = stage.querySelector(".marked .text").textContent;
    byId("text").focus();
  } else {
    judge(button.dataset.value);
  }
}

for (const button of [...choices, byId("undo")]) {
  button.addEventListener("click", () => press(button));
}
byId("retry").addEventListener("click", () => send(unsaved));
byId("cancel").addEventListener("click", arrange);
edit.addEventListener("submit", (event) => {
  event.preventDefault();
  judge("edit", byId("text").value);
});
document.addEventListener("keydown", (event) => {
  if (!edit.hidden && event.key === "Escape") arrange();
  if (!edit.hidden && event.key === "Enter" && event.ctrlKey) edit.requestSubmit();
  if (!edit.hidden || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest("input, textarea, select")) return;
  const button = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!button) return;
  event.preventDefault();
  press(button);
});
arrange();
