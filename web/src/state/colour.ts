/** Colours that can be told apart, whichever the user chooses. Colours are written `#rrggbb`. */

type Rgb = readonly [number, number, number];

export function isColour(text: unknown): text is string {
  return typeof text === 'string' && /^#[0-9a-f]{6}$/i.test(text);
}

function parse(colour: string): Rgb {
  const at = (i: number) => parseInt(colour.slice(i, i + 2), 16);
  return [at(1), at(3), at(5)];
}

/** A mixture with this share of the first colour. */
export function mix(a: string, b: string, share: number): string {
  const [x, y] = [parse(a), parse(b)];
  const channels = x.map((channel, i) => Math.round(channel * share + y[i]! * (1 - share)));
  return `#${channels.map((channel) => channel.toString(16).padStart(2, '0')).join('')}`;
}

/** Relative luminance, as WCAG 2 defines it. */
export function luminance(colour: string): number {
  const [r, g, b] = parse(colour).map((channel) => {
    const value = channel / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** The contrast of two colours, as WCAG 2 defines it: from 1 to 21. */
export function contrast(a: string, b: string): number {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}

/** The colour nearest to the given one that has this contrast with all backgrounds, or the best that there is. */
export function legible(colour: string, backgrounds: readonly string[], ratio: number): string {
  const worst = (colour: string) => Math.min(...backgrounds.map((background) => contrast(colour, background)));
  if (worst(colour) >= ratio) return colour;
  const end = worst('#000000') > worst('#ffffff') ? '#000000' : '#ffffff';
  for (let share = 0.9; share > 0; share -= 0.1) {
    const mixed = mix(colour, end, share);
    if (worst(mixed) >= ratio) return mixed;
  }
  return end;
}
