// The channels of a latent as one grey picture: wire/mosaic.py.

/** [C, H, W] and align -> {rows, cols, index}: for each pixel of the picture, the symbol that it shows. */
export function makeMosaic([channels, height, width], align) {
  const power = Math.ceil((32 - Math.clz32(channels - 1)) / 2);
  const across = 2 ** power;
  const down = Math.ceil(channels / across);
  const tileRows = Math.ceil(height / align) * align;
  const tileCols = Math.ceil(width / align) * align;
  const [rows, cols] = [down * tileRows, across * tileCols];
  const last = channels * height * width - 1;
  const index = new Int32Array(rows * cols);
  for (let row = 0; row < rows; row += 1) {
    for (let col = 0; col < cols; col += 1) {
      const channel = Math.floor(row / tileRows) * across + Math.floor(col / tileCols);
      const y = Math.min(row % tileRows, height - 1); // the edge repeats
      const x = Math.min(col % tileCols, width - 1);
      index[row * cols + col] = channel < channels ? (channel * height + y) * width + x : last;
    }
  }
  return { rows, cols, index };
}

/** Symbols -> picture, one byte a pixel. */
export function tile(symbols, { index }) {
  return Uint8Array.from(index, (symbol) => symbols[symbol]);
}
