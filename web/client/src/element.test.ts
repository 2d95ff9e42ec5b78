import { expect, it } from 'vitest';

it('can be imported where there are no elements, as on a server that renders pages', async () => {
  expect((await import('./element.ts')).UproarRoom.observedAttributes).toContain('room');
});
