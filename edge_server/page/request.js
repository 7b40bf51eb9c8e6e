// A chat as the bodies of requests. No DOM here.

import {pathOf} from "./chats/chat_tree.js";

/** The body that asks for an answer to the messages up to *leaf*. *begun*: the text that it goes on with. */
export function answerBody(chat, leaf, {model, system, sampling, fallback, begun}) {
  const messages = messagesOf(chat, leaf, chat.dial !== "never");
  if (system) messages.unshift({role: "system", content: system});
  if (begun) messages.push({role: "assistant", content: begun});
  return {
    model, messages, stream: true, return_progress: true, timings_per_token: true,
    stream_options: {include_usage: true}, continue_final_message: Boolean(begun) || undefined,
    spillover: {events: true, resumable: true, fallback},
    ...sampling,
  };
}

/** The body that has the chat counted with *text* and *files* at its end; null where there is nothing to count. */
export function countBody(chat, {model, system}, text, files) {
  const messages = messagesOf(chat, chat.leaf, false);
  const draft = contentOf({text, files}, false);
  if (draft) messages.push({role: "user", content: draft});
  return messages.length ? {model, max_tokens: 1, messages, ...(system ? {system} : {})} : null;
}

/** Without *withImages* only their names are in the messages. */
function messagesOf(chat, leaf, withImages) {
  return pathOf(chat, leaf).filter((one) => one.role === "user" || one.text)
    .map((one) => ({role: one.role, content: contentOf(one, withImages)}));
}

function contentOf({text, files = []}, withImages) {
  const parts = files.map((file) => (file.image ? `Image ${file.name}` : `File ${file.name}:\n\n${file.text}`));
  const whole = [...parts, text].filter(Boolean).join("\n\n");
  const images = withImages ? files.filter((file) => file.image) : [];
  if (!images.length) return whole;
  return [...images.map((file) => ({type: "image_url", image_url: {url: file.image}})), {type: "text", text: whole}];
}
