// The codec `jpeg` of wire/pictures.py: a grey picture -> the entropy-coded scan of its baseline JPEG file.
//
//     picture --forward DCT--> coefficients --quantise--> integers --Huffman--> scan
//
// The bytes are those of libjpeg-turbo as the Python side uses it. The browser's own encoder may do otherwise, and most
// of its file would be header. Sources: ITU-T T.81; libjpeg-turbo, jcdctmgr.c (division), jcparam.c (the tables).

import { SCALES, accurate, fast } from "./dct.js";

// T.81, table K.1: steps for luminance at quality 50, row by row.
const STEPS = [
  [16, 11, 10, 16, 24, 40, 51, 61],
  [12, 12, 14, 19, 26, 58, 60, 55],
  [14, 13, 16, 24, 40, 57, 69, 56],
  [14, 17, 22, 29, 51, 87, 80, 62],
  [18, 22, 37, 56, 68, 109, 103, 77],
  [24, 35, 55, 64, 81, 104, 113, 92],
  [49, 64, 78, 87, 103, 121, 120, 101],
  [72, 92, 95, 98, 112, 100, 103, 99],
].flat();
const ACCURATE_FROM = 96; // the quality from which libjpeg-turbo takes the slower DCT
const ZIGZAG = zigzag();
const DC_COUNTS = "00010501010101010100000000000000"; // table K.3: how many codes of 1, 2, ... bits
const DC_VALUES = "000102030405060708090a0b";
const AC_COUNTS = "0002010303020403050504040000017d"; // table K.5
const AC_VALUES =
  "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435" +
  "363738393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798" +
  "999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4" +
  "f5f6f7f8f9fa";
const DC_CODES = huffman(DC_COUNTS, DC_VALUES);
const AC_CODES = huffman(AC_COUNTS, AC_VALUES);

/** Picture {rows, cols} of grey bytes at a quality, 1 to 100 -> the scan. */
export function encodeScan(picture, { rows, cols }, quality) {
  const steps = scaledSteps(quality);
  const isFast = quality < ACCURATE_FROM;
  const transform = isFast ? fast : accurate;
  const divide = steps.map((step, at) => reciprocal(isFast ? scaledUp(step, at) : 8 * step));
  const bits = new BitWriter();
  const block = new Int32Array(64);
  let last = 0;
  for (let top = 0; top < rows; top += 8) {
    for (let left = 0; left < cols; left += 8) {
      for (let at = 0; at < 64; at += 1) {
        const y = Math.min(top + (at >> 3), rows - 1); // the edge repeats
        const x = Math.min(left + (at & 7), cols - 1);
        block[at] = picture[y * cols + x] - 128;
      }
      transform(block);
      for (let at = 0; at < 64; at += 1) block[at] = divide[at](block[at]);
      last = writeBlock(bits, block, last);
    }
  }
  return bits.flush();
}

/** What stands before the scan in the file: docs/wire.md lists it. */
export function scanHeader({ rows, cols }, quality) {
  const steps = scaledSteps(quality);
  const two = (value) => [value >> 8, value & 255];
  return Uint8Array.from([
    ...hex("ffd8ffe000104a46494600010100000100010000ffdb004300"),
    ...ZIGZAG.map((at) => steps[at]),
    ...hex("ffc0000b08"),
    ...two(rows),
    ...two(cols),
    ...hex(
      "01011100ffc4001f00" + DC_COUNTS + DC_VALUES + "ffc400b510" + AC_COUNTS + AC_VALUES + "ffda0008010100003f00",
    ),
  ]);
}

function scaledSteps(quality) {
  const scale = quality < 50 ? Math.floor(5000 / quality) : 200 - 2 * quality;
  return STEPS.map((step) => Math.min(255, Math.max(1, Math.floor((step * scale + 50) / 100))));
}

/** What the fast DCT's coefficients are divided by. */
function scaledUp(step, at) {
  const scale = Math.round(SCALES[at >> 3] * SCALES[at & 7] * 2 ** 14);
  return (step * scale + 2 ** 10) >> 11;
}

/** Value -> value / divisor, as libjpeg-turbo rounds it: by multiplying with an inverse of 16 bits and more. */
function reciprocal(divisor) {
  const shift = 16 + bitLength(divisor) - 1;
  let inverse = Math.floor(2 ** shift / divisor);
  let correction = divisor >> 1;
  let down = shift;
  const rest = 2 ** shift % divisor;
  if (rest === 0) {
    inverse = Math.floor(inverse / 2);
    down -= 1;
  } else if (rest <= divisor >> 1) correction += 1;
  else inverse += 1;
  return (value) => {
    const quotient = Math.floor(((Math.abs(value) + correction) * inverse) / 2 ** down);
    return value < 0 ? -quotient : quotient;
  };
}

/** One block; `last` is the DC value before. Gives this one's. */
function writeBlock(bits, block, last) {
  writeValue(bits, DC_CODES, 0, block[0] - last);
  let zeros = 0;
  for (let place = 1; place < 64; place += 1) {
    const value = block[ZIGZAG[place]];
    if (value === 0) {
      zeros += 1;
      continue;
    }
    for (; zeros > 15; zeros -= 16) bits.write(...AC_CODES[0xf0]);
    writeValue(bits, AC_CODES, zeros, value);
    zeros = 0;
  }
  if (zeros) bits.write(...AC_CODES[0]);
  return block[0];
}

/** Run and size as a code, then the value's bits; those of a negative one are one less. */
function writeValue(bits, codes, run, value) {
  const size = bitLength(Math.abs(value));
  bits.write(...codes[(run << 4) | size]);
  if (size) bits.write(value < 0 ? value + 2 ** size - 1 : value, size);
}

class BitWriter {
  #bytes = [];
  #held = 0;
  #count = 0;

  write(code, length) {
    for (let bit = length - 1; bit >= 0; bit -= 1) {
      this.#held = (this.#held << 1) | ((code >> bit) & 1);
      this.#count += 1;
      if (this.#count === 8) this.#push();
    }
  }

  #push() {
    this.#bytes.push(this.#held);
    if (this.#held === 255) this.#bytes.push(0); // else it would look like a marker
    this.#held = 0;
    this.#count = 0;
  }

  /** The last byte is filled up with ones. */
  flush() {
    if (this.#count) this.write(127, 8 - this.#count);
    return Uint8Array.from(this.#bytes);
  }
}

/** Value -> [code, bits], from how many codes have each length (T.81, annex C). */
function huffman(counts, values) {
  const codes = [];
  const list = hex(values);
  let code = 0;
  let place = 0;
  hex(counts).forEach((count, index) => {
    for (let one = 0; one < count; one += 1) {
      codes[list[place]] = [code, index + 1];
      code += 1;
      place += 1;
    }
    code *= 2;
  });
  return codes;
}

/** Place in the file -> place in the block, row by row. */
function zigzag() {
  const all = Array.from({ length: 64 }, (_, at) => at);
  const diagonal = (at) => (at >> 3) + (at & 7);
  const along = (at) => (diagonal(at) % 2 ? at >> 3 : at & 7);
  return all.sort((a, b) => diagonal(a) - diagonal(b) || along(a) - along(b));
}

function bitLength(value) {
  return 32 - Math.clz32(value);
}

function hex(text) {
  return text.match(/../g).map((byte) => parseInt(byte, 16));
}
