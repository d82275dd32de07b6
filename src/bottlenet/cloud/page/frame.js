// Frames in stream form, and what comes back for them: wire/frame.py and wire/answer.py. docs/wire.md specifies both.

const VERSION = 1; // of frames
const ANSWER_VERSION = 2;
const ANSWERED = 0;
const REFUSED = 1;
const BUSY = 2;
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
 * ArrayBuffer -> {sequence, waitMs, decodeMs, tailMs, top: [{index, score}, ...]}; of a refusal {sequence, refused}, of
 * "busy" {sequence, busy, retryMs}, with the server's words. Error: it is none of these.
 */
export function parseAnswer(buffer) {
  const view = new DataView(buffer);
  const fault = () => new Error(`${view.byteLength} bytes are no answer of version ${ANSWER_VERSION}; no such server?`);
  const kind = view.byteLength >= 4 && view.getUint8(0) >> 4 === ANSWER_VERSION ? view.getUint8(0) & 15 : -1;
  const start = { [ANSWERED]: 14, [REFUSED]: 4, [BUSY]: 6 }[kind];
  if (start === undefined || view.byteLength < start) throw fault();
  const count = view.getUint8(start - 1);
  if (view.byteLength !== start + count * (kind === ANSWERED ? 4 : 1)) throw fault();
  const sequence = view.getUint16(1);
  if (kind !== ANSWERED) {
    const words = new TextDecoder().decode(new Uint8Array(buffer, start)).replace(/[^\P{C}]+/gu, " ");
    return kind === REFUSED ? { sequence, refused: words } : { sequence, busy: words, retryMs: view.getUint16(3) };
  }
  const top = Array.from({ length: count }, (_, place) => ({
    index: view.getUint16(start + 4 * place),
    score: view.getUint16(start + 4 * place + 2) / PROBABILITY_STEPS,
  }));
  const ms = (at) => ((view.getUint8(at) << 16) | view.getUint16(at + 1)) / 1e3;
  return { sequence, waitMs: ms(3), decodeMs: ms(6), tailMs: ms(9), top };
}

/** Whether an answer is one of a network with that many classes: it has a choice, and each choice a label. */
export function fits({ top }, classes) {
  return top.length > 0 && top.every(({ index }) => index < classes);
}

/** Logits -> the five best, [{index, score}, ...], as wire/answer.py chooses them. */
export function best(scores, count = 5) {
  const highest = scores.reduce((high, one) => Math.max(high, one), -Infinity);
  const shares = Array.from(scores, (score) => Math.exp(score - highest));
  const total = shares.reduce((sum, one) => sum + one, 0);
  const order = shares.map((_, index) => index).sort((a, b) => shares[b] - shares[a] || a - b);
  return order.slice(0, count).map((index) => ({ index, score: shares[index] / total }));
}
