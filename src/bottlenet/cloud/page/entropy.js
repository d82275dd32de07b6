// The codec `entropy` of wire/entropy.py: symbols <-> a payload that may be cut after any byte. See docs/wire.md.
//
//     symbols --Walk--> decisions --RangeEncoder--> payload --cut, RangeDecoder, Walk--> symbols, coarser
//
// A symbol stands for symbol - 128, five balanced trits. A pass sends one trit of every position of one channel.
// Encoder and decoder walk through the passes alike; they differ in who knows the next outcome.

import { PayloadError, RangeDecoder, RangeEncoder } from "./rangecoder.js";
import { STEPS } from "./tables.js";

const ZERO = 128;
const MAX_VALUE = 121;
const RESERVED = 2; // the outcome of a flag that no encoder sends

export class Entropy {
  /** For the latents of `tables`, see parseTables. Error: `latent`, [C, H, W], is another. */
  constructor(tables, latent) {
    const shape = [tables.channels, tables.height, tables.width];
    if (String(shape) !== String(latent))
      throw new Error(`the tables are for symbols of ${shape}, the latent is ${latent}`);
    this.tables = tables;
  }

  /**
   * (C * H * W) symbols from 7 to 249 -> payload, whose first n bytes are a payload too. With `budget` these alone,
   * which takes less time than all.
   */
  encode(symbols, budget = Infinity) {
    const { tables } = this;
    const coder = new RangeEncoder();
    const walk = new Walk(tables);
    const area = tables.height * tables.width;
    const known = new Int32Array(area); // signed, in units of the finer step
    for (const [number, [channel, plane]] of tables.passes.entries()) {
      const step = STEPS[plane];
      let live = false;
      for (let at = 0; at < area; at += 1) {
        const value = clip(symbols[channel * area + at]);
        known[at] = rounded(value, step);
        live ||= plane === 0 ? known[at] !== 0 : known[at] !== 3 * rounded(value, 3 * step);
      }
      const send = (row, outcome) => {
        const cut = 2 * (number * (1 + tables.rows) + row);
        const left = outcome === 0 ? 0 : tables.cuts[cut + outcome - 1];
        coder.encode(left, outcome === 2 ? 2 ** 24 : tables.cuts[cut + outcome]);
      };
      send(0, live ? 1 : 0);
      walk.pass(channel, live, (row, at, before) => {
        const trit = Math.abs(known[at]) - 3 * before; // of what is known already, 1 is away from 0 ...
        const outcome = 1 + (before === 0 ? known[at] : trit); // ... and of what isn't, up
        send(row, outcome);
        return outcome;
      });
      if (coder.certain(budget)) break;
    }
    return coder.shortest().subarray(0, budget);
  }

  /** Payload, whole or cut -> symbols: what is certain whatever was cut off. PayloadError: none of this codec. */
  decode(payload) {
    const { tables } = this;
    if (!payload.length) throw new PayloadError("payload of 0 bytes; the smallest has 1");
    const coder = new RangeDecoder(payload);
    const walk = new Walk(tables);
    for (const [number, [channel]] of tables.passes.entries()) {
      const receive = (row) => {
        const cut = 2 * (number * (1 + tables.rows) + row);
        return coder.decode(tables.cuts[cut], tables.cuts[cut + 1]);
      };
      const flag = receive(0);
      if (flag === RESERVED) throw new PayloadError(`payload: a reserved flag in pass ${number}`);
      if (flag < 0 || !walk.pass(channel, flag === 1, receive)) break;
    }
    return walk.symbols();
  }
}

/** What both sides know so far, channel by channel in lanes that are padded by one position on each side. */
class Walk {
  constructor({ channels, height, width, bins }) {
    Object.assign(this, { channels, height, width });
    this.row = width + 2;
    this.lane = (height + 2) * this.row;
    this.magnitudes = new Int16Array(channels * this.lane); // in units of the channel's last step
    this.signs = new Int8Array(channels * this.lane);
    this.planes = new Uint8Array(channels);
    this.before = new Int16Array(this.lane);
    this.energy = new Uint16Array(height * width); // channels that are not 0
    this.halves = [0, 1].map((odd) => chessboard(height, width, odd));
    this.places = Int32Array.from({ length: height * width }, (_, at) => {
      return (Math.floor(at / width) + 1) * this.row + (at % width) + 1; // in a lane
    });
    const [states, evens, odds, energies] = bins.map((thresholds) => thresholds.length + 1);
    this.stateBins = binned(bins[0], MAX_VALUE + 1);
    this.energyBins = binned(bins[3], channels + 1);
    this.activityBins = [binned(bins[1], 8 * MAX_VALUE + 1), binned(bins[2], 4 * MAX_VALUE + 1)];
    this.firstRows = [1, 1 + states * evens * energies]; // behind the flag's
    this.stateRows = [evens * energies, odds * energies];
    this.energies = energies;
  }

  /**
   * Takes one channel a plane further, by trits that are all 0 or, if `live`, by `code(row, at, before)`, which gives
   * the outcome 0, 1 or 2 of the position `at`, or -1 where there is no more. Whether there was.
   */
  pass(channel, live, code) {
    const { magnitudes, signs, before, places, energy, energies } = this;
    const start = channel * this.lane;
    this.planes[channel] += 1;
    for (let place = 0; place < this.lane; place += 1) {
      before[place] = magnitudes[start + place];
      magnitudes[start + place] *= 3;
    }
    if (!live) return true;
    for (const odd of [0, 1]) {
      for (const at of this.halves[odd]) {
        const place = places[at];
        const activity = odd ? this.#beside(start + place) : this.#around(place);
        const was = before[place];
        const number =
          this.firstRows[odd] +
          this.stateBins[was] * this.stateRows[odd] +
          this.activityBins[odd][activity] * energies +
          this.energyBins[energy[at]];
        const outcome = code(number, at, was);
        if (outcome < 0) return false;
        const moved = magnitudes[start + place] + outcome - 1;
        magnitudes[start + place] = Math.abs(moved);
        if (was === 0 && outcome !== 1) {
          signs[start + place] = outcome - 1;
          energy[at] += 1;
        }
      }
    }
    return true;
  }

  /** Sum over the 8 neighbours, before this pass. */
  #around(place) {
    const { before, row } = this;
    const sides = before[place - row] + before[place + row] + before[place - 1] + before[place + 1];
    const above = before[place - row - 1] + before[place - row + 1];
    return sides + above + before[place + row - 1] + before[place + row + 1];
  }

  /** Sum over the 4 that share a side, of which this pass has been. */
  #beside(place) {
    const { magnitudes, row } = this;
    return magnitudes[place - row] + magnitudes[place + row] + magnitudes[place - 1] + magnitudes[place + 1];
  }

  /** (C * H * W) uint8. */
  symbols() {
    const area = this.height * this.width;
    const symbols = new Uint8Array(this.channels * area);
    for (let channel = 0; channel < this.channels; channel += 1) {
      const step = STEPS[this.planes[channel] - 1] ?? 0;
      for (let at = 0; at < area; at += 1) {
        const place = channel * this.lane + this.places[at];
        symbols[channel * area + at] = ZERO + this.signs[place] * this.magnitudes[place] * step;
      }
    }
    return symbols;
  }
}

/** The positions with y + x even, or odd, in reading order. */
function chessboard(height, width, odd) {
  const all = Array.from({ length: height * width }, (_, at) => at);
  return all.filter((at) => (Math.floor(at / width) + (at % width)) % 2 === odd);
}

/** For every value below `count`, how many thresholds it reaches. */
function binned(thresholds, count) {
  return Uint8Array.from({ length: count }, (_, value) => thresholds.filter((one) => value >= one).length);
}

/** Symbol -> value. Error: outside 7..249, which no head of such a bundle gives. */
function clip(symbol) {
  const value = symbol - ZERO;
  if (value < -MAX_VALUE || value > MAX_VALUE) throw new Error(`symbol ${symbol}; the codec takes 7 to 249`);
  return value;
}

/** The value in units of `step`. Steps are odd, so there is no tie. */
function rounded(value, step) {
  return Math.floor((value + (step >> 1)) / step);
}
