// The endpoint: requests with the API key, errors in plain words, and answers that survive a broken connection.

import {local, session} from "./browser_storage.js";
import {eventsOf} from "./sse.js";

const KEY = "spillover-api-key";
const base = new URL("./", document.baseURI);

export const apiKey = {
  get: () => session.get(KEY) || local.get(KEY) || "",
  set(key, keep) {
    session.remove(KEY);
    local.remove(KEY);
    if (key) (keep ? local : session).set(KEY, key);
  },
  isKept: () => local.get(KEY) !== null,
};

/** What the server refuses, or that it cannot be reached: *status* is 0 then. */
export class ApiError extends Error {
  constructor(message, status, code = "", retryAfter = 0) {
    super(message);
    Object.assign(this, {status, code, retryAfter});
  }

  /** What to do about it, for people. */
  get advice() {
    if (this.status === 0) return "Is the server running? The page goes on when it is back.";
    if (this.status === 401) return "Enter the API key in the settings.";
    if (this.status === 403) return "Open this page at the address that the server printed.";
    if (this.status === 413) return "Send less at once: fewer or smaller files.";
    if (this.status === 429) return `The device is busy. Try again ${this.retryAfter > 1 ? `in ${this.retryAfter} s` : "in a moment"}.`;
    if (this.status === 503) return "The model is loading or has crashed. Try again in a moment.";
    if (/context/.test(this.code)) return "Start a new chat, or edit a message to make it shorter.";
    if (this.status === 404) return "Choose another model at the top.";
    return "";
  }
}

export async function call(path, options = {}) {
  const headers = {...options.headers};
  const key = apiKey.get();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, base), {
      ...options,
      headers,
      body: options.body === undefined ? undefined : JSON.stringify(options.body),
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", 0);
  }
  if (response.ok || response.status === 204) return response;
  throw await refusal(response);
}

async function refusal(response) {
  let message = `The server says ${response.status}.`;
  let code = "";
  try {
    const error = (await response.json()).error;
    message = error.message || message;
    code = String(error.code ?? error.type ?? "");
  } catch { /* not JSON */ }
  return new ApiError(message, response.status, code, Number(response.headers.get("Retry-After")) || 0);
}

export const json = async (path, options) => (await call(path, options)).json();

/**
 * One answer. onBegin is called when the stream has its name, under which it can be taken up again. onEvent gets each event of the stream once and in order, whatever breaks:
 * {type, data} with data parsed. The promise ends with the answer. *resume* ({stream, n}) goes on with an
 * answer that began before the page was loaded.
 */
export class AnswerStream {
  constructor({onBegin, onEvent, onState, resume = null}) {
    this.onBegin = onBegin;
    this.onEvent = onEvent;
    this.onState = onState;
    this.stream = resume?.stream ?? "";
    this.n = resume?.n ?? 0;
    this.isOver = false;
    this.isStopped = false;
    this.abort = new AbortController();
  }

  /** *bodyOf*() makes the body, or a promise of it. */
  async run(bodyOf) {
    let failures = 0;
    while (!this.isOver) {
      const before = this.n;
      try {
        const response = this.stream ? await this.#again() : await this.#begin(bodyOf);
        if (response.status === 204) break;
        failures = 0;
        await this.#read(response);
        if (this.isOver || this.isStopped) break;
      } catch (error) {
        if (this.isStopped) break;
        const isOfNetwork = !(error instanceof ApiError) || error.status === 0 || error.status >= 502;
        if (!this.stream || !isOfNetwork) throw error;
      }
      failures = this.n > before ? 1 : failures + 1;
      if (failures > 8) throw new ApiError("The connection is lost, and the server does not come back.", 0);
      this.onState("reconnecting");
      await this.#pause(Math.min(10_000, 500 * 2 ** (failures - 1)) * (0.75 + Math.random() / 2));
    }
  }

  /** The user wants no more. */
  stop() {
    this.isStopped = true;
    if (this.stream) call(`v1/streams/${this.stream}`, {method: "DELETE"}).catch(() => {});
    else this.abort.abort();
    setTimeout(() => this.abort.abort(), 3000);
  }

  async #begin(bodyOf) {
    const body = await bodyOf();
    const response = await call("v1/chat/completions", {
      method: "POST",
      body,
      headers: {"X-Spillover-Resume": "1", "X-Spillover-Events": "1"},
      signal: this.abort.signal,
    });
    this.stream = response.headers.get("X-Spillover-Stream") || "";
    this.onBegin();
    return response;
  }

  #again() {
    return call(`v1/streams/${this.stream}?after=${this.n}`, {signal: this.abort.signal});
  }

  async #read(response) {
    for await (const event of eventsOf(response)) {
      const n = Number(event.id.slice(event.id.lastIndexOf(":") + 1));
      if (event.id && n !== this.n + 1) continue;
      this.n += 1;
      if (event.data === "[DONE]") {
        this.isOver = true;
        return;
      }
      const data = JSON.parse(event.data);
      if (data.error) {
        this.isOver = true;
        throw new ApiError(data.error.message, 500, String(data.error.type ?? data.error.code ?? ""));
      }
      this.onEvent({type: event.type, data});
    }
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        removeEventListener("online", done);
        document.removeEventListener("visibilitychange", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      addEventListener("online", done);
      document.addEventListener("visibilitychange", done);
    });
  }
}
