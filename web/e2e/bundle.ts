import { build } from 'vite';

/** The client as a bundler puts it into an application, with Centrifugo's SDK or without. */
export async function bundleClient({ sdk }: { sdk: boolean }): Promise<string> {
  const built = await build({
    configFile: false,
    logLevel: 'warn',
    build: {
      write: false,
      lib: { entry: 'client/src/index.ts', formats: ['es'] },
      rolldownOptions: sdk ? {} : { external: ['centrifuge'] },
    },
  });
  return (built as unknown as { output: { code: string }[] }[])[0]!.output[0]!.code;
}
