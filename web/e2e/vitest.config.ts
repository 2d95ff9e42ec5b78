import { defineConfig } from 'vitest/config';
import { clientSource } from '../client-source.ts';

// INSTEAD names a script to run instead of the tests.
declare const process: { env: Record<string, string | undefined> };

export default defineConfig({
  resolve: { alias: clientSource },
  test: {
    include: [process.env.INSTEAD ?? 'e2e/**/*.e2e.ts'],
    environment: 'node',
    // Node.js 20 has WebSockets only then.
    execArgv: ['--experimental-websocket'],
    testTimeout: 40_000,
    hookTimeout: 30_000,
    // Each file has a server and a browser of its own, which mostly wait.
    maxWorkers: 2,
  },
});
