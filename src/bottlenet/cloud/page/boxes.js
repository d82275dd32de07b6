// What a detector found: the boxes that are shown, around things on the photo and in words.

import { percent } from "./dom.js";

const SURE = 0.3; // score from which on a box is shown: a bundle may tell of all from 0.01 on
const MOST = 30;
const LINE = 0.008; // of the canvas's width
const LETTER = 0.045;

/** Those of an answer's boxes that are worth showing, best first. */
export function shown(boxes) {
  return boxes.filter(({ score }) => score >= SURE).slice(0, MOST);
}

/** A graph's rows of left, top, right, bottom, score, class index -> boxes of the threshold or more, best first. */
export function boxesOf(rows, threshold) {
  const boxes = Array.from({ length: rows.length / 6 }, (_, row) => {
    const [left, top, right, bottom, score, index] = rows.subarray(6 * row, 6 * row + 6);
    return { index, score, left, top, right, bottom };
  });
  return boxes.filter(({ score }) => score > 0 && score >= threshold).sort((a, b) => b.score - a.score);
}

/** Whether two answers have boxes around as many of the same things. */
export function alike(boxes, others) {
  const [mine, theirs] = [boxes, others].map((each) => shown(each).map(({ index }) => index).sort().join());
  return mine === theirs;
}

/** "person (3), dog": what is there, the surest first. */
export function inWords(boxes, labels) {
  const counts = new Map();
  for (const { index } of shown(boxes)) counts.set(index, (counts.get(index) ?? 0) + 1);
  const words = Array.from(counts, ([index, times]) => labels[index] + (times > 1 ? ` (${times})` : ""));
  return words.join(", ") || "nothing";
}

/** Draws boxes with their labels over what is on a canvas. */
export function drawBoxes(canvas, boxes, labels) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const letter = Math.max(8, Math.round(LETTER * width));
  context.font = `600 ${letter}px system-ui, sans-serif`;
  context.textBaseline = "top";
  context.lineWidth = Math.max(1, LINE * width);
  for (const { index, score, left, top, right, bottom } of shown(boxes).reverse()) { // the surest on top
    const [x, y] = [left * width, top * height];
    const colour = `hsl(${(index * 137) % 360} 90% 65%)`;
    context.strokeStyle = context.fillStyle = colour;
    context.strokeRect(x, y, (right - left) * width, (bottom - top) * height);
    const words = `${labels[index]} ${percent(score)}`;
    const wide = context.measureText(words).width + letter / 2;
    const at = [Math.max(0, Math.min(x, width - wide)), Math.max(0, y - 1.2 * letter)];
    context.fillRect(...at, wide, 1.2 * letter);
    context.fillStyle = "#111";
    context.fillText(words, at[0] + letter / 4, at[1] + 0.1 * letter);
  }
}
