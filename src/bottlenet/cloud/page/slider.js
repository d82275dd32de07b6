// The budget's slider. It is logarithmic, as a few bytes matter where there are few; and of what it is moved to while a
// payload is on its way, only the last counts.

import { byId, count } from "./dom.js";

const STEPS = 400;
const SMALLEST = 16;

export class BudgetSlider {
  #input = byId("budget");
  #low = SMALLEST;
  #high = SMALLEST;
  #wanted = null;
  #busy = false;
  #send;

  /** `send(budget)` gives a promise, and takes care of what goes wrong. */
  constructor(send) {
    this.#send = send;
    this.#input.max = STEPS;
    this.#input.addEventListener("input", () => {
      const share = this.#input.value / STEPS;
      this.move(Math.round(this.#low * (this.#high / this.#low) ** share));
    });
  }

  /** From the smallest payload to the largest of this photo, at `budget` now. */
  range([smallest, largest], budget) {
    this.#low = Math.min(Math.max(smallest, SMALLEST), largest);
    this.#high = largest;
    this.#input.disabled = this.#low === this.#high;
    this.set(budget);
  }

  /** Shows another budget. */
  set(budget) {
    const within = Math.min(Math.max(budget, this.#low), this.#high);
    const share = this.#low < this.#high ? Math.log(within / this.#low) / Math.log(this.#high / this.#low) : 1;
    this.#input.value = Math.round(STEPS * share);
    this.#tell(within);
  }

  /** Sends another budget, soon. */
  async move(budget) {
    this.#tell(budget);
    this.#wanted = budget;
    if (this.#busy) return;
    this.#busy = true;
    while (this.#wanted !== null) {
      const next = this.#wanted;
      this.#wanted = null;
      await this.#send(next);
    }
    this.#busy = false;
  }

  #tell(budget) {
    byId("budget-bytes").textContent = `${count(budget)} bytes`;
    this.#input.setAttribute("aria-valuetext", `${count(budget)} bytes`);
  }
}
