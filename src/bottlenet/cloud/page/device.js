// The device: a worker that opens a bundle, and makes payloads of photos; what edge/encoder.py is in Python.
//
// The page sends it messages {id, ask, ...} and gets {id, result} or {id, problem}, of downloads also {id, progress}.

import { boxesOf } from "./boxes.js";
import { bundleFile, detects, openBundle } from "./bundle.js";
import { makeCodec } from "./codecs.js";
import { best } from "./frame.js";
import { asFiles, canvasOf, openPhoto, pixelsOf } from "./photo.js";
import { Problem, packed } from "./problems.js";
import { openGraph, pixelsPort } from "./runtime.js";

let bundle = null; // what `open` was told, and what it made of it
let photo = null; // the one that is looked at

const ASKS = {
  /** {bundle, token} -> {manifest, labels}: after that photos may come. */
  async open({ bundle: listed, token }, progress) {
    const { manifest, labels, tables } = await openBundle(listed, token);
    const codec = chosenCodec(manifest, tables);
    const graph = (name, port) =>
      bundleFile(listed, name, token, manifest.files).then((data) => openGraph(data, port, progress));
    const { features, preprocess } = manifest.exit ?? {};
    const exit = preprocess ? await graph("exit.onnx", pixelsPort(preprocess.size)) : null;
    const takes = features
      ? { name: "features", type: "float32", dims: [1, ...features] }
      : pixelsPort(manifest.preprocess.size);
    const head = await graph("head.onnx", takes);
    bundle = { listed, token, manifest, codec, exit, head, uncut: null };
    await warmUp(bundle);
    photo = null;
    return { manifest, labels };
  },

  /**
   * {source, name, width, height} -> what the page shows of it before there is an answer; `top` is the device's own
   * answer where it is sure of it, else null.
   */
  async photo(given) {
    const { preprocess, exit } = bundle.manifest;
    const started = performance.now();
    const opened = await openPhoto(given, Math.max(preprocess.size, exit?.preprocess.size ?? 0));
    const pixels = pixelsOf(opened.bitmap, preprocess);
    const prepareMs = performance.now() - started;
    photo?.bitmap.close();
    photo = { bitmap: opened.bitmap, pixels, features: null, symbols: null };
    const shown = canvasOf(pixels, preprocess.size).transferToImageBitmap();
    const { width, height, scaled } = opened;
    return { width, height, scaled, shown, prepareMs, ...(exit ? await ownAnswer(exit) : { top: null, exitMs: 0 }) };
  },

  /** {} -> {grey, headMs}: the symbols of the photo are there, from `grey[0]` to `grey[1]` as the page shows them. */
  async head() {
    const started = performance.now();
    const [symbols] = await bundle.head(photo.features ?? photo.pixels);
    photo.symbols = Uint8Array.from(symbols);
    return { grey: spread(photo.symbols), headMs: performance.now() - started };
  },

  /** {budget} -> {payload, code, setting, encodeMs}, or null where nothing fits. */
  async payload({ budget }) {
    const started = performance.now();
    const made = bundle.codec.within(photo.symbols, budget);
    return (
      made && { ...made, payload: made.payload.slice(), code: bundle.codec.code, encodeMs: performance.now() - started }
    );
  },

  /** {payload, setting} -> the picture that the server gets, {rows, cols, grey}. */
  async shown({ payload, setting }) {
    const { rows, cols } = bundle.codec.mosaic;
    return { rows, cols, grey: await bundle.codec.shown(payload, setting) };
  },

  /** {} -> [smallest, largest] payload of this photo, bytes. */
  async sizes() {
    return bundle.codec.sizes(photo.symbols);
  },

  /** {} -> bytes of the same pixels as picture files. */
  async files() {
    return asFiles(canvasOf(photo.pixels, bundle.manifest.preprocess.size));
  },

  /** {} -> {top} or {boxes} of the uncut network, which is fetched when it is first asked for. */
  async uncut(_, progress) {
    const { uncut_preprocess: preprocess, task } = bundle.manifest;
    if (!bundle.uncut) {
      const { listed, token, manifest } = bundle;
      const graph = await bundleFile(listed, "uncut.onnx", token, manifest.files, undefined, progress);
      bundle.uncut = await openGraph(graph, pixelsPort(preprocess.size), progress);
    }
    const [scores] = await bundle.uncut(pixelsOf(photo.bitmap, preprocess));
    const rows = Float32Array.from(scores);
    return detects(bundle.manifest) ? { boxes: boxesOf(rows, task.threshold) } : { top: best(rows) };
  },

  /** {} -> {pixels, symbols}, for tests and benchmarks. */
  async inside() {
    return { pixels: photo.pixels, symbols: photo.symbols };
  },
};

/** Run the exit on the photo: {top, exitMs}, where `top` is null if it is not sure, or its scores are no numbers. */
async function ownAnswer({ preprocess, features: keeps, temperature, sure }) {
  const started = performance.now();
  const [scores, features = null] = await bundle.exit(keeps ? photo.pixels : pixelsOf(photo.bitmap, preprocess));
  if (scores.length !== bundle.manifest.num_classes) {
    const what = `exit.onnx gives ${scores.length} scores for ${bundle.manifest.num_classes} classes`;
    throw new Problem("none", `This bundle can't be used: ${what}. Choose another.`);
  }
  photo.features = features;
  const top = scores.every(Number.isFinite) ? best(scores.map((score) => score / temperature)) : [];
  return { top: sure < 1 && top[0]?.score >= sure ? top : null, exitMs: performance.now() - started };
}

/** The browser compiles what runs often: the first photo is hardly slower than the rest. */
async function warmUp({ manifest, codec, exit, head }) {
  const { size } = manifest.preprocess;
  const pixels = Uint8Array.from({ length: size * size * 3 }, (_, at) => (at * 7) % 256);
  const taken = manifest.exit?.features ? (await exit(pixels))[1] : pixels;
  const symbols = Uint8Array.from((await head(taken))[0]);
  for (let times = 0; times < 3; times += 1) codec.sizes(symbols.slice());
}

/** The symbols that become black and white on the page, so that there is something to see: all but the outermost. */
function spread(symbols) {
  const sorted = symbols.slice().sort();
  return [sorted[Math.floor(0.005 * sorted.length)], sorted[Math.ceil(0.995 * (sorted.length - 1))]];
}

function chosenCodec(manifest, tables) {
  try {
    return makeCodec(manifest, tables);
  } catch (error) {
    throw new Problem(
      "none",
      `This bundle can't be used in a browser: ${error.message}. Choose another, or use bottlenet classify.`,
    );
  }
}

async function answer({ id, ask, ...given }) {
  try {
    const result = await ASKS[ask](given, (bytes) => self.postMessage({ id, progress: bytes }));
    self.postMessage({ id, result }, result?.shown ? [result.shown] : []);
  } catch (error) {
    self.postMessage({ id, problem: packed(error) });
  }
}

let line = Promise.resolve(); // one at a time, in the order in which they came
self.onmessage = ({ data }) => {
  line = line.then(() => answer(data));
};
