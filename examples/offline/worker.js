// Keeps the page and PouchDB's script, so that the page opens without a network, too.

const FILES = ["./", "pouchdb.min.js"];

addEventListener("install", (event) => {
  event.waitUntil(caches.open("offline").then((cache) => cache.addAll(FILES)));
});
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  const { origin, pathname } = new URL(event.request.url);
  if (origin !== location.origin) return;
  // From the network where there is one, so that a newer page is seen.
  const kept = () => caches.match(pathname, { ignoreSearch: true });
  event.respondWith(fetch(event.request).catch(kept));
});
