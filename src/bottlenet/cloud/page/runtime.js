// onnxruntime-web, in WebAssembly on one thread: a graph that is opened, checked, run once, and then used.

import { Problem } from "./problems.js";
import { body, reached } from "./bundle.js";

const VENDOR = new URL("vendor/", import.meta.url);
let runtime = null;

/** The runtime, loaded once. `told` hears how many bytes came. Problem: not installed, or no WebAssembly here. */
export function loadRuntime(told) {
  runtime ??= start(told).catch((error) => {
    runtime = null; // so that a second try is one
    throw error;
  });
  return runtime;
}

async function start(told) {
  if (typeof WebAssembly === "undefined") {
    throw new Problem(
      "none",
      "This browser has no WebAssembly, which the network needs. Try another browser, or bottlenet classify.",
    );
  }
  const wasm = await vendored("ort-wasm-simd-threaded.wasm");
  const binary = await body(wasm, told);
  const ort = await import(new URL("ort.wasm.bundle.min.mjs", VENDOR));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = binary;
  ort.env.logLevel = "error";
  return ort;
}

async function vendored(name) {
  const response = await reached(new URL(name, VENDOR));
  if (response.ok) return response;
  const { error = `status ${response.status}` } = await response.json().catch(() => ({}));
  throw new Problem("reload", `This page can't run a network yet: ${error}. Then load the page again.`);
}

/** What a graph that takes photos takes. */
export const pixelsPort = (size) => ({ name: "pixels", type: "uint8", dims: [1, size, size, 3] });

/**
 * ArrayBuffer of a graph with one input, {name, type, dims} -> a function, typed array in, its outputs as typed arrays
 * out. Problem: it can't be loaded or run here.
 */
export async function openGraph(graph, { name, type, dims }, told) {
  const ort = await loadRuntime(told);
  const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all", logSeverityLevel: 3 };
  let session;
  try {
    session = await ort.InferenceSession.create(new Uint8Array(graph), options);
  } catch (error) {
    const noWasm = /wasm|WebAssembly|backend/i.test(error.message);
    const what = noWasm ? "the WebAssembly that the network needs" : "the network";
    const why = `This browser can't run ${what}`;
    throw new Problem("none", `${why} (${error.message.slice(0, 200)}). Try another browser, or bottlenet classify.`);
  }
  const run = async (data) => {
    const results = await session.run({ [name]: new ort.Tensor(type, data, dims) });
    return session.outputNames.map((output) => results[output].data);
  };
  const zeros = dims.reduce((product, each) => product * each, 1);
  await run(type === "uint8" ? new Uint8Array(zeros) : new Float32Array(zeros)); // so that no photo is slower, as first
  return run;
}
