// The live page: everything that is registered here, and what becomes of it.

import { VIEWS, go, link, read } from "./address.js";
import { Detail } from "./detail.js";
import { $, PACE, el, framed, say, set } from "./dom.js";
import { Feed } from "./feed.js";
import { listen } from "./keys.js";
import { drawNode, drawService, nodeRow, serviceRow } from "./lists.js";
import { Model } from "./model.js";
import { Selection } from "./selection.js";
import { Status } from "./status.js";
import { Stream } from "./stream.js";
import { Summary } from "./summary.js";
import { count, plural, registry, shell } from "./text.js";
import { VirtualList } from "./virtual.js";

const CALM = 15_000; // between two things said to those who listen to the page
const narrow = matchMedia("(max-width: 62rem)");

const speak = (text) => say($("said"), text);

const model = new Model();
const selection = new Selection(model);
const summary = new Summary(model);
const feed = new Feed(model);
const status = new Status(model, speak, (token) => stream.use(token));
const detail = new Detail(model, feed, () => status.token !== null, speak);
const lists = {
  services: new VirtualList($("service-rows"), {
    items: () => selection.services,
    make: serviceRow,
    update: (row, service) => drawService(row, service, selection.active, service.name === looked.service),
    heads: 1,
  }),
  nodes: new VirtualList($("node-rows"), {
    items: () => selection.nodes,
    make: nodeRow,
    update: (row, node) => drawNode(row, node, node.name === looked.service && node.id === looked.node),
    heads: 1,
  }),
};

// -- what is looked at ---------------------------------------------------------------------------------------

let looked = read();
let opener = null; // what was opened from a list: {service, node}

function drawNow() {
  selection.renew();
  for (const list of Object.values(lists)) list.draw();
  drawFound();
}

const drawLists = framed(drawNow, PACE);

function drawAll() {
  for (const list of Object.values(lists)) list.touchAll();
  drawLists();
  summary.redraw();
  detail.redraw();
}

function drawFound() {
  const ofNodes = looked.view === "nodes";
  const found = ofNodes ? selection.nodes.size : selection.services.size;
  const all = ofNodes ? plural(model.total, "node") : plural(model.services.size, "service");
  say($("found"), selection.active ? `${count(found)} of ${all}` : "");
  set($("clear"), "hidden", !selection.active);
  set($("empty"), "hidden", !model.known || found > 0);
  const yet = "Nothing is registered yet. What registers appears here by itself:";
  say($("nothing"), selection.active ? "Nothing here matches." : yet);
  set($("first"), "hidden", selection.active);
}

function look() {
  const before = looked;
  looked = read();
  // Where there is room, events are beside the lists.
  if (looked.view === "events" && !narrow.matches) looked.view = "services";
  const { view, text, statuses, zones, service, node } = looked;
  selection.filter(text, statuses, zones);
  if ($("search").value !== text) $("search").value = text;
  $("columns").dataset.view = view;
  $("columns").classList.toggle("open", service !== null);
  drawViews();
  const covered = narrow.matches && service !== null;
  for (const part of [$("bar"), $("summary"), $("registry"), $("feed")]) part.inert = covered;
  drawAll();
  if (detail.show(service, node)) opened(before);
}

/** The focus goes to what was opened, and back to where it was opened. */
function opened({ service, node }) {
  if (looked.service !== null) {
    if (service === null) opener = { service: looked.service, node: looked.node };
    $("detail-title").focus({ preventScroll: true });
  } else if (service !== null) {
    const last = opener ?? { service, node };
    const item = looked.view === "nodes" ? model.find(last.service, last.node) : model.services.get(last.service);
    requestAnimationFrame(() => item && lists[looked.view]?.focus(item));
  }
}

function drawViews() {
  const labels = { services: "Services", nodes: "Nodes", events: "Events" };
  const nav = $("views");
  if (!nav.children.length) nav.append(...VIEWS.map((name) => el("a", { "data-view": name }, labels[name])));
  for (const each of nav.children) {
    set(each, "href", link({ view: each.dataset.view, service: null, node: null }));
    set(each, "aria-current", each.dataset.view === looked.view && "page");
  }
}

/** Go from the search, or from the start of the page, into the list. */
function enter() {
  drawNow();
  const list = lists[looked.view]?.element.querySelector('a[tabindex="0"]');
  (list ?? $("events")).focus();
}

// -- what happens --------------------------------------------------------------------------------------------

const news = { came: 0, left: 0, critical: 0 };

model.heard.push(({ action, service, node, before }) => {
  lists.services.touch(service);
  lists.nodes.touch(node);
  drawLists();
  if (!model.known) return;
  if (action === "create") news.came++;
  if (action === "delete") news.left++;
  else if (node.status === "critical" && before?.status !== "critical") news.critical++;
});

function speakNews() {
  const parts = [
    news.came && `${plural(news.came, "node")} came`,
    news.left && `${count(news.left)} left`,
    news.critical && `${count(news.critical)} became critical`,
  ].filter(Boolean);
  if (parts.length) speak(`${parts.join(", ")}. ${plural(model.total, "node")} now.`);
  Object.assign(news, { came: 0, left: 0, critical: 0 });
}

function tick() {
  model.sweep((service) => {
    selection.drop(service);
    summary.drop(service);
  });
  drawAll();
  status.tick();
}

// -- where it comes from -------------------------------------------------------------------------------------

let asking = false;

/** Ask the server since when nodes are there: it may have seen them come, and this page has not. */
async function askAges() {
  if (asking) return;
  asking = true;
  const found = await stream.get("page/ages");
  asking = false;
  if (found) model.age(found);
  drawAll();
}

const stream = new Stream(status.token, {
  opened: (resumed) => resumed && askAges(),
  event: (kind, data) => {
    model.apply(kind, data);
    if (kind !== "snapshot") return;
    drawAll();
    askAges();
  },
  state: (state) => {
    status.take(state);
    drawAll(); // the lists are drawn only where they can be seen
  },
});

addEventListener("hashchange", look);
narrow.addEventListener("change", look);
$("search").addEventListener("input", () => go({ text: $("search").value }));
$("clear").addEventListener("click", () => {
  go({ text: "", statuses: new Set(), zones: new Set() });
  $("search").focus();
});
listen(enter, () => feed.pause());
say($("first"), `microreg register hello --port 8080 --registry ${shell(registry())}`);
look();
setInterval(tick, 1000);
setInterval(speakNews, CALM);
stream.run();
