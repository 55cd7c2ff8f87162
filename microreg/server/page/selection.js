// What of it is to be seen: words, statuses and zones to look for, and the sorted lists of what passes.

import { Ordered } from "./ordered.js";

/** Lists of services and nodes that are kept as changes come; O(log n) for one. */
export class Selection {
  services = new Ordered();
  nodes = new Ordered();
  #model;
  #words = [];
  #statuses = new Set();
  #zones = new Set();
  #wanted = "";
  #stale = true;

  constructor(model) {
    this.#model = model;
    model.heard.push((change) => this.#changed(change));
  }

  /** Whether anything is filtered out. */
  get active() {
    return this.#words.length + this.#statuses.size + this.#zones.size > 0;
  }

  /** Show what has all these words, one of these statuses and is in one of these zones; empty ones do not matter. */
  filter(text, statuses, zones) {
    const wanted = JSON.stringify([text, [...statuses], [...zones]]);
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    this.#words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.#statuses = statuses;
    this.#zones = zones;
    this.#stale = true;
  }

  /** A service that is no more. */
  drop(service) {
    this.services.put(service, false);
  }

  /** Make the lists anew where that is due: after another filter, or a snapshot. */
  renew() {
    if (!this.#stale) return;
    this.#stale = false;
    const services = [];
    const nodes = [];
    for (const service of this.#model.services.values()) {
      service.matching = 0;
      for (const node of service.nodes.values()) {
        node.matches = this.#passes(node);
        if (!node.matches) continue;
        service.matching++;
        nodes.push(node);
      }
      if (this.#belongs(service)) services.push(service);
    }
    this.services.fill(services);
    this.nodes.fill(nodes);
  }

  #changed({ action, service, node, missed }) {
    if (missed) this.#stale = true; // one of many: a snapshot
    if (this.#stale) return;
    const matches = action !== "delete" && this.#passes(node);
    if (matches !== node.matches) {
      node.matches = matches;
      service.matching += matches ? 1 : -1;
      this.nodes.put(node, matches);
    }
    this.services.put(service, this.#belongs(service));
  }

  #passes(node) {
    if (this.#statuses.size && !this.#statuses.has(node.status)) return false;
    if (this.#zones.size && !this.#zones.has(node.zone)) return false;
    return this.#words.every((word) => node.text.includes(word));
  }

  #belongs(service) {
    if (!service.gone) return service.matching > 0;
    if (this.#statuses.size || this.#zones.size) return false;
    return this.#words.every((word) => service.name.toLowerCase().includes(word));
  }
}
