// The page: loads ONNX Runtime and an exported model, reads images, and shows the polyps that the model finds.

import { chooseBox, cropTo, inWholeFrame } from "./field.js";
import { maskFile, tableFile } from "./files.js";
import { readImage } from "./images.js";
import { UserError, checkImage, checkModel, kindOf } from "./kinds.js";
import { NUMBERED, drawNumbers, drawOverlay } from "./overlay.js";
import { findRegions, keepPeaks, presenceOf, readDecision } from "./regions.js";

const RUNTIME = new URL("node_modules/onnxruntime-web/dist/", document.baseURI).href;
const MODEL = new URLSearchParams(location.search).get("model") ?? "onnx/model.onnx";
const MAX_THREADS = 4; // further cores are often half as fast, and all threads wait for the slowest

// Inputs and outputs of the files that export.py writes: name, type and number of dimensions.
const INPUTS = "frames uint8 4, threshold float32 0";
const OUTPUTS = "mask uint8 3, probability float32 3, logits float32 4";

const element = (id) => document.getElementById(id);

let runtime = null; // { ort, provider }; null until it is loaded
let model = null; // { name, session, provider, decision }; null until one is loaded
let image = null; // the file that was segmented last, for another model to segment again
let result = null; // of that image: { name, width, height, probability, picture, milliseconds }
let drawn = null; // of the result, at the chosen threshold: { mask, regions }
let work = Promise.resolve(); // a session runs one image at a time

/** Run tasks one after another. If one fails, its error is shown. */
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

/** Open what a user gave. If that fails, no result is shown: an earlier one could be taken for that of the file. */
function open(task) {
  queue(async () => {
    try {
      await task();
    } catch (error) {
      result = null;
      element("outcome").hidden = true;
      throw error;
    } finally {
      setTimeout(bringIntoView); // after an error is shown
    }
  });
}

/** On a phone, the result is below what the window shows. */
function bringIntoView() {
  const { top } = element("result").getBoundingClientRect();
  if (top < 0 || top > window.innerHeight / 3) element("result").scrollIntoView();
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
  if (image) await segment(image);
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

/** The same for a frame of which the network sees only the model's field of view; outside, the probability is 0. */
async function runInField(name, frame, width, height) {
  let box;
  try {
    box = chooseBox(model.decision.field, frame, width, height);
  } catch (error) {
    throw new UserError(`${name}: ${error.message}. Take a frame of the size that the model was set up for.`);
  }
  if (!box) return run(model.session, frame, width, height);
  const [left, top, right, bottom] = box;
  const probability = await run(model.session, cropTo(frame, width, box), right - left, bottom - top);
  return inWholeFrame(probability, box, width, height);
}

/** Segment an image and show the result. */
async function segment(file) {
  const { name } = file;
  image = null;
  if (!model) throw new UserError("No model is loaded: choose an .onnx file under “Another model”.");
  element("status").textContent = `Segmenting ${name}…`;
  const { frame, width, height, picture } = await readImage(file);
  const started = performance.now();
  const probability = await runInField(name, frame, width, height);
  const milliseconds = performance.now() - started;
  if (probability.some(Number.isNaN)) {
    throw new UserError(`${name}: the model gives NaN. Take one that was exported with --precision fp32.`);
  }
  image = file;
  result = { name, width, height, probability, picture, milliseconds };
  draw();
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
  const { name, width, height, probability, milliseconds } = result;
  const mask = maskOf(result);
  const regions = findRegions(mask, probability, width);
  drawn = { mask, regions };
  const isDrawn = element("shown").checked;
  drawPicture(isDrawn);
  element("picture").setAttribute("aria-label", isDrawn && regions.length ? `${name} with the polyp outlined` : name);
  const threshold = element("threshold").valueAsNumber.toFixed(2);
  element("caption").textContent = isDrawn
    ? `${name}, ${width}x${height} pixels: polyps outlined where the probability is above ${threshold}`
    : `${name}, ${width}x${height} pixels`;
  const share = regions.reduce((sum, region) => sum + region.share, 0);
  const found = regions.length ? `${regions.length} region${regions.length > 1 ? "s" : ""}` : "No polyp found";
  const area = regions.length ? `, ${(100 * share).toFixed(2)} % of the image` : "";
  const highest = probability.reduce((high, value) => Math.max(high, value), 0);
  const presence = presenceOf(highest, model.decision.calibration).toFixed(3);
  element("status").textContent =
    `${found}${area}. Presence: ${presence}. Inference: ${Math.round(milliseconds)} ms.`;
  fillTable(regions);
  element("outcome").hidden = false;
}

/** Draw the preview and, if wanted, the regions and their numbers. */
function drawPicture(isDrawn) {
  const { width, picture } = result;
  const preview = new ImageData(picture.data.slice(), picture.width, picture.height);
  if (isDrawn) drawOverlay(preview, resized(drawn.mask, result, picture.width, picture.height));
  const canvas = element("picture");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d");
  context.putImageData(preview, 0, 0);
  const scale = picture.width / width;
  const inPreview = ({ box }) =>
    box.map((side, index) => (index < 2 ? Math.floor(scale * side) : Math.ceil(scale * side)));
  if (isDrawn) drawNumbers(context, drawn.regions.map(inPreview));
}

/** Show the regions that are numbered in the picture. */
function fillTable(regions) {
  const rows = regions.slice(0, NUMBERED).map(({ pixels, share, probability }, index) => {
    const row = document.createElement("tr");
    const number = document.createElement("th");
    number.scope = "row";
    number.textContent = index + 1;
    row.append(number);
    const cells = [pixels, (100 * share).toFixed(2), probability.toFixed(3)];
    for (const cell of cells) row.insertCell().textContent = cell;
    return row;
  });
  const more = regions.length - NUMBERED;
  element("regions-caption").textContent = `Regions, the largest first${more > 0 ? `; ${more} more in the CSV` : ""}`;
  element("rows").replaceChildren(...rows);
  element("regions").hidden = !regions.length;
}

/** Save a file that belongs to the result. */
function save(content, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = `${result.name.replace(/\.[^.]*$/, "")}-${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // by then the browser has saved the file
}

/** Load a model. */
async function openModel(file) {
  checkModel(file.name, await kindOf(file));
  await loadModel(file.name, async () => new Uint8Array(await file.arrayBuffer()));
}

/** Segment an image. */
async function openImage(file) {
  image = null;
  checkImage(file.name, await kindOf(file));
  await segment(file);
}

/** Open what was dropped or pasted, an image or a model. */
async function openEither([file, ...others]) {
  if (!file) throw new UserError("There is no file in it. Save the image, and choose or drop the file.");
  if (others.length) throw new UserError(`These are ${others.length + 1} files. Give one at a time.`);
  await ((await kindOf(file)) === "model" ? openModel(file) : openImage(file));
}

for (const [id, openFile] of Object.entries({ image: openImage, model: openModel })) {
  element(id).addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) open(() => openFile(file)); // none if the choice was cancelled
  });
  element(id).addEventListener("click", (event) => (event.target.value = "")); // or no file can be chosen twice
}
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files]; // which are gone after the event
  open(() => openEither(files));
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
for (const ending of ["dragleave", "drop"]) {
  document.addEventListener(ending, () => element("drop").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  open(() => openEither(files));
});
element("threshold").addEventListener("input", (event) => {
  element("value").textContent = event.target.valueAsNumber.toFixed(2);
  if (result) draw();
});
element("shown").addEventListener("change", () => result && draw());
element("download-mask").addEventListener("click", () =>
  queue(async () => save(await maskFile(drawn.mask, result.width, result.height), "mask.png")),
);
element("download-table").addEventListener("click", () =>
  queue(() => save(tableFile(result.name, drawn.regions), "lesions.csv")),
);

queue(async () => {
  await startServiceWorker();
  await loadModel(MODEL, fetchModel);
});
