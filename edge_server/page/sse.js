// Reads server-sent events, as the HTML standard says, from text that is cut anywhere.

export class SseParser {
  #rest = "";
  #first = true;
  #data = [];
  #type = "";
  #skipsFeed = false;
  lastId = "";

  /** The events that *text* completes: [{type, data, id}]. */
  feed(text) {
    if (this.#first && text) {
      this.#first = false;
      if (text.charCodeAt(0) === 0xfeff) text = text.slice(1);
    }
    if (this.#skipsFeed && text) {
      this.#skipsFeed = false;
      if (text[0] === "\n") text = text.slice(1);
    }
    const events = [];
    const all = this.#rest + text;
    let start = 0;
    const ends = /\r\n|\r|\n/g;
    ends.lastIndex = this.#rest.length;
    for (let end = ends.exec(all); end; end = ends.exec(all)) {
      if (end[0] === "\r" && end.index + 1 === all.length) this.#skipsFeed = true;
      this.#line(all.slice(start, end.index), events);
      start = end.index + end[0].length;
    }
    this.#rest = all.slice(start);
    return events;
  }

  #line(line, events) {
    if (line === "") {
      if (this.#data.length) {
        events.push({type: this.#type || "message", data: this.#data.join("\n"), id: this.lastId});
      }
      this.#data = [];
      this.#type = "";
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.lastId = value;
  }
}

/** The events of a response's body. */
export async function* eventsOf(response) {
  const parser = new SseParser();
  const reader = response.body.pipeThrough(new TextDecoderStream("utf-8", {ignoreBOM: true})).getReader();
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) return;
      yield* parser.feed(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
