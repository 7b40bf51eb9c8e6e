// The panel that shows what the device does, what the cloud has cost, and who took over answers.

import {nameOf} from "./answer_state.js";
import {json} from "./api.js";
import {Chart} from "./chart.js";
import {h} from "./dom.js";
import {bytes, count, counted, percent, usd} from "./numbers.js";
import {Panel} from "./panels.js";

const REFRESH_MS = 2000;
const REFRESH_WRITING_MS = 700;
const SPEED_EVERY_MS = 300;

export class DevicePanel extends Panel {
  #timer = 0;
  #isWriting = false;
  #speed = new Chart("Speed", (value) => `${value.toFixed(1)} tokens/s`, 5, "Drawn while this device writes.");
  #doubt = new Chart("Doubt", percent, 1, "Drawn while this device writes an answer that may be handed over.");

  /** *model*() is the name of the model whose answers are shown. */
  constructor(node, button, model) {
    super(node, button);
    this.model = model;
  }

  /** Notes the speed of an answer for the chart. */
  note(answer) {
    if (!answer.speed || (answer.writer?.origin ?? "local") !== "local") return;
    if (Date.now() - this.#speed.lastAt < SPEED_EVERY_MS) return;
    this.#speed.add(answer.speed);
    if (!this.#isWriting && !this.node.hidden) {
      this.#isWriting = true;
      this.#refresh();
    }
  }

  async show() {
    this.facts = h("dl", {});
    this.spending = h("div", {class: "spending"});
    this.handoffs = h("ul", {class: "handoffs"});
    this.node.replaceChildren(this.head("Device"), this.#speed.node, this.#doubt.node, this.facts,
      h("h3", {}, "Spending"), this.spending, h("h3", {}, "Latest handoffs"), this.handoffs);
    await this.#refresh();
  }

  async #refresh() {
    clearTimeout(this.#timer);
    if (this.node.hidden) return;
    try {
      const device = await json(`v1/device?model=${encodeURIComponent(this.model())}`);
      this.#isWriting = device.n_running > 0;
      this.#drawFacts(device);
      this.#drawLimits(device);
    } catch (error) {
      this.facts.replaceChildren(h("dd", {}, error.message));
    }
    await Promise.all([fill(this.spending, "v1/budget", spendingOf), fill(this.handoffs, "v1/handoffs?limit=8", handoffsOf)]);
    clearTimeout(this.#timer);
    if (document.hidden) document.addEventListener("visibilitychange", () => this.#refresh(), {once: true});
    else this.#timer = setTimeout(() => this.#refresh(), this.#isWriting ? REFRESH_WRITING_MS : REFRESH_MS);
  }

  #drawLimits({decode_floor: floor, doubts}) {
    this.#speed.limit(floor ? [{value: floor, words: `handed over below ${floor}`, kind: "enter"}] : []);
    const [one] = doubts;
    if (!one) return;
    this.#doubt.limit([
      {value: one.enter, words: `handed over from ${percent(one.enter)}`, kind: "enter"},
      {value: one.hold, words: `held back from ${percent(one.hold)}`, kind: "hold"},
    ]);
    if (one.p_wrong !== null) this.#doubt.add(one.p_wrong);
  }

  #drawFacts(device) {
    const rows = [
      ["Model", `${device.model}, ${device.description ?? "not loaded"}`],
      ["Computes on", device.device === null ? null : `${device.device}, ${counted(device.n_threads, "thread", "threads")}`],
      ["Memory free", device.memory_available_bytes === null ? null : `${bytes(device.memory_available_bytes)} of ${bytes(device.memory_total_bytes)}`],
      ["Processor", device.busy_share === null ? null : percent(device.busy_share)],
      ["Temperature", device.temperature_c === null ? null : `${Math.round(device.temperature_c)} °C`],
      ["Battery", device.battery_share === null ? null : `${percent(device.battery_share)}${device.on_battery ? "" : ", charging"}`],
      ["KV cache", device.n_kv === null ? null : `${count(device.n_kv_used)} of ${count(device.n_kv)} tokens`],
      ["Answers", `${device.n_running} running, ${device.n_queued} waiting, ${device.n_background} in the background`],
    ];
    this.facts.replaceChildren(...rows.filter(([, value]) => value !== null).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }
}

/** Shows in *place* the nodes that *show* makes of what *path* lists, or why it cannot be listed. */
async function fill(place, path, show) {
  try {
    place.replaceChildren(...show((await json(path)).data));
  } catch (error) {
    const line = place.tagName === "UL" ? "li" : "p";
    place.replaceChildren(h(line, {class: "quiet-text"}, error.message));
  }
}

const handoffsOf = (all) => (all.length ? all.map(handoffNode) : [h("li", {class: "quiet-text"}, "None yet.")]);

function handoffNode(one) {
  return h("li", {}, `${one.reason_in_words} → ${nameOf(one.to)}`,
    h("time", {datetime: one.at}, new Date(one.at).toLocaleTimeString([], {hour: "2-digit", minute: "2-digit"})));
}

/** What was spent today and of each limit, and by whom. */
function spendingOf(lines) {
  const shown = lines.filter(({period, usd: money, tokens}) => money.limit || tokens.limit || (period === "day" && tokens.spent));
  if (!shown.length) return [h("p", {class: "quiet-text"}, "Nothing was spent.")];
  return shown.map(({provider, period, usd: money, tokens}) => {
    const who = `${provider ?? "All providers"}, ${{day: "today", month: "this month"}[period] ?? period}`;
    const spent = money.limit === null ? usd(money.spent) : `${usd(money.spent)} of ${usd(money.limit)}`;
    const read = tokens.limit === null ? counted(tokens.spent, "token", "tokens") : `${count(tokens.spent)} of ${count(tokens.limit)} tokens`;
    const bars = [money, tokens].filter((one) => one.limit).map((one) =>
      h("progress", {max: 1, value: Math.min(1, one.spent / one.limit), "aria-label": `${who}: share of the limit that is spent`}));
    return h("div", {}, h("p", {}, h("span", {}, who), h("span", {}, `${spent}, ${read}`)), ...bars);
  });
}
