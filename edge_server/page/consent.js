// The card that asks whether an answer may leave the device.

import {nameOf} from "./answer_state.js";
import {json} from "./api.js";
import {h} from "./dom.js";
import {count, counted, usd} from "./numbers.js";

const PLACEHOLDER = /(\[[A-Z]+(?:_[A-Z]+)*_[0-9]{1,5}\])/;

export class ConsentCard {
  /** *decide*(granted, scope) gets the reply. *until*: when the question closes, in ms. */
  constructor(question, until, decide) {
    this.id = question.id;
    this.until = until;
    this.time = h("progress", {max: question.timeout_s, "aria-hidden": "true"});
    this.left = h("span", {class: "left"});
    const button = (label, granted, scope, kind = "") => h("button", {
      class: kind, type: "button",
      onclick: () => {
        for (const one of this.node.querySelectorAll("button")) one.disabled = true;
        decide(granted, scope);
      },
    }, label);
    this.facts = h("dl");
    this.#showFacts(question);
    this.node = h("section", {class: "consent", "aria-label": "Consent"},
      h("h3", {}, `May ${nameOf(question.to)} go on with this answer?`),
      this.facts,
      question.privacy?.warning ? h("p", {class: "warning"}, `Note: ${question.privacy.warning}.`) : null,
      this.#preview(),
      h("div", {class: "row"}, button("Yes, once", true, "once", "primary"), button("Yes, for this chat", true, "chat"),
        button("No", false, "once"), button("Never", false, "always", "quiet")),
      h("div", {class: "row closing"}, this.time, this.left));
    this.#tick();
    this.timer = setInterval(() => (this.node.isConnected ? this.#tick() : this.close()), 1000);
  }

  close() {
    clearInterval(this.timer);
    this.node.remove();
  }

  #tick() {
    const s = Math.max(0, Math.round((this.until - Date.now()) / 1000));
    this.time.value = s;
    this.left.textContent = `Without a reply in ${s} s it stays on this device.`;
  }

  #showFacts(question) {
    this.facts.replaceChildren(...factsOf(question).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  /** What would be sent, as of the moment when it is opened; the facts above it are then of that moment, too. */
  #preview() {
    const place = h("div", {class: "preview", tabindex: "0", role: "region", "aria-label": "What would be sent"});
    const details = h("details", {}, h("summary", {}, "Show what would be sent"), place);
    details.addEventListener("toggle", async () => {
      if (!details.open) return;
      try {
        const now = await json(`v1/consents/${this.id}`);
        this.#showFacts(now);
        place.replaceChildren(...previewOf(now.preview));
      } catch (error) {
        place.replaceChildren(h("p", {class: "error"}, error.message));
      }
    });
    return details;
  }
}

function factsOf(question) {
  const n = question.privacy?.redacted ?? 0;
  const images = question.n_images ? ` and ${counted(question.n_images, "image", "images")}` : "";
  const private_ = n ? `, with ${counted(n, "private text", "private texts")} replaced by placeholders` : "";
  const more = question.preview?.may_grow ?? true ? ", and what is written until you reply" : ""; // known with the preview
  return [
    ["Reason", question.reason_in_words],
    ["Leaves this device", `${counted(question.n_messages, "message", "messages")}${images}${more}${private_}`],
    ["Costs", costOf(question.estimate)],
  ];
}

function costOf(estimate) {
  if (!estimate?.usd) return "The price is not known.";
  const {prompt, with_answer: most} = estimate.usd;
  if (!most) return "Nothing.";
  return `${usd(prompt)} for the prompt, up to ${usd(most)} with an answer of ${count(estimate.completion_tokens)} tokens`;
}

function previewOf({messages, n_earlier_messages: nEarlier, tools, may_grow: mayGrow}) {
  const parts = messages.map(({role, text, n_images: nImages, left_out_chars: nLeftOut}) => h("div", {},
    h("strong", {}, {user: "You", assistant: "Answer", system: "System prompt", tool: "Tool"}[role] ?? role),
    nImages ? ` ${counted(nImages, "image", "images")}` : null,
    h("p", {}, ...text.split(PLACEHOLDER).map((part, n) => n % 2 ? h("mark", {}, part) : part)),
    nLeftOut ? h("p", {class: "quiet-text"}, `${counted(nLeftOut, "character is", "characters are")} not shown here.`) : null));
  if (nEarlier) parts.unshift(h("p", {class: "quiet-text"}, `${counted(nEarlier, "earlier message is", "earlier messages are")} not shown here.`));
  if (mayGrow) parts.push(h("p", {class: "quiet-text"}, "So far. What this device writes until you reply goes along."));
  if (tools.length) parts.push(h("p", {class: "quiet-text"}, `Tools: ${tools.join(", ")}`));
  return parts;
}
