// How much there is, how it is, and what wants attention; each is also a way to see only that.

import { go, link, read } from "./address.js";
import { $, PACE, el, framed, mark, say, set } from "./dom.js";
import { bar, marks, told } from "./marks.js";
import { STATUSES, Zone } from "./model.js";
import { Ordered, byOrder } from "./ordered.js";
import { count, plural, shown, span } from "./text.js";

const TOLD = [...STATUSES].reverse(); // as a person would: how much is well, then what is not
const ZONES = 12;
const SERVICES = 8;
const STEP = 10_000;
const STEPS = 60;

/** The part of the page above the lists. */
export class Summary {
  redraw = framed(() => this.#draw(), PACE);
  #model;
  #worst = new Ordered();
  #bad = new Ordered();
  #stale = true;
  #chips = new Map();
  #steps = new Array(STEPS).fill(0);
  #step = Math.floor(Date.now() / STEP);
  #began = Date.now();

  constructor(model) {
    this.#model = model;
    model.heard.push((change) => this.#changed(change));
    for (const status of TOLD) {
      const number = el("b", {}, "0");
      const onclick = () => toggle("statuses", status);
      const chip = el("button", { type: "button", class: "chip", "aria-pressed": "false", onclick });
      chip.append(mark(status), number, ` ${status}`);
      this.#chips.set(status, { chip, number });
      $("statuses").append(chip);
    }
  }

  /** A service that is no more. */
  drop(service) {
    this.#rank(service, false);
    this.redraw();
  }

  #rank(service, known = true) {
    this.#worst.put(service, known && isWorst(service));
    this.#bad.put(service, known && isBad(service));
  }

  #changed({ service, missed }) {
    this.redraw();
    if (missed) this.#stale = true;
    else this.#rank(service);
    if (!this.#model.known) return;
    this.#turn();
    this.#steps[STEPS - 1]++;
  }

  #turn() {
    const now = Math.floor(Date.now() / STEP);
    for (; this.#step < now; this.#step++) {
      this.#steps.shift();
      this.#steps.push(0);
      if (now - this.#step > STEPS) this.#step = now - STEPS;
    }
  }

  #draw() {
    const model = this.#model;
    const { statuses, zones } = read();
    say($("services"), count(model.named));
    say($("nodes"), count(model.total));
    for (const [status, { chip, number }] of this.#chips) {
      say(number, count(model.counts[status]));
      set(chip, "aria-pressed", String(statuses.has(status)));
      chip.classList.toggle("none", model.counts[status] === 0);
    }
    this.#drawZones(zones);
    this.#drawAttention();
    this.#drawSpark();
  }

  #drawZones(chosen) {
    const zones = this.#model.zones;
    const box = $("zones");
    const only = zones.size === 0 || (zones.size === 1 && zones.has("") && !chosen.size);
    set(box, "hidden", only);
    const listed = [...zones.values()].sort(byOrder).slice(0, ZONES);
    const isListed = (name) => listed.some((zone) => zone.name === name);
    for (const name of chosen) if (!isListed(name)) listed.push(zones.get(name) ?? new Zone(name));
    const chips = new Map([...box.children].map((chip) => [chip.parts.zone, chip]));
    for (const [name, chip] of chips) if (!isListed(name)) chip.remove();
    let next = box.firstElementChild;
    for (const zone of listed.sort(byOrder)) {
      const chip = chips.get(zone.name) ?? zoneChip(zone.name);
      if (chip === next) next = next.nextElementSibling;
      else box.insertBefore(chip, next);
      drawZone(chip, zone, chosen.has(zone.name));
    }
    const more = zones.size - Math.min(zones.size, ZONES);
    set(box, "data-more", more > 0 ? `and ${plural(more, "more zone")}: search for zone=…` : null);
  }

  #drawAttention() {
    if (this.#stale) {
      const all = [...this.#model.services.values()];
      this.#worst.fill(all.filter(isWorst));
      this.#bad.fill(all.filter(isBad));
    }
    this.#stale = false;
    const box = $("attention");
    const [worst, bad] = [this.#worst, this.#bad].map((list) => list.items.slice(0, SERVICES));
    const services = [...worst, ...bad].slice(0, SERVICES);
    set(box, "hidden", services.length === 0);
    while (box.children.length > services.length) box.lastElementChild.remove();
    for (const [index, service] of services.entries()) {
      const chip = box.children[index] ?? box.appendChild(serviceChip());
      say(chip.parts.name, shown(service.name));
      set(chip, "href", link({ service: service.name, node: null }));
      const { critical, warning } = service.counts;
      marks(chip.parts.marks, { ...none, critical, warning }, critical + warning);
    }
    const more = this.#worst.size + this.#bad.size - services.length;
    set(box, "data-more", more > 0 ? `and ${count(more)} more` : null);
  }

  #drawSpark() {
    this.#turn();
    const top = Math.max(4, ...this.#steps);
    const bars = this.#steps.map((value, index) => (value ? `M${index + 0.5} 20v${(-19 * value) / top - 1}` : ""));
    set($("spark").firstElementChild, "d", bars.join(""));
    const total = this.#steps.reduce((sum, value) => sum + value, 0);
    const over = Math.min(Date.now() - this.#began, STEP * STEPS);
    say($("pace"), `${plural(total, "change")} in ${span(Math.max(over, 1000))}`);
    set($("spark"), "aria-label", `${plural(total, "change")} in ${span(over)}`);
  }
}

const none = Object.fromEntries(STATUSES.map((status) => [status, 0]));

/** Services that lost their last node without a farewell, or have a critical one. */
const isWorst = ({ counts, gone }) => (gone ? gone.reason !== "deregistered" : counts.critical > 0);
/** Others, of which a node warns. */
const isBad = ({ counts, gone }) => !gone && !counts.critical && counts.warning > 0;

function toggle(kind, value) {
  const chosen = new Set(read()[kind]);
  if (!chosen.delete(value)) chosen.add(value);
  go({ [kind]: chosen });
}

function drawZone(chip, { name, counts, total }, pressed) {
  say(chip.parts.number, count(total));
  set(chip, "aria-pressed", String(pressed));
  set(chip, "title", `${name ? `zone ${shown(name)}` : "no zone"}, ${told(counts, total)}`);
  bar(chip.parts.share, counts);
}

function zoneChip(name) {
  const number = el("b");
  const share = el("span", { class: "share", "aria-hidden": "true" });
  const label = el("bdi", {}, name ? shown(name) : "no zone");
  const onclick = () => toggle("zones", name);
  const chip = el("button", { type: "button", class: "chip zone", onclick }, label, " ", number, share);
  return Object.assign(chip, { parts: { zone: name, number, share } });
}

function serviceChip() {
  const name = el("bdi");
  const drawn = el("span", { class: "marks" });
  return Object.assign(el("a", { class: "chip" }, name, " ", drawn), { parts: { name, marks: drawn } });
}
