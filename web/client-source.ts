/** The page is built from the sources of its client, so that nothing has to be built before it. */
export const clientSource = {
  '@uproar/client': new URL('client/src/index.ts', import.meta.url).pathname,
};
