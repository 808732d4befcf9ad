// Draws a mask onto an image as inference/overlay.py does: a tint inside, and a contour with a dark halo.

const COLOUR = [0, 229, 255];
const HALO = [10, 20, 40];
const OPACITY = 0.35;
const CONTOURS_PER_SIDE = 130; // contours that would fill an image's shorter side

/**
 * Draw a mask, in place.
 *
 * @param {ImageData} image
 * @param {Uint8Array} mask Of the image's size, row by row: 1 for polyp, 0 for background.
 */
export function drawOverlay(image, mask) {
  const width = Math.max(1, Math.round(Math.min(image.width, image.height) / CONTOURS_PER_SIDE));
  const area = cutOut(mask, image.width, image.height, width);
  if (!area) return;
  const outside = area.inside.map((value) => 1 - value);
  const nearOutside = grown(outside, area.width, width);
  const nearInside = grown(area.inside, area.width, Math.max(1, width >> 1));
  for (let y = 0; y < area.height; y++) {
    const row = area.top + y;
    if (row < 0 || row >= image.height) continue;
    for (let x = 0; x < area.width; x++) {
      const column = area.left + x;
      if (column < 0 || column >= image.width) continue;
      const index = y * area.width + x;
      const pixel = 4 * (row * image.width + column);
      if (area.inside[index]) {
        const opacity = nearOutside[index] ? 1 : OPACITY;
        for (let channel = 0; channel < 3; channel++) {
          const level = image.data[pixel + channel];
          image.data[pixel + channel] = Math.round(level + opacity * (COLOUR[channel] - level));
        }
      } else if (nearInside[index]) {
        image.data.set(HALO, pixel);
      }
    }
  }
}

/** The bounding box of a mask with a margin, which may extend beyond the image; null if the mask is empty. */
function cutOut(mask, width, height, margin) {
  let [left, right, top, bottom] = [width, -1, height, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!mask[y * width + x]) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = y;
    }
  }
  if (right < 0) return null;
  const area = { left: left - margin, top: top - margin };
  area.width = right - left + 1 + 2 * margin;
  area.height = bottom - top + 1 + 2 * margin;
  area.inside = new Uint8Array(area.width * area.height);
  for (let y = top; y <= bottom; y++) {
    const row = mask.subarray(y * width + left, y * width + right + 1);
    area.inside.set(row, (y - area.top) * area.width + margin);
  }
  return area;
}

/** The mask dilated by `steps` pixels: with a diamond and a square in turn, which together make an octagon. */
function grown(mask, width, steps) {
  for (let step = 0; step < steps; step++) {
    const next = mask.slice();
    for (let index = width; index < mask.length; index++) {
      next[index] |= mask[index - width];
      next[index - width] |= mask[index];
    }
    const source = step % 2 ? next.slice() : mask;
    for (let row = 0; row < mask.length; row += width) {
      for (let index = row + 1; index < row + width; index++) {
        next[index] |= source[index - 1];
        next[index - 1] |= source[index];
      }
    }
    mask = next;
  }
  return mask;
}
