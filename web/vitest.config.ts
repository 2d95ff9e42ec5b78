import { defineConfig } from 'vitest/config';
import { clientSource } from './client-source.ts';
import { emojiData } from './emoji-data.ts';

export default defineConfig({
  plugins: [emojiData()],
  resolve: { alias: clientSource },
  test: { include: ['{src,client/src}/**/*.test.ts'], environment: 'node' },
});
