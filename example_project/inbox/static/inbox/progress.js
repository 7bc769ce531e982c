// Asks for the part of the page that changes, every second while anything goes on. The page works without.
"use strict";

const EVERY = 1000;
const AFTER_AN_ERROR = 4000;

for (const box of document.querySelectorAll("[data-progress]")) {
  const status = document.getElementById(box.dataset.status);
  let shown = new Map(); // what the server sent, by id: what a reader has opened since is not in it
  let timer;

  const ended = () => box.firstElementChild.dataset.ended === "true";

  const say = (words) => {
    if (status && status.textContent !== words) status.textContent = words; // else it would be read out again
  };

  // Replaces the elements with an id of the lowest level that changed, and keeps focus and open details.
  const show = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
    const parts = (root) => [...root.querySelectorAll("article[id]")];
    const same = parts(fresh).map((part) => part.id).join() === parts(box).map((part) => part.id).join();
    const whole = !same || parts(fresh).length === 0;
    for (const part of whole ? [fresh] : [...parts(fresh), fresh.querySelector(".evidence")]) {
      const old = whole ? box.firstElementChild
        : part.id ? document.getElementById(part.id) : box.querySelector(".evidence");
      const key = part.id || "evidence";
      if (shown.get(key) === part.outerHTML || old.outerHTML === part.outerHTML) continue;
      shown.set(key, part.outerHTML);
      const focus = old.contains(document.activeElement) ? document.activeElement.id : "";
      const open = [...old.querySelectorAll("details[open]")].map((details) => details.id);
      old.replaceWith(document.importNode(part, true));
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      if (focus) document.getElementById(focus)?.focus();
    }
    box.firstElementChild.dataset.ended = fresh.dataset.ended;
    say(fresh.dataset.words);
  };

  const look = async () => {
    let wait = EVERY;
    try {
      const response = await fetch(box.dataset.progress, { credentials: "same-origin" });
      if (!response.ok) throw new Error(`${response.status}`);
      show(await response.text());
    } catch {
      say("The site does not answer. This page asks again.");
      wait = AFTER_AN_ERROR;
    }
    if (!ended() && !document.hidden) timer = setTimeout(look, wait);
  };

  if (!ended()) timer = setTimeout(look, EVERY);
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden && !ended()) look();
  });
}
