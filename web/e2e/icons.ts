/** Draws the icons of the installed page from src/icon.svg. */
import { readFileSync } from 'node:fs';
import { it } from 'vitest';
import { createWorld } from './browser';

const world = createWorld();

it('icons', async () => {
  const rounded = readFileSync('src/icon.svg', 'utf8');
  // The system cuts these into shapes of its own. What is drawn stays within the circle that none of them cuts.
  const whole = rounded
    .replace(/ rx="\d+"/, '')
    .replace('<path ', '<path transform="translate(16 16) scale(0.8) translate(-16 -16)" ');
  const page = await world.newVisitor();
  for (const [name, svg, size] of [
    ['icon-192', rounded, 192],
    ['icon-512', rounded, 512],
    ['icon-maskable-192', whole, 192],
    ['icon-maskable-512', whole, 512],
    ['apple-touch-icon', whole, 180],
  ] as const) {
    await page.setViewportSize({ width: size, height: size });
    await page.setContent(`<style>body { margin: 0 } svg { display: block }</style>${svg}`);
    await page.screenshot({ path: `public/${name}.png`, omitBackground: true });
  }
});
