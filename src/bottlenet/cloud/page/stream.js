// Frames over one WebSocket, several in flight, each answer matched to its frame: edge/connection.py. docs/wire.md,
// "Transport".

import { ROOT } from "./bundle.js";
import { SEQUENCES, parseAnswer, streamFrame } from "./frame.js";
import { Problem } from "./problems.js";

const SUBPROTOCOL = "bottlenet.v1";
const TOKEN_SUBPROTOCOL = "bottlenet.token.";
const OPEN_S = 15;
const ANSWER_S = 30;
const MAX_RETRIES = 5; // after "busy"

const CLOSED = {
  1009: ["none", "This payload is larger than the server accepts. Lower the budget."],
  1012: ["retry", "The server is stopping or restarting. Try again in a moment."],
  1013: ["retry", "The server has too many connections. Try again in a moment."],
  4401: ["token", "The server doesn't know this token. Type another."],
  4404: ["reload", "The server doesn't have this bundle any more. Load the page again to see what it has."],
};
const GONE = [
  "retry",
  "The server went away before it answered. The photo is still here: try again when the server is back.",
];

export class Stream {
  #bundleId;
  #token;
  #current = null; // WebSocket
  #opened = null; // a promise of it, open
  #next = 0; // sequence number
  #waiting = new Map(); // sequence number -> {resolve, reject, timer}

  constructor(bundleId, token) {
    this.#bundleId = bundleId;
    this.#token = token;
  }

  /** One payload -> {answer, roundTripMs, frameBytes}. Problem: none came; the next `ask` opens another connection. */
  async ask({ code, setting, payload }) {
    for (let tries = 0; ; tries += 1) {
      const reply = await this.#askOnce(code, setting, payload);
      const { answer } = reply;
      if ("refused" in answer) throw new Problem("retry", `The server refused the frame: ${answer.refused}`);
      if (!("busy" in answer)) return reply;
      if (tries === MAX_RETRIES) throw new Problem("retry", "The server is busy. Try again in a moment.");
      await new Promise((resolve) => setTimeout(resolve, answer.retryMs));
    }
  }

  async #askOnce(code, setting, payload) {
    this.#opened ??= this.#open();
    const socket = await this.#opened;
    const sequence = this.#next;
    this.#next = (this.#next + 1) % SEQUENCES;
    const message = streamFrame(code, setting, sequence, payload);
    const started = performance.now();
    const answer = await new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => this.#end(socket, ["retry", `No answer came within ${ANSWER_S} s. Try again.`]),
        ANSWER_S * 1e3,
      );
      this.#waiting.set(sequence, { resolve, reject, timer });
      socket.send(message);
    });
    return { answer, roundTripMs: performance.now() - started, frameBytes: message.length };
  }

  #open() {
    const url = new URL("v1/stream", ROOT);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.search = `bundle=${this.#bundleId}`;
    const subprotocols = [SUBPROTOCOL, ...(this.#token ? [TOKEN_SUBPROTOCOL + base64url(this.#token)] : [])];
    const socket = new WebSocket(url, subprotocols);
    socket.binaryType = "arraybuffer";
    this.#current = socket;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => socket.close(), OPEN_S * 1e3);
      socket.onopen = () => {
        clearTimeout(timer);
        resolve(socket);
      };
      socket.onmessage = ({ data }) => this.#take(socket, data);
      socket.onclose = ({ code }) => {
        clearTimeout(timer);
        const problem = CLOSED[code] ?? GONE;
        reject(new Problem(...(code === 1006 && !this.#waiting.size ? UNREACHABLE : problem)));
        this.#end(socket, problem);
      };
    });
  }

  #take(socket, data) {
    try {
      const answer = parseAnswer(data);
      const waiting = this.#waiting.get(answer.sequence);
      if (!waiting) return; // one that nobody waits for any more
      this.#waiting.delete(answer.sequence);
      clearTimeout(waiting.timer);
      waiting.resolve(answer);
    } catch (error) {
      this.#end(socket, ["retry", `${error.message} Try again.`]);
    }
  }

  /** Whoever waits hears why; the next frame opens another connection. */
  #end(socket, problem) {
    if (socket !== this.#current) return;
    this.#current = this.#opened = null;
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new Problem(...problem));
    }
    this.#waiting.clear();
    if (socket.readyState < WebSocket.CLOSING) socket.close();
  }

  /** The connection, if there is one. Whoever waits hears that it is gone. */
  close() {
    if (this.#current) this.#end(this.#current, GONE);
  }
}

const UNREACHABLE = [
  "retry",
  "The server can't be reached. The photo is still here: try again when the server is back.",
];

function base64url(text) {
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
