import { defineConfig } from 'vite';

// The dev server forwards the calls of the page to the running server that UPROAR names.
declare const process: { env: Record<string, string | undefined> };
const server = process.env.UPROAR ?? 'http://localhost:8080';

const forward = (path: string, ws = false) => ({
  [path]: {
    target: server,
    ws,
    changeOrigin: true,
    // The server requires that Origin and Host match.
    headers: { Origin: server },
  },
});

export default defineConfig({
  build: {
    target: 'es2022',
    // The first versions that support light-dark(), so that styles need no rewriting for older ones.
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    // The Content-Security-Policy does not allow inlined data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: {
      ...forward('/user'),
      ...forward('/rooms'),
      ...forward('/me'),
      ...forward('/token'),
      ...forward('/connection', true),
    },
  },
});
