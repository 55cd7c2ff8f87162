// The keyboard, and the buttons beside the search.

import { go, read } from "./address.js";
import { $, set } from "./dom.js";
import { keep } from "./storage.js";

const THEME = "microreg.theme";

function drawTheme() {
  const theme = `Theme: ${document.documentElement.dataset.theme ?? "as the system"}`;
  set($("theme"), "aria-label", theme);
  set($("theme"), "title", theme);
}

/** First the other one than the system has, then that of the system, then whatever the system says. */
function nextTheme() {
  const root = document.documentElement;
  const [system, other] = matchMedia("(prefers-color-scheme: dark)").matches ? ["dark", "light"] : ["light", "dark"];
  const next = { undefined: other, [other]: system, [system]: null }[root.dataset.theme];
  if (next === null) delete root.dataset.theme;
  else root.dataset.theme = next;
  keep("localStorage", THEME, next);
  drawTheme();
}

function search() {
  $("search").focus();
  $("search").select();
}

function escape() {
  const { service, text } = read();
  if (service !== null) go({ service: null, node: null }, { step: true });
  else if (text) go({ text: "" });
  else document.activeElement?.blur();
}

/** Have keys and buttons do what they should; `enter` puts the focus into the list, `pause` holds the events. */
export function listen(enter, pause) {
  const keys = {
    "/": search,
    "?": () => $("keys").showModal(),
    s: () => go({ view: "services" }, { step: true }),
    n: () => go({ view: "nodes" }, { step: true }),
    p: pause,
    t: nextTheme,
  };
  const pressed = (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || $("keys").open) return;
    const typing = event.target instanceof HTMLInputElement;
    const known = event.target === $("search") ? { ArrowDown: enter, Enter: enter } : typing ? {} : keys;
    const action = event.key === "Escape" ? escape : Object.hasOwn(known, event.key) && known[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };
  addEventListener("keydown", pressed);
  $("skip").addEventListener("click", enter);
  $("theme").addEventListener("click", nextTheme);
  $("help").addEventListener("click", keys["?"]);
  drawTheme();
}
