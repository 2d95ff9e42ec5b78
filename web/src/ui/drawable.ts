/** Which emoji this browser can draw. That depends on its version, its fonts and the system. */
import type { Emoji } from '../state/emoji';

const SIZE = 20;

/** Returns whether an emoji can be drawn, as a test for all of them. */
export function drawable(all: readonly Emoji[]): (emoji: Emoji) => boolean {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = SIZE;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  if (!context) return () => true;
  context.font = `${SIZE - 4}px sans-serif`;
  context.textBaseline = 'top';

  const isColourful = (text: string): boolean => {
    context.clearRect(0, 0, SIZE, SIZE);
    context.fillStyle = '#000';
    context.fillText(text, 0, 0);
    const { data } = context.getImageData(0, 0, SIZE, SIZE);
    return data.some((value, i) => i % 4 !== 3 && value > 0);
  };
  // Without a font in colours, or if the browser doesn't tell what it has drawn, nothing can be known.
  if (!isColourful('😀')) return () => true;

  const isSingle = ({ emoji }: Emoji) => [...emoji].length === 1;
  const versions = new Map<number, boolean>();
  for (const one of all.filter(isSingle)) {
    if (!versions.has(one.version)) versions.set(one.version, isColourful(one.emoji));
  }
  // Some systems have no flags and show two letters.
  const hasFlags = isColourful('🇫🇷');
  const width = context.measureText('😀').width;
  return ({ emoji, version }) => {
    if (versions.get(version) === false) return false;
    if (/^\p{RI}/u.test(emoji)) return hasFlags;
    // The parts of an unknown sequence stand side by side.
    return !emoji.includes('\u200d') || context.measureText(emoji).width < width * 1.5;
  };
}
