// The device: a worker that opens a bundle, and makes payloads of photos; what edge/encoder.py is in Python.
//
// The page sends it messages {id, ask, ...} and gets {id, result} or {id, problem}, of downloads also {id, progress}.

import { bundleFile, openBundle } from "./bundle.js";
import { makeCodec } from "./codecs.js";
import { best } from "./frame.js";
import { asFiles, canvasOf, openPhoto, pixelsOf } from "./photo.js";
import { Problem, packed } from "./problems.js";
import { openGraph } from "./runtime.js";

let bundle = null; // what `open` was told, and what it made of it
let photo = null; // the one that is looked at

const ASKS = {
  /** {bundle, token} -> {manifest, labels}: after that photos may come. */
  async open({ bundle: listed, token }, progress) {
    const { manifest, labels, tables } = await openBundle(listed, token);
    const codec = chosenCodec(manifest, tables);
    const graph = await bundleFile(listed, "head.onnx", token, manifest.files);
    const head = await openGraph(graph, manifest.preprocess.size, progress);
    bundle = { listed, token, manifest, codec, head, uncut: null };
    await warmUp(bundle);
    photo = null;
    return { manifest, labels };
  },

  /** {source, name, width, height} -> what the page shows of it before there is an answer. */
  async photo(given) {
    const { preprocess } = bundle.manifest;
    const started = performance.now();
    const opened = await openPhoto(given, preprocess.size);
    const pixels = pixelsOf(opened.bitmap, preprocess);
    const prepared = performance.now();
    const symbols = Uint8Array.from(await bundle.head(pixels));
    const headMs = performance.now() - prepared;
    photo?.bitmap.close();
    photo = { bitmap: opened.bitmap, pixels, symbols };
    const shown = canvasOf(pixels, preprocess.size).transferToImageBitmap();
    const { width, height, scaled } = opened;
    return { width, height, scaled, shown, grey: spread(symbols), prepareMs: prepared - started, headMs };
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

  /** {} -> {top} of the uncut network, which is fetched when it is first asked for. */
  async uncut(_, progress) {
    const preprocess = bundle.manifest.uncut_preprocess;
    if (!bundle.uncut) {
      const { listed, token, manifest } = bundle;
      const graph = await bundleFile(listed, "uncut.onnx", token, manifest.files, undefined, progress);
      bundle.uncut = await openGraph(graph, preprocess.size, progress);
    }
    const scores = await bundle.uncut(pixelsOf(photo.bitmap, preprocess));
    return { top: best(Float32Array.from(scores)) };
  },

  /** {} -> {pixels, symbols}, for tests and benchmarks. */
  async inside() {
    return { pixels: photo.pixels, symbols: photo.symbols };
  },
};

/** The browser compiles what runs often: the first photo is hardly slower than the rest. */
async function warmUp({ manifest, codec, head }) {
  const { size } = manifest.preprocess;
  const symbols = Uint8Array.from(await head(Uint8Array.from({ length: size * size * 3 }, (_, at) => (at * 7) % 256)));
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
