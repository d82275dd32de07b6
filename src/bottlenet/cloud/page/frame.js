// Frames in stream form, and what comes back for them: wire/frame.py and wire/answer.py. docs/wire.md specifies both.

const VERSION = 1; // of frames
const ANSWER_VERSION = 2;
const ANSWERED = 0;
const REFUSED = 1;
const BUSY = 2;
const RESULT = 3; // answered, and not with one label
const BOXES = 3;
// Where what is counted begins, and the bytes of each.
const PARTS = { [ANSWERED]: [14, 4], [REFUSED]: [4, 1], [BUSY]: [6, 1], [RESULT]: [16, 12] };
const PROBABILITY_STEPS = 65535;
export const SEQUENCES = 2 ** 16;

/** Payload -> the message that is sent. */
export function streamFrame(code, setting, sequence, payload) {
  const message = new Uint8Array(4 + payload.length);
  message.set([(VERSION << 4) | code, setting, sequence >> 8, sequence & 255]);
  message.set(payload, 4);
  return message;
}

/**
 * ArrayBuffer -> {sequence, waitMs, decodeMs, tailMs, top: [{index, score}, ...]}, of a detector with `boxes` in place
 * of `top`; of a refusal {sequence, refused}, of "busy" {sequence, busy, retryMs}, with the server's words. Error: it
 * is none of these.
 */
export function parseAnswer(buffer) {
  const view = new DataView(buffer);
  const fault = () => new Error(`${view.byteLength} bytes are no answer of version ${ANSWER_VERSION}; no such server?`);
  const kind = view.byteLength >= 4 && view.getUint8(0) >> 4 === ANSWER_VERSION ? view.getUint8(0) & 15 : -1;
  const [start, each] = PARTS[kind] ?? [];
  if (start === undefined || view.byteLength < start) throw fault();
  if (kind === RESULT && view.getUint8(13) !== BOXES) throw fault();
  const count = kind === RESULT ? view.getUint16(start - 2) : view.getUint8(start - 1);
  if (view.byteLength !== start + count * each) throw fault();
  const sequence = view.getUint16(1);
  if (kind === REFUSED || kind === BUSY) {
    const words = new TextDecoder().decode(new Uint8Array(buffer, start)).replace(/[^\P{C}]+/gu, " ");
    return kind === REFUSED ? { sequence, refused: words } : { sequence, busy: words, retryMs: view.getUint16(3) };
  }
  const found = Array.from({ length: count }, (_, place) => {
    const share = (at) => view.getUint16(start + each * place + at) / PROBABILITY_STEPS;
    const one = { index: view.getUint16(start + each * place), score: share(2) };
    return kind === ANSWERED ? one : { ...one, left: share(4), top: share(6), right: share(8), bottom: share(10) };
  });
  const ms = (at) => ((view.getUint8(at) << 16) | view.getUint16(at + 1)) / 1e3;
  const times = { waitMs: ms(3), decodeMs: ms(6), tailMs: ms(9) };
  return { sequence, ...times, [kind === ANSWERED ? "top" : "boxes"]: found };
}

/** Whether an answer is one of a network with that many classes: it has a choice, or is of boxes, each with a label. */
export function fits({ top, boxes }, classes, detects = false) {
  const found = detects ? boxes : top;
  return Boolean(found) && (detects || found.length > 0) && found.every(({ index }) => index < classes);
}

/** Logits -> the five best, [{index, score}, ...], as wire/answer.py chooses them. */
export function best(scores, count = 5) {
  const highest = scores.reduce((high, one) => Math.max(high, one), -Infinity);
  const shares = Array.from(scores, (score) => Math.exp(score - highest));
  const total = shares.reduce((sum, one) => sum + one, 0);
  const order = shares.map((_, index) => index).sort((a, b) => shares[b] - shares[a] || a - b);
  return order.slice(0, count).map((index) => ({ index, score: shares[index] / total }));
}
