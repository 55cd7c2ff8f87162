// The stream of events of /v1/watch: read by fetch, so that a token can be sent, and resumed after the last event.

const SILENCE = 12_000; // the server gives a sign of life every six seconds
const PATIENCE = 8_000; // for an answer to begin
const LONGEST = 5_000; // between two attempts
const SHOWN = 1_500; // an interruption shorter than this is nobody's concern

const pause = (ms, signal) =>
  new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });

/** Splits server-sent events, as they come in pieces, into {event, data, id}. */
class Parser {
  #rest = "";
  #event = { event: "", data: [], id: null };

  *feed(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        const { event, data, id } = this.#event;
        this.#event = { event: "", data: [], id: null };
        yield { event, data: data.join("\n"), id };
      } else if (!line.startsWith(":")) {
        const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === "data") this.#event.data.push(value);
        else if (field === "event") this.#event.event = value;
        else if (field === "id") this.#event.id = value;
      }
    }
  }
}

/** What keeps the page from the events, in the words of the server where it said something. */
class Refused extends Error {
  constructor(kind, detail, wait = 0) {
    super(detail);
    this.kind = kind;
    this.wait = wait;
  }
}

/**
 * Follows everything, for ever. Calls `on.event(kind, data)`, `on.opened(resumed)` when the server has begun to answer,
 * and `on.state({kind, detail, since})`: "connecting", "live", "server" or "backend" (which is lost), "token" (which is
 * wanted), "refused".
 */
export class Stream {
  #on;
  #token;
  #last = "";
  #heard = Date.now();
  #attempt = null;
  #retry = new AbortController();
  #state = { kind: "connecting", detail: "", since: Date.now() };
  #failures = 0;

  constructor(token, on) {
    this.#on = on;
    this.#token = token;
    setInterval(() => this.#look(), 1000);
    // After a sleep of the machine, or in a tab that was not looked at, timers are late.
    for (const kind of ["online", "pageshow"]) addEventListener(kind, () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
  }

  /** Begin; never returns. */
  async run() {
    for (;;) {
      const refused = await this.#follow();
      this.#attempt = null;
      this.#failed(refused);
      const wait = Math.min(250 * 2 ** Math.min(this.#failures++, 5), LONGEST);
      await this.#wait(Math.max(wait * (0.75 + Math.random() / 2), refused.wait));
    }
  }

  /** Try again at once, with this token. */
  use(token) {
    this.#token = token;
    this.#retry.abort();
  }

  /** A GET of this server, as the events are got; null where it cannot be had. */
  async get(path) {
    try {
      const answer = await fetch(path, this.#request());
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }

  #request(signal = AbortSignal.timeout(PATIENCE)) {
    const headers = this.#token ? { Authorization: `Bearer ${this.#token}` } : {};
    return { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  }

  async #wait(ms) {
    this.#retry = new AbortController();
    // Without a token that is accepted there is no use in asking again and again.
    await pause(this.#state.kind === "token" ? 2 ** 31 - 1 : ms, this.#retry.signal);
  }

  /** One connection, until it ends; returns why. */
  async #follow() {
    const attempt = (this.#attempt = new AbortController());
    try {
      const timer = setTimeout(() => attempt.abort(), PATIENCE);
      const request = this.#request(attempt.signal);
      if (this.#last) request.headers["Last-Event-ID"] = this.#last;
      const answer = await fetch("v1/watch", request).finally(() => clearTimeout(timer));
      if (!answer.ok) return await refusal(answer);
      await this.#read(answer).finally(() => attempt.signal.aborted || (this.#heard = Date.now()));
      return new Refused("server", "The server has ended the connection.");
    } catch {
      const silent = attempt.signal.aborted;
      return new Refused("server", silent ? "The server does not answer." : "The server cannot be reached.");
    }
  }

  async #read(answer) {
    this.#heard = Date.now();
    const resumed = answer.headers.get("microreg-resumed") === "true";
    this.#on.opened(resumed);
    if (resumed) this.#live();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new Parser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.#heard = Date.now();
      for (const { event, data, id } of parser.feed(value)) {
        if (event && data) this.#on.event(event, JSON.parse(data));
        if (id !== null) this.#last = id;
        this.#live();
      }
    }
  }

  #live() {
    this.#failures = 0;
    this.#tell("live", "", this.#heard);
  }

  #failed(refused) {
    const since = this.#state.kind === "live" ? this.#heard : this.#state.since;
    const known = this.#state.kind !== "live" && this.#state.kind !== "connecting";
    // A server that restarts, or a connection that breaks, is not worth a word if the next attempt works.
    const brief = !known && this.#failures === 0 && refused.kind === "server" && Date.now() - this.#heard < SHOWN;
    if (!brief) this.#tell(refused.kind, refused.message, since);
  }

  #tell(kind, detail, since) {
    if (kind === this.#state.kind && detail === this.#state.detail) return;
    this.#state = { kind, detail, since };
    this.#on.state(this.#state);
  }

  /** Once a second: a connection on which nothing has come for so long is dead. */
  #look() {
    if (this.#attempt && this.#state.kind === "live" && Date.now() - this.#heard > SILENCE) this.#attempt.abort();
  }

  #hurry() {
    this.#look();
    if (this.#state.kind !== "token") this.#retry.abort();
  }
}

async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  const detail = typeof problem.detail === "string" ? problem.detail : `The server answers ${answer.status}.`;
  const wait = Math.min(Number(answer.headers.get("retry-after")) || 0, 30) * 1000;
  if (answer.status === 401) return new Refused("token", detail);
  const refused = problem.code === "too_many_streams" || answer.status < 500;
  if (refused) return new Refused("refused", detail, Math.max(wait, 2000));
  if (typeof problem.code === "string") return new Refused("backend", detail, wait);
  return new Refused("server", detail, wait); // a proxy in between
}
