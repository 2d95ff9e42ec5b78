import type { ComponentChild } from 'preact';
import type { Texts } from '../texts/language';

/** How many people are here, or how many connections there are if nobody counts the people. */
export function hereText(
  { members: t }: Texts,
  people: number,
  connections: number | undefined,
  word = (text: ComponentChild) => text,
) {
  return connections === undefined ? t.online(people, word) : t.connections(connections, word);
}
