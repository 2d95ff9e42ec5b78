import { configDefaults, defineConfig } from 'vitest/config';
import { clientSource } from '../client-source.ts';

// INSTEAD names a script to run instead of the tests.
declare const process: { env: Record<string, string | undefined> };

/** Tests that go offline for a moment, and therefore run by themselves, after all others. */
const ALONE = ['e2e/connection.e2e.ts'];

const tests = [
  {
    extends: true as const,
    test: {
      name: 'two at once',
      include: ['e2e/**/*.e2e.ts'],
      exclude: [...configDefaults.exclude, ...ALONE],
      sequence: { groupOrder: 0 },
    },
  },
  {
    extends: true as const,
    test: { name: 'alone', include: ALONE, maxWorkers: 1, sequence: { groupOrder: 1 } },
  },
];

export default defineConfig({
  resolve: { alias: clientSource },
  test: {
    environment: 'node',
    // Node.js 20 has WebSockets only then.
    execArgv: ['--experimental-websocket'],
    testTimeout: 40_000,
    hookTimeout: 30_000,
    // Each file has a server and a browser of its own, which mostly wait.
    maxWorkers: 2,
    ...(process.env.INSTEAD ? { include: [process.env.INSTEAD] } : { projects: tests }),
  },
});
