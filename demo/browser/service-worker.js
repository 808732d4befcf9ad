// Keeps a copy of the page's own files, for use without a network; while their server answers, its files are used. It
// also adds the headers without which browsers give WebAssembly a single thread: simple servers lack them.
//
// On ports of one machine, another program may be served at this address later. Its answers are passed on as they are,
// nothing of them is kept, and the service worker ends.

const CACHE = "polyp-segmentation"; // by this line, the file that is served is known to be this page's
const HEADERS = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
const FILES = /^((index\.html|(field|files|images|kinds|overlay|page|regions)\.js|style\.css)?|node_modules\/onnxruntime-web\/dist\/.+)$/;
const PATIENCE = 5000; // milliseconds for an answer to the question what is served

let served = null; // promise of "page", "other" or "unknown", since the last navigation

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.mode === "navigate") served = whatIsServed(); // also at addresses that are not the page's
  if (request.method === "GET" && isOwn(request)) event.respondWith(answer(request));
  else if (request.mode === "navigate") event.waitUntil(served);
});

/** Whether it is for a file of the page, or for a model. */
function isOwn(request) {
  const [address, { scope }] = [keyOf(request), registration];
  return address.startsWith(scope) && (FILES.test(address.slice(scope.length)) || address.endsWith(".onnx"));
}

async function answer(request) {
  served ??= whatIsServed();
  let response;
  try {
    response = await fetch(request, { cache: "no-cache" });
  } catch {
    response = await caches.match(keyOf(request), { cacheName: CACHE });
    return response ? withHeaders(response) : Response.error();
  }
  if (response.status !== 200 || response.redirected || (await served) !== "page") return response;
  await keep(request, response.clone());
  return withHeaders(response);
}

/** Addresses differ by `?model=...`, for which one page is served. */
function keyOf(request) {
  const { origin, pathname } = new URL(request.url);
  return origin + pathname;
}

async function keep(request, response) {
  const cache = await caches.open(CACHE);
  const isKept = !`${request.cache} ${response.headers.get("Cache-Control")}`.toLowerCase().includes("no-store");
  const change = isKept ? cache.put(keyOf(request), response) : cache.delete(keyOf(request));
  await change.catch(() => {}); // if the disk is full, there is no copy
}

function withHeaders(response) {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** Look whether this page is still served here. If it is another site, unregister, and delete what was kept. */
async function whatIsServed() {
  let response, text;
  try {
    response = await fetch("service-worker.js", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    text = await response.text();
  } catch {
    return "unknown"; // no network, or no answer in time
  }
  if (response.ok && !response.redirected && text.includes(`const CACHE = "${CACHE}";`)) return "page";
  if (response.status >= 500) return "unknown"; // a server in between, whose own fault this may be
  await Promise.all([registration.unregister(), caches.delete(CACHE)]);
  return "other";
}
