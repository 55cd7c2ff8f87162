// What is registered, as the events tell it. Each change costs the same, however much there is.

import { natural } from "./ordered.js";

/** All statuses, the ones that want attention first. */
export const STATUSES = ["critical", "warning", "starting", "draining", "passing"];
const GONE = 5 * 60_000; // a service without nodes is still shown for so long

/** What things are sorted by: different for different parts. */
const order = (...parts) => `${parts.map(natural).join("\u0000")}\u0000${JSON.stringify(parts)}`;

const counts = () => Object.fromEntries(STATUSES.map((status) => [status, 0]));

function add(map, key, step) {
  const count = (map.get(key) ?? 0) + step;
  if (count) map.set(key, count);
  else map.delete(key);
}

class Service {
  nodes = new Map();
  total = 0;
  counts = counts();
  versions = new Map();
  zones = new Map();
  changed = null; // when a change was heard, null before the first one
  gone = null; // {at, reason} while it has no nodes
  matching = 0; // nodes that pass the filter

  constructor(name) {
    this.name = name;
    this.order = order(name);
  }
}

/** A zone, with how many nodes of which status it has. */
export class Zone {
  counts = counts();
  total = 0;

  constructor(name) {
    this.name = name;
    this.order = order(name);
  }
}

/** A node, the same object for as long as it is registered. */
class Node {
  since = 0; // when it came, in ms; when `atLeast`, before that
  atLeast = true;
  matches = false;
  #text = null;

  constructor(name, id) {
    this.name = name;
    this.id = id;
    this.order = order(name, id);
  }

  take(record, node) {
    this.address = node.address ?? "";
    this.version = record.version ?? "";
    this.status = STATUSES.includes(node.status ?? "passing") ? (node.status ?? "passing") : "warning";
    this.metadata = node.metadata ?? {};
    this.zone = this.metadata.zone ?? "";
    this.shared = record.metadata ?? {};
    this.endpoints = record.endpoints ?? [];
    this.#text = null;
  }

  /** Everything about it that can be searched for. */
  get text() {
    if (this.#text === null) {
      const pairs = [...Object.entries(this.metadata), ...Object.entries(this.shared)];
      const names = [this.name, this.id, this.address, this.version, this.status];
      const others = [...pairs.map(([key, value]) => `${key}=${value}`), ...this.endpoints.map(({ name }) => name)];
      this.#text = [...names, ...others].join("\n").toLowerCase();
    }
    return this.#text;
  }

  /** What is to be remembered of it as it is now. */
  copy() {
    const { name, id, address, version, status, metadata, zone, shared, endpoints } = this;
    return { name, id, address, version, status, metadata, zone, shared, endpoints };
  }
}

/** Calls every function in `heard` with each change: {action, reason, node, before, at, missed}. */
export class Model {
  services = new Map();
  zones = new Map();
  counts = counts();
  total = 0;
  named = 0; // services that have nodes
  heard = [];
  known = false; // whether there has been a snapshot

  /** Take an event of the server. */
  apply(kind, data) {
    if (kind === "snapshot") this.#replace(data.services);
    else if (kind === "change") {
      const [node] = data.service.nodes;
      if (data.action === "delete") this.#remove(data.service.name, node.id, data.reason ?? "removed", false);
      else this.#put(data.service, node, false);
    }
  }

  find(name, id) {
    return this.services.get(name)?.nodes.get(id);
  }

  /** Since when nodes are there, as the server has seen them. */
  age({ up, ages }) {
    const now = Date.now();
    for (const [name, nodes] of Object.entries(ages)) {
      for (const [id, age] of Object.entries(nodes)) {
        const node = this.find(name, id);
        if (!node) continue;
        node.atLeast = age === null;
        node.since = now - (age ?? up) * 1000;
      }
    }
  }

  /** Forget services that have been without nodes for long. */
  sweep(drop) {
    const now = Date.now();
    for (const service of this.services.values()) {
      if (service.gone && now - service.gone.at > GONE) {
        this.services.delete(service.name);
        drop(service);
      }
    }
  }

  #replace(services) {
    const present = new Set();
    for (const record of services) {
      for (const node of record.nodes) {
        present.add(JSON.stringify([record.name, node.id]));
        this.#put(record, node, true);
      }
    }
    for (const service of this.services.values()) {
      for (const id of service.nodes.keys()) {
        if (!present.has(JSON.stringify([service.name, id]))) this.#remove(service.name, id, "", true);
      }
    }
    this.known = true;
  }

  #put(record, data, missed) {
    let service = this.services.get(record.name);
    if (!service) this.services.set(record.name, (service = new Service(record.name)));
    let node = service.nodes.get(data.id);
    const before = node?.copy() ?? null;
    if (node) this.#count(service, node, -1);
    else {
      node = new Node(record.name, data.id);
      node.since = Date.now();
      node.atLeast = missed;
      service.nodes.set(data.id, node);
    }
    node.take(record, data);
    this.#count(service, node, 1);
    service.gone = null;
    if (missed && before && same(before, node)) return;
    this.#tell(before ? "update" : "create", "", service, node, before, missed);
  }

  #remove(name, id, reason, missed) {
    const service = this.services.get(name);
    const node = service?.nodes.get(id);
    if (!node) return;
    this.#count(service, node, -1);
    service.nodes.delete(id);
    if (!service.nodes.size) service.gone = { at: Date.now(), reason };
    this.#tell("delete", reason, service, node, node.copy(), missed);
  }

  #count(service, node, step) {
    const { status } = node;
    this.named -= service.total > 0;
    service.total += step;
    this.named += service.total > 0;
    service.counts[status] += step;
    add(service.versions, node.version, step);
    add(service.zones, node.zone, step);
    let zone = this.zones.get(node.zone);
    if (!zone) this.zones.set(node.zone, (zone = new Zone(node.zone)));
    zone.counts[status] += step;
    zone.total += step;
    if (!zone.total) this.zones.delete(node.zone);
    this.counts[status] += step;
    this.total += step;
  }

  #tell(action, reason, service, node, before, missed) {
    const at = Date.now();
    if (this.known) service.changed = at;
    const change = { action, reason, service, node, before, at, missed };
    for (const heard of this.heard) heard(change);
  }
}

const same = (a, b) =>
  a.address === b.address &&
  a.version === b.version &&
  a.status === b.status &&
  JSON.stringify([a.metadata, a.shared, a.endpoints]) === JSON.stringify([b.metadata, b.shared, b.endpoints]);
