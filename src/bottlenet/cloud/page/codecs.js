// Symbols -> payload, as the bundle's manifest names it: wire/codecs.py and wire/codecs.py.
//
// A codec has `code` and `mosaic`. `within(symbols, budget)` gives the best {payload, setting} of at most `budget`
// bytes, or null where nothing fits; `sizes(symbols)` the bytes of the smallest and the largest payload;
// `shown(payload, setting)` the picture that the receiver gets, or a promise of it.

import { Entropy } from "./entropy.js";
import { encodeScan, scanHeader } from "./jpeg.js";
import { makeMosaic, tile } from "./mosaic.js";
import { parseTables } from "./tables.js";

class EntropyCodec {
  code = 4;
  #codec;

  constructor(manifest, mosaic, tables) {
    this.#codec = new Entropy(parseTables(tables), manifest.latent);
    this.mosaic = mosaic;
  }

  within(symbols, budget) {
    return budget < 1 ? null : { payload: this.#codec.encode(symbols, budget), setting: 0 };
  }

  sizes(symbols) {
    return [1, this.#codec.encode(symbols).length];
  }

  shown(payload) {
    return tile(this.#codec.decode(payload), this.mosaic);
  }
}

class JpegCodec {
  code = 2;
  #quality;
  #known = new WeakMap(); // symbols -> quality -> payload

  constructor(manifest, mosaic) {
    this.#quality = manifest.setting;
    this.mosaic = mosaic;
  }

  within(symbols, budget) {
    for (let setting = this.#quality; setting >= 1; setting -= 1) {
      const payload = this.#at(symbols, setting);
      if (payload.length <= budget) return { payload, setting };
    }
    return null;
  }

  sizes(symbols) {
    return [1, this.#quality].map((setting) => this.#at(symbols, setting).length);
  }

  async shown(payload, setting) {
    const file = new Blob([scanHeader(this.mosaic, setting), payload, Uint8Array.of(0xff, 0xd9)], {
      type: "image/jpeg",
    });
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const { data } = context.getImageData(0, 0, this.mosaic.cols, this.mosaic.rows);
    return Uint8Array.from({ length: data.length / 4 }, (_, pixel) => data[4 * pixel]);
  }

  #at(symbols, setting) {
    const known = this.#known.get(symbols) ?? new Map();
    this.#known.set(symbols, known);
    if (!known.has(setting)) known.set(setting, encodeScan(tile(symbols, this.mosaic), this.mosaic, setting));
    return known.get(setting);
  }
}

class RawCodec {
  code = 0;

  constructor(manifest, mosaic) {
    this.mosaic = mosaic;
  }

  within(symbols, budget) {
    return symbols.length <= budget ? { payload: symbols, setting: 0 } : null;
  }

  sizes(symbols) {
    return [symbols.length, symbols.length];
  }

  shown(payload) {
    return tile(payload, this.mosaic);
  }
}

export const CODECS = { entropy: EntropyCodec, jpeg: JpegCodec, raw: RawCodec };

/** The codec of a bundle. `tables` is the ArrayBuffer of tables.bin, where it has one. Error: none that is here. */
export function makeCodec(manifest, tables) {
  const kind = Object.hasOwn(CODECS, manifest.codec) ? CODECS[manifest.codec] : null;
  if (!kind) throw new Error(`codec ${manifest.codec}; this page has ${Object.keys(CODECS).join(", ")}`);
  return new kind(manifest, makeMosaic(manifest.latent, manifest.align), tables);
}
