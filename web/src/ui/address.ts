/** The name of the open room is the fragment of the URL. */

/** The room that the URL names. */
export function roomInAddress(): string | undefined {
  const match = /^#\/(.+)$/.exec(location.hash);
  if (!match) return undefined;
  try {
    // A link that was typed or cut from a text may bring a space along.
    return decodeURIComponent(match[1]!).trim() || undefined;
  } catch {
    return undefined;
  }
}

/** The link to a room, or to the list of rooms. */
export function addressOf(room: string | undefined): string {
  return room === undefined ? '#/' : `#/${encodeURIComponent(room)}`;
}

/** Opens a room, or the list of rooms. */
export function go(room: string | undefined): void {
  location.hash = addressOf(room);
}

/** Corrects the name of the open room, without a step in the browser's history. */
export function replace(room: string): void {
  location.replace(addressOf(room));
}
