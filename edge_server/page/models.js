// What the server serves, and the menu in which a chat chooses of it.

import {h} from "./dom.js";
import {bytes, count} from "./numbers.js";

const POLICIES = {
  auto: ["Automatic", "As the owner of this server has set it"],
  local: ["This device first", "A provider only where the device cannot"],
  private: ["Private", "Nothing of these answers leaves this device"],
  cloud: ["Cloud first", "A provider begins, as far as “Cloud” above allows"],
};

const STATES = {loading: "is being loaded", unloaded: "not loaded", failed: "could not be loaded"};

/** The server's models, and what is known of them. */
export class Models {
  constructor(list) {
    /** The names that say who should write stand for the first model. */
    this.policies = list.filter(isPolicy);
    this.all = list.filter((one) => !isPolicy(one));
  }

  get names() {
    return [...this.all, ...this.policies].map((one) => one.id);
  }

  /** The name to ask for: *wanted* where it is served or nothing is known yet, else the first. */
  chosen(wanted) {
    if (!this.all.length) return wanted || "local";
    return this.names.includes(wanted) ? wanted : this.all[0]?.id ?? "local";
  }

  /** The entry of the model behind a name. */
  entry(name) {
    return this.all.find((one) => one.id === name) ?? this.all[0] ?? {};
  }

  /** Whether a question about it is answered at once. */
  isLoaded(name) {
    return (this.entry(name).status?.value ?? "loaded") === "loaded";
  }

  nCtx(name) {
    return this.entry(name).context_length ?? null;
  }

  /** Whether a provider may be asked about images that come with the name. */
  seesImages(name) {
    return Boolean(this.#listed(name).modalities?.input?.includes("image"));
  }

  /** Whether the owner of the server lets a provider write for it. */
  hasCloud(name) {
    return (this.#listed(name).fallback ?? "never") !== "never";
  }

  #listed(name) {
    return this.policies.find((one) => one.id === name) ?? this.entry(name);
  }
}

function isPolicy(entry) {
  return Object.hasOwn(POLICIES, entry.id) && Boolean(entry.baseModelId) && entry.baseModelId !== entry.id;
}

const words = (name) => POLICIES[name]?.[0] ?? name;

export class ModelMenu {
  /** *choose*(name) is called when the user has chosen, *refresh* when the menu opens. */
  constructor(button, menu, {choose, refresh}) {
    Object.assign(this, {button, menu, choose});
    menu.addEventListener("toggle", (event) => {
      button.setAttribute("aria-expanded", String(event.newState === "open"));
      if (event.newState !== "open") return;
      menu.querySelector(":checked")?.focus();
      refresh();
    });
  }

  show(models, name) {
    const isNamed = models.policies.some((one) => one.id === name);
    this.button.textContent = isNamed ? words(name) : name;
    const option = (id, title, facts) => h("label", {class: "option"},
      h("input", {type: "radio", name: "model", value: id, checked: id === name, onchange: () => this.choose(id)}),
      h("span", {}, h("strong", {}, title), h("small", {}, facts)));
    const groups = [h("fieldset", {}, h("legend", {}, "Model"), ...models.all.map((one) => option(one.id, one.id, factsOf(one))))];
    if (models.policies.length) {
      groups.push(h("fieldset", {}, h("legend", {}, "Or say who writes"),
        ...models.policies.map(({id}) => option(id, ...POLICIES[id]))));
    }
    const hadFocus = this.menu.contains(document.activeElement);
    this.menu.replaceChildren(...groups);
    if (hadFocus) this.menu.querySelector(":checked")?.focus();
  }
}

/** What is known of a model; a server may leave out any of it. */
function factsOf(entry) {
  const {meta = {}} = entry;
  const facts = [
    entry.description,
    meta.size ? bytes(meta.size) : null,
    entry.context_length ? `${count(entry.context_length)} tokens of context` : null,
    entry.engine,
    STATES[entry.status?.value],
  ];
  return facts.filter((fact) => typeof fact === "string" && fact).join(" · ");
}
