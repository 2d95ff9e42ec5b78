import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { type Plugin, build, defineConfig } from 'vite';
import { clientSource } from './client-source.ts';
import { emojiData, sourceOf } from './emoji-data.ts';

// The dev server forwards the calls of the page to the running server that UPROAR names.
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

/** Writes `licences.txt`: what the licences of the packages in the bundle ask to be passed on with them. */
function licences(): Plugin {
  return {
    name: 'licences',
    generateBundle(_, bundle) {
      const packages = new Set<string>();
      for (const chunk of Object.values(bundle)) {
        if (chunk.type !== 'chunk') continue;
        for (const [module, { renderedLength }] of Object.entries(chunk.modules)) {
          const folder = sourceOf(module) ?? /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+/.exec(module)?.[0];
          if (folder && renderedLength > 0) packages.add(folder);
        }
      }
      const texts = [...packages].map((folder) => {
        const name = folder.split('/node_modules/').at(-1)!;
        const file = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
        if (!file) throw new Error(`${name} has no licence`);
        return `${name}\n\n${readFileSync(`${folder}/${file}`, 'utf8').trim()}\n`;
      });
      texts.sort();
      this.emitFile({ type: 'asset', fileName: 'licences.txt', source: texts.join(`\n${'-'.repeat(80)}\n\n`) });
    },
  };
}

/** Writes a script of one file into `dist/`. */
async function script(dir: string, input: string, entryFileNames: string, define: Record<string, string> = {}) {
  await build({
    configFile: false,
    publicDir: false,
    logLevel: 'warn',
    define,
    build: {
      target: 'es2022',
      outDir: dir,
      emptyOutDir: false,
      rolldownOptions: { input, output: { format: 'iife', entryFileNames } },
    },
  });
}

/** Writes `embed.js`, which makes `<uproar-room>` known to the page of another site. */
function element(): Plugin {
  return {
    name: 'element',
    apply: 'build',
    writeBundle: ({ dir }) => script(dir!, 'client/src/element.ts', 'embed.js'),
  };
}

/** Writes `sw.js`, the service worker of this build, which knows the page and the files that it starts with. */
function serviceWorker(): Plugin {
  return {
    name: 'service-worker',
    apply: 'build',
    async writeBundle({ dir }, bundle) {
      const index = bundle['index.html'];
      if (index?.type !== 'asset') throw new Error('there is no page');
      const page = String(index.source);
      const files = [...new Set(page.match(/\/assets\/[\w.-]+/g))];
      const version = createHash('sha256').update(page).digest('hex').slice(0, 12);
      await script(dir!, 'src/worker/worker.ts', 'sw.js', { BUILD: JSON.stringify({ version, files }) });
    },
  };
}

export default defineConfig({
  plugins: [emojiData(), licences(), element(), serviceWorker()],
  resolve: { alias: clientSource },
  build: {
    target: 'es2022',
    // The first versions that support light-dark(), so that styles need no rewriting for older ones.
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    // The Content-Security-Policy does not allow inlined data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: { input: ['index.html', 'embed.html'] },
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
