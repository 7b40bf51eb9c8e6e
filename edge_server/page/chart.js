// A small chart of one value over the last minutes, with the limits that count for it.

import {h} from "./dom.js";

const SPAN_MS = 120_000;
const LEAST_SPAN_MS = 20_000;
const GAP_MS = 6_000;
const WIDTH = 240;
const HEIGHT = 64;

export class Chart {
  #points = [];
  #limits = [];

  /** *words*(value): a value for people. *least*: the highest value that the axis shows at least. */
  constructor(title, words, least, empty) {
    Object.assign(this, {title, words, least, empty});
    this.svg = svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img"});
    this.now = h("span", {class: "now"});
    this.legend = h("p", {class: "legend"});
    this.node = h("figure", {}, h("figcaption", {}, h("span", {}, title), this.now), this.svg, this.legend);
    this.draw();
  }

  /** Adds a value of *at*, in ms. */
  add(value, at = Date.now()) {
    this.#points.push({value, at});
    while (at - this.#points[0].at > SPAN_MS) this.#points.shift();
    this.draw();
  }

  get lastAt() {
    return this.#points.at(-1)?.at ?? 0;
  }

  /** *limits*: [{value, words, kind}], drawn as lines; *kind* is their class. */
  limit(limits) {
    this.#limits = limits;
    this.draw();
  }

  draw() {
    const last = this.#points.at(-1);
    const top = 1.05 * Math.max(this.least, ...this.#points.map((point) => point.value), ...this.#limits.map((limit) => limit.value));
    const y = (value) => (HEIGHT - 2 - ((HEIGHT - 4) * value) / top).toFixed(1);
    const span = Math.max(LEAST_SPAN_MS, (last?.at ?? 0) - (this.#points[0]?.at ?? 0));
    const x = (at) => (WIDTH - (WIDTH * (last.at - at)) / span).toFixed(1);
    const path = this.#points.map(({value, at}, n, all) => {
      const begins = n === 0 || at - all[n - 1].at > GAP_MS;
      return `${begins ? "M" : "L"}${x(at)} ${y(value)}`;
    }).join("");
    this.svg.replaceChildren(
      ...this.#limits.map(({value, kind}) => svg("line", {x1: 0, x2: WIDTH, y1: y(value), y2: y(value), class: kind})),
      svg("path", {d: path, class: "value"}));
    this.now.textContent = last ? this.words(last.value) : "";
    this.svg.setAttribute("aria-label", `${this.title}: ${last ? this.words(last.value) : this.empty}`);
    const legend = this.#limits.map(({words, kind}) => h("span", {class: kind}, words));
    this.legend.replaceChildren(...(last ? legend : [this.empty]));
  }
}

function svg(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
