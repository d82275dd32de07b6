// What one sees of a photo: pictures, answers, bytes and times. All of it comes in as arguments; nothing is asked here.

import { alike, drawBoxes, inWords, shown } from "./boxes.js";
import { detects } from "./bundle.js";
import { bar, byId, count, make, milliseconds, percent } from "./dom.js";
import { linkMs } from "./links.js";
import { size } from "./problems.js";

/** The photo as the network sees it. */
export function showPhoto({ shown: picture, width, height, scaled }, name) {
  drawPhoto(picture, `The photo ${name} as the network sees it`);
  const first = `${count(width)} × ${count(height)} pixels`;
  const then = scaled ? ", which the browser scaled down first because they are so many" : "";
  const taken = `the network takes ${picture.width} × ${picture.height} from the middle`;
  byId("photo-note").textContent = `${first}${then}; ${taken}`;
}

function drawPhoto(picture, label) {
  const canvas = byId("photo");
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  canvas.setAttribute("aria-label", label);
  return canvas;
}

/** The photo with boxes around what was found. */
export function showBoxes(picture, name, boxes, labels) {
  const canvas = drawPhoto(picture, `The photo ${name}, with boxes around: ${inWords(boxes, labels)}`);
  drawBoxes(canvas, boxes, labels);
}

/** The mosaic, with `low` and `high` as black and white. */
export function showMosaic({ rows, cols, grey }, [low, high], [channels, height, width], payloadBytes) {
  const canvas = byId("mosaic");
  canvas.width = cols;
  canvas.height = rows;
  const image = new ImageData(cols, rows);
  grey.forEach((value, pixel) => {
    const shade = high > low ? (255 * (value - low)) / (high - low) : value;
    image.data.set([shade, shade, shade, 255], 4 * pixel); // clamped
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  const what = `${count(payloadBytes)} bytes: ${channels} tiles of ${width} × ${height}`;
  byId("mosaic-note").textContent = `${what}, as the server gets them, with more contrast.`;
}

/** Whether anything is sent of the photo; if not, why: `share` of confidence is there, and `sure` is enough. */
export function showWhetherSent(sent, share, sure) {
  for (const id of ["mosaic", "costs"]) byId(id).hidden = !sent;
  byId("send-anyway").hidden = sent;
  const why = `Nothing: the device is ${percent(share)} sure, and from ${percent(sure)} on it answers by itself.`;
  byId("mosaic-note").textContent = sent ? "" : why;
}

/** The five best of either network, or its boxes. */
export function showFound(id, { top, boxes }, labels) {
  byId(id).replaceChildren(
    ...(top ?? shown(boxes)).map(({ index, score }) =>
      make("li", {}, make("span", {}, labels[index]), make("span", {}, percent(score)), bar(score)),
    ),
  );
}

/** An answer in a few words: its best label and how sure that is, or what there are boxes around. */
export function inShort({ top, boxes }, labels) {
  return top ? `${labels[top[0].index]}, ${percent(top[0].score)}` : inWords(boxes, labels);
}

/** The answer in words. `uncut` is the other network's, null where nobody asked. */
export function showAnswer(answer, uncut, labels) {
  const name = ({ top, boxes }) => (top ? labels[top[0].index] : inWords(boxes, labels));
  const same = uncut && (answer.top ? uncut.top[0].index === answer.top[0].index : alike(uncut.boxes, answer.boxes));
  const beside = !uncut ? "" : same ? "The uncut network says the same." : `The uncut network says ${name(uncut)}.`;
  byId("answer").replaceChildren(
    name(answer) + (answer.top ? ` ${percent(answer.top[0].score)}` : ""),
    ...(beside ? [make("small", {}, beside)] : []),
  );
}

/** Whether there is more to come of this photo. */
export function setBusy(busy) {
  byId("result").ariaBusy = String(busy);
  byId("send-anyway").disabled = busy; // what is shown may be another photo's by then
}

/** Forgets the last photo's answers. */
export function clearAnswers() {
  for (const id of ["answer", "top", "uncut-top"]) byId(id).replaceChildren();
}

/** Which bundle it is, and what of it can be had. */
export function showBundle({ id, files }, manifest) {
  byId("result").firstElementChild.classList.toggle("detects", detects(manifest));
  const uncut = files["uncut.onnx"];
  byId("load-uncut").hidden = !uncut;
  byId("uncut").hidden = false;
  byId("uncut-top").replaceChildren();
  showUncutNote(uncut ? `Downloads ${size(uncut)} more.` : "This bundle does not contain the uncut network.");
  const share = Math.round(100 * manifest.head_flops_share);
  const what = `Bundle “${manifest.name}” (${id.slice(0, 12)}): ${manifest.model}, cut at ${manifest.cut}`;
  const { sure = 1 } = manifest.exit ?? {};
  const own = sure < 1 ? ` Where the confidence here is ${percent(sure)} or more, nothing is sent.` : "";
  const here = `${share} % of the computing is done in this browser.${own}`;
  byId("about").textContent = `${what}. ${here} Codec: ${manifest.codec}.`;
}

/** What there is to say where the uncut network's answer will be. */
export function showUncutNote(text) {
  byId("uncut-note").textContent = text;
}

/** The uncut network's answer. */
export function showUncut(answer, labels) {
  byId("uncut").hidden = true;
  showFound("uncut-top", answer, labels);
}

/** The links that there are to choose from. */
export function showLinks(links, chosen) {
  const options = Object.entries(links).map(([key, { name }]) => make("option", { value: key }, name));
  byId("link").replaceChildren(...options);
  byId("link").value = chosen;
}

/** Whether a payload fits a link that carries at most so many bytes of it at once. */
export function showLinkNote({ name }, payloadBytes, most) {
  const note = byId("link-note");
  note.hidden = payloadBytes <= most;
  const words = `${name} carries ${count(most)} bytes of payload in one message, and this payload is larger.`;
  note.firstElementChild.textContent = words;
}

/** Budget and payload, in numbers. */
export function showBudget(payloadBytes, largest) {
  byId("budget-bytes").textContent = `${count(payloadBytes)} bytes`;
  byId("budget-note").textContent = `of ${count(largest)} in the whole payload`;
}

const STEPS = [
  ["prepare", "Decode, crop, resize", "in this browser"],
  ["head", "Head", "in this browser"],
  ["encode", "Encode", "in this browser"],
  ["link", "Link", ""],
  ["server", "Server", "decode and tail"],
];

/** Steps as one bar and as a table. `ms` has a number for each of STEPS; `link` is the chosen one. */
export function showTimes(ms, link) {
  const total = STEPS.reduce((sum, [key]) => sum + ms[key], 0);
  const segments = STEPS.map(([key], place) => {
    const segment = make("span", { className: `step-${place + 1}` });
    segment.style.setProperty("--share", ms[key] / total);
    return segment;
  });
  byId("time-bar").replaceChildren(...segments);
  const rows = STEPS.map(([key, name, where], place) => {
    const note = key === "link" ? `computed, ${link.name}` : where;
    const head = make(
      "th",
      { scope: "row" },
      make("span", { className: `swatch step-${place + 1}`, ariaHidden: "true" }),
      name,
    );
    head.append(" ", make("span", { className: "soft" }, note));
    return make("tr", {}, head, make("td", {}, milliseconds(ms[key])));
  });
  const last = make(
    "tr",
    { className: "total" },
    make("th", { scope: "row" }, "Total"),
    make("td", {}, milliseconds(total)),
  );
  byId("times").tBodies[0].replaceChildren(...rows, last);
}

/** What the link would take for a picture file, and what this page's own connection took. */
export function showTimeNote(link, files, roundTripMs) {
  const jpeg = files?.find(({ name }) => name === "JPEG 75");
  const whole = jpeg?.bytes
    ? `The same pixels as ${jpeg.name} would take ${milliseconds(linkMs(link, jpeg.bytes))} on this link. `
    : "";
  byId("time-note").textContent =
    `${whole}On this page's own connection the answer took ${milliseconds(roundTripMs)}.`;
}

/** What is sent beside the same pixels as picture files, as this browser writes them. */
export function showSizes(payloadBytes, frameBytes, files, photo) {
  const known = files.filter(({ bytes }) => bytes !== null);
  const most = Math.max(frameBytes, ...known.map(({ bytes }) => bytes));
  const row = (name, bytes, sent) =>
    make(
      "tr",
      { className: sent ? "sent" : "" },
      make("th", { scope: "row" }, name),
      make("td", { className: "wide" }, bar(bytes / most)),
      make("td", {}, count(bytes)),
    );
  byId("sizes").tBodies[0].replaceChildren(
    row("Sent", frameBytes, true),
    ...known.map(({ name, bytes }) => row(name, bytes, false)),
  );
  const without = [...new Set(files.filter(({ bytes }) => bytes === null).map(({ name }) => name.split(" ")[0]))];
  const missing = without.length ? ` It can't write ${without.join(" or ")}.` : "";
  const file = photo.source.size ? ` The photo's own file has ${size(photo.source.size)}.` : "";
  const header = frameBytes - payloadBytes;
  byId("size-note").textContent =
    `Sent: a payload of ${count(payloadBytes)} bytes and a header of ${header}. The others: the same pixels as this ` +
    `browser writes them, with the quality after the name.${missing}${file}`;
}
