// What is looked at, in the part of the URL after #: so that it can be kept, sent and gone back to.

export const VIEWS = ["services", "nodes", "events"];

/** What the URL says: {view, text, statuses, zones, service, node}; service and node are null where none is open. */
export function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const view = given.get("view");
  return {
    view: VIEWS.includes(view) ? view : "services",
    text: given.get("q") ?? "",
    statuses: new Set(given.getAll("status")),
    zones: new Set(given.getAll("zone")),
    service: given.get("service"),
    node: given.get("node"),
  };
}

/** The URL for what is looked at, with these things different. */
export function link(changes) {
  const { view, text, statuses, zones, service, node } = { ...read(), ...changes };
  const found = new URLSearchParams();
  if (view !== "services") found.set("view", view);
  if (text) found.set("q", text);
  for (const status of statuses) found.append("status", status);
  for (const zone of zones) found.append("zone", zone);
  if (service !== null) found.set("service", service);
  if (service !== null && node !== null) found.set("node", node);
  return `#${found}`;
}

/** Look at something else; a step that one can go back to, or not. */
export function go(changes, { step = false } = {}) {
  const url = location.pathname + location.search + link(changes);
  if (step) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  dispatchEvent(new HashChangeEvent("hashchange"));
}
