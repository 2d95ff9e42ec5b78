/** Days, and which messages are grouped. */
import type { Message } from '@uproar/client';

const GROUP_MS = 5 * 60_000;

/** Whether two times are on the same day in the reader's time zone. */
export function sameDay(a: number, b: number): boolean {
  const x = new Date(a);
  const y = new Date(b);
  return x.getFullYear() === y.getFullYear() && x.getMonth() === y.getMonth() && x.getDate() === y.getDate();
}

/** A message starts a group, with a name and a time, unless the same person wrote the previous one shortly before. */
export function startsGroup(
  previous: Pick<Message, 'user' | 'time'> | undefined,
  message: Pick<Message, 'user' | 'time' | 'replyTo'>,
): boolean {
  return (
    !previous ||
    previous.user.id !== message.user.id ||
    message.replyTo !== undefined ||
    Math.abs(message.time - previous.time) > GROUP_MS ||
    !sameDay(previous.time, message.time)
  );
}

/** A day as date fields write it. */
export function dayValue(time: number): string {
  const date = new Date(time);
  const pad = (number: number, length = 2) => String(number).padStart(length, '0');
  return `${pad(date.getFullYear(), 4)}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
}

/** When a day begins and ends in the reader's time zone, from the value of a date field. */
export function dayRange(value: string): { from: number; to: number } | undefined {
  const [, year, month, day] = /^(\d{4})-(\d{2})-(\d{2})$/.exec(value.trim()) ?? [];
  if (day === undefined) return undefined;
  const begin = (plus: number) => {
    const date = new Date(0);
    date.setHours(0, 0, 0, 0);
    date.setFullYear(Number(year), Number(month) - 1, Number(day) + plus);
    // Some days begin after midnight, when clocks are put forward.
    date.setHours(0, 0, 0, 0);
    return date.getTime();
  };
  const from = begin(0);
  return dayValue(from) === value.trim() ? { from, to: begin(1) } : undefined;
}
