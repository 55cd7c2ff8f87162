// The document, made of elements and text only: nothing here ever parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** A new element: attributes (`on…` are listeners), then children, which are elements or text. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Set the text, or an attribute, where it is another one: what stays costs nothing. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function set(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Calls `draw` before the next picture, however often it is asked to; where it has just drawn, after `pace` ms. */
export function framed(draw, pace = 0) {
  let asked = false;
  let last = -Infinity;
  const now = () => {
    asked = false;
    draw();
    last = performance.now();
  };
  return () => {
    if (asked) return;
    asked = true;
    const wait = last + pace - performance.now();
    if (wait > 0) setTimeout(() => requestAnimationFrame(now), wait);
    else requestAnimationFrame(now);
  };
}

/** What changes in the registry is drawn this often, in ms, and no more. */
export const PACE = 120;

/** The mark of a status: a shape of its own, not only a colour. */
export const mark = (status) => el("i", { class: "mark", "data-status": status, "aria-hidden": "true" });
