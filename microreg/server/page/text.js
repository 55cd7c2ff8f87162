// Text for people. Whatever comes from a registry is made visible here, and stays text everywhere.

const HIDDEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\u2028\u2029]/gu;
const JOINERS = "\u200c\u200d"; // part of words in some scripts, and of emoji
const numbers = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const code = (char) => char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

/** The text with everything in it that cannot be seen, or turns text around, written out: ‹U+202E›. */
export const shown = (text) =>
  text.replace(HIDDEN, (char) => (JOINERS.includes(char) ? char : `‹U+${code(char)}›`));

/** 12,345 */
export const count = (number) => numbers.format(number);

/** "1 node", "2 nodes" */
export const plural = (number, word, words = `${word}s`) => `${count(number)} ${number === 1 ? word : words}`;

/** What a server says, which begins anywhere in a line, as a sentence. */
export const sentence = (text) => text.replace(/^./u, (char) => char.toUpperCase()).replace(/([^.!?…])$/u, "$1.");

/** The time of day, to the second. */
export const time = (ms) => clock.format(ms);

/** A duration in one unit, as it is read at a glance: 12 s, 5 min, 3 h, 2 d. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${count(Math.floor(seconds / 86400))} d`;
}

/** Where this server is. */
export const base = () => new URL(".", location.href).href.replace(/\/$/, "");

/** The same as a config string of microreg, whose own port is another one than that of browsers. */
export function registry() {
  const { protocol, hostname, port, pathname } = new URL(base());
  return `${protocol}//${hostname}:${port || (protocol === "https:" ? 443 : 80)}${pathname.replace(/\/$/, "")}`;
}

// -- lines to copy: what a name is made of must not become code ----------------------------------------------

const escaped = (char) => {
  const point = char.codePointAt(0);
  return point > 0xffff ? `\\U${point.toString(16).padStart(8, "0")}` : `\\u${point.toString(16).padStart(4, "0")}`;
};

/** A string literal of Python. */
export const python = (text) => JSON.stringify(text).replace(/[^\x20-\x7e]/gu, escaped);

/** A word of a POSIX shell; of bash where it has characters that cannot be seen. */
export function shell(text) {
  if (/^[A-Za-z0-9_.,:/@%+-]+$/.test(text)) return text;
  if (text.search(HIDDEN) < 0) return `'${text.replaceAll("'", `'\\''`)}'`;
  const plain = text.replace(/[\\']/g, "\\$&");
  return `$'${plain.replace(HIDDEN, escaped)}'`;
}

/** A part of a URL's path, which no shell touches either. */
export const part = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (char) => `%${code(char).slice(2)}`);
