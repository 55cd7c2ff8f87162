// Whether what is shown is live; and if not, why not, and since when.

import { $, say, set } from "./dom.js";
import { keep, kept } from "./storage.js";
import { count, sentence, span, time } from "./text.js";

const TOKEN = "microreg.token";
const STATES = {
  connecting: "Connecting",
  live: "Live",
  server: "Connection lost",
  backend: "Registry lost",
  token: "Token wanted",
  refused: "Refused",
};
const BANNERS = {
  server: "The connection to the server is lost.",
  backend: "The server has lost the registry behind it.",
  refused: "The server refuses to tell.",
};

/** The state of the stream, as the page shows it, and the token that it takes. `given` is called with a new token. */
export class Status {
  token = kept("sessionStorage", TOKEN);
  #model;
  #say;
  #state = { kind: "connecting", detail: "", since: Date.now() };

  constructor(model, say, given) {
    this.#model = model;
    this.#say = say;
    $("token").addEventListener("submit", (event) => {
      event.preventDefault();
      const token = $("secret").value.trim();
      $("secret").value = "";
      if (/^[\x21-\x7e]+$/.test(token)) given(this.#take(token));
      else this.#wrong("A token is made of letters, digits and signs, without blanks.");
    });
    $("leave").addEventListener("click", () => {
      keep("sessionStorage", TOKEN, null);
      location.reload();
    });
  }

  /** Show another state. */
  take(state) {
    const was = this.#state.kind;
    this.#state = state;
    const { kind, detail } = state;
    $("state").dataset.kind = document.body.dataset.state = kind;
    say($("state").lastElementChild, STATES[kind]);
    this.#drawBanner(kind in BANNERS, BANNERS[kind] ?? "", detail);
    set($("token"), "hidden", kind !== "token");
    set($("main"), "hidden", kind === "token");
    set($("leave"), "hidden", this.token === null || kind === "token");
    if (kind === "token") {
      this.#wrong(this.token === null ? "" : sentence(detail));
      $("secret").focus();
    }
    if (kind === "live" && was in BANNERS) this.#say("Live again.");
    this.tick();
  }

  /** Say how long it is now. */
  tick() {
    const { kind, since } = this.#state;
    const stale = this.#model.known ? " What is shown is as it was then." : "";
    if (kind in BANNERS) say($("since"), `Since ${time(since)}, ${span(Date.now() - since)}.${stale} Trying again…`);
    const { critical } = this.#model.counts;
    const lost = kind === "server" || kind === "backend";
    const what = lost ? "✕ lost" : critical ? `${count(critical)} critical` : "";
    document.title = what ? `${what} · microreg` : "microreg";
    set($("icon"), "href", `page/icon${lost ? "-lost" : ""}.svg`);
  }

  #take(token) {
    this.token = token;
    keep("sessionStorage", TOKEN, token);
    return token;
  }

  #wrong(text) {
    say($("wrong"), text);
  }

  #drawBanner(visible, title, detail) {
    set($("banner"), "hidden", !visible);
    say($("lost"), title);
    say($("why"), visible ? sentence(detail) : "");
  }
}
