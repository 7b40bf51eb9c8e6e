// A panel at the side, and the settings in one.

import {apiKey} from "./api.js";
import {local} from "./browser_storage.js";
import {$, h} from "./dom.js";

const KEY = "spillover-settings";
const DEFAULTS = {dial: "never", model: "", scheme: "", system: "", temperature: "", top_p: "", max_tokens: "", seed: ""};
const NUMBERS = {
  temperature: ["Temperature", 0, 2, 0.1],
  top_p: ["Top p", 0, 1, 0.05],
  max_tokens: ["Longest answer, in tokens", 1, 1_000_000, 1],
  seed: ["Seed", 0, 4_294_967_295, 1],
};

export const settings = {
  values: {...DEFAULTS, ...stored()},
  get(name) {
    return this.values[name];
  },
  set(name, value) {
    this.values[name] = value;
    local.set(KEY, JSON.stringify(this.values));
  },
  /** The fields of a request that the user has set. */
  sampling() {
    const set = Object.keys(NUMBERS).filter((name) => this.values[name] !== "" && Number.isFinite(Number(this.values[name])));
    return Object.fromEntries(set.map((name) => [name, Number(this.values[name])]));
  },
};

function stored() {
  try {
    return JSON.parse(local.get(KEY) ?? "{}");
  } catch {
    return {};
  }
}

/** Light or dark, as the user has set it; else as the system has it. */
export function showScheme() {
  const scheme = settings.get("scheme");
  document.documentElement.style.colorScheme = ["light", "dark"].includes(scheme) ? scheme : "";
}

/** Closes the list of chats where it lies over the page. Returns whether it did. */
export function closeSide() {
  const isOpen = document.body.classList.contains("side-open");
  document.body.classList.remove("side-open");
  $("toggle-side").setAttribute("aria-expanded", "false");
  return isOpen;
}

/** A panel that a button opens and closes; one at a time has place. It has the keyboard while it is open, and Esc closes it. */
export class Panel {
  static #shown = null;

  constructor(node, button) {
    this.node = node;
    this.button = button;
    node.tabIndex = -1;
    node.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation(); // it would stop the answer
      this.open(false);
    });
    button.addEventListener("click", () => this.open(this.node.hidden));
  }

  open(isOpen) {
    const hadFocus = this.node.contains(document.activeElement);
    const before = Panel.#shown;
    Panel.#shown = isOpen ? this : null;
    if (before && before !== this) before.#set(false);
    this.#set(isOpen);
    closeSide();
    document.body.classList.toggle("panel-open", isOpen);
    if (isOpen) {
      this.show();
      this.node.focus();
    } else if (hadFocus) {
      (this.button.checkVisibility({visibilityProperty: true}) ? this.button : $("toggle-side")).focus();
    }
  }

  #set(isOpen) {
    this.node.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
  }

  head(title) {
    return h("div", {class: "panel-head"}, h("h2", {}, title),
      h("button", {class: "icon", type: "button", "aria-label": `Close ${title}`, onclick: () => this.open(false)}, "✕"));
  }
}

export class SettingsPanel extends Panel {
  constructor(node, button, keyChanged) {
    super(node, button);
    this.keyChanged = keyChanged;
  }

  /** Asks for the API key, and says why. What is typed already stays. */
  ask() {
    if (this.node.hidden) this.open(true);
    this.isAsking = true;
    this.why.textContent = apiKey.get() ? "This server does not know the key that was entered." : "This server wants a key.";
    this.why.hidden = false;
    this.node.querySelector("#set-key").focus();
  }

  /** Closes what was only opened for the key, unless the server still wants another one. */
  async #useKey(key, keep) {
    const wasAsking = this.isAsking;
    this.isAsking = false;
    apiKey.set(key, keep);
    await this.keyChanged();
    if (this.isAsking) return;
    this.why.hidden = true;
    if (!wasAsking) return;
    this.open(false);
    $("prompt").focus();
  }

  show() {
    const system = h("textarea", {rows: 5, id: "set-system", onchange: () => settings.set("system", system.value)});
    system.value = settings.get("system");
    const fields = Object.entries(NUMBERS).map(([name, [label, min, max, step]]) => {
      const field = h("input", {
        type: "number", id: `set-${name}`, min, max, step, placeholder: "the server's",
        onchange: () => { if (field.checkValidity()) settings.set(name, field.value); else field.reportValidity(); },
      });
      field.value = settings.get(name);
      return h("label", {for: `set-${name}`}, label, field);
    });
    const schemes = {"": "as the system has it", light: "light", dark: "dark"};
    const scheme = h("select", {id: "set-scheme", onchange: () => {
      settings.set("scheme", scheme.value);
      showScheme();
    }}, ...Object.entries(schemes).map(([value, name]) => h("option", {value}, name)));
    scheme.value = settings.get("scheme");
    const key = h("input", {type: "password", id: "set-key", autocomplete: "off", placeholder: apiKey.get() ? "set" : "none"});
    const keep = h("input", {type: "checkbox", id: "set-keep"});
    keep.checked = apiKey.isKept();
    this.why = h("p", {class: "warning", role: "status", hidden: true});
    this.node.replaceChildren(this.head("Settings"),
      h("label", {for: "set-system"}, "System prompt", system), ...fields,
      h("label", {for: "set-scheme"}, "Colours", scheme),
      h("form", {onsubmit: (event) => {
        event.preventDefault();
        this.#useKey(key.value.trim(), keep.checked);
      }},
        this.why,
        h("label", {for: "set-key"}, "API key of this server", key),
        h("label", {class: "check", for: "set-keep"}, keep, "Keep it after this tab is closed"),
        h("button", {type: "submit"}, "Use this key")),
      h("p", {class: "quiet-text"}, "Chats and settings stay in this browser."));
  }
}
