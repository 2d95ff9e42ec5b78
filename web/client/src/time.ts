/** How long to wait after this many failed attempts, in milliseconds. */
export function backoff(tries: number): number {
  return 500 * 2 ** Math.min(tries, 4);
}

export const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
