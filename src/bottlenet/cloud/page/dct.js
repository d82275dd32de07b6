// The two integer DCTs of libjpeg-turbo that Python's encoder uses, of 8x8 in place: rows, then columns. Both give
// 8 times the coefficients; the fast one also SCALES[u] * SCALES[v] times too much, which the quantiser takes out.
// Sources: jfdctfst.c (Arai, Agui and Nakajima), jfdctint.c (Loeffler, Ligtenberg and Moschytz).

export const SCALES = [1.0, 1.387039845, 1.306562965, 1.175875602, 1.0, 0.785694958, 0.5411961, 0.275899379];

export function fast(block) {
  for (let row = 0; row < 64; row += 8) fastEight(block, row, 1);
  for (let col = 0; col < 8; col += 1) fastEight(block, col, 8);
}

export function accurate(block) {
  // Rows keep 2 bits more, which columns take away.
  for (let row = 0; row < 64; row += 8) accurateEight(block, row, 1, 11, (value) => value * 4);
  for (let col = 0; col < 8; col += 1) accurateEight(block, col, 8, 15, (value) => (value + 2) >> 2);
}

/** Sums and differences of the values that stand opposite, and of the sums again. */
function butterfly(d, at, by) {
  const sums = [0, 1, 2, 3].map((k) => d[at + k * by] + d[at + (7 - k) * by]);
  const differences = [0, 1, 2, 3].map((k) => d[at + k * by] - d[at + (7 - k) * by]);
  const [s0, s1, s2, s3] = sums;
  return [[s0 + s3, s1 + s2, s1 - s2, s0 - s3], differences];
}

function fastEight(d, at, by) {
  const [[e0, e1, e2, e3], [d0, d1, d2, d3]] = butterfly(d, at, by);
  const turned = ((e2 + e3) * 181) >> 8;
  d[at] = e0 + e1;
  d[at + 4 * by] = e0 - e1;
  d[at + 2 * by] = e3 + turned;
  d[at + 6 * by] = e3 - turned;
  const [o0, o1, o2] = [d3 + d2, d2 + d1, d1 + d0];
  const both = ((o0 - o2) * 98) >> 8;
  const low = ((o0 * 139) >> 8) + both;
  const high = ((o2 * 334) >> 8) + both;
  const middle = (o1 * 181) >> 8;
  d[at + 5 * by] = d0 - middle + low;
  d[at + 3 * by] = d0 - middle - low;
  d[at + by] = d0 + middle + high;
  d[at + 7 * by] = d0 + middle - high;
}

function accurateEight(d, at, by, bits, scale) {
  const down = (value) => (value + (1 << (bits - 1))) >> bits;
  const [[e0, e1, e2, e3], [d0, d1, d2, d3]] = butterfly(d, at, by);
  d[at] = scale(e0 + e1);
  d[at + 4 * by] = scale(e0 - e1);
  const turned = (e2 + e3) * 4433;
  d[at + 2 * by] = down(turned + e3 * 6270);
  d[at + 6 * by] = down(turned - e2 * 15137);
  const all = (d0 + d1 + d2 + d3) * 9633;
  const outer = (d3 + d0) * -7373;
  const inner = (d2 + d1) * -20995;
  const odd = (d3 + d1) * -16069 + all;
  const even = (d2 + d0) * -3196 + all;
  d[at + 7 * by] = down(d3 * 2446 + outer + odd);
  d[at + 5 * by] = down(d2 * 16819 + inner + even);
  d[at + 3 * by] = down(d1 * 25172 + inner + odd);
  d[at + by] = down(d0 * 12299 + outer + even);
}
