// What is known of an answer, made from the events of its stream. No DOM here.

import {count} from "./numbers.js";

/** The fields of an answer that begins. *mayLeave*: it was asked for so that a provider may write it, and was not kept here since. */
export function newAnswer() {
  return {
    role: "assistant", text: "", reasoning: "", reasoningMs: 0, marks: [], tools: [], state: "running", stage: "sending",
    writer: null, answerId: "", mayLeave: false, run: null, usage: null, speed: 0, error: "", advice: "", failures: [],
  };
}

/**
 * Applies one event to *node*. Returns what changed: "text", "replace", "mark", "consent", "stage", "end"; and *taken*,
 * text that was taken back.
 */
export function apply(node, {data}) {
  const changes = new Set();
  const result = {changes, taken: ""};
  node.answerId ||= data.id ?? "";
  if (data.spillover?.type) special(node, data.spillover, result);
  if (data.loading) setStage(node, changes, "loading", data.loading);
  if (data.queue_position !== undefined) setStage(node, changes, "queued", data.queue_position);
  if (data.prompt_progress) setStage(node, changes, "reading", data.prompt_progress);
  if (data.timings?.predicted_per_second) node.speed = data.timings.predicted_per_second;
  if (data.usage) node.usage = data.usage;
  const choice = data.choices?.[0];
  if (choice) written(node, choice, changes);
  return result;
}

function written(node, choice, changes) {
  const delta = choice.delta ?? {};
  if (delta.reasoning_content) {
    node.reasoning += delta.reasoning_content;
    node.reasoningSince ??= Date.now();
    setStage(node, changes, "thinking");
    changes.add("text");
  }
  if (delta.content) {
    if (node.reasoningSince && !node.reasoningMs) node.reasoningMs = Date.now() - node.reasoningSince;
    node.text += delta.content;
    setStage(node, changes, "writing");
    changes.add("text");
  }
  for (const call of delta.tool_calls ?? []) {
    const tool = node.tools[call.index] ??= {name: "", arguments: ""};
    tool.name += call.function?.name ?? "";
    tool.arguments += call.function?.arguments ?? "";
    setStage(node, changes, "calling a tool");
    changes.add("text");
  }
  if (choice.finish_reason) {
    node.finish = choice.finish_reason;
    changes.add("end");
  }
}

function special(node, event, result) {
  const {changes} = result;
  switch (event.type) {
    case "handoff":
      node.marks.push({
        at: kept(node, event.keep_chars ?? Infinity), seq: event.seq, words: event.reason_in_words ?? event.reason,
        from: event.from, to: event.to, redacted: event.privacy?.redacted ?? 0, gapMs: null,
      });
      node.writer = event.to;
      setStage(node, changes, event.to.origin === "cloud" ? "writing" : "back to local");
      changes.add("mark");
      break;
    case "seam": {
      const mark = node.marks.find((mark) => mark.seq === event.seq);
      if (mark) mark.gapMs = event.gap_ms;
      changes.add("mark");
      break;
    }
    case "replace":
      result.taken = node.text.slice(kept(node, event.keep_chars));
      node.text = node.text.slice(0, kept(node, event.keep_chars));
      for (const mark of node.marks) mark.at = Math.min(mark.at, node.text.length);
      changes.add("replace");
      break;
    case "consent_asked":
      node.question = event;
      node.questionUntil = Date.now() + 1000 * event.timeout_s;
      changes.add("consent");
      break;
    case "consent_answered":
      node.question = null;
      changes.add("consent");
      break;
    case "provider_failed":
      node.failures.push(`${nameOf(event.provider)}: ${event.message}`);
      changes.add("stage");
      break;
    default:
  }
}

/** The place in *text* after *n* characters: the server counts code points, and the browser halves of some. */
export function placeOf(text, n) {
  let at = 0;
  for (let i = 0; i < n && at < text.length; i += 1) at += text.codePointAt(at) > 0xffff ? 2 : 1;
  return at;
}

/** The place after *n* characters of what this stream wrote: an answer may go on with an earlier text. */
function kept(node, n) {
  const begun = node.begun ?? 0;
  return begun + placeOf(node.text.slice(begun), n);
}

/** A writer's name, for people. */
export function nameOf(writer) {
  if (!writer || writer.origin === "local") return "this device";
  return writer.provider && writer.provider !== writer.model ? `${writer.provider} (${writer.model})` : writer.model;
}

function setStage(node, changes, stage, detail = null) {
  node.stage = stage;
  node.stageDetail = detail;
  changes.add("stage");
}

/** The stage of a running answer, for people. */
export function stageInWords(node) {
  const detail = node.stageDetail;
  switch (node.question ? "asking" : node.stage) {
    case "asking": return "Waiting for your consent";
    case "loading": return detail.n_ahead > 0 ? `Loading ${detail.model}: ${detail.n_ahead} ahead`
      : `Loading ${detail.model}${detail.progress ? `: ${Math.round(100 * detail.progress)} %` : ""}`;
    case "queued": return detail > 0 ? `Waiting: ${detail} ahead` : "Waiting to begin";
    case "reading": return `Reading the prompt: ${count(detail.processed)} of ${count(detail.total)} tokens`;
    case "thinking": return "Thinking";
    case "reconnecting": return "Reconnecting";
    case "back to local": return "Back on this device";
    case "sending": return "Sending";
    case "calling a tool": return "Calling a tool";
    default: return "Writing";
  }
}

/** *text* with a capital at its start and a full stop at its end. */
export function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(whole) ? whole : `${whole}.`;
}

/** The state of an answer whose stream has ended. */
export function endOf(node) {
  if (node.finish === "stop" || node.finish === "tool_calls") return "done";
  return node.finish ?? "interrupted";
}

/** How an answer ended, for people; empty where it just ended. */
export function endInWords(node) {
  switch (node.state) {
    case "stopped": return "You stopped this answer.";
    case "length": return "The answer reached its longest length.";
    case "interrupted": return "This answer is not complete: nobody could finish it.";
    case "content_filter": return "A provider's filter ended this answer.";
    case "error": return [node.error, node.advice].filter(Boolean).map(sentence).join(" ");
    default: return "";
  }
}
