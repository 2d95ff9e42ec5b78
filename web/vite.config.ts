import { defineConfig } from 'vite';

// UPROAR names a running server; pages of the dev server are passed on to it as if they were its own.
declare const process: { env: Record<string, string | undefined> };
const server = process.env.UPROAR ?? 'http://localhost:8080';

const own = (path: string, ws = false) => ({
  [path]: {
    target: server,
    ws,
    changeOrigin: true,
    // The server compares Origin with Host.
    headers: { Origin: server },
  },
});

export default defineConfig({
  build: {
    target: 'es2022',
    // The first with light-dark(): nothing of the styles has to be rewritten for others.
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    // Inlined data: URLs would need a hole in the Content-Security-Policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: {
      ...own('/user'),
      ...own('/rooms'),
      ...own('/me'),
      ...own('/token'),
      ...own('/connection', true),
    },
  },
});
