import { defineConfig } from 'vitest/config';

// INSTEAD names a script to run instead of the tests.
declare const process: { env: Record<string, string | undefined> };

export default defineConfig({
  test: {
    include: [process.env.INSTEAD ?? 'e2e/**/*.e2e.ts'],
    environment: 'node',
    testTimeout: 40_000,
    hookTimeout: 30_000,
    fileParallelism: false,
  },
});
