// One service, or one of its nodes: everything that is known of it, and lines to copy.

import { go, link } from "./address.js";
import { $, PACE, el, framed, mark, say, set } from "./dom.js";
import { line } from "./feed.js";
import { age, drawNode, memberRow } from "./lists.js";
import { marks } from "./marks.js";
import { Ordered, naturally } from "./ordered.js";
import { base, count, part, plural, python, registry, shell, shown } from "./text.js";
import { VirtualList } from "./virtual.js";

const FEW = 40; // pairs and endpoints that are shown without being asked
const EVENTS = 20;

/** The panel. `guarded()` says whether the server wants a token, `say` tells those who listen what was copied. */
export class Detail {
  redraw = framed(() => this.#draw(), PACE);
  #model;
  #feed;
  #guarded;
  #say;
  #open = { service: null, node: null };
  #drawn = ""; // what the panel was built for
  #members = null;
  element = $("detail");
  fillers = []; // what brings the parts of the panel up to date

  constructor(model, feed, guarded, say) {
    this.#model = model;
    this.#feed = feed;
    this.#guarded = guarded;
    this.#say = say;
    model.heard.push(({ service, node, action }) => {
      if (service.name !== this.#open.service) return;
      this.#members?.told(node, action);
      this.redraw();
    });
  }

  /** Show this; null for nothing. Whether that is another thing than before. */
  show(service, node) {
    if (service === this.#open.service && node === this.#open.node) return false;
    this.#open = { service, node };
    this.#drawn = "";
    set(this.element, "hidden", service === null);
    this.#shut();
    if (service === null) this.element.replaceChildren();
    else this.#draw();
    return true;
  }

  #draw() {
    const { service: name, node: id } = this.#open;
    if (name === null) return;
    const service = this.#model.services.get(name);
    const node = id === null ? null : (service?.nodes.get(id) ?? null);
    const there = id === null ? service?.total > 0 : node !== null;
    const kind = !there ? (this.#model.known ? "gone" : "waiting") : id === null ? "service" : "node";
    if (this.#drawn !== kind) this.#build(kind);
    this.#drawn = kind;
    this.fillers.forEach((fill) => fill(service, node));
  }

  #shut() {
    this.fillers = [];
    this.#members?.list.close();
    this.#members = null;
  }

  #build(kind) {
    const { service: name, node: id } = this.#open;
    this.#shut();
    const focused = this.element.contains(document.activeElement);
    const title = el("h2", { id: "detail-title", tabindex: "-1" });
    if (id !== null) {
      const above = el("a", { href: link({ node: null }) }, el("bdi", {}, shown(name)));
      title.append(above, el("span", { class: "slash" }, " / "));
    }
    title.append(el("bdi", {}, shown(id ?? name)));
    const onclick = () => go({ service: null, node: null }, { step: true });
    const close = el("button", { type: "button", class: "icon close", "aria-label": "Close", onclick });
    const body = el("div", { class: "body", "data-scroll": true });
    if (kind === "service") this.#ofService(body);
    else if (kind === "node") this.#ofNode(body);
    else if (kind === "gone") body.append(el("p", { class: "empty" }, "It is not registered, or not any more."));
    body.append(this.#lately());
    this.element.replaceChildren(el("header", {}, title, close), body);
    if (focused) title.focus({ preventScroll: true });
  }

  // -- a service -----------------------------------------------------------------------------------------------

  #ofService(body) {
    const summary = el("p", { class: "lead marks" });
    this.fillers.push((service) => marks(summary, service.counts, service.total));
    this.#members = new Members(this.#model.services.get(this.#open.service));
    this.fillers.push(() => this.#members.list.draw());
    body.append(summary, this.#members.element, uses(this.#open.service, this.#guarded(), this.#say), this.#versions());
  }

  /** What the nodes of each version have in common: as told by the one with the smallest id, as in all of microreg. */
  #versions() {
    const box = el("div", { class: "versions" });
    let last = "";
    this.fillers.push((service) => {
      const found = heads(service);
      const nodes = (node) => service.versions.get(node.version);
      const now = JSON.stringify(found.map((node) => [node.version, nodes(node), node.shared, node.endpoints]));
      if (now === last) return;
      last = now;
      box.replaceChildren(...found.map((node) => version(node, nodes(node))));
    });
    return box;
  }

  // -- a node --------------------------------------------------------------------------------------------------

  #ofNode(body) {
    const status = el("dd");
    const address = el("dd");
    const since = el("dd");
    const release = el("dd");
    const rest = el("div", { class: "rest" });
    let last = "";
    const facts = el("dl", { class: "facts" });
    facts.append(pair("status", status), pair("address", address), pair("version", release), pair("age", since));
    this.fillers.push((_, node) => {
      say(since, age(node));
      const now = JSON.stringify([node.status, node.address, node.version, node.metadata, node.shared, node.endpoints]);
      if (now === last) return;
      last = now;
      status.replaceChildren(mark(node.status), ` ${node.status}`);
      const written = el("code", {}, el("bdi", {}, shown(node.address)));
      address.replaceChildren(written, copier("address", node.address, this.#say));
      release.replaceChildren(el("bdi", {}, shown(node.version) || "none"));
      const shared = pairs("Metadata of the service", node.shared);
      rest.replaceChildren(pairs("Metadata", node.metadata), endpoints(node.endpoints), shared);
    });
    body.append(facts, rest);
  }

  #lately() {
    const list = el("ol", { class: "events" });
    const box = el("section", { class: "lately" }, el("h3", {}, "Events"), list);
    let last = null;
    this.fillers.push(() => {
      const { service, node } = this.#open;
      const of = (event) => event.node.name === service && (node === null || event.node.id === node);
      const found = this.#feed.past.filter(of).slice(-EVENTS);
      set(box, "hidden", found.length === 0);
      if (found.at(-1) === last) return;
      last = found.at(-1);
      list.replaceChildren(...found.reverse().map((event) => line(event, { named: false })));
    });
    return box;
  }
}

/** The nodes of the service that is open. */
class Members {
  #nodes = new Ordered();

  constructor(service) {
    this.#nodes.fill([...service.nodes.values()]);
    const rows = el("div", { class: "rows", role: "rowgroup" });
    const grid = el("div", { class: "grid", role: "grid", "aria-label": "Nodes of this service" }, rows);
    this.element = el("div", { class: "members", "data-scroll": true }, grid);
    const update = (row, node) => drawNode(row, node, false);
    this.list = new VirtualList(rows, { items: () => this.#nodes, make: memberRow, update });
  }

  told(node, action) {
    this.#nodes.put(node, action !== "delete");
    this.list.touch(node);
  }
}

function heads(service) {
  const found = new Map();
  for (const node of service.nodes.values()) {
    const known = found.get(node.version);
    if (!known || node.id < known.id) found.set(node.version, node);
  }
  return [...found.values()].sort((a, b) => naturally(b.version, a.version));
}

function version(node, nodes) {
  const title = el("h3", {}, node.version ? "Version " : "No version", el("bdi", {}, shown(node.version)));
  title.append(el("small", {}, ` ${plural(nodes, "node")}`));
  return el("section", {}, title, pairs("Metadata", node.shared), endpoints(node.endpoints));
}

const pair = (name, value) => el("div", {}, el("dt", {}, name), value);

/** Some of the items as they are, the others on request. */
function some(list, items, draw) {
  list.append(...items.slice(0, FEW).map(draw));
  if (items.length <= FEW) return list;
  const more = el("button", { type: "button" }, `Show all ${count(items.length)}`);
  more.addEventListener("click", () => {
    list.append(...items.slice(FEW).map(draw));
    more.remove();
  });
  return el("div", {}, list, more);
}

function pairs(title, found) {
  const items = Object.entries(found).sort(([a], [b]) => naturally(a, b));
  if (!items.length) return "";
  const drawn = ([key, value]) => pair(el("bdi", {}, shown(key)), el("dd", {}, el("bdi", {}, shown(value))));
  return el("section", {}, el("h4", {}, title), some(el("dl", { class: "pairs" }), items, drawn));
}

function endpoints(found) {
  if (!found.length) return "";
  const type = (value) => (value ? [value.name, value.type].filter(Boolean).map(shown).join(" ") : "");
  const drawn = ({ name, request, response }) => {
    const [taken, given] = [type(request), type(response)];
    const shape = taken || given ? el("span", { class: "types" }, ` ${taken || "()"} → ${given || "()"}`) : "";
    return el("li", {}, el("bdi", {}, shown(name)), shape);
  };
  return el("section", {}, el("h4", {}, "Endpoints"), some(el("ul", { class: "endpoints" }), found, drawn));
}

// -- lines to copy -------------------------------------------------------------------------------------------

/** The token comes from the environment: it is neither shown here, nor among the arguments of a program. */
function uses(name, guarded, say) {
  const server = registry() + (guarded ? "?token=${REGISTRY_TOKEN}" : "");
  const url = python(server);
  const header = guarded ? '-H "Authorization: Bearer $REGISTRY_TOKEN" ' : "";
  const lines = {
    Python: `async with microreg.connect(${url}) as registry:
    async with microreg.Selector(registry) as selector:
        node = await selector.select(${python(name)}, timeout=5)`,
    Shell: `microreg get --registry ${shell(server)} -- ${shell(name)}`,
    httpx: httpx(url, name),
    curl: `curl ${header}${shell(`${base()}/v1/services/${part(name)}`)}`,
  };
  const box = el("section", { class: "uses" }, el("h3", {}, "Use it"));
  for (const [kind, text] of Object.entries(lines)) {
    const code = el("pre", { tabindex: "0", "aria-label": kind }, el("code", {}, text));
    box.append(el("figure", {}, el("figcaption", {}, kind, copier(kind, text, say)), code));
  }
  return box;
}

function httpx(url, name) {
  const plain = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(name);
  const request = plain
    ? `client.get(${python(`http://${name}.microreg/`)})`
    : `client.get("http://any.microreg/", extensions={"microreg.name": ${python(name)}})`;
  return `async with microreg.connect(${url}) as registry, microreg.Selector(registry) as selector:
    services = AsyncRegistryTransport(selector)
    async with httpx.AsyncClient(mounts={"all://*.microreg": services}) as client:
        response = await ${request}`;
}

function copier(what, text, say) {
  const button = el("button", { type: "button", class: "copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    const done = await copied(text);
    button.textContent = done ? "Copied" : "Not copied";
    say(done ? `${what} copied` : `${what} could not be copied`);
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}

/** Browsers have a clipboard for pages of https and localhost only; elsewhere the old way does. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "unseen", readonly: true });
    area.value = text;
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}
