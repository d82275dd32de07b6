// tables.bin of a bundle -> what the codec `entropy` looks up. docs/wire.md lays the file out.

export const STEPS = [81, 27, 9, 3, 1]; // of plane 0, 1, ...
const MAGIC = 0x424e5442; // "BNTB"
const VERSION = 1;
const HEADER_BYTES = 17;
const FLAG_RESERVED = 2 ** 24 - 1; // where the outcome begins that no encoder sends
const UNITS = 2 ** 8; // of 2^-24, in one of a frequency's 2^-16

/**
 * ArrayBuffer -> {channels, height, width, passes, bins, rows, cuts}.
 *
 * `passes` lists [channel, plane]. `bins` has the thresholds of state, even, odd and energy. A pass has `rows` rows
 * of trits behind its flag's; `cuts` holds two numbers for each of these 1 + rows: outcome 0 lies in 0..first, 1 in
 * first..second, 2 in second..2^24. Error: not such a file, or another length.
 */
export function parseTables(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < HEADER_BYTES || view.getUint32(0) !== MAGIC || view.getUint8(4) !== VERSION) {
    throw new Error(`tables of ${view.byteLength} bytes are none that this page reads`);
  }
  const [channels, height, width, count] = [5, 7, 9, 11].map((at) => view.getUint16(at));
  let at = HEADER_BYTES;
  const next16 = () => view.getUint16((at += 2) - 2);
  const thresholds = [13, 14, 15, 16].map((place) => view.getUint8(place));
  const told = thresholds.reduce((sum, one) => sum + one, 0);
  const [states, evens, odds, energies] = thresholds.map((one) => one + 1);
  const rows = states * (evens + odds) * energies;
  if (view.byteLength !== HEADER_BYTES + 2 * told + count * (3 + 4 + 6 * rows)) {
    throw new Error(`tables have ${view.byteLength} bytes, but their header says otherwise`);
  }
  const bins = thresholds.map((many) => Array.from({ length: many }, next16));
  const passes = Array.from({ length: count }, () => [next16(), view.getUint8((at += 1) - 1)]);
  const cuts = new Int32Array(2 * count * (1 + rows));
  for (let pass = 0; pass < count; pass += 1) {
    cuts[2 * pass * (1 + rows)] = UNITS * next16();
    cuts[2 * pass * (1 + rows) + 1] = FLAG_RESERVED;
    at += 2; // the other frequency, which adds up
  }
  for (let pass = 0; pass < count; pass += 1) {
    for (let row = pass * (1 + rows) + 1; row < (pass + 1) * (1 + rows); row += 1) {
      const first = next16();
      cuts[2 * row] = UNITS * first;
      cuts[2 * row + 1] = UNITS * (first + next16());
      at += 2;
    }
  }
  return { channels, height, width, passes, bins, rows, cuts };
}
