// Keeps a copy of all files that the page loads, for use without a network; while the server answers, its files are
// used. It also adds the headers without which browsers give WebAssembly a single thread: simple servers lack them.

const CACHE = "polyp-segmentation";
const HEADERS = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

let isGone = false; // whether another site is served at this address now

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET" && !isGone) event.respondWith(answer(event.request));
});

async function answer(request) {
  let response;
  try {
    response = await fetch(request, { cache: "no-cache" });
    if (request.mode === "navigate") await retire();
    if (isGone) return response;
    if (response.ok) await keep(request, response.clone());
  } catch {
    response = await caches.match(request);
    if (!response) return Response.error();
  }
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

async function keep(request, response) {
  const cache = await caches.open(CACHE);
  await cache.put(request, response).catch(() => {}); // if the disk is full, there is no copy
}

/** Unregister if another site is served here now, as happens on ports of one machine: it must not get the headers. */
async function retire() {
  const { status } = await fetch("service-worker.js", { method: "HEAD", cache: "no-store" });
  if (status !== 404) return;
  isGone = true;
  await Promise.all([self.registration.unregister(), caches.delete(CACHE)]);
}
