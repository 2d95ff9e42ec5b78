/** Finding a message by its time. The server knows messages by their offsets only. */
import type { Page, WireMessage } from './timeline.ts';

const PAGE_MESSAGES = 100;

/**
 * The first message of a room at or after a time, if there is one. `last` is the room's last offset, and `read` reads
 * up to that many messages after an offset.
 */
export async function firstSince(
  time: number,
  last: number,
  read: (after: number, limit: number) => Promise<Pick<Page, 'messages' | 'more'>>,
): Promise<WireMessage | undefined> {
  // Messages up to `low` are earlier. `found` is the first message after `high`, as far as is known, and not earlier.
  let low = 0;
  let high = last;
  let found: WireMessage | undefined;
  while (high - low > PAGE_MESSAGES) {
    const middle = Math.floor((low + high) / 2);
    const [message] = (await read(middle, 1)).messages;
    // There may be nothing but edits and reactions.
    if (!message || message.offset > high) high = middle;
    else if (message.time < time) low = message.offset;
    else {
      found = message;
      high = middle;
    }
  }
  for (;;) {
    const { messages, more } = await read(low, PAGE_MESSAGES);
    const first = messages.find((message) => message.time >= time);
    const end = messages.at(-1);
    // Long messages make a page shorter than it was asked for.
    if (first || !more || !end || end.offset >= high) return first ?? found;
    low = end.offset;
  }
}
