// Questions to the user in a dialog.

import {$, h} from "./dom.js";

/** Asks for a text, or (*value* null) for a yes. Returns null where the user does not want to. */
export async function ask(title, value, label = "Save", isLong = false) {
  const field = value === null ? null : isLong ? h("textarea", {rows: 6, "aria-label": title}) : h("input", {"aria-label": title});
  if (field) field.value = value;
  const reply = await choose(title, {yes: label}, field);
  return reply === "yes" ? field?.value ?? true : null;
}

let before = Promise.resolve();

/** The key of the button that was chosen; empty for Cancel. *content* stands above the buttons. One question at a time. */
export function choose(title, labels, content = null) {
  before = before.then(() => shown(title, labels, content));
  return before;
}

function shown(title, labels, content) {
  const dialog = $("dialog");
  const buttons = Object.entries(labels).map(([key, label]) => h("button", {class: "primary", value: key}, label));
  dialog.replaceChildren(h("form", {method: "dialog"},
    h("h2", {id: "dialog-title"}, title), content, h("div", {class: "row"}, ...buttons, h("button", {value: ""}, "Cancel"))));
  dialog.returnValue = "";
  dialog.showModal();
  content?.select?.();
  return new Promise((resolve) => { dialog.onclose = () => resolve(dialog.returnValue); });
}
