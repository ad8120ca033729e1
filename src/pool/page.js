
"use strict";
(() => {
  const PERIOD = 5000; // ms from one page to the next
  const LATE = 15000; // ms after which a page that could not be replaced says why

  const tools = document.getElementById("tools");
  const filter = document.getElementById("filter");
  let address = location.href;
  let paused = false;
  let busy = false;
  let updated = new Date();
  let failure = ""; // why the last request brought no page

  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Pause";
  const note = document.createElement("span");
  tools.prepend(note, " ", button, " ");
  const stale = document.createElement("p"); // in the page from the start, so that it is read out
  stale.setAttribute("role", "alert");
  document.querySelector("main").prepend(stale);

  const clock = (time) => time.toLocaleTimeString();
  const selecting = () => !getSelection().isCollapsed; // what is selected is being copied

  function show() {
    const late = failure && !paused && new Date() - updated > LATE;
    const text = late ? `${failure}: this page is from ${clock(updated)}.` : "";
    if (stale.textContent !== text) stale.textContent = text;
    stale.className = late ? "stale" : "";
    let state = `Updated at ${clock(updated)}`;
    if (selecting()) state += ". Paused while text is selected";
    note.textContent = paused ? `Paused at ${clock(updated)}` : state;
  }

  // Puts the live parts of another page into this one. The focus stays on the same link.
  function replace(page) {
    for (const part of page.querySelectorAll("[data-live]")) {
      const old = document.getElementById(part.id);
      const focus = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
      old.replaceChildren(...part.childNodes);
      if (focus) {
        const links = [...old.querySelectorAll("a")];
        links.find((link) => link.getAttribute("href") === focus)?.focus({ preventScroll: true });
      }
    }
    document.title = page.title;
  }

  async function refresh() {
    if (busy || document.hidden) return;
    busy = true;
    const asked = address;
    try {
      const headers = { Accept: "text/html" };
      const signal = AbortSignal.timeout(LATE);
      const reply = await fetch(asked, { headers, signal, cache: "no-store" });
      const page = new DOMParser().parseFromString(await reply.text(), "text/html");
      const answered = page.querySelector("[data-live]");
      failure = answered ? "" : `The server answered ${reply.status}`;
      if (asked === address && answered) {
        replace(page);
        updated = new Date();
      }
    } catch {
      failure = "No answer from the server"; // the next request may be answered
    }
    busy = false;
    show();
    if (asked !== address) refresh();
  }

  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume" : "Pause";
    if (paused) show();
    else refresh();
  });

  // The filter acts while the operator types.
  let typing;
  filter?.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const query = new URLSearchParams(new FormData(filter));
      address = new URL(`?${query}`, location.href).href;
      history.replaceState(null, "", address);
      tools.querySelector("a").href = address;
      refresh();
    }, 300);
  });

  document.addEventListener("visibilitychange", () => paused || refresh());
  setInterval(() => {
    show();
    if (!paused && !selecting()) refresh();
  }, PERIOD);
  show();
})();
