// The payload, drawn: a cell for each byte, fuller where the byte is larger, and a pale one for each that is not sent.

import { byId, count } from "./dom.js";

const MOST_HEIGHT = 132; // CSS pixels

/** `largest` cells, of which the payload's are full. */
export function drawBytes(payload, largest) {
  const canvas = byId("bytes");
  const width = canvas.clientWidth || 640;
  const cell = cellSize(width, largest);
  const across = Math.floor(width / cell);
  const rows = Math.ceil(largest / across);
  const scale = globalThis.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(rows * cell * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const style = getComputedStyle(canvas);
  const gap = cell > 5 ? 1.5 : cell > 3 ? 1 : 0.5; // CSS pixels, like `cell`
  for (let at = 0; at < largest; at += 1) {
    const sent = at < payload.length;
    context.globalAlpha = sent ? 0.45 + (0.55 * payload[at]) / 255 : 1;
    context.fillStyle = style.getPropertyValue(sent ? "--accent" : "--line");
    context.fillRect((at % across) * cell, Math.floor(at / across) * cell, cell - gap, cell - gap);
  }
  canvas.setAttribute(
    "aria-label",
    `The payload, byte by byte: ${count(payload.length)} of ${count(largest)} are sent`,
  );
}

/** The largest cells that all find room in. */
function cellSize(width, cells) {
  for (let cell = 12; cell > 2; cell -= 0.5) {
    if (Math.ceil(cells / Math.floor(width / cell)) * cell <= MOST_HEIGHT) return cell;
  }
  return 2;
}
