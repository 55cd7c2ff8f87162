// What happens, as it happens: the latest on top. Busy times are drawn a few times a second, with what fits.

import { link } from "./address.js";
import { $, el, mark, say, set } from "./dom.js";
import { count, plural, shown, time } from "./text.js";

const KEPT = 150;
const MOST = 30; // in one go: nobody reads faster
const PACE = 500; // ms, in busy times
const SIGNS = { create: "+", update: "~", delete: "−" };
const REASONS = {
  deregistered: "left",
  expired: "expired: it was not renewed in time",
  removed: "is gone",
  lost: "was missing after an outage",
  "": "went while this page was not connected",
};

/** What has changed of a node, in a few words. */
function difference(before, after) {
  const words = [];
  const arrow = (kind, old, now) => words.push(`${kind}${shown(old) || "none"} → ${shown(now) || "none"}`);
  if (before.status !== after.status) arrow("", before.status, after.status);
  if (before.version !== after.version) arrow("version ", before.version, after.version);
  if (before.address !== after.address) arrow("", before.address, after.address);
  const keys = new Set([...Object.keys(before.metadata), ...Object.keys(after.metadata)]);
  const changed = [...keys].filter((key) => before.metadata[key] !== after.metadata[key]);
  if (changed.length === 1) {
    const [key] = changed;
    arrow(`${shown(key)} `, short(before.metadata[key]), short(after.metadata[key]));
  } else if (changed.length) {
    words.push(`metadata: ${changed.slice(0, 3).map(shown).join(", ")}${changed.length > 3 ? ", …" : ""}`);
  }
  if (JSON.stringify(before.endpoints) !== JSON.stringify(after.endpoints)) words.push("endpoints");
  if (JSON.stringify(before.shared) !== JSON.stringify(after.shared)) words.push("metadata of the service");
  return words.join(" · ") || "written again";
}

const short = (text = "") => (text.length > 24 ? `${text.slice(0, 24)}…` : text);

/** An event in words. */
export function words({ action, reason, node, before }) {
  if (action === "create") return `came, ${[node.status, shown(node.address)].filter(Boolean).join(" at ")}`;
  if (action === "delete") return REASONS[reason] ?? reason;
  return difference(before, node);
}

/** The line for an event. */
export function line(event, { named = true } = {}) {
  const { action, node, at } = event;
  const open = link({ service: node.name, node: action === "delete" ? null : node.id });
  const where = el("a", { href: open });
  if (named) where.append(el("bdi", { class: "service" }, shown(node.name)), " ");
  where.append(el("bdi", { class: "id" }, shown(node.id)));
  const status = action === "delete" ? null : node.status;
  const drawn = status && status !== event.before?.status ? [mark(status), " "] : [];
  return el(
    "li",
    { "data-action": action },
    el("time", {}, time(at)),
    el("span", { class: "sign", "aria-hidden": "true" }, SIGNS[action]),
    el("span", { class: "what" }, where, " ", el("span", { class: "words" }, ...drawn, words(event))),
  );
}

/** The list of events. `past` are the latest ones, oldest first. */
export class Feed {
  past = [];
  #arrived = 0; // since it was drawn last
  #timer = 0;
  #paused = false;

  constructor(model) {
    model.heard.push((change) => {
      if (model.known) this.#take({ ...change, node: change.node.copy() });
    });
    $("pause").addEventListener("click", () => this.pause());
  }

  /** Stop, or go on. */
  pause() {
    this.#paused = !this.#paused;
    this.#draw();
  }

  #take(event) {
    this.past.push(event);
    if (this.past.length > 2 * KEPT) this.past.splice(0, KEPT);
    this.#arrived++;
    this.#timer ||= setTimeout(() => requestAnimationFrame(() => this.#draw()), this.#arrived > 1 ? PACE : 0);
  }

  #draw() {
    this.#timer = 0;
    const waiting = this.#paused && this.#arrived ? ` (${count(this.#arrived)})` : "";
    say($("pause"), this.#paused ? `Go on${waiting}` : "Pause");
    if (this.#paused || !this.#arrived) return;
    const events = $("events");
    const fresh = this.past.slice(-Math.min(this.#arrived, MOST)).reverse().map((event) => line(event));
    const more = this.#arrived - fresh.length;
    if (more) fresh.push(el("li", { class: "more" }, `${plural(more, "event")} more`));
    this.#arrived = 0;
    events.prepend(...fresh);
    while (events.children.length > KEPT) events.lastElementChild.remove();
    set($("quiet"), "hidden", true);
  }
}
