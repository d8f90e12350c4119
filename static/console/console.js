/* The console's own script: live updates, keys, theme, confirmation, copying. Every page works without it. */
"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  root.classList.add("js");

  // --- live updates: each [data-poll] asks again every so many seconds, while somebody can see it

  const POLL_TICK_MS = 500;
  const asked = new WeakMap();
  const loaded = Date.now();

  const isBeingRead = (element) => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && element.contains(selection.anchorNode);
  };

  const poll = (element) => {
    asked.set(element, Date.now());
    window.htmx.trigger(element, "poll");
  };

  const pollDue = () => {
    if (document.hidden || !window.htmx) return;
    for (const element of document.querySelectorAll("[data-poll]")) {
      const due = (asked.get(element) ?? loaded) + Number(element.dataset.poll) * 1000;
      if (Date.now() >= due && !isBeingRead(element)) poll(element);
    }
  };
  setInterval(pollDue, POLL_TICK_MS);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && window.htmx) document.querySelectorAll("[data-poll]").forEach(poll);
  });

  // What the reader has opened or typed stays as it is; the rest of the page changes around it.
  if (window.Idiomorph) {
    const isText = (node) => node instanceof HTMLInputElement && ["text", "search"].includes(node.type);
    Object.assign(window.Idiomorph.defaults.callbacks, {
      beforeAttributeUpdated: (name, node) => !(name === "open" && node instanceof HTMLDetailsElement),
      beforeNodeMorphed: (node) => !(isText(node) && (node === document.activeElement || node.value !== "")),
    });
  }

  // --- what has changed is said to screen readers, once; and stands in the title

  const announced = new Map();
  const announce = (text) => { byId("announce").textContent = text; };
  const title = document.title;

  const tellNews = () => {
    for (const element of document.querySelectorAll("[data-announce]")) {
      const text = element.dataset.announce;
      if (announced.has(element.id) && announced.get(element.id) !== text) announce(text);
      announced.set(element.id, text);
    }
    const needs = Number(byId("top")?.dataset.needs ?? 0);
    document.title = needs ? `(${needs}) ${title}` : title;
  };
  tellNews();
  document.addEventListener("htmx:afterSwap", () => { tellNews(); tellTimes(); });

  // --- a page that can no longer be renewed says so, and since when

  const clockText = (at) => `${at.toISOString().slice(11, 19)} UTC`;
  document.addEventListener("htmx:afterRequest", (event) => {
    const offline = byId("offline");
    if (event.detail.successful) {
      offline.hidden = true;
    } else if (offline.hidden) {
      offline.textContent = `BytePort’s console has not answered since ${clockText(serverNow())}. ` +
        "What you see may be out of date; this page keeps trying.";
      offline.hidden = false;
    }
  });

  // --- relative times, by the server's clock

  const serverNow = () => {
    const top = byId("top");
    if (top && serverNow.seen !== top.dataset.now) {
      serverNow.seen = top.dataset.now;
      serverNow.skew = Date.parse(top.dataset.now) - Date.now();
    }
    return new Date(Date.now() + (serverNow.skew ?? 0));
  };
  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const ago = (seconds) => {
    const whole = Math.trunc(Math.abs(seconds));
    if (whole < 5) return "just now";
    const [size, unit] = UNITS.find(([each]) => whole >= each);
    const text = `${Math.floor(whole / size)} ${unit}`;
    return seconds >= 0 ? `${text} ago` : `in ${text}`;
  };
  const tellTimes = () => {
    const now = serverNow();
    for (const time of document.querySelectorAll("time[data-when]")) {
      const text = ago((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  };
  setInterval(tellTimes, 5000);

  // --- theme: the form sends it to the server too, where there is no script

  const THEMES = ["auto", "dark", "light"];
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-theme-form]")) return;
    event.preventDefault();
    const chosen = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
    root.dataset.theme = chosen;
    const secure = location.protocol === "https:" ? "; secure" : "";
    document.cookie = `byteport_theme=${chosen}; path=/; max-age=31536000; samesite=lax${secure}`;
    announce(`Theme: ${chosen}`);
    if (window.htmx && byId("top")) poll(byId("top"));
  });

  // --- a deed with consequences is asked for twice; and sent once

  document.addEventListener("submit", (event) => {
    const form = event.target;
    const dialog = byId("confirm");
    if (!form.dataset.confirm || form.dataset.confirmed || !dialog) return;
    event.preventDefault();
    byId("confirm-text").textContent = form.dataset.confirm;
    dialog.querySelector("[data-confirm-yes]").textContent = form.dataset.confirmLabel ?? "Yes";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "yes") return;
      form.dataset.confirmed = "yes";
      form.requestSubmit();
    }, { once: true });
    dialog.returnValue = "no";
    dialog.showModal();
  });
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    setTimeout(() => event.target.querySelectorAll("button").forEach((button) => { button.disabled = true; }));
  });

  // --- small helpers

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
  });

  const copy = async (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy"); // the only way where the page did not come by HTTPS
    area.remove();
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await copy(byId(button.dataset.copy).textContent);
    button.classList.add("copied");
    announce("Copied");
    setTimeout(() => button.classList.remove("copied"), 1500);
  });

  // What scrolls sideways in a written page can be reached, and so scrolled, by keyboard too.
  const reachScrollers = () => {
    for (const element of document.querySelectorAll(".prose pre, .prose table, .prose figure")) {
      if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
    }
  };
  reachScrollers();
  window.addEventListener("resize", reachScrollers);

  const help = byId("help");
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-help]")) help?.showModal();
  });

  // --- keys; none of them changes anything, and they can be switched off

  const keysOn = byId("keys-on");
  if (keysOn) {
    keysOn.checked = localStorage.getItem("byteport.keys") !== "off";
    keysOn.addEventListener("change", () => localStorage.setItem("byteport.keys", keysOn.checked ? "on" : "off"));
  }

  const step = (by) => {
    const items = [...document.querySelectorAll("[data-item]")];
    const place = items.indexOf(document.activeElement);
    const next = place < 0 ? (by > 0 ? 0 : items.length - 1) : Math.min(Math.max(place + by, 0), items.length - 1);
    items[next]?.focus();
  };
  const search = () => {
    const field = document.querySelector("[data-search]");
    if (field) field.select();
    else location.assign(`${document.querySelector('[data-go="i"]').href}#q`);
  };
  const KEYS = {
    j: () => step(1),
    k: () => step(-1),
    "/": search,
    "?": () => help?.showModal(),
  };
  let goUntil = 0;

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keysOn?.checked) return;
    if (event.target.closest("input, textarea, select, dialog[open], [contenteditable]")) return;
    const arrow = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (arrow && event.target.matches("[data-item]")) {
      event.preventDefault();
      step(arrow);
    } else if (Date.now() < goUntil) {
      goUntil = 0;
      document.querySelector(`[data-go="${CSS.escape(event.key)}"]`)?.click();
    } else if (event.key === "g") {
      goUntil = Date.now() + 1500;
    } else if (KEYS[event.key]) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });
  if (location.hash === "#q") byId("q")?.select();

  // --- narrow windows: of a row of links that scrolls, the present one is in sight

  for (const here of document.querySelectorAll(".nav [aria-current], .tabs [aria-current]")) {
    const row = here.parentElement;
    row.scrollLeft = here.offsetLeft - row.offsetLeft - (row.clientWidth - here.offsetWidth) / 2;
  }
})();
