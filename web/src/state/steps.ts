/** How many entries of the browser's history an entry lies above the list of rooms; undefined if there is no list. */
export type Depth = number | undefined;

/** The depth that an entry carries in its state, where anything may be. */
export function depthIn(state: unknown): Depth {
  const { depth } = (state ?? {}) as { depth?: unknown };
  return typeof depth === 'number' && Number.isSafeInteger(depth) && depth >= 0 ? depth : undefined;
}

/** The depth of a new entry, for a room or for the list, on top of an entry. */
export function above(depth: Depth, room: string | undefined): Depth {
  if (room === undefined) return 0;
  return depth === undefined ? undefined : depth + 1;
}
