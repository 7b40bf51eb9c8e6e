// What the user is about to send: the text, the files with it, and how much of the context they take.

import {json} from "./api.js";
import {session} from "./browser_storage.js";
import {$, h} from "./dom.js";
import {count, counted} from "./numbers.js";

const MOST_FILE_BYTES = 512 * 1024;
const MOST_IMAGE_BYTES = 32 * 1024 * 1024;
const MOST_IMAGE_SIDE = 1568;
const MOST_COUNTED_CHARS = 1_000_000;
const COUNT_AFTER_MS = 350;
/** A longer text that is pasted becomes a file, which can be looked at and removed as a whole. */
const MOST_PASTED_CHARS = 4000;
const DRAFT = "spillover-draft-";

/** There, Enter starts a new line, as the keyboards on the screen show it. */
const hasOnlyTouch = matchMedia("(hover: none) and (pointer: coarse)");

export class Composer {
  /** By chat, as the drafts are. */
  #files = new Map();
  #asked = null;
  #timer = 0;
  #hasDrafts = false;

  /**
   * *actions*: send(text), say(text), countable(text, files): the body to be counted, nCtx(): the longest context,
   * takesImages(name): whether an image may be added, chatId(): the chat whose draft is written; empty for a new one.
   */
  constructor(actions) {
    this.actions = actions;
    this.prompt = $("prompt");
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if ($("send").hidden) return;
      const text = this.prompt.value;
      this.prompt.value = "";
      this.#changed();
      actions.send(text);
    });
    this.prompt.addEventListener("input", () => this.#changed());
    this.prompt.addEventListener("keydown", (event) => {
      const isComposing = event.isComposing || event.keyCode === 229; // Safari ends the composition before the key
      if (event.key !== "Enter" || event.shiftKey || isComposing || hasOnlyTouch.matches) return;
      event.preventDefault();
      $("composer").requestSubmit();
    });
    this.prompt.addEventListener("paste", (event) => {
      const {files} = event.clipboardData;
      const text = event.clipboardData.getData("text/plain");
      if (!files.length && text.length <= MOST_PASTED_CHARS) return;
      event.preventDefault();
      this.add(files.length ? files : [new File([text], `Pasted text ${this.files.length + 1}.txt`, {type: "text/plain"})]);
    });
    $("attach").addEventListener("click", () => $("attach-file").click());
    $("attach-file").addEventListener("change", async () => {
      await this.add([...$("attach-file").files]);
      $("attach-file").value = "";
    });
    this.#takeDrops();
    // What was written or chosen before this script ran.
    this.#fit();
    if ($("attach-file").files.length) queueMicrotask(() => $("attach-file").dispatchEvent(new Event("change")));
  }

  #takeDrops() {
    let depth = 0;
    const drag = (by) => {
      depth = Math.max(0, depth + by);
      document.body.classList.toggle("dropping", depth > 0);
    };
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("dragenter", (event) => { if (event.dataTransfer?.types.includes("Files")) drag(1); });
    addEventListener("dragleave", (event) => { if (event.dataTransfer?.types.includes("Files")) drag(-1); });
    addEventListener("drop", (event) => {
      event.preventDefault();
      drag(-depth);
      this.add(event.dataTransfer.files);
    });
  }

  #changed() {
    const key = DRAFT + this.actions.chatId();
    if (this.prompt.value) session.set(key, this.prompt.value);
    else session.remove(key);
    this.#fit();
    this.count();
  }

  /** Shows what was written and attached in a chat and not sent. */
  takeDraft(id) {
    const draft = session.get(DRAFT + id) ?? "";
    if (this.#hasDrafts || draft) this.prompt.value = draft; // else it may have been written before this script ran
    this.#hasDrafts = true;
    this.#fit();
    this.#draw();
  }

  forgetDraft(id) {
    session.remove(DRAFT + id);
    this.#files.delete(id);
  }

  #fit() {
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${Math.min(this.prompt.scrollHeight, 240)}px`;
  }

  get files() {
    return this.#files.get(this.actions.chatId()) ?? [];
  }

  /** The files, which are no longer here afterwards. */
  take() {
    const {files} = this;
    this.set([]);
    return files;
  }

  set(files) {
    if (files.length) this.#files.set(this.actions.chatId(), files);
    else this.#files.delete(this.actions.chatId());
    this.#draw();
  }

  async add(list) {
    const id = this.actions.chatId();
    for (const file of list) {
      const problem = file.type.startsWith("image/") ? await this.#addImage(file, id) : await this.#addText(file, id);
      if (problem) this.actions.say(problem);
    }
    this.prompt.focus();
  }

  /** Adds what was read of a file in the chat *id*. Returns what is wrong with that. */
  #push(added, id) {
    if (id !== this.actions.chatId()) return `${added.name} was not added: you went on before it was read.`;
    this.set([...this.files, added]);
    return "";
  }

  /** Adds a text file. Returns what is wrong with it. */
  async #addText(file, id) {
    if (file.size > MOST_FILE_BYTES) return `${file.name} is too large: at most ${MOST_FILE_BYTES / 1024} kB.`;
    const text = await file.text();
    if (text.includes("\0")) return `${file.name} is not a text file.`;
    const added = {name: file.name.slice(0, 200), text, nTokens: null};
    const problem = this.#push(added, id);
    if (!problem && this.actions.countable(text, [])) {
      json("tokenize", {method: "POST", body: {content: text, model: this.actions.model()}}).then((found) => {
        added.nTokens = found.tokens.length;
        this.#draw();
      }, () => {});
    }
    return problem;
  }

  /** Adds an image. Returns what is wrong with it. */
  async #addImage(file, id) {
    const name = file.name.slice(0, 200);
    if (file.size > MOST_IMAGE_BYTES) return `${name} is too large: at most ${MOST_IMAGE_BYTES / 2 ** 20} MB.`;
    if (!(await this.actions.takesImages(name))) return "";
    try {
      return this.#push({name, text: "", image: await smaller(file)}, id);
    } catch {
      return `${name} is no image that this browser can read.`;
    }
  }

  #draw() {
    $("files").replaceChildren(...this.files.map((file) => h("li", {class: "chip"},
      file.image ? h("img", {src: file.image, alt: ""}) : null,
      h("span", {class: "file-name", title: file.name}, file.name),
      file.image ? h("span", {}, "needs the cloud") : file.nTokens === null ? null : h("span", {}, counted(file.nTokens, "token", "tokens")),
      h("button", {class: "icon small", type: "button", "aria-label": `Remove ${file.name}`, onclick: () => {
        this.set(this.files.filter((other) => other !== file));
      }}, "✕"))));
    this.count();
  }

  /** Counts, soon, what the model would have to read. */
  count() {
    clearTimeout(this.#timer);
    this.#asked?.abort();
    this.#timer = setTimeout(() => this.#count(), COUNT_AFTER_MS);
  }

  async #count() {
    const body = this.actions.countable(this.prompt.value, this.files);
    const nChars = body ? JSON.stringify(body).length : 0;
    if (!body || nChars > MOST_COUNTED_CHARS) {
      this.#say(body ? "A very long prompt" : "", Boolean(body));
      return;
    }
    const asked = new AbortController();
    this.#asked = asked;
    try {
      const {input_tokens: n} = await json("v1/messages/count_tokens", {method: "POST", body, signal: asked.signal});
      const most = this.actions.nCtx();
      this.#say(most ? `${count(n)} of ${count(most)} tokens` : `${count(n)} tokens`, Boolean(most) && n >= most);
    } catch {
      if (!asked.signal.aborted) this.#say("", false); // a server that does not count is no trouble
    }
  }

  #say(text, isTooMuch) {
    $("count").textContent = isTooMuch ? `${text}: too long for the model on this device` : text;
    $("count").classList.toggle("too-much", isTooMuch);
  }
}

/** An image file as a data URL of at most MOST_IMAGE_SIDE pixels, without the place and time that cameras write into it. */
async function smaller(file) {
  const image = await createImageBitmap(file);
  const scale = Math.min(1, MOST_IMAGE_SIDE / Math.max(image.width, image.height));
  const canvas = h("canvas", {width: Math.max(1, Math.round(image.width * scale)), height: Math.max(1, Math.round(image.height * scale))});
  const isPhoto = file.type === "image/jpeg" || canvas.width * canvas.height > 500_000;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG has no transparency
  if (isPhoto) context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  image.close();
  return isPhoto ? canvas.toDataURL("image/jpeg", 0.85) : canvas.toDataURL("image/png");
}
