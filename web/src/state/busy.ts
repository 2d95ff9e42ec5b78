/** For tests of how much work something is. */

// The types of Node.js would also apply to the code of the page.
declare const process: { cpuUsage(since?: object): { user: number } };

/** How many milliseconds something keeps the processor busy. The time that other programs take does not count. */
export function busyTime(run: () => void): number {
  const before = process.cpuUsage();
  run();
  return process.cpuUsage(before).user / 1000;
}
