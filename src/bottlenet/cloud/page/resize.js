// Centre crop and resize as photo.py does them, pixel by pixel: Pillow's resampling, in its fixed point.
//
//     RGBA photo, upright --columns--> narrow --rows--> pixels (size, size, 3)
//
// Source of the arithmetic: Pillow, src/libImaging/Resample.c, for 8 bits a channel.

const PRECISION_BITS = 32 - 8 - 2;
const REACH = 2; // how far the wider filter looks, in pixels of the result

const FILTERS = {
  bicubic: { support: 2, weight: bicubic },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
};

/**
 * The rectangle of a photo that its pixels depend on, so that no more of it need be copied out of a canvas.
 *
 * Gives {left, top, side} of the crop and {x, y, width, height} of what the filter sees.
 */
export function cropOf(width, height, { size, crop_fraction: fraction }) {
  const side = Math.max(1, roundHalfEven(Math.min(width, height) * fraction));
  const left = Math.floor((width - side) / 2);
  const top = Math.floor((height - side) / 2);
  const reach = REACH * Math.max(1, side / size) + 1;
  const [x, y] = [left, top].map((start) => Math.max(0, Math.floor(start - reach)));
  const right = Math.min(width, Math.ceil(left + side + reach));
  const bottom = Math.min(height, Math.ceil(top + side + reach));
  return { left, top, side, x, y, width: right - x, height: bottom - y };
}

/**
 * RGBA of the rectangle {x, y, width, height} of a photo -> (size, size, 3) uint8. `photoWidth` is the whole photo's,
 * as Pillow rounds by where a pixel stands in it.
 */
export function resizeCentre(rgba, crop, photoWidth, { size, interpolation }) {
  const filter = FILTERS[interpolation];
  const columns = weights(photoWidth, crop.left, crop.side, size, filter);
  const rows = weights(crop.height, crop.top - crop.y, crop.side, size, filter);
  const narrow = new Uint8Array(crop.height * size * 3);
  for (let y = 0; y < crop.height; y += 1) {
    for (let out = 0; out < size; out += 1) {
      const { first, kernel } = columns[out];
      const start = 4 * (y * crop.width + first - crop.x);
      sum(rgba, start, 4, kernel, narrow, 3 * (y * size + out));
    }
  }
  const pixels = new Uint8Array(size * size * 3);
  for (let out = 0; out < size; out += 1) {
    const { first, kernel } = rows[out];
    for (let x = 0; x < size; x += 1) {
      sum(narrow, 3 * (first * size + x), 3 * size, kernel, pixels, 3 * (out * size + x));
    }
  }
  return pixels;
}

/** Three channels of one pixel of the result. */
function sum(source, start, step, kernel, target, at) {
  let [red, green, blue] = [0, 0, 0];
  for (let tap = 0, from = start; tap < kernel.length; tap += 1, from += step) {
    const weight = kernel[tap];
    red += source[from] * weight;
    green += source[from + 1] * weight;
    blue += source[from + 2] * weight;
  }
  target[at] = clip8(red);
  target[at + 1] = clip8(green);
  target[at + 2] = clip8(blue);
}

function clip8(value) {
  const rounded = (value + 2 ** (PRECISION_BITS - 1)) >> PRECISION_BITS;
  return rounded < 0 ? 0 : rounded > 255 ? 255 : rounded;
}

/** For each pixel of the result: the first pixel that it looks at, and the integer weight of that one and the next. */
function weights(length, start, side, size, { support, weight }) {
  const scale = side / size;
  const filterScale = Math.max(1, scale);
  const reach = support * filterScale;
  return Array.from({ length: size }, (_, out) => {
    const centre = start + (out + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(length, Math.trunc(centre + reach + 0.5));
    const exact = Array.from({ length: last - first }, (__, x) =>
      weight((x + first - centre + 0.5) * (1 / filterScale)),
    );
    const total = exact.reduce((all, one) => all + one, 0);
    const kernel = Int32Array.from(exact, (one) => {
      const share = total === 0 ? one : one / total;
      return Math.trunc((share < 0 ? -0.5 : 0.5) + share * 2 ** PRECISION_BITS);
    });
    return { first, kernel };
  });
}

function bicubic(x) {
  const a = -0.5;
  const far = Math.abs(x);
  if (far < 1) return ((a + 2) * far - (a + 3)) * far * far + 1;
  return far < 2 ? (((far - 5) * far + 8) * far - 4) * a : 0;
}

/** As Python rounds. */
function roundHalfEven(value) {
  const down = Math.floor(value);
  if (value - down !== 0.5) return Math.round(value);
  return down % 2 === 0 ? down : down + 1;
}
