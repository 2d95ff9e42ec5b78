/** The room that the address names. */
export function roomInAddress(): string | undefined {
  const match = /^#\/(.+)$/.exec(location.hash);
  if (!match) return undefined;
  try {
    return decodeURIComponent(match[1]!);
  } catch {
    return undefined;
  }
}

export function addressOf(room: string | undefined): string {
  return room === undefined ? '#/' : `#/${encodeURIComponent(room)}`;
}

export function go(room: string | undefined): void {
  location.hash = addressOf(room);
}
