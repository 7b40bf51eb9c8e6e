// The panels at the side: what the device does, and the settings.

import {apiKey, json} from "./api.js";
import {nameOf} from "./answer_state.js";
import {h} from "./dom.js";

const KEY = "spillover-settings";
const DEFAULTS = {dial: "never", system: "", temperature: "", top_p: "", max_tokens: "", seed: ""};
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
    try {
      localStorage.setItem(KEY, JSON.stringify(this.values));
    } catch { /* not kept */ }
  },
  /** The fields of a request that the user has set. */
  sampling() {
    const set = Object.keys(NUMBERS).filter((name) => this.values[name] !== "" && Number.isFinite(Number(this.values[name])));
    return Object.fromEntries(set.map((name) => [name, Number(this.values[name])]));
  },
};

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    return {};
  }
}

/** A panel that a button opens and closes. */
class Panel {
  constructor(node, button) {
    this.node = node;
    this.button = button;
    button.addEventListener("click", () => this.open(this.node.hidden));
  }

  open(isOpen) {
    this.node.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    document.body.classList.remove("side-open");
    if (isOpen) this.show();
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
    const key = h("input", {type: "password", id: "set-key", autocomplete: "off", placeholder: apiKey.get() ? "set" : "none"});
    const keep = h("input", {type: "checkbox", id: "set-keep"});
    keep.checked = apiKey.isKept();
    this.node.replaceChildren(this.head("Settings"),
      h("label", {for: "set-system"}, "System prompt", system), ...fields,
      h("form", {onsubmit: (event) => {
        event.preventDefault();
        apiKey.set(key.value.trim(), keep.checked);
        this.keyChanged();
      }},
        h("label", {for: "set-key"}, "API key of this server", key),
        h("label", {class: "check", for: "set-keep"}, keep, "Keep it after this tab is closed"),
        h("button", {type: "submit"}, "Use this key")),
      h("p", {class: "quiet-text"}, "Chats and settings stay in this browser."));
  }
}

const MOST_POINTS = 240;

export class DevicePanel extends Panel {
  points = [];

  /** Notes the speed of an answer for the chart. */
  note(answer) {
    if (!answer.speed) return;
    this.points.push({speed: answer.speed, origin: answer.writer?.origin ?? "local"});
    if (this.points.length > MOST_POINTS) this.points.shift();
    if (!this.node.hidden) this.#drawChart();
  }

  async show() {
    this.chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.chart.setAttribute("viewBox", "0 0 240 60");
    this.chart.setAttribute("role", "img");
    this.facts = h("dl", {});
    this.spending = h("div", {});
    this.handoffs = h("ul", {class: "handoffs"});
    this.node.replaceChildren(this.head("Device"), h("h3", {}, "Tokens per second"), this.chart, this.facts,
      h("h3", {}, "Spending"), this.spending, h("h3", {}, "Latest handoffs"), this.handoffs);
    this.#drawChart();
    await this.#refresh();
  }

  async #refresh() {
    clearTimeout(this.timer);
    if (this.node.hidden) return;
    try {
      const [device, budget, handoffs] = await Promise.all([json("v1/device"), json("v1/budget"), json("v1/handoffs?limit=8")]);
      this.#drawFacts(device);
      this.#drawSpending(budget.data);
      this.handoffs.replaceChildren(...handoffs.data.map((one) => h("li", {},
        `${one.reason_in_words} → ${nameOf(one.to)}`, h("time", {datetime: one.at}, new Date(one.at).toLocaleTimeString()))));
      if (!handoffs.data.length) this.handoffs.append(h("li", {class: "quiet-text"}, "None yet."));
    } catch (error) {
      this.facts.replaceChildren(h("dd", {}, error.message));
    }
    if (!document.hidden) this.timer = setTimeout(() => this.#refresh(), 2000);
    else document.addEventListener("visibilitychange", () => this.#refresh(), {once: true});
  }

  #drawFacts(device) {
    const gb = (n) => `${(n / 1e9).toFixed(1)} GB`;
    const percent = (share) => `${Math.round(share * 100)} %`;
    const rows = [
      ["Model", `${device.model}, ${device.description}`],
      ["Computes on", `${device.device}, ${device.n_threads} threads`],
      ["Memory free", device.memory_available_bytes === null ? null : `${gb(device.memory_available_bytes)} of ${gb(device.memory_total_bytes)}`],
      ["Processor", device.busy_share === null ? null : percent(device.busy_share)],
      ["Temperature", device.temperature_c === null ? null : `${Math.round(device.temperature_c)} °C`],
      ["Battery", device.battery_share === null ? null : `${percent(device.battery_share)}${device.on_battery ? "" : ", charging"}`],
      ["KV cache", `${device.n_kv_used} of ${device.n_kv} tokens`],
      ["Answers", `${device.n_running} running, ${device.n_queued} waiting, ${device.n_background} in the background`],
    ];
    this.facts.replaceChildren(...rows.filter(([, value]) => value !== null).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  #drawSpending(lines) {
    const texts = lines.filter((line) => line.usd.spent || line.usd.limit || line.tokens.spent).map((line) => {
      const limit = line.usd.limit === null ? "" : ` of ${line.usd.limit}`;
      return `${line.provider ?? "All providers"}, this ${line.period}: ${line.usd.spent.toFixed(4)}${limit} USD, ${line.tokens.spent} tokens`;
    });
    this.spending.replaceChildren(...(texts.length ? texts : ["Nothing was spent."]).map((text) => h("p", {}, text)));
  }

  #drawChart() {
    const most = Math.max(1, ...this.points.map((point) => point.speed));
    const at = (point, n) => `${(n * 240) / MOST_POINTS},${58 - (54 * point.speed) / most}`;
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", this.points.map(at).join(" "));
    line.setAttribute("class", "speed");
    this.chart.replaceChildren(line);
    const last = this.points.at(-1);
    this.chart.setAttribute("aria-label", last ? `${last.speed.toFixed(1)} tokens per second` : "No answer yet");
  }
}
