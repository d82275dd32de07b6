// The page: what a person does, and what comes of it.
//
//     pick.js --photo--> device.js --payload--> stream.js --answer--> view.js
//
// `state.job` counts photos: what comes late for one that is not looked at any more is dropped.

import { detects, listBundles, titleOf } from "./bundle.js";
import { drawBytes } from "./bytestrip.js";
import { Device } from "./client.js";
import { byId, count, make } from "./dom.js";
import { fits } from "./frame.js";
import { LINKS, largestPayload, linkMs } from "./links.js";
import { hideProblem, onToken, say, showProblem, storedToken } from "./notices.js";
import { offerPhotos } from "./pick.js";
import { Problem, size } from "./problems.js";
import { BudgetSlider } from "./slider.js";
import { Stream } from "./stream.js";
import * as view from "./view.js";

const ANY_BUDGET = 2 ** 24; // the largest payload of a frame

const device = new Device();
const slider = new BudgetSlider(sendWithin);
const state = {
  token: storedToken(),
  bundles: [],
  manifest: null,
  labels: [],
  stream: null,
  opened: null, // a promise: the device is ready for photos
  budget: ANY_BUDGET,
  link: "3g",
  compare: false, // with the uncut network
  job: 0,
  photo: null, // {source, name, width, height}
  seen: null, // what the device said of it, `top` its own answer
  sizes: null, // of its smallest and largest payload
  sent: null, // its last payload that was answered, with the answer
  files: null, // of the same pixels, sizes
  uncut: null, // the uncut network's answer
};

// ---- to begin with

async function start() {
  hideProblem();
  say("Connecting");
  try {
    state.bundles = await listBundles(state.token);
    const options = state.bundles.map((one) => make("option", { value: one.id }, titleOf(one, state.bundles)));
    byId("bundle").replaceChildren(...options);
    byId("bundles").hidden = state.bundles.length < 2;
    await open(state.bundles[0]);
  } catch (error) {
    notConnected(error);
  }
}

function notConnected(error) {
  state.opened = Promise.reject(error);
  state.opened.catch(() => {}); // a photo that is chosen now hears the same
  say("Not connected");
  showProblem(error, { reload: start, retry: start });
}

/** Makes the device ready for photos of a bundle; one that was chosen before is classified then. */
async function open(bundle) {
  state.stream?.close();
  Object.assign(state, { job: state.job + 1, seen: null, sent: null }); // the device forgets its photo
  byId("result").hidden = true;
  say("Loading the network");
  const told = (bytes) => say(`Loading the network: ${size(bytes)}`);
  state.opened = device.ask("open", { bundle, token: state.token }, told);
  const { manifest, labels } = await state.opened;
  const stream = new Stream(bundle.id, state.token);
  Object.assign(state, { manifest, labels, stream, budget: manifest.budget_bytes || ANY_BUDGET });
  view.showBundle(bundle, manifest);
  say("Ready");
  if (state.photo) await classify(state.photo);
}

// ---- a photo

/** From a photo to its answer and all that is shown beside it. */
async function classify(photo) {
  const job = (state.job += 1);
  const current = () => job === state.job;
  state.photo = photo;
  hideProblem();
  view.setBusy(true);
  try {
    await state.opened;
    if (!current()) return;
    say(`Looking at ${photo.name}`);
    const seen = await device.ask("photo", photo);
    if (!current()) return;
    Object.assign(state, { seen, sizes: null, sent: null, files: null, uncut: null });
    byId("result").hidden = false;
    view.clearAnswers();
    view.showPhoto(seen, photo.name);
    if (seen.top) answerHere();
    else await consult(current);
    if (state.compare && current()) await compare(current);
  } catch (error) {
    if (current()) failed(error, () => classify(photo));
  } finally {
    if (current()) view.setBusy(false);
  }
}

/** The device's own answer, as it is sure. */
function answerHere() {
  const { seen, labels, manifest } = state;
  view.showWhetherSent(false, seen.top[0].score, manifest.exit.sure);
  say(`${view.inShort(seen, labels)}, nothing sent`);
  refresh();
}

/** The head, the server's answer, and all that is shown beside it. */
async function consult(current) {
  const { grey, headMs } = await device.ask("head");
  if (!current()) return;
  Object.assign(state.seen, { grey, headMs: state.seen.exitMs + headMs });
  view.showWhetherSent(true);
  await send(current);
  await look(current);
}

/** The payload within the budget to the server, and its answer onto the page. */
async function send(current) {
  const made = await device.ask("payload", { budget: state.budget });
  if (!current()) return;
  if (!made) throw new Problem("none", "The smallest payload of this photo is above the budget. Allow more bytes.");
  const shown = await device.ask("shown", made);
  if (!current()) return;
  view.showMosaic(shown, state.seen.grey, state.manifest.latent, made.payload.length);
  const reply = await state.stream.ask(made);
  if (!current()) return;
  if (!fits(reply.answer, state.labels.length, detects(state.manifest))) {
    throw new Problem("reload", "The server's answer doesn't fit this bundle. Load the page again to see what it has.");
  }
  hideProblem();
  state.sent = { ...made, ...reply };
  say(`${view.inShort(reply.answer, state.labels)}, with ${count(made.payload.length)} bytes`);
  refresh();
}

/** What one sees of a photo beside its answer. */
async function look(current) {
  const sizes = await device.ask("sizes");
  if (!current()) return;
  state.sizes = sizes;
  slider.range(sizes, state.sent.payload.length);
  refresh();
  const files = await device.ask("files");
  if (!current()) return;
  state.files = files;
  refresh();
}

/** The uncut network on the same photo. */
async function compare(current) {
  const told = (bytes) => view.showUncutNote(`Loading: ${size(bytes)}`);
  const uncut = await device.ask("uncut", {}, told);
  if (!current()) return;
  state.uncut = uncut;
  view.showUncut(uncut, state.labels);
  refresh();
}

/** With another budget. */
async function sendWithin(budget) {
  state.budget = budget;
  const { job } = state;
  try {
    await send(() => job === state.job);
  } catch (error) {
    if (job === state.job) failed(error, () => slider.move(state.budget));
  }
}

function failed(error, again) {
  say("No answer");
  showProblem(error, { retry: again, reload: () => location.reload() });
}

/** Draws what is known. */
function refresh() {
  const { sent, seen, sizes, files, uncut, labels, photo } = state;
  const answer = sent?.answer ?? (seen?.top ? { top: seen.top } : null);
  if (!answer) return;
  view.showFound("top", answer, labels);
  view.showAnswer(answer, uncut, labels);
  if (answer.boxes) view.showBoxes(seen.shown, photo.name, answer.boxes, labels);
  if (!sent) return;
  const { payload, encodeMs, roundTripMs, frameBytes } = sent;
  const link = LINKS[state.link];
  const largest = Math.max(payload.length, sizes?.[1] ?? 0);
  view.showBudget(payload.length, largest);
  drawBytes(payload, largest);
  const server = answer.waitMs + answer.decodeMs + answer.tailMs;
  const ofLink = linkMs(link, payload.length);
  view.showTimes({ prepare: seen.prepareMs, head: seen.headMs, encode: encodeMs, link: ofLink, server }, link);
  view.showTimeNote(link, files, roundTripMs);
  view.showLinkNote(link, payload.length, largestPayload(link));
  if (files) view.showSizes(payload.length, frameBytes, files, photo);
}

// ---- what can be pressed

byId("fit").addEventListener("click", () => {
  const most = largestPayload(LINKS[state.link]);
  slider.set(most);
  slider.move(most);
});
byId("link").addEventListener("change", ({ target }) => {
  state.link = target.value;
  refresh();
});
byId("load-uncut").addEventListener("click", async ({ target }) => {
  const { job } = state;
  state.compare = target.disabled = true;
  try {
    await compare(() => job === state.job);
  } catch (error) {
    state.compare = false;
    failed(error, () => target.click());
  } finally {
    target.disabled = false;
  }
});
byId("send-anyway").addEventListener("click", async ({ target }) => {
  const { job } = state;
  const current = () => job === state.job;
  view.setBusy(true);
  try {
    await consult(current);
  } catch (error) {
    if (current()) failed(error, () => target.click());
  } finally {
    if (current()) view.setBusy(false);
  }
});
byId("bundle").addEventListener("change", ({ target }) => {
  hideProblem();
  open(state.bundles.find(({ id }) => id === target.value)).catch(notConnected);
});
addEventListener("resize", refresh);

onToken((token) => {
  state.token = token;
  start();
});
view.showLinks(LINKS, state.link);
offerPhotos(classify, failed);
start();
