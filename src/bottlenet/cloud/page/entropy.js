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
    this.layout = layoutOf(tables);
  }

  /**
   * (C * H * W) symbols from 7 to 249 -> payload, whose first n bytes are a payload too. With `budget` these alone,
   * which takes less time than all.
   */
  encode(symbols, budget = Infinity) {
    const values = valuesOf(symbols);
    const coder = new RangeEncoder();
    const walk = new Walk(this.tables, this.layout);
    for (let number = 0; number < this.tables.passes.length && !coder.certain(budget); number += 1) {
      walk.pass(number, coder, values);
    }
    return coder.shortest().subarray(0, budget);
  }

  /** Payload, whole or cut -> symbols: what is certain whatever was cut off. PayloadError: none of this codec. */
  decode(payload) {
    if (!payload.length) throw new PayloadError("payload of 0 bytes; the smallest has 1");
    const coder = new RangeDecoder(payload);
    const walk = new Walk(this.tables, this.layout);
    for (let number = 0; number < this.tables.passes.length; number += 1) {
      if (!walk.pass(number, coder, null)) break;
    }
    return walk.symbols();
  }
}

/** What both sides know so far, channel by channel in lanes that are padded by one position on each side. */
class Walk {
  constructor(tables, layout) {
    const { channels, height, width } = tables;
    Object.assign(this, { tables, channels, height, width }, layout);
    this.magnitudes = new Int16Array(channels * this.lane); // in units of the channel's last step
    this.signs = new Int8Array(channels * this.lane);
    this.planes = new Uint8Array(channels);
    this.before = new Int16Array(this.lane);
    this.wanted = new Int16Array(height * width); // the encoder's values, in units of the pass's step
    this.energy = new Uint16Array(height * width); // channels that are not 0
  }

  /**
   * Takes one channel a plane further: `values`, all of the latent's, go to `coder`, or where they are null, its trits
   * come from there. Whether there were any more. PayloadError: a reserved flag.
   */
  pass(number, coder, values) {
    const { tables, magnitudes, before } = this;
    const [channel, plane] = tables.passes[number];
    const start = channel * this.lane;
    const cut = 2 * number * (1 + tables.rows);
    let live = values !== null && this.#want(channel, STEPS[plane], values) ? 1 : 0;
    if (values) coder.encode(tables.cuts, cut, live);
    else live = coder.decode(tables.cuts, cut);
    if (live < 0) return false;
    if (live === RESERVED) throw new PayloadError(`payload: a reserved flag in pass ${number}`);
    this.planes[channel] += 1;
    for (let place = 0; place < this.lane; place += 1) {
      before[place] = magnitudes[start + place];
      magnitudes[start + place] *= 3;
    }
    return !live || (this.#half(0, start, cut, coder, !values) && this.#half(1, start, cut, coder, !values));
  }

  /** Rounds a channel's values to a step. Whether any isn't what is known already. */
  #want(channel, step, values) {
    const { wanted, places, magnitudes } = this;
    let live = false;
    for (let at = 0; at < wanted.length; at += 1) {
      wanted[at] = Math.floor((values[channel * wanted.length + at] + (step >> 1)) / step); // odd steps: no tie
      live ||= Math.abs(wanted[at]) !== 3 * magnitudes[channel * this.lane + places[at]];
    }
    return live;
  }

  /** Half the positions of a pass. Whether the trits of all were there. */
  #half(odd, start, cut, coder, received) {
    const { tables, magnitudes, signs, before, places, energy, stateBins, energyBins, wanted, energies } = this;
    const activityBins = this.activityBins[odd];
    const firstRow = this.firstRows[odd];
    const stateRows = this.stateRows[odd];
    for (const at of this.halves[odd]) {
      const place = places[at];
      const activity = odd ? this.#beside(start + place) : this.#around(place);
      const was = before[place];
      const row = firstRow + stateBins[was] * stateRows + activityBins[activity] * energies + energyBins[energy[at]];
      const known = magnitudes[start + place];
      let outcome;
      if (received) {
        outcome = coder.decode(tables.cuts, cut + 2 * row);
        if (outcome < 0) return false;
      } else {
        // of what is known already, 2 is away from 0, and of what isn't, up
        outcome = 1 + (was === 0 ? wanted[at] : Math.abs(wanted[at]) - known);
        coder.encode(tables.cuts, cut + 2 * row, outcome);
      }
      if (was !== 0) {
        magnitudes[start + place] = known + outcome - 1;
      } else if (outcome !== 1) {
        magnitudes[start + place] = 1;
        signs[start + place] = outcome - 1;
        energy[at] += 1;
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

/** Where positions are, and which row of the tables a context leads to. */
function layoutOf({ channels, height, width, bins }) {
  const row = width + 2;
  const [states, evens, odds, energies] = bins.map((thresholds) => thresholds.length + 1);
  return {
    row,
    lane: (height + 2) * row,
    halves: [0, 1].map((odd) => chessboard(height, width, odd)),
    places: Int32Array.from({ length: height * width }, (_, at) => {
      return (Math.floor(at / width) + 1) * row + (at % width) + 1; // in a lane
    }),
    stateBins: binned(bins[0], MAX_VALUE + 1),
    energyBins: binned(bins[3], channels + 1),
    activityBins: [binned(bins[1], 8 * MAX_VALUE + 1), binned(bins[2], 4 * MAX_VALUE + 1)],
    firstRows: [1, 1 + states * evens * energies], // behind the flag's
    stateRows: [evens * energies, odds * energies],
    energies,
  };
}

/** The positions with y + x even, or odd, in reading order. */
function chessboard(height, width, odd) {
  const all = Array.from({ length: height * width }, (_, at) => at);
  return Int32Array.from(all.filter((at) => (Math.floor(at / width) + (at % width)) % 2 === odd));
}

/** For every value below `count`, how many thresholds it reaches. */
function binned(thresholds, count) {
  return Uint8Array.from({ length: count }, (_, value) => thresholds.filter((one) => value >= one).length);
}

/** Symbols -> values. Error: one outside 7..249, which no head of such a bundle gives. */
function valuesOf(symbols) {
  const values = new Int16Array(symbols.length);
  for (let at = 0; at < symbols.length; at += 1) {
    values[at] = symbols[at] - ZERO;
    if (Math.abs(values[at]) > MAX_VALUE) throw new Error(`symbol ${symbols[at]}; the codec takes 7 to 249`);
  }
  return values;
}
