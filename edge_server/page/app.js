// The page: what the user does, and what becomes of it.

import {newAnswer, sentence, stageInWords} from "./answer_state.js";
import {Answering} from "./answering.js";
import {call, json} from "./api.js";
import {session} from "./browser_storage.js";
import {asMarkdown, chatsIn} from "./chats/chat_file.js";
import {ChatList} from "./chats/chat_list.js";
import {addNode, newChat, pathOf, titleOf} from "./chats/chat_tree.js";
import {Library} from "./chats/library.js";
import {Composer} from "./composer.js";
import {Conversation} from "./conversation.js";
import {DevicePanel} from "./device.js";
import {ask, choose} from "./dialogs.js";
import {$, download, h} from "./dom.js";
import {ModelMenu, Models} from "./models.js";
import {SettingsPanel, closeSide, settings, showScheme} from "./panels.js";
import {ReadingPlace} from "./reading_place.js";
import {answerBody, countBody} from "./request.js";

const OPEN_CHAT = "spillover-chat";
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;

showScheme();
const library = new Library({kept, changed: changedElsewhere});
await library.open();
let chat = newChat(settings.get("dial"), settings.get("model"));
let models = new Models([]);

// --- the server ----------------------------------------------------------------------------------------------

let isGreeted = true;
let greetAgain = 0;
let greetWait_ms = FIRST_WAIT_MS;

async function greet() {
  clearTimeout(greetAgain);
  try {
    models = new Models((await json("v1/models")).data);
    drawModel();
    conversation.refresh();
    if (!isGreeted) say("");
    isGreeted = true;
    greetWait_ms = FIRST_WAIT_MS;
  } catch (error) {
    isGreeted = false;
    say([error.message, error.advice].filter(Boolean).map(sentence).join(" "));
    if (error.status === 401) {
      settingsPanel.ask();
      return;
    }
    greetAgain = setTimeout(greet, greetWait_ms);
    greetWait_ms = Math.min(LONGEST_WAIT_MS, 2 * greetWait_ms);
  }
}

function say(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function setDial(dial) {
  chat.dial = dial;
  $("dial").value = dial;
  settings.set("dial", dial);
  answering.keepToDial(chat);
  conversation.refresh();
  if (chat.leaf) library.save(chat);
}

function drawModel() {
  menu.show(models, models.chosen(chat.model));
  $("dial-box").hidden = !models.hasCloud(chat.model);
  composer.count();
}

function chooseModel(name) {
  chat.model = name;
  settings.set("model", name);
  drawModel();
  if (chat.leaf) library.save(chat);
}

// --- the chats -----------------------------------------------------------------------------------------------

function drawChats() {
  list.show(library.chats, chat.id, answering.chats);
}

let nOpened = 0;

async function openChat(id) {
  nOpened += 1;
  const n = nOpened;
  const found = answering.chat(id) ?? await library.get(id);
  if (n !== nOpened || !found) return; // another one was opened meanwhile
  closeSide();
  enter(found);
}

function startChat() {
  nOpened += 1;
  closeSide();
  enter(newChat(settings.get("dial"), settings.get("model")));
  $("prompt").focus();
}

function enter(one) {
  chat = one;
  if (chat.leaf) session.set(OPEN_CHAT, chat.id);
  else session.remove(OPEN_CHAT);
  composer.takeDraft(chat.leaf ? chat.id : "");
  draw();
  answering.resume(chat, pathOf(chat));
}

async function rename(one) {
  const title = (await ask("Rename this chat", one.title))?.trim();
  if (!title) return;
  const held = one.id === chat.id ? chat : answering.chat(one.id) ?? one;
  held.title = title.slice(0, 200);
  await library.save(held);
  drawTitle();
  drawChats();
}

async function remove(one) {
  if (!(await ask(`Delete “${one.title}”?`, null, "Delete"))) return;
  answering.stop(one.id);
  try {
    await library.remove(one.id);
  } catch {
    say(`The browser could not delete “${one.title}”: it is still there.`);
    return;
  }
  composer.forgetDraft(one.id);
  leave(one.id);
}

/** The chat is no longer there. */
function leave(id) {
  if (chat.id === id) startChat();
  else drawChats();
}

function kept(problem) {
  $("not-kept").hidden = !problem;
  if ($("not-kept").textContent !== problem) $("not-kept").textContent = problem;
}

/** Another window has changed a chat, or (*fresh* undefined) deleted it. */
function changedElsewhere(id, fresh) {
  const held = answering.chat(id);
  if (!fresh) {
    answering.stop(id);
    leave(id);
  } else if (held) {
    held.nodes = {...fresh.nodes, ...held.nodes};
    // A "never" of this window may not be written yet.
    Object.assign(held, {title: fresh.title, model: fresh.model, dial: held.dial === "never" ? "never" : fresh.dial});
    answering.keepToDial(held);
  } else if (chat.id === id) {
    showChanged(fresh);
  }
  if (chat.id === id) {
    $("dial").value = chat.dial;
    drawModel();
    conversation.refresh();
  }
  drawTitle();
  drawChats();
}

function showChanged(fresh) {
  const shown = (one) => pathOf(one).map((node) => node.id + node.state + Boolean(node.run)).join();
  const before = shown(chat);
  const goesOn = !chat.leaf || pathOf(fresh).some((node) => node.id === chat.leaf);
  if (!goesOn && fresh.nodes[chat.leaf]) fresh.leaf = chat.leaf;
  chat = fresh;
  if (shown(chat) === before) return;
  draw();
  answering.resume(chat, pathOf(chat), {isElsewhere: true});
}

// --- the conversation ----------------------------------------------------------------------------------------

function draw() {
  drawTitle();
  $("dial").value = chat.dial;
  drawModel();
  conversation.show(chat);
  drawChats();
  drawButtons();
  reading.toEnd();
}

function drawTitle() {
  $("title").textContent = chat.title;
  document.title = chat.leaf ? `${chat.title} · Spillover` : "Spillover";
}

function drawButtons() {
  const isRunning = answering.isRunning(chat);
  $("stop").hidden = !isRunning;
  $("send").hidden = isRunning;
}

function goTo(leaf) {
  chat.leaf = leaf;
  library.save(chat);
  draw();
  answering.resume(chat, pathOf(chat));
}

// --- asking --------------------------------------------------------------------------------------------------

function send(text, files = composer.take()) {
  if (!text.trim() && !files.length) return;
  if (!chat.leaf) chat.title = titleOf(text.trim() || files[0].name);
  const node = addNode(chat, {role: "user", text, files});
  drawTitle();
  conversation.add(node);
  answer(null, node);
}

/** Has the message at the end of the chat answered. *begun*: the text that the answer goes on with. *added*: what else is new. */
function answer(begun = null, ...added) {
  const node = addNode(chat, {...newAnswer(), text: begun ?? "", begun: begun?.length ?? 0});
  chat.updated = Date.now();
  session.set(OPEN_CHAT, chat.id);
  conversation.add(node);
  reading.toEnd();
  library.save(chat, [...added, node]).then(drawChats);
  answering.ask(chat, node, begun);
}

async function bodyOf(home, node, begun) {
  await greeted; // the models are known then, unless the server does not answer
  node.mayLeave = home.dial !== "never" && (!models.all.length || models.hasCloud(home.model));
  return answerBody(home, node.parent, {...asked(home), sampling: settings.sampling(), fallback: home.dial, begun});
}

const asked = (one) => ({model: models.chosen(one.model), system: settings.get("system").trim()});

/** Whether an image may be added: only a provider could look at it, and only if the user wants to be asked. */
async function takesImages(name) {
  await greeted;
  if (!models.seesImages(chat.model)) {
    say(`${name}: nobody who may answer here sees images.`);
    return false;
  }
  if (chat.dial !== "never") return true;
  const reply = await choose(`${name}: the model on this device cannot see images`, {ask: "Ask a provider, but ask me first"},
    h("p", {}, "A provider can. Before the image leaves this device, a card shows what would be sent, and what it costs."));
  if (reply !== "ask") return false;
  setDial("ask");
  return true;
}

/** Says the stage of an answer, without numbers, which a screen reader would read out one after the other. */
function noted(node, home) {
  device.note(node);
  if (home === chat) say(stageInWords(node).split(":")[0]);
}

function ended(node, home, error) {
  if (error?.status === 401) settingsPanel.ask();
  if (home !== chat) return;
  if (models.isLoaded(chat.model)) composer.count();
  else greet(); // it has been loaded
  const ends = {done: "The answer is complete.", stopped: "Stopped."};
  say(ends[node.state] ?? (node.error ? sentence(node.error) : "The answer ended early."));
}

function regenerate(node, begun = null) {
  chat.leaf = node.parent;
  draw();
  answer(begun);
  $("log").focus({preventScroll: true}); // the button that had it is gone
}

async function edit(node) {
  const text = await ask("Edit and send again", node.text, "Send", true);
  if (text === null || !text.trim()) return;
  chat.leaf = node.parent;
  draw();
  send(text, node.files ?? []);
}

async function steer(node, to) {
  try {
    await call("v1/handoffs", {method: "POST", body: {id: node.answerId, to}});
    if (to === "local") node.mayLeave = false;
    say(to === "cloud" ? "Asking the cloud to go on." : "This answer stays on this device.");
  } catch (error) {
    say(sentence(error.message));
  }
  conversation.view(node)?.refresh();
}

async function consent(node, id, granted, scope) {
  try {
    await call(`v1/consents/${id}`, {method: "POST", body: {granted, scope}});
  } catch (error) {
    say(sentence(error.message));
    node.question = null;
    conversation.view(node)?.refresh();
  }
}

// --- files ---------------------------------------------------------------------------------------------------

async function exportChats() {
  const labels = chat.leaf ? {json: "This chat as JSON, to import again", md: "This chat as Markdown, to read"} : {};
  const kind = await choose("Export", {...labels, all: "All chats as JSON"});
  const name = chat.title.replace(/[^\p{L}\p{N}_-]+/gu, "-").slice(0, 40) || "chat";
  const asJson = (value) => JSON.stringify(value, null, 2);
  if (kind === "json") download(`${name}.json`, "application/json", asJson(chat));
  if (kind === "md") download(`${name}.md`, "text/markdown", asMarkdown(chat));
  if (kind === "all") download("spillover-chats.json", "application/json", asJson(library.chats));
}

async function importChats() {
  try {
    const found = chatsIn(await $("import-file").files[0].text());
    for (const one of found) await library.save(one, Object.values(one.nodes));
    drawChats();
    say(found.length === 1 ? `Imported “${found[0].title}”.` : `Imported ${found.length} chats.`);
  } catch (error) {
    say(error.message);
  }
  $("import-file").value = "";
}

// --- events --------------------------------------------------------------------------------------------------

const reading = new ReadingPlace($("log"), $("messages"), $("to-end"));
const settingsPanel = new SettingsPanel($("settings"), $("open-settings"), greet);
const device = new DevicePanel($("device"), $("open-device"), () => models.chosen(chat.model));
const menu = new ModelMenu($("model"), $("models"), {choose: chooseModel, refresh: greet});
const list = new ChatList($("chats"), $("search"), {open: (one) => openChat(one.id), rename, remove});
const conversation = new Conversation($("messages"), {
  send, edit, steer, consent, goTo,
  regenerate: (node) => regenerate(node),
  carryOn: (node) => regenerate(node, node.text),
  stay: (message) => reading.show(message),
  canUseCloud: () => models.hasCloud(chat.model) && chat.dial !== "never",
});
const answering = new Answering({
  bodyOf, noted, ended,
  keepLocal: (node) => steer(node, "local").then(() => !node.mayLeave),
  view: (node) => conversation.view(node),
  save: (home, node, isQuiet) => library.save(home, [node], {isQuiet, sameFields: true}),
  changed: () => {
    drawButtons();
    drawChats();
  },
});
const greeted = greet();
const composer = new Composer({
  send, say, takesImages,
  // To count by a model that is not loaded would load it.
  countable: (text, files) => (models.isLoaded(chat.model) ? countBody(chat, asked(chat), text, files) : null),
  nCtx: () => models.nCtx(chat.model),
  model: () => models.chosen(chat.model),
  chatId: () => (chat.leaf ? chat.id : ""),
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("dialog").open || $("models").matches(":popover-open")) return;
  if (closeSide()) $("toggle-side").focus();
  else answering.stop(chat.id);
});
addEventListener("online", () => { if (!isGreeted) greet(); });
$("stop").addEventListener("click", () => answering.stop(chat.id));
$("new-chat").addEventListener("click", startChat);
$("dial").addEventListener("change", () => setDial($("dial").value));
$("toggle-side").addEventListener("click", () => {
  const isOpen = document.body.classList.toggle("side-open");
  $("toggle-side").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) $("new-chat").focus();
});
$("shade").addEventListener("click", closeSide);
$("export").addEventListener("click", exportChats);
$("import").addEventListener("click", () => $("import-file").click());
$("import-file").addEventListener("change", importChats);

kept(library.problem);
enter(library.chats.find((one) => one.id === session.get(OPEN_CHAT)) ?? chat);
library.catchUp();
$("prompt").focus();
