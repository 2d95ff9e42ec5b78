import { defineConfig } from 'vitest/config';

// INSTEAD names a file that is no test, but measures or draws something.
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
