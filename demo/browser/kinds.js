// Tells what kind of file was chosen, by its first bytes: names can say anything.

/** A mistake of the user; the message says what to do. */
export class UserError extends Error {}

const HEAD = 132; // bytes that tell the kind: DICOM names itself after 128

/**
 * What a file is.
 *
 * @param {File} file
 * @returns {Promise<"model"|"image"|"video"|"weights"|"other">} An image may be one that no browser reads. "model" is
 *   what may be an ONNX file.
 * @throws {UserError} If it is empty or cannot be read.
 */
export async function kindOf(file) {
  const { name } = file;
  const head = await file
    .slice(0, HEAD)
    .arrayBuffer()
    .catch(() => {
      throw new UserError(`${name} cannot be read: it is a folder, or was moved. Choose a file.`);
    });
  if (!head.byteLength) throw new UserError(`${name} is empty (0 bytes).`);
  const text = String.fromCharCode(...new Uint8Array(head));
  const at = (place, ...beginnings) => beginnings.some((beginning) => text.startsWith(beginning, place));
  if (at(0, "\x89PNG", "\xff\xd8\xff", "GIF8", "II*\0", "MM\0*") || at(128, "DICM")) return "image";
  if (at(0, "BM") && at(6, "\0\0\0\0")) return "image"; // reserved in BMP
  if (at(0, "\xff\x0a", "\0\0\0\x0cJXL ", "\0\0\0\x0cjP  ", "\xff\x4f\xff\x51")) return "image"; // JPEG XL and 2000
  if (at(0, "RIFF") && at(8, "WEBP", "AVI ")) return at(8, "WEBP") ? "image" : "video";
  if (at(4, "ftyp")) return at(8, "avi", "hei", "hev", "mif1", "msf1") ? "image" : "video";
  if (at(0, "\x1aE\xdf\xa3", "\0\0\x01\xba", "\0\0\x01\xb3", "0&\xb2u", "FLV")) return "video";
  if (at(4, "moov", "mdat")) return "video";
  // Of PyTorch, safetensors and Keras.
  if (at(0, "PK\x03\x04", "\x80\x02", "\x80\x04", "\x89HDF") || at(8, '{"')) return "weights";
  if (file.type.startsWith("image/")) return "image"; // SVG, and whatever else the browser knows
  if (file.type.startsWith("video/")) return "video";
  return at(0, "\x08") || /\.onnx$/i.test(name) ? "model" : "other"; // ONNX begins with the field 1, a number
}

/** Refuse a file that is no image. */
export function checkImage(name, kind) {
  if (kind === "image") return;
  const reason = {
    model: "is a model, not an image. Choose it under “Another model”.",
    video: "is a video. This page takes images; app.py and predict.py take videos too.",
    weights: "holds weights or is an archive, and is no image. Choose a PNG or JPEG file.",
    other: "is no image that this browser reads. Convert it to PNG or JPEG.",
  };
  throw new UserError(`${name} ${reason[kind]}`);
}

/** Refuse a file that is no model. */
export function checkModel(name, kind) {
  if (kind === "model") return;
  const expected = "Expected an .onnx file that export.py wrote.";
  const reason = {
    image: "is an image, not a model. Choose it under “Image”.",
    video: `is a video, not a model. ${expected}`,
    weights:
      "holds weights that are no ONNX file, or is an archive. Export the model's folder: " +
      "“python export.py --model FOLDER”.",
    other: `is no model. ${expected}`,
  };
  throw new UserError(`${name} ${reason[kind]}`);
}
