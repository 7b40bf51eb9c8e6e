// The page: the list of chats, the conversation, and what the user does.

import {AnswerView} from "./answer.js";
import {apply, newAnswer, sentence, stageInWords} from "./answer_state.js";
import {AnswerStream, ApiError, call, json} from "./api.js";
import {Composer} from "./composer.js";
import {DevicePanel} from "./device.js";
import {ask, choose} from "./dialogs.js";
import {$, batched, copy, download, h} from "./dom.js";
import {ModelMenu, Models} from "./models.js";
import {SettingsPanel, settings} from "./panels.js";
import {answerBody, countBody} from "./request.js";
import {Store, addNode, asMarkdown, chatsIn, lastLeafOf, newChat, pathOf, siblingsOf} from "./store.js";

const SAVE_MS = 700;

const store = await new Store().open();
let chats = await store.all();
let chat = newChat(settings.get("dial"), settings.get("model"));
let models = new Models([]);
/** The answers that are being written, by their message's id. */
const running = new Map();
let views = new Map();

// --- the server ----------------------------------------------------------------------------------------------

async function greet() {
  try {
    models = new Models((await json("v1/models")).data);
    $("dial-box").hidden = !models.hasCloud;
    drawModel();
    say("");
  } catch (error) {
    if (error.status === 401) settingsPanel.open(true);
    say([error.message, error.advice].filter(Boolean).map(sentence).join(" "));
    setTimeout(greet, 3000);
  }
}

function say(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function setDial(dial) {
  chat.dial = dial;
  $("dial").value = dial;
  settings.set("dial", dial);
  if (pathOf(chat).length) save(chat);
}

function drawModel() {
  menu.show(models, models.chosen(chat.model));
  composer.count();
}

function chooseModel(name) {
  chat.model = name;
  settings.set("model", name);
  drawModel();
  if (pathOf(chat).length) save(chat);
}

// --- the list of chats ---------------------------------------------------------------------------------------

function drawChats() {
  const wanted = $("search").value.trim().toLowerCase();
  const found = chats.filter((one) => !wanted || one.title.toLowerCase().includes(wanted)
    || Object.values(one.nodes).some((node) => node.text.toLowerCase().includes(wanted)));
  $("chats").replaceChildren(...found.map((one) => h("li", {class: one.id === chat.id ? "current" : ""},
    h("button", {class: "chat-name", type: "button", "aria-current": one.id === chat.id ? "true" : null, onclick: () => openChat(one.id)}, one.title),
    h("button", {class: "icon small", type: "button", "aria-label": `Rename ${one.title}`, onclick: () => rename(one)}, "✎"),
    h("button", {class: "icon small", type: "button", "aria-label": `Delete ${one.title}`, onclick: () => remove(one)}, "✕"))));
  if (!found.length) $("chats").append(h("li", {class: "empty"}, wanted ? "No chat has these words." : "No chats yet."));
}

async function openChat(id) {
  const found = id === chat.id ? chat : await store.get(id);
  if (!found) return;
  chat = [...running.values()].find((run) => run.chat.id === id)?.chat ?? found;
  sessionStorage.setItem("spillover-chat", chat.id);
  document.body.classList.remove("side-open");
  drawAll();
  for (const node of pathOf(chat)) if (node.state === "running" && !running.has(node.id)) resume(node);
}

async function rename(one) {
  const title = await ask("Rename this chat", one.title);
  if (!title) return;
  const held = one.id === chat.id ? chat : one;
  held.title = title.slice(0, 200);
  one.title = held.title;
  await save(held);
  drawAll();
}

async function remove(one) {
  if (!(await ask(`Delete “${one.title}”?`, null, "Delete"))) return;
  for (const run of running.values()) if (run.chat.id === one.id) run.stream.stop();
  await store.remove(one.id);
  chats = chats.filter((other) => other.id !== one.id);
  if (chat.id === one.id) startChat();
  else drawChats();
}

function startChat() {
  chat = newChat(settings.get("dial"), settings.get("model"));
  sessionStorage.removeItem("spillover-chat");
  document.body.classList.remove("side-open");
  drawAll();
  $("prompt").focus();
}

async function save(one) {
  one.updated = Date.now();
  try {
    await store.put(JSON.parse(JSON.stringify(one)));
  } catch {
    say("The browser does not keep this chat: its storage is full or not allowed.");
  }
  chats = [one, ...chats.filter((other) => other.id !== one.id)];
}

// --- the conversation ----------------------------------------------------------------------------------------

function drawAll() {
  $("title").textContent = chat.title;
  $("dial").value = chat.dial;
  drawModel();
  views = new Map();
  const path = pathOf(chat);
  $("dock").replaceChildren();
  $("steering").replaceChildren();
  $("log").replaceChildren(...path.map((node) => viewOf(node)));
  if (!path.length) $("log").append(welcome());
  drawChats();
  drawButtons();
  scrollDown(true);
  setTimeout(() => scrollDown(), 100); // what is off the screen gets its height late
}

function welcome() {
  const ideas = ["Tell me a story about a dog named Max.", "Explain what a handoff is, in two sentences.", "Write a haiku about rain."];
  return h("div", {class: "welcome"},
    h("h2", {}, "What can I help with?"),
    h("p", {}, "Answers are written on this device. Nothing leaves it unless you allow that."),
    h("div", {class: "ideas"}, ...ideas.map((idea) => h("button", {type: "button", onclick: () => send(idea)}, idea))));
}

function viewOf(node) {
  if (node.role === "user") return userNode(node);
  const view = new AnswerView(node, {
    regenerate: () => regenerate(node),
    carryOn: () => carryOn(node),
    handOver: () => steer(node, "cloud"),
    keepLocal: () => steer(node, "local"),
    consent: (id, granted, scope) => consent(node, id, granted, scope),
    canUseCloud: () => models.hasCloud && chat.dial !== "never",
    branches: (place) => addBranches(place, node),
    changed: () => scrollDown(),
  });
  if (node.state === "running") {
    $("dock").replaceChildren(view.consent);
    $("steering").replaceChildren(view.steering);
  }
  views.set(node.id, view);
  return view.node;
}

function userNode(node) {
  const actions = h("div", {class: "actions"},
    h("button", {class: "quiet small", type: "button", onclick: (event) => copy(node.text, event.currentTarget), "aria-label": "Copy the message"}, "Copy"),
    h("button", {class: "quiet small", type: "button", onclick: () => edit(node)}, "Edit"));
  addBranches(actions, node);
  const attached = (node.files ?? []).map((file) => h("span", {class: "chip"}, file.name));
  return h("article", {class: "message user", "aria-label": "You"}, h("div", {class: "bubble"}, node.text), ...attached, actions);
}

function addBranches(place, node) {
  const all = siblingsOf(chat, node);
  if (all.length < 2) return;
  const n = all.findIndex((other) => other.id === node.id);
  const go = (to) => () => {
    chat.leaf = lastLeafOf(chat, all[to]);
    save(chat);
    drawAll();
  };
  place.append(h("span", {class: "branches"},
    h("button", {class: "icon small", type: "button", disabled: n === 0, "aria-label": "Earlier version", onclick: go(n - 1)}, "‹"),
    `${n + 1}/${all.length}`,
    h("button", {class: "icon small", type: "button", disabled: n === all.length - 1, "aria-label": "Later version", onclick: go(n + 1)}, "›")));
}

let isAtEnd = true;
const log = $("log");
log.addEventListener("scroll", () => { isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60; }, {passive: true});
const scrollDown = (() => {
  const scroll = batched(() => { if (isAtEnd) log.scrollTop = log.scrollHeight; });
  return (always = false) => {
    if (always) isAtEnd = true;
    scroll();
  };
})();

// --- asking --------------------------------------------------------------------------------------------------

function send(text) {
  if (!text.trim() && !composer.files.length) return;
  if (!pathOf(chat).length) {
    chat.title = (text.trim() || composer.files[0].name).split("\n")[0].slice(0, 60);
    $("title").textContent = chat.title;
  }
  $("log").querySelector(".welcome")?.remove();
  const node = addNode(chat, {role: "user", text, files: composer.take()});
  $("log").append(userNode(node));
  answer();
}

/** Has the message at the end of the chat answered. *begun*: the text that the answer goes on with. */
function answer(begun = null) {
  const node = addNode(chat, {...newAnswer(), text: begun ?? "", begun: begun?.length ?? 0});
  sessionStorage.setItem("spillover-chat", chat.id);
  $("log").append(viewOf(node));
  scrollDown(true);
  save(chat).then(drawChats);
  run(node, bodyOf(node, begun));
}

function bodyOf(node, begun) {
  return answerBody(chat, node.parent, {
    ...asked(), sampling: settings.sampling(), fallback: models.hasCloud ? chat.dial : undefined, begun,
  });
}

const asked = () => ({model: models.chosen(chat.model), system: settings.get("system").trim()});

/** Whether an image may be added: only a provider could look at it, and only if the user wants to be asked. */
async function takesImages(name) {
  await greeted;
  if (!models.seesImages) {
    say(`${name}: no model here can see images.`);
    return false;
  }
  if (chat.dial !== "never") return true;
  const reply = await choose(`${name}: the model on this device cannot see images`, {ask: "Ask a provider, but ask me first"},
    h("p", {}, "A provider can. Before the image leaves this device, a card shows what would be sent, and what it costs."));
  if (reply !== "ask") return false;
  setDial("ask");
  return true;
}

function resume(node) {
  if (node.run?.stream) run(node, null, node.run);
  else finish(node, "error", new ApiError("The page was closed before the answer began.", 0));
}

async function run(node, body, from = null) {
  const home = chat;
  let saved = 0; // at once: a reload then finds the stream
  const view = () => views.get(node.id);
  const stream = new AnswerStream({
    resume: from,
    onEvent: (event) => {
      const shown = view();
      if (shown) shown.take(event);
      else apply(node, event);
      node.run = {stream: stream.stream, n: stream.n};
      device.note(node);
      if (home === chat) say(node.question ? stageInWords(node) : "Answering");
      if (Date.now() - saved > SAVE_MS) {
        saved = Date.now();
        save(home);
      }
    },
    onState: (stage) => {
      node.stage = stage;
      view()?.refresh();
      say(stageInWords(node));
    },
  });
  running.set(node.id, {stream, chat: home});
  drawButtons();
  say("Answering");
  try {
    await stream.run(body);
    finish(node, stream.isStopped ? "stopped" : endOf(node), null, home);
  } catch (error) {
    const isGone = error.status === 404 && stream.stream;
    const shown = isGone ? new ApiError("The server was restarted; the rest of this answer is lost.", 404) : error;
    finish(node, stream.isStopped ? "stopped" : "error", shown, home);
  }
}

function endOf(node) {
  if (node.finish === "stop" || node.finish === "tool_calls") return "done";
  return node.finish ?? "interrupted";
}

function finish(node, state, error = null, home = chat) {
  running.delete(node.id);
  node.state = state;
  node.question = null;
  if (error) {
    node.error = error.message;
    node.advice = error.status === 404 ? "Continue goes on from its last character." : error.advice ?? "";
    if (error.status === 401) settingsPanel.open(true);
  }
  node.run = null;
  views.get(node.id)?.refresh();
  drawButtons();
  composer.count();
  save(home).then(drawChats);
  say(state === "done" ? "The answer is complete." : state === "stopped" ? "Stopped." : node.error ? sentence(node.error) : "The answer ended early.");
}

function regenerate(node) {
  chat.leaf = node.parent;
  drawAll();
  answer();
}

function carryOn(node) {
  const begun = node.text;
  chat.leaf = node.parent;
  drawAll();
  answer(begun);
}

async function edit(node) {
  const text = await ask("Edit and send again", node.text, "Send", true);
  if (text === null || !text.trim()) return;
  chat.leaf = node.parent;
  composer.set(node.files ?? []);
  drawAll();
  send(text);
}

async function steer(node, to) {
  try {
    await call("v1/handoffs", {method: "POST", body: {id: node.answerId, to}});
    say(to === "cloud" ? "Asking the cloud to go on." : "This answer stays on this device.");
  } catch (error) {
    say(error.message);
  }
}

async function consent(node, id, granted, scope) {
  try {
    await call(`v1/consents/${id}`, {method: "POST", body: {granted, scope}});
  } catch (error) {
    say(error.message);
    node.question = null;
    views.get(node.id)?.refresh();
  }
}

function stop() {
  for (const run of running.values()) if (run.chat.id === chat.id) run.stream.stop();
}

function drawButtons() {
  const isRunning = [...running.values()].some((run) => run.chat.id === chat.id);
  $("stop").hidden = !isRunning;
  $("send").hidden = isRunning;
}

// --- events --------------------------------------------------------------------------------------------------

const settingsPanel = new SettingsPanel($("settings"), $("open-settings"), greet);
const device = new DevicePanel($("device"), $("open-device"));
const menu = new ModelMenu($("model"), $("models"), {choose: chooseModel, refresh: greet});
const composer = new Composer({
  send, say, takesImages,
  // To count by a model that is not loaded would load it.
  countable: (text, files) => (models.isLoaded(chat.model) ? countBody(chat, asked(), text, files) : null),
  nCtx: () => models.nCtx(chat.model),
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("dialog").open && !$("models").matches(":popover-open")) stop();
});
$("stop").addEventListener("click", stop);
$("new-chat").addEventListener("click", startChat);
$("search").addEventListener("input", drawChats);
$("dial").addEventListener("change", () => setDial($("dial").value));
$("toggle-side").addEventListener("click", () => {
  const isOpen = document.body.classList.toggle("side-open");
  $("toggle-side").setAttribute("aria-expanded", String(isOpen));
});
$("export").addEventListener("click", async () => {
  const kind = await choose("Export this chat", {json: "JSON, to import again", md: "Markdown, to read"});
  const name = chat.title.replace(/[^\w-]+/g, "-").slice(0, 40) || "chat";
  if (kind === "json") download(`${name}.json`, "application/json", JSON.stringify(chat, null, 2));
  if (kind === "md") download(`${name}.md`, "text/markdown", asMarkdown(chat));
});
$("import").addEventListener("click", () => $("import-file").click());
$("import-file").addEventListener("change", async () => {
  try {
    for (const one of chatsIn(await $("import-file").files[0].text())) await save(one);
    drawChats();
    say("Imported.");
  } catch (error) {
    say(error.message);
  }
  $("import-file").value = "";
});

const greeted = greet();
await greeted;
const last = sessionStorage.getItem("spillover-chat");
if (last && chats.some((one) => one.id === last)) await openChat(last);
else drawAll();
$("prompt").focus();
