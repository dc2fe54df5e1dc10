// What is asked of a server. Credentials are in memory alone, and go to no other server.

/** Why a server gives no answer. */
export class Refused extends Error {}

/** The value of an `Authorization` header for a user and a password. */
export function basic(user, password) {
  const bytes = new TextEncoder().encode(`${user}:${password}`);
  return `Basic ${btoa(String.fromCharCode(...bytes))}`;
}

export class Client {
  #server;
  #headers;

  /** `server` is the root of its API; `authorization` is none for nobody. */
  constructor(server, authorization) {
    this.#server = new URL(server.replace(/\/*$/, ""));
    this.#headers = authorization ? { authorization } : {};
  }

  /** What the server is, and who asks. */
  async root() {
    return (await this.#ask("/")).json();
  }

  /** The ids of the buckets that may be listed. */
  async buckets() {
    const { rows } = await this.page("/buckets?_sort=id&_fields=id");
    return rows.map(({ id }) => id);
  }

  /** The rows of a page of a list, and the path of the next one. */
  async page(path) {
    const answer = await this.#ask(path);
    const next = answer.headers.get("Next-Page");
    return { rows: (await answer.json()).data, next: next && this.#below(new URL(next)) };
  }

  /** The lines of an answer, as they come. */
  async *lines(path, body, signal) {
    const headers = { "content-type": "application/json" };
    const answer = await this.#ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) yield JSON.parse(line);
    }
  }

  async #ask(path, options = {}) {
    const headers = { ...this.#headers, ...options.headers };
    let answer;
    try {
      answer = await fetch(this.#server + path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(`${this.#server.host} does not answer`);
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    throw new Refused(`${answer.status}: ${said.message ?? answer.statusText}`);
  }

  /** A path of the server's, whatever name it has for itself. */
  #below({ pathname, search }) {
    return pathname.slice(this.#server.pathname.length) + search;
  }
}
