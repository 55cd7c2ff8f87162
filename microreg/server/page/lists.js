// The rows of services, and of nodes.

import { link } from "./address.js";
import { el, mark, say, set } from "./dom.js";
import { marks } from "./marks.js";
import { naturally } from "./ordered.js";
import { count, shown, span } from "./text.js";

const cell = (name, ...children) => el("span", { role: "gridcell", class: name }, ...children);
const name = () => el("bdi", {});

const LISTED = 20;

/** Names with a comma between them; the row cuts off what there is no room for. */
function listed(element, names) {
  const text = [...names.keys()].filter(Boolean).sort(naturally).slice(0, LISTED).map(shown).join(", ");
  say(element, text);
  set(element, "title", text.length > 12 && text);
}

// -- services ------------------------------------------------------------------------------------------------

export function serviceRow() {
  const parts = { name: name(), marks: cell("marks"), nodes: cell("number nodes"), versions: name(), zones: name() };
  parts.changed = cell("number changed");
  parts.link = el("a", {}, parts.name);
  const cells = [cell("name", parts.link), parts.marks, parts.nodes];
  cells.push(cell("versions", parts.versions), cell("zones", parts.zones), parts.changed);
  return Object.assign(el("div", { role: "row", class: "row service" }, ...cells), { parts });
}

export function drawService(row, service, filtered, open) {
  const { parts } = row;
  say(parts.name, shown(service.name));
  set(parts.link, "href", link({ service: service.name, node: null }));
  set(parts.link, "title", service.name.length > 24 ? shown(service.name) : null);
  marks(parts.marks, service.counts, service.total);
  const some = filtered && service.matching < service.total;
  say(parts.nodes, some ? `${count(service.matching)} of ${count(service.total)}` : count(service.total));
  listed(parts.versions, service.versions);
  listed(parts.zones, service.zones);
  say(parts.changed, lately(service));
  row.classList.toggle("gone", service.gone !== null);
  set(row, "aria-selected", open);
}

function lately({ gone, changed }) {
  if (gone) return `gone ${span(Date.now() - gone.at)}`;
  if (changed === null) return "";
  return Date.now() - changed < 2000 ? "now" : span(Date.now() - changed);
}

// -- nodes ---------------------------------------------------------------------------------------------------

/** A node among all others. */
export const nodeRow = () => rowOf("node", { status: el("span"), service: name() });

/** A node among those of its service, where there is less room. */
export const memberRow = () => rowOf("member", { status: el("span", { class: "unseen" }) });

function rowOf(kind, { status, service }) {
  const parts = { mark: mark("passing"), status, id: name(), service, address: name(), version: name(), zone: name() };
  parts.age = cell("number age");
  parts.link = el("a", {}, parts.id);
  const cells = [
    cell("status", parts.mark, parts.status),
    cell("name", parts.link),
    ...(service ? [cell("of", service)] : []),
    cell("address", parts.address),
    cell("versions", parts.version),
    cell("zones", parts.zone),
    parts.age,
  ];
  return Object.assign(el("div", { role: "row", class: `row ${kind}` }, ...cells), { parts });
}

export function drawNode(row, node, open) {
  const { parts } = row;
  parts.mark.dataset.status = node.status;
  say(parts.status, node.status);
  say(parts.id, shown(node.id));
  set(parts.link, "href", link({ service: node.name, node: node.id }));
  set(parts.link, "title", node.id.length > 20 ? shown(node.id) : null);
  if (parts.service) say(parts.service, shown(node.name));
  say(parts.address, shown(node.address));
  say(parts.version, shown(node.version));
  say(parts.zone, shown(node.zone));
  say(parts.age, age(node));
  set(row, "aria-selected", open);
}

/** How long a node has been there; "> 5 min" where it was there before anybody looked. */
export function age(node) {
  return (node.atLeast ? "> " : "") + span(Date.now() - node.since);
}
