// What one sees of a photo: pictures, answers, bytes and times. All of it comes in as arguments; nothing is asked here.

import { bar, byId, count, make, milliseconds, percent } from "./dom.js";
import { linkMs } from "./links.js";
import { size } from "./problems.js";

/** The photo as the network sees it. */
export function showPhoto({ shown, width, height, scaled }, name) {
  const canvas = byId("photo");
  canvas.width = shown.width;
  canvas.height = shown.height;
  canvas.getContext("2d").drawImage(shown, 0, 0);
  canvas.setAttribute("aria-label", `The photo ${name} as the network sees it`);
  const first = `${count(width)} × ${count(height)} pixels`;
  const then = scaled ? ", which the browser scaled down first because they are so many" : "";
  const taken = `the network takes ${shown.width} × ${shown.height} from the middle`;
  byId("photo-note").textContent = `${first}${then}; ${taken}`;
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

/** The five best of either network. */
export function showTop(id, top, labels) {
  byId(id).replaceChildren(
    ...top.map(({ index, score }) =>
      make("li", {}, make("span", {}, labels[index]), make("span", {}, percent(score)), bar(score)),
    ),
  );
}

/** The answer in words. `uncut` is the other network's best, null where nobody asked. */
export function showAnswer(top, uncut, labels) {
  const same = uncut && uncut.index === top.index;
  const beside = !uncut
    ? ""
    : same
      ? "The uncut network says the same."
      : `The uncut network says ${labels[uncut.index]}.`;
  byId("answer").replaceChildren(
    `${labels[top.index]} ${percent(top.score)}`,
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
export function showUncut(top, labels) {
  byId("uncut").hidden = true;
  showTop("uncut-top", top, labels);
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
