// A photo, however it comes, to the pixels that a network takes. In a worker: it may take a second.
//
//     Blob, or a bitmap from the camera --the browser decodes--> upright pixels --resize.js--> pixels (size, size, 3)

import { Problem } from "./problems.js";
import { cropOf, resizeCentre } from "./resize.js";

const MIN_SIDE = 8;
const MAX_FILE_BYTES = 200e6;
const MAX_PIXELS = 100e6; // as Python
const WHOLE_PIXELS = 25e6; // more than that is scaled down by the browser before this page sees it: 100 MB as RGBA
const KEPT = 4; // pixels of the scaled photo, for each one of the result

// The pixels as they are in the file, turned as EXIF says, and no colour profile: what Python sees.
const AS_IS = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "premultiply" };

/**
 * {bitmap, width, height, scaled}: upright; width and height are the photo's own. `photo` is {source, name, width,
 * height}, the last two 0 where they aren't known yet. Problem: no photo, too small or too large.
 */
export async function openPhoto({ source, name, width, height }, size) {
  if (source.size > MAX_FILE_BYTES) {
    throw new Problem(
      "photo",
      `${name} has ${(source.size / 1e6).toFixed(0)} MB; up to 200 MB are allowed. Choose a smaller photo.`,
    );
  }
  check(name, width, height);
  const factor = Math.sqrt((width * height) / WHOLE_PIXELS);
  const short = Math.max(KEPT * size, Math.round(Math.min(width, height) / factor));
  const scale = Math.min(1, short / Math.min(width, height));
  const scaled = factor > 1 && scale < 1;
  const options = scaled
    ? {
        ...AS_IS,
        resizeWidth: Math.round(width * scale),
        resizeHeight: Math.round(height * scale),
        resizeQuality: "high",
      }
    : AS_IS;
  let bitmap;
  try {
    bitmap = await createImageBitmap(source, options);
  } catch {
    const why = scaled
      ? `${megapixels(width, height)} are too many for this browser`
      : "it is damaged, or too large for this browser";
    throw new Problem("photo", `${name} can't be opened: ${why}. Choose another, or scale it down.`);
  }
  check(name, bitmap.width, bitmap.height);
  return { bitmap, width: width || bitmap.width, height: height || bitmap.height, scaled };
}

function check(name, width, height) {
  if (width * height > MAX_PIXELS) {
    throw new Problem(
      "photo",
      `${name} has ${megapixels(width, height)}; up to 100 are allowed. Scale it down, or choose another.`,
    );
  }
  if (width && Math.min(width, height) < MIN_SIDE) {
    throw new Problem(
      "photo",
      `${name} is ${width} × ${height} pixels; ${MIN_SIDE} × ${MIN_SIDE} are the fewest. Choose a larger one.`,
    );
  }
}

function megapixels(width, height) {
  return `${Math.round((width * height) / 1e6)} megapixels`;
}

/** Bitmap -> (size, size, 3) uint8. What is transparent is laid over white. */
export function pixelsOf(bitmap, preprocess) {
  const crop = cropOf(bitmap.width, bitmap.height, preprocess);
  const canvas = new OffscreenCanvas(crop.width, crop.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context)
    throw new Problem("photo", "This photo is too large for this browser. Scale it down, or choose another.");
  context.fillStyle = "white";
  context.fillRect(0, 0, crop.width, crop.height);
  context.drawImage(bitmap, -crop.x, -crop.y);
  const { data } = context.getImageData(0, 0, crop.width, crop.height);
  return resizeCentre(data, crop, bitmap.width, preprocess);
}

/** (size, size, 3) -> a canvas. */
export function canvasOf(pixels, size) {
  const image = new ImageData(size, size);
  for (let pixel = 0; pixel < size * size; pixel += 1) {
    image.data.set(pixels.subarray(3 * pixel, 3 * pixel + 3), 4 * pixel);
    image.data[4 * pixel + 3] = 255;
  }
  const canvas = new OffscreenCanvas(size, size);
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
  return canvas;
}

/** What this browser's own encoders make of these pixels: [{name, bytes}, ...], bytes null where it has none. */
export async function asFiles(canvas) {
  const all = [];
  for (const [format, name, quality] of FORMATS) {
    const file = await canvas.convertToBlob({ type: `image/${format}`, quality: quality / 100 });
    all.push({ name: `${name} ${quality}`, bytes: file.type === `image/${format}` ? file.size : null });
  }
  return all;
}

const FORMATS = [
  ["jpeg", "JPEG", 75],
  ["jpeg", "JPEG", 20],
  ["webp", "WebP", 75],
  ["webp", "WebP", 20],
  ["avif", "AVIF", 50],
];
