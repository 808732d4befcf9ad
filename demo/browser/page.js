// The page: loads ONNX Runtime and an exported model, reads images, and shows the polyps that the model finds.

import { drawOverlay } from "./overlay.js";
import { keepPeaks, presenceOf, readDecision } from "./regions.js";

const RUNTIME = new URL("node_modules/onnxruntime-web/dist/", document.baseURI).href;
const MODEL = new URLSearchParams(location.search).get("model") ?? "onnx/model.onnx";
const MAX_THREADS = 4; // further cores are often half as fast, and all threads wait for the slowest
const MAX_PIXELS = 2 ** 24; // of an image, as in demo/uploads.py
const MAX_SIDE = 2 ** 14; // of a canvas, in pixels
const HIDDEN_COLOUR = [200, 100, 50]; // of the one pixel, fully transparent, of this PNG file
const HIDDEN =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mM4kWLEAAAEtQFff9OSwAAAAABJRU5ErkJggg==";
const PREVIEW_SIDE = 1280; // longest side in pixels of the picture in the page, so that it is redrawn at once

// Inputs and outputs of the files that export.py writes: name, type and number of dimensions.
const INPUTS = "frames uint8 4, threshold float32 0";
const OUTPUTS = "mask uint8 3, probability float32 3, logits float32 4";

const element = (id) => document.getElementById(id);

/** A mistake of the user; the message says what to do. */
class UserError extends Error {}

let runtime = null; // { ort, provider }; null until it is loaded
let model = null; // { name, session, provider, decision }; null until one is loaded
let result = null; // of the last image: { file, name, width, height, probability, picture, milliseconds }
let work = Promise.resolve(); // a session runs one image at a time

/** Run tasks one after another. If one fails, its error is shown beside the earlier result. */
function queue(task) {
  work = work.then(async () => {
    element("problem").hidden = true;
    try {
      await task();
    } catch (error) {
      if (!(error instanceof UserError)) console.error(error);
      showProblem(error instanceof UserError ? error.message : `That failed: ${error.message ?? error}`);
    }
    if (!result) element("status").textContent = "No image yet.";
  });
}

function showProblem(message) {
  element("problem").textContent = message;
  element("problem").hidden = false;
}

/** Start the service worker, for use without a network and for threads. The page is then loaded once more. */
async function startServiceWorker() {
  if (!navigator.serviceWorker || navigator.serviceWorker.controller) return;
  try {
    await navigator.serviceWorker.register("service-worker.js");
    await navigator.serviceWorker.ready;
  } catch {
    return; // in private windows, for example: the page works with one thread, and only while the server answers
  }
  if (sessionStorage.getItem("reloaded")) return; // a forced reload bypasses the service worker
  sessionStorage.setItem("reloaded", "yes");
  location.reload();
  await new Promise(() => {});
}

/** Load ONNX Runtime for the GPU if this browser offers one, else for the CPU. */
async function loadRuntime() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const provider = adapter && !adapter.info?.isFallbackAdapter ? "webgpu" : "wasm";
  const ort = await import(`${RUNTIME}ort.${provider}.min.mjs`).catch(() => {
    throw new UserError(
      "onnxruntime-web is not beside this page: run “npm ci” in its folder, demo/browser/, and reload.",
    );
  });
  ort.env.wasm.wasmPaths = RUNTIME;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.proxy = provider === "wasm"; // computes in a worker, so that the page stays responsive
  return { ort, provider };
}

/** Download the model that is served beside the page. */
async function fetchModel() {
  const url = new URL(MODEL, document.baseURI);
  if (url.origin !== location.origin) {
    throw new UserError(`${MODEL} is on another machine: put it beside this page, or choose the file below.`);
  }
  const response = await fetch(url).catch(() => ({ ok: false }));
  if (!response.ok) {
    throw new UserError(
      `There is no model at ${MODEL}. Make one with “python export.py --output_dir demo/browser” and reload, or ` +
        "choose an .onnx file under “Another model”.",
    );
  }
  return new Uint8Array(await response.arrayBuffer());
}

/** Load a model and segment the last image again. If it cannot be loaded, the earlier model stays in use. */
async function loadModel(name, content) {
  element("runtime").textContent = `Loading ${name}…`;
  try {
    runtime ??= await loadRuntime();
    const file = await content();
    const decision = decisionOf(name, file); // first, since ONNX Runtime may take the file's memory away
    const loaded = await openSession(name, file);
    await model?.session.release();
    model = { name, ...loaded, decision };
  } finally {
    element("runtime").textContent = model ? describe(model) : "No model is loaded.";
  }
  if (result) await segment(result.file);
}

/** How a model decides, as its file states it. */
function decisionOf(name, file) {
  try {
    return readDecision(file);
  } catch (error) {
    throw new UserError(`${name}: ${error.message}`);
  }
}

function describe({ name, provider, decision }) {
  const { numThreads } = runtime.ort.env.wasm;
  const threads = `${numThreads} thread${numThreads > 1 ? "s" : ""}`;
  const place = provider === "webgpu" ? "the GPU (WebGPU)" : `the CPU (WebAssembly, ${threads})`;
  const peak = decision.peak === null ? "" : ` A region counts if its probability reaches ${decision.peak} somewhere.`;
  return `${name}, on ${place}.${peak}`;
}

/** Open a session on the GPU if there is one that can run this model, else on the CPU. */
async function openSession(name, content) {
  let problem;
  for (const provider of runtime.provider === "webgpu" ? ["webgpu", "wasm"] : ["wasm"]) {
    let session;
    try {
      session = await runtime.ort.InferenceSession.create(content, {
        executionProviders: [provider],
        logSeverityLevel: 3, // errors only: its warnings name operators that it leaves to the CPU on purpose
      });
      checkContract(name, session);
      await run(session, new Uint8Array(3), 1, 1); // the first run is slow, above all on a GPU: no image waits for it
      return { session, provider };
    } catch (error) {
      await session?.release();
      if (error instanceof UserError) throw error;
      problem = error;
    }
  }
  throw new UserError(
    `${name} cannot be loaded as an ONNX file (${problem.message ?? problem}). Expected one that export.py wrote.`,
  );
}

/** Refuse a model with other inputs or outputs. */
function checkContract(name, session) {
  const kinds = (values) => values.map((value) => `${value.name} ${value.type} ${value.shape?.length}`).join(", ");
  if (kinds(session.inputMetadata) === INPUTS && kinds(session.outputMetadata) === OUTPUTS) return;
  const shown = (values) => values.map(({ name, type, shape }) => `${name} ${type} [${shape ?? ""}]`).join(", ");
  throw new UserError(
    `${name} is an ONNX file of another contract. It takes ${shown(session.inputMetadata)}; it gives ` +
      `${shown(session.outputMetadata)}. Expected a file that export.py wrote, which takes frames uint8 ` +
      "(batch, height, width, 3) and threshold float32.",
  );
}

/**
 * The probability of polyp of each pixel.
 *
 * @param {Uint8Array} frame Red, green and blue of each pixel, row by row.
 */
async function run(session, frame, width, height) {
  const { Tensor } = runtime.ort;
  const inputs = {
    frames: new Tensor("uint8", frame, [1, height, width, 3]),
    threshold: new Tensor("float32", [0.5], []), // for the mask, which is not read: the page thresholds by itself
  };
  const { probability } = await session.run(inputs, ["probability"]);
  return probability.data;
}

/** Segment an image and show the result. */
async function segment(file) {
  const { name } = file;
  if (!model) throw new UserError("No model is loaded: choose an .onnx file under “Another model”.");
  element("status").textContent = `Segmenting ${name}…`;
  try {
    const { frame, width, height, picture } = await readImage(file, name);
    const started = performance.now();
    const probability = await run(model.session, frame, width, height);
    const milliseconds = performance.now() - started;
    if (probability.some(Number.isNaN)) {
      throw new UserError(`${name}: the model gives NaN. Take one that was exported with --precision fp32.`);
    }
    result = { file, name, width, height, probability, picture, milliseconds };
  } finally {
    if (result) draw();
  }
}

/** Read the pixels of an image, upright. The values are those in the file: no colour profile is applied. */
async function readImage(file, name) {
  if (!file.size) throw new UserError(`${name} is empty (0 bytes).`);
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

/** The mask of a result: 1 for polyp. A threshold above the model's peak threshold takes its place. */
function maskOf({ probability, width }) {
  return keepPeaks(probability, width, element("threshold").valueAsNumber, model.decision.peak);
}

/** A mask, resized: each pixel is the nearest of the mask. */
function resized(mask, { width, height }, columns, rows) {
  const small = new Uint8Array(columns * rows);
  for (let y = 0, index = 0; y < rows; y++) {
    const row = Math.floor(((y + 0.5) * height) / rows) * width;
    for (let x = 0; x < columns; x++, index++) small[index] = mask[row + Math.floor(((x + 0.5) * width) / columns)];
  }
  return small;
}

/** Show the result at the chosen threshold. */
function draw() {
  const { name, width, height, picture, milliseconds } = result;
  const mask = maskOf(result);
  const share = mask.reduce((sum, value) => sum + value, 0) / (width * height);
  const found = share ? "Polyp found" : "No polyp found";
  const threshold = element("threshold").valueAsNumber.toFixed(2);

  const image = new ImageData(picture.data.slice(), picture.width, picture.height);
  const isDrawn = element("shown").checked;
  if (isDrawn) drawOverlay(image, resized(mask, result, picture.width, picture.height));
  const canvas = element("picture");
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", isDrawn && share ? `${name} with the polyp outlined` : name);

  element("caption").textContent = isDrawn
    ? `${name}, ${width}x${height} pixels: polyps outlined where the probability is above ${threshold}`
    : `${name}, ${width}x${height} pixels`;
  const area = share ? `, ${(100 * share).toFixed(2)} % of the image` : "";
  const highest = result.probability.reduce((high, value) => Math.max(high, value), 0);
  const presence = presenceOf(highest, model.decision.calibration).toFixed(3);
  element("status").textContent =
    `${found}${area}. Presence: ${presence}. Inference: ${Math.round(milliseconds)} ms.`;
  element("figure").hidden = element("download").hidden = false;
}

/** Save the mask as a PNG file like that of predict.py: white for polyp, black for background. */
async function download() {
  const { name, width, height } = result;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const levels = new Uint32Array(image.data.buffer);
  maskOf(result).forEach((value, index) => (levels[index] = value ? 0xffffffff : 0xff000000));
  context.putImageData(image, 0, 0);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await canvas.convertToBlob({ type: "image/png" }));
  link.download = `${name.replace(/\.[^.]*$/, "")}-mask.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // by then the browser has saved the file
}

/** Load a model or segment an image that was chosen, dropped or pasted. */
function openFile(file) {
  if (!file) return;
  if (file.name.endsWith(".onnx")) {
    queue(() => loadModel(file.name, async () => new Uint8Array(await file.arrayBuffer())));
  } else {
    queue(() => segment(file));
  }
}

for (const id of ["image", "model"]) {
  element(id).addEventListener("change", (event) => openFile(event.target.files[0]));
  element(id).addEventListener("click", (event) => (event.target.value = "")); // or no file can be chosen twice
}
document.addEventListener("paste", (event) => openFile(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
for (const ending of ["dragleave", "drop"]) {
  document.addEventListener(ending, () => element("drop").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  openFile(event.dataTransfer.files[0]);
});
element("threshold").addEventListener("input", (event) => {
  element("value").textContent = event.target.valueAsNumber.toFixed(2);
  if (result) draw();
});
element("shown").addEventListener("change", () => result && draw());
element("download").addEventListener("click", () => queue(download));

queue(async () => {
  await startServiceWorker();
  await loadModel(MODEL, fetchModel);
});
