// Reads the images that users choose, as common/files.py does.

import { UserError } from "./kinds.js";

const MAX_PIXELS = 2 ** 24; // of an image, as in demo/uploads.py
const MAX_SIDE = 2 ** 14; // of a canvas, in pixels
const HIDDEN_COLOUR = [200, 100, 50]; // of the one pixel, fully transparent, of this PNG file
const HIDDEN =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mM4kWLEAAAEtQFff9OSwAAAAABJRU5ErkJggg==";
const PREVIEW_SIDE = 1280; // longest side in pixels of the picture in the page, so that it is redrawn at once

/**
 * Read the pixels of an image, upright. The values are those in the file: no colour profile is applied.
 *
 * @param {File} file
 * @returns {Promise<{frame: Uint8Array, width: number, height: number, picture: ImageData}>} Red, green and blue of
 *   each pixel, and a preview.
 * @throws {UserError} If it is no image that this browser reads, is damaged or too large.
 */
export async function readImage(file) {
  const { name } = file;
  // Only the size: pixels are decoded below, if there are not too many.
  const { naturalWidth: width, naturalHeight: height } = await measure(file, name);
  if (width * height > MAX_PIXELS || Math.max(width, height) > MAX_SIDE) {
    throw new UserError(
      `${name} is too large (${width}x${height} pixels): at most ${(MAX_PIXELS / 1e6).toFixed(1)} million pixels, ` +
        `and ${MAX_SIDE} a side, are segmented here. Scale it down, or use predict.py.`,
    );
  }
  const decoded = await decode(file).catch(() => {
    throw new UserError(`${name} is damaged, or no image that this browser reads.`);
  });
  const bitmap = await withoutAlpha(decoded, file, name);
  const scale = Math.min(1, PREVIEW_SIDE / Math.max(bitmap.width, bitmap.height));
  const image = {
    frame: rgbOf(pixels(bitmap, bitmap.width, bitmap.height)),
    width: bitmap.width,
    height: bitmap.height,
    picture: pixels(bitmap, Math.ceil(scale * bitmap.width), Math.ceil(scale * bitmap.height)),
  };
  bitmap.close();
  return image;
}

function decode(file) {
  const asStored = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  return createImageBitmap(file, { imageOrientation: "from-image", ...asStored });
}

/** The image with alpha dropped and the colours below it kept, as predict.py reads it. */
async function withoutAlpha(bitmap, file, name) {
  const { width, height } = bitmap;
  const { data } = pixels(bitmap, width, height);
  let isOpaque = true;
  for (let index = 3; index < data.length && isOpaque; index += 4) isOpaque = data[index] === 255;
  if (isOpaque) return bitmap;
  const isGif = (await file.slice(0, 3).text()) === "GIF"; // browsers leave out its transparent pixels' colour
  const colours = !isGif && (await readsHiddenColours()) ? storedColours(bitmap) : null;
  bitmap.close();
  if (!colours) {
    throw new UserError(
      `${name} has transparent parts, whose colours this browser cannot read. Save it without transparency, or use ` +
        "predict.py.",
    );
  }
  return createImageBitmap(new ImageData(colours, width, height));
}

/** Whether `storedColours` gives the colours below full transparency in this browser. */
async function readsHiddenColours() {
  const file = new Blob([Uint8Array.from(atob(HIDDEN), (letter) => letter.charCodeAt(0))], { type: "image/png" });
  const bitmap = await decode(file);
  const colours = storedColours(bitmap);
  bitmap.close();
  return HIDDEN_COLOUR.every((level, index) => level === colours?.[index]);
}

/**
 * The colours of each pixel, red, green, blue and 255; null if this browser cannot read them. By WebGL, since a canvas
 * multiplies them by alpha, which leaves nothing of those that are fully transparent.
 */
function storedColours(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const colours = new Uint8ClampedArray(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(colours.buffer));
  const isRead = gl.getError() === gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // frees its memory at once
  for (let index = 3; index < colours.length; index += 4) colours[index] = 255;
  return isRead ? colours : null;
}

async function measure(file, name) {
  const image = new Image();
  const url = URL.createObjectURL(file);
  try {
    await new Promise((done, fail) => {
      image.onload = done;
      image.onerror = fail;
      image.src = url;
    });
  } catch {
    throw new UserError(`${name} is no image that this browser reads. Convert it to PNG or JPEG.`);
  } finally {
    URL.revokeObjectURL(url);
  }
  return image;
}

/** The pixels of an image, resized. */
function pixels(bitmap, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

function rgbOf({ data: rgba }) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}
