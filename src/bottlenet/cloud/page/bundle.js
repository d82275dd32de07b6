// The device's half of a bundle, from the server: fetched once, sizes and SHA-256 compared with what was promised.

import { Problem, size } from "./problems.js";

// A graph is in memory about four times while it is loaded, and phones give a page a few hundred MB.
export const MAX_GRAPH_BYTES = 100e6;
const MAX_LABELS_BYTES = 16e6;

/** The server's root, wherever this page is mounted. */
export const ROOT = new URL("../", import.meta.url);

/** What the server has, [{id, name, model, cut, task, files: {name: bytes}}, ...]. Problem: no token, nothing there. */
export async function listBundles(token) {
  const response = await get(new URL("v1/bundles", ROOT), token);
  const bundles = await response.json();
  if (!bundles.length)
    throw new Problem("reload", "The server has no bundle yet. Try again when it has one.");
  return bundles;
}

/** Whether a bundle answers with boxes, by its manifest. */
export function detects({ task }) {
  return task?.name === "detection";
}

/** A bundle's name; where others have it too, with the start of its id. */
export function titleOf({ id, name }, bundles) {
  const unique = bundles.filter((one) => one.name === name).length === 1;
  return unique ? name : `${name} (${id.slice(0, 12)})`;
}

/** manifest.json, labels and tables of one of them. Problem: too large for a browser, or not what was promised. */
export async function openBundle(bundle, token) {
  if (!["classification", "detection", undefined].includes(bundle.task)) {
    throw new Problem(
      "none",
      `This page shows labels and boxes, but the task of the bundle “${bundle.name}” is ${bundle.task}. Choose ` +
        "another bundle, or use the command line: bottlenet classify PHOTO --bundle FOLDER --to SERVER.",
    );
  }
  const manifest = JSON.parse(text(await bundleFile(bundle, "manifest.json", token)));
  const digests = manifest.files;
  const labels = text(await bundleFile(bundle, "labels.txt", token, digests, MAX_LABELS_BYTES));
  const tables = bundle.files["tables.bin"] ? await bundleFile(bundle, "tables.bin", token, digests) : null;
  return { manifest, labels: labels.replace(/\n$/, "").split("\n"), tables };
}

/** One file -> ArrayBuffer. `digests`, from the manifest, say what it must be. `told` hears how many bytes came. */
export async function bundleFile(bundle, name, token, digests = {}, limit = MAX_GRAPH_BYTES, told = () => {}) {
  const bytes = bundle.files[name];
  if (bytes > limit) {
    throw new Problem(
      "none",
      `${name} of the bundle “${bundle.name}” has ${size(bytes)}; up to ${size(limit)} fit a browser. Choose another ` +
        "bundle, or classify on the command line: bottlenet classify PHOTO --bundle FOLDER --to SERVER.",
    );
  }
  const response = await get(new URL(`v1/bundles/${bundle.id}/${name}`, ROOT), token);
  const data = await body(response, told);
  if (data.byteLength !== bytes || !(await isRight(data, digests[name]))) {
    throw new Problem("reload", `${name} did not come as the server promised it. Load the page again.`);
  }
  return data;
}

/** A response whose status is good. Problem: it isn't, or none came. */
export async function get(url, token) {
  const response = await reached(url, token ? { Authorization: `Bearer ${token}` } : {});
  if (response.ok) return response;
  if (response.status === 401) {
    throw new Problem(
      "token",
      token ? "The server doesn't know this token. Type another." : "This server asks for a token.",
    );
  }
  const { error = "" } = await response.json().catch(() => ({}));
  throw new Problem("reload", `The server refused ${url.pathname}: ${error || `status ${response.status}`}.`);
}

/** A response, whatever its status. Problem: none came. */
export async function reached(url, headers = {}) {
  try {
    return await fetch(url, { headers, credentials: "omit" });
  } catch {
    throw new Problem("reload", "The server can't be reached. Check that it is still running, then try again.");
  }
}

/** The body, piece by piece. */
export async function body(response, told = () => {}) {
  const parts = [];
  let bytes = 0;
  try {
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      told((bytes += value.length));
    }
  } catch {
    throw new Problem(
      "reload",
      "The connection broke in the middle of a file. Check that the server is still running, then try again.",
    );
  }
  return new Blob(parts).arrayBuffer();
}

async function isRight(data, digest) {
  // Browsers offer digests only where the page came over https or from this machine; else the length has to do.
  if (!digest || !globalThis.crypto?.subtle) return true;
  const got = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(got, (byte) => byte.toString(16).padStart(2, "0")).join("") === digest;
}

function text(data) {
  return new TextDecoder().decode(data);
}
