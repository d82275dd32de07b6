// The page's end of device.js: a question, and a promise of its answer.

import { Problem, unpacked } from "./problems.js";

export class Device {
  #worker;
  #waiting = new Map(); // id -> {resolve, reject, told}
  #next = 0;

  constructor() {
    this.#worker = new Worker(new URL("device.js", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#take(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const reason = event.message ? ` (${event.message})` : "";
      this.#fail(
        new Problem("reload", `The part of the page that runs the network stopped${reason}. Load the page again.`),
      );
    };
  }

  /** `told` hears how many bytes were fetched. Problem: what the device says went wrong. */
  ask(what, given = {}, told = () => {}) {
    const id = (this.#next += 1);
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, told });
      this.#worker.postMessage({ id, ask: what, ...given });
    });
  }

  #take({ id, result, problem, progress }) {
    const waiting = this.#waiting.get(id);
    if (progress !== undefined) {
      waiting?.told(progress);
      return;
    }
    this.#waiting.delete(id);
    if (problem) waiting?.reject(unpacked(problem));
    else waiting?.resolve(result);
  }

  #fail(problem) {
    for (const { reject } of this.#waiting.values()) reject(problem);
    this.#waiting.clear();
  }
}
