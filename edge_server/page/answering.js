// The answers that are being written, each to its end: their events, what is kept of them meanwhile, and how they end.

import {apply, endOf} from "./answer_state.js";
import {AnswerStream, ApiError} from "./api.js";

const SAVE_MS = 700;
const KEEP_AGAIN_MS = 1000;

export class Answering {
  /** By their message's id. */
  #running = new Map();

  /**
   * *actions*: bodyOf(chat, node, begun), the body to send, or a promise of it; view(node), which shows it, or undefined; save(chat, node, isQuiet);
   * noted(node, chat) after each event; changed(chat) when an answer began or ended; ended(node, chat, error); keepLocal(node), a promise
   * of whether the answer now stays on this device.
   */
  constructor(actions) {
    this.actions = actions;
  }

  /** The chats that are being answered. */
  get chats() {
    return new Set([...this.#running.values()].map((run) => run.chat));
  }

  chat(id) {
    return [...this.chats].find((chat) => chat.id === id);
  }

  isRunning(chat) {
    return this.chats.has(chat);
  }

  stop(id) {
    for (const {chat, stream} of this.#running.values()) if (chat.id === id) stream.stop();
  }

  /** Holds the answers of a chat to its dial, which may say "never" only since they were asked for. */
  keepToDial(chat) {
    for (const run of this.#running.values()) if (run.chat === chat) this.#keepToDial(run);
  }

  async #keepToDial(run) {
    const {chat, node} = run;
    if (chat.dial !== "never" || !node.mayLeave || !node.answerId || run.isBeingKept) return;
    run.isBeingKept = true;
    // Where the server did not get it, the next event has it tried again.
    if (!(await this.actions.keepLocal(node))) setTimeout(() => { run.isBeingKept = false; }, KEEP_AGAIN_MS);
  }

  /** Asks for an answer. *begun*: the text that it goes on with. */
  ask(chat, node, begun) {
    return this.#run(chat, node, {begun});
  }

  /** Goes on with those of *nodes* that were being written. *isElsewhere*: another window may only just have asked. */
  resume(chat, nodes, {isElsewhere = false} = {}) {
    for (const node of nodes) {
      if (node.state !== "running" || this.#running.has(node.id)) continue;
      if (node.run?.stream) this.#run(chat, node, {from: node.run});
      else if (!isElsewhere) this.#end(chat, node, "error", new ApiError("The page was closed before the answer began.", 0), "");
    }
  }

  async #run(chat, node, {from = null, begun = null}) {
    const stream = this.#streamOf(chat, node, from);
    this.#running.set(node.id, {stream, chat, node, isBeingKept: false});
    this.actions.changed(chat);
    this.actions.noted(node, chat);
    try {
      await stream.run(() => this.actions.bodyOf(chat, node, begun));
      this.#end(chat, node, stream.isStopped ? "stopped" : endOf(node));
    } catch (error) {
      if (stream.isStopped) this.#end(chat, node, "stopped");
      else if (error.status === 404 && stream.stream) this.#end(chat, node, "error", ...lost(node));
      else this.#end(chat, node, "error", error);
    }
  }

  #streamOf(chat, node, resume) {
    let saved = Date.now();
    const stream = new AnswerStream({
      resume,
      onBegin: () => {
        node.run = {stream: stream.stream, n: 0};
        this.actions.save(chat, node, false); // at once: a reload, or another window, then finds the stream
      },
      onEvent: (event) => {
        const view = this.actions.view(node);
        if (view) view.take(event);
        else apply(node, event);
        node.run = {stream: stream.stream, n: stream.n};
        this.#keepToDial(this.#running.get(node.id));
        this.actions.noted(node, chat);
        if (Date.now() - saved < SAVE_MS) return;
        saved = Date.now();
        this.actions.save(chat, node, true);
      },
      onState: (stage) => {
        node.stage = stage;
        this.actions.view(node)?.refresh();
        this.actions.noted(node, chat);
      },
    });
    return stream;
  }

  #end(chat, node, state, error = null, advice = error?.advice ?? "") {
    this.#running.delete(node.id);
    Object.assign(node, {state, question: null, run: null});
    if (error) Object.assign(node, {error: error.message, advice});
    this.actions.view(node)?.refresh();
    this.actions.save(chat, node, false);
    this.actions.changed(chat);
    this.actions.ended(node, chat, error);
  }
}

function lost(node) {
  const error = new ApiError("The server was restarted, or has forgotten this answer; the rest is lost.", 404);
  return [error, node.text ? "Continue goes on from its last character." : ""];
}
