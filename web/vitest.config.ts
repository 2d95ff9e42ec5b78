import { defineConfig } from 'vitest/config';
import { emojiData } from './emoji-data.ts';

export default defineConfig({
  plugins: [emojiData()],
  test: { include: ['src/**/*.test.ts'], environment: 'node' },
});
