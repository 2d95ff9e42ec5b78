/** How people are told apart at a glance: by the initials of their name, on a colour of their own. */
import { luminance } from './colour';
import { characters } from './text';

/** Scripts whose capital letters every font has, unlike those of Georgian. */
const CAPITALS = /^[\p{Script=Latin}\p{Script=Greek}\p{Script=Cyrillic}\p{Script=Armenian}]/u;
/** What stands for a name: a letter, a digit or an emoji. Emoji come first, because some begin with a digit. */
const TELLING = /^(?:\p{RI}\p{RI}|\p{Emoji}\u{fe0f}|[\p{Emoji_Presentation}\p{L}\p{N}])/u;

/** The first character of a word that stands for it, if there is one. */
function initial(word: string): string | undefined {
  for (const character of characters(word)) {
    if (!TELLING.test(character)) continue;
    const capital = CAPITALS.test(character) ? character.toUpperCase() : character;
    // “ß” would become two letters.
    return [...characters(capital)].length === 1 ? capital : character;
  }
  return undefined;
}

/**
 * The initials of a name: those of its first and last word where letters have capitals, otherwise the first character.
 * A single letter of Arabic, Chinese or Hebrew can be read; two next to each other look like a word that they are not.
 */
export function initials(name: string): string {
  const found = name.split(/[\s\p{Pd}\p{Pc}.]+/u).flatMap((word) => initial(word) ?? []);
  const [first] = found;
  const last = found.at(-1);
  if (first === undefined || last === undefined) return [...characters(name)][0] ?? '';
  const isPair = found.length > 1 && CAPITALS.test(first) && (CAPITALS.test(last) || /^\p{N}/u.test(last));
  return isPair ? first + last : first;
}

/** The number of colours, spread evenly around the colour circle. */
export const HUES = 24;
/** White text has a contrast of 4.8 with this luminance, and the background of the dark theme one of 3.6. */
const LUMINANCE = 0.168;
const CHROMA = 0.13;

/** A colour in OKLCH as sRGB. A channel beyond 0 to 1 means that no screen shows it. */
function rgb(lightness: number, chroma: number, hue: number): number[] {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((value) => (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055));
}

function hex(channels: number[]): string {
  const clamped = channels.map((value) => Math.round(255 * Math.max(0, Math.min(1, value))));
  return `#${clamped.map((channel) => channel.toString(16).padStart(2, '0')).join('')}`;
}

/** A hue at the luminance that all avatars have, as vivid as screens can show it there up to a limit. */
function colourOfHue(hue: number): string {
  for (let chroma = CHROMA; ; chroma -= 0.005) {
    let low = 0;
    let high = 1;
    for (let i = 0; i < 16; i++) {
      const middle = (low + high) / 2;
      if (luminance(hex(rgb(middle, chroma, hue))) < LUMINANCE) low = middle;
      else high = middle;
    }
    const channels = rgb(low, chroma, hue);
    if (channels.every((value) => value > -0.001 && value < 1.001)) return hex(channels);
  }
}

const colours = new Map<number, string>();

/** The colour for a number from 0 to 23. Adjacent numbers have colours that can be told apart. */
export function avatarColour(number: number): string {
  // 7 and 24 have no common divisor, so that all hues are reached.
  const hue = ((number * 7) % HUES) * (360 / HUES);
  let colour = colours.get(hue);
  if (colour === undefined) colours.set(hue, (colour = colourOfHue(hue)));
  return colour;
}

/** The colour of a person, the same in every room and browser. */
export function personColour(name: string): string {
  // FNV-1a.
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return avatarColour(((hash >>> 16) ^ (hash & 0xffff)) % HUES);
}
