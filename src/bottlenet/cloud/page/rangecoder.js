// The range coder of wire/range_coder.py: decisions with three outcomes <-> bytes, the same on every machine.
//
//     cuts, outcomes --RangeEncoder--> payload --RangeDecoder--> outcomes, as far as they are certain
//
// Two cuts a, b say where the outcomes of a decision lie: 0 in 0..a, 1 in a..b, 2 in b..2^24. They stand side by side
// in an array, from `at` on.
//
// The window has 64 bits, which no JavaScript number holds. It is kept as two halves of 32 bits, each a double, in
// which all that happens here is exact: units have at most 40 bits and intervals 24.

const PRECISION_BITS = 24;
const WHOLE = 2 ** PRECISION_BITS;
const WORD = 2 ** 32;
const TOP = WORD - 1;

export class PayloadError extends Error {}

// The product of the last `multiply`: a function that gives two numbers would allocate, thousands of times a photo.
let productHigh = 0;
let productLow = 0;

/** unit (below 2^40) * part (at most 2^24), below 2^64, into productHigh and productLow. The operator % takes long. */
function multiply(unit, part) {
  const unitHigh = Math.floor(unit / 2 ** 20);
  const upper = unitHigh * part; // below 2^44, in units of 2^20
  const upperHigh = Math.floor(upper / 2 ** 12);
  const lower = (unit - unitHigh * 2 ** 20) * part + (upper - upperHigh * 2 ** 12) * 2 ** 20; // below 2^45
  const carry = Math.floor(lower / WORD);
  productLow = lower - carry * WORD;
  productHigh = upperHigh + carry;
}

/** Decisions -> the shortest payload that says them. */
export class RangeEncoder {
  #words = []; // that left the window; they may still take a carry
  #low = new Float64Array(2); // high and low half; the high half may have 33 bits
  #width = Float64Array.of(TOP, TOP);

  /** One decision. */
  encode(cuts, at, outcome) {
    const left = outcome === 0 ? 0 : cuts[at + outcome - 1];
    const right = outcome === 2 ? WHOLE : cuts[at + outcome];
    const low = this.#low;
    const width = this.#width;
    const unit = width[0] * 2 ** (32 - PRECISION_BITS) + Math.floor(width[1] / 2 ** PRECISION_BITS);
    multiply(unit, left);
    const sum = low[1] + productLow;
    const carry = sum > TOP ? 1 : 0;
    low[0] += productHigh + carry;
    low[1] = sum - carry * WORD;
    multiply(unit, right - left);
    width[0] = productHigh;
    width[1] = productLow;
    if (width[0] === 0) {
      this.#shiftOut(low[0]);
      low[0] = low[1];
      low[1] = 0;
      width[0] = width[1];
      width[1] = 0;
    }
  }

  #shiftOut(word) {
    let place = this.#words.length;
    this.#words.push(word % WORD);
    for (let rest = word; rest > TOP;) {
      place -= 1;
      rest = this.#words[place] + 1;
      this.#words[place] = rest % WORD;
    }
  }

  /** Whether nothing that follows can change the first `count` bytes: a word behind them takes any carry. */
  certain(count) {
    const words = this.#words;
    for (let place = Math.ceil(count / 4); place < words.length; place += 1) {
      if (words[place] < TOP) return true;
    }
    return false;
  }

  /** The fewest bytes that lie in the interval whatever follows them; the smallest such. */
  shortest() {
    const words = [...this.#words, 0, 0];
    const digits = words.map((word) => word.toString(16).padStart(8, "0")).join("");
    const low = BigInt("0x" + digits) + big(this.#low);
    const width = big(this.#width);
    const size = 4 * words.length;
    for (let count = size - Math.floor((width.toString(2).length - 1) / 8); ; count += 1) {
      const shift = BigInt(8 * (size - count));
      const value = -(-low >> shift); // rounded up
      if ((value + 1n) << shift <= low + width) return bytesOf(value, count);
    }
  }
}

/** Payload -> decisions. What is cut off may be anything, and an outcome counts if it holds for all of that. */
export class RangeDecoder {
  #payload;
  #next = 0;
  #width = Float64Array.of(TOP, TOP);
  #point; // the window's content, with 0 for what is missing, less the interval's low end
  #unknown; // by how much what is missing could raise it

  constructor(payload) {
    this.#payload = payload;
    const [high, highUnknown] = this.#take();
    const [low, lowUnknown] = this.#take();
    this.#point = Float64Array.of(high, low);
    this.#unknown = Float64Array.of(highUnknown, lowUnknown);
  }

  /** The next word, and what its missing bytes could add. */
  #take() {
    let word = 0;
    let missing = 0;
    for (let byte = 0; byte < 4; byte += 1) {
      const there = this.#next < this.#payload.length;
      word = word * 256 + (there ? this.#payload[this.#next] : 0);
      missing = missing * 256 + (there ? 0 : 255);
      this.#next += 1;
    }
    return [word, missing];
  }

  /** The outcome of a decision; -1 where it isn't certain. */
  decode(cuts, at) {
    const point = this.#point;
    const width = this.#width;
    const unknown = this.#unknown;
    const unit = width[0] * 2 ** (32 - PRECISION_BITS) + Math.floor(width[1] / 2 ** PRECISION_BITS);
    const [high, low] = point;
    if (reaches(high, low, unit, WHOLE)) throw new PayloadError("payload: it leads past the last row");
    const outcome = !reaches(high, low, unit, cuts[at]) ? 0 : !reaches(high, low, unit, cuts[at + 1]) ? 1 : 2;
    const left = outcome === 0 ? 0 : cuts[at + outcome - 1];
    const right = outcome === 2 ? WHOLE : cuts[at + outcome];
    const sum = low + unknown[1];
    const carry = sum > TOP ? 1 : 0;
    if (reaches(high + unknown[0] + carry, sum - carry * WORD, unit, right)) return -1;
    multiply(unit, left);
    const borrow = point[1] < productLow;
    point[0] -= productHigh + (borrow ? 1 : 0);
    point[1] += (borrow ? WORD : 0) - productLow;
    multiply(unit, right - left);
    width[0] = productHigh;
    width[1] = productLow;
    if (width[0] === 0) {
      const [word, missing] = this.#take();
      shiftIn(width, 0);
      shiftIn(point, word);
      shiftIn(unknown, missing);
    }
    return outcome;
  }
}

/** Whether a value, in two halves, is at least unit * part. */
function reaches(high, low, unit, part) {
  multiply(unit, part);
  return high > productHigh || (high === productHigh && low >= productLow);
}

/** Both halves move up by a word. The high half is 0, as the width is below 2^32 and both others are below it. */
function shiftIn(value, word) {
  value[0] = value[1];
  value[1] = word;
}

function big([high, low]) {
  return (BigInt(high) << 32n) + BigInt(low);
}

/** A number below 256^count as so many bytes, the highest first. */
function bytesOf(value, count) {
  const digits = value.toString(16).padStart(2 * count, "0");
  return Uint8Array.from({ length: count }, (_, byte) => parseInt(digits.slice(2 * byte, 2 * byte + 2), 16));
}
