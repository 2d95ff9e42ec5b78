/** Errors in the page's own words. The server's are for programmers: they speak of bytes and of fields. */
import { ApiError } from '@uproar/client';
import { countCharacters, isBlank } from './state/text';

/** What is wrong with a field, if the server rejects its value. */
const FIELDS: Record<string, string> = {
  username:
    'This username can’t be used. Try up to 32 letters and digits, all of one script, without an @ at the beginning.',
  email: 'This doesn’t look like an email address.',
  password: 'A password has 8 to 128 characters.',
  new_password: 'A password has 8 to 128 characters.',
  current_password: 'This is not your current password.',
  name: 'This name can’t be used. Try a shorter one, with letters of one script and digits.',
  title: 'This name can’t be shown. It has up to 128 characters, on one line.',
  query: 'That’s too long to search for.',
  text: 'This message can’t be sent. It may be too long.',
  emoji: 'This is not an emoji.',
};

const CODES: Record<string, string> = {
  wrong_credentials: 'There is no such user, or the password is wrong.',
  wrong_password: 'This is not your current password.',
  no_password: 'This account has no password.',
  token_missing: 'You’ve been signed out.',
  token_invalid: 'You’ve been signed out.',
  token_expired: 'You’ve been signed out.',
  not_member: 'You’re not a member of this room.',
  not_allowed: 'You’re not allowed to do this.',
  not_yours: 'Only the author can do this.',
  no_such_room: 'This room doesn’t exist, or only its members can see it.',
  wrong_epoch: 'This room has been replaced since you wrote this.',
  no_such_user: 'There is no user of this name.',
  no_such_member: 'This user is not a member.',
  username_taken: 'This username is taken.',
  email_taken: 'This address belongs to another account.',
  room_name_taken: 'A room of this name already exists.',
  room_full: 'This room is full.',
  too_many_rooms: 'You own as many rooms as you may.',
  no_target: 'That message has been deleted.',
  text_too_large: 'This message is too long.',
  rate_limited: 'You’re going too fast. Wait a moment.',
  too_many_connections: 'You have too many tabs or devices open.',
  too_many_attempts: 'Too many attempts. Wait a moment.',
  internal: 'Something went wrong on the server.',
  overloaded: 'The server is busy. Try again in a moment.',
  unavailable: 'The server can’t reach its database.',
  network: 'Can’t reach the server.',
  no_answer: 'The server didn’t respond in time. Retrying won’t send it twice.',
  no_connection: 'No response from the server. Retrying won’t send it twice.',
  not_subscribed: 'This room isn’t available right now.',
  previous_message: 'Waiting for the previous message.',
  too_many_reactions: 'This message can’t have more reactions.',
  unsettled: 'Messages can’t be loaded right now.',
  deadline_passed: 'The server took too long. Look whether it happened before you try again.',
  not_known: 'The server took too long. Look whether it happened before you try again.',
};

/** An error as a sentence, to be shown next to what caused it. */
export function errorText(error: unknown): string {
  const { code, field, message: text } = (error ?? {}) as Partial<ApiError>;
  const known = code === undefined ? undefined : textOf(code, field ?? null);
  if (known) return known;
  const message = (text ?? String(error)).trim() || 'Something went wrong';
  const sentence = message[0]!.toUpperCase() + message.slice(1);
  return /[.!?…]$/.test(sentence) ? sentence : `${sentence}.`;
}

function textOf(code: string, field: string | null): string | undefined {
  if (code === 'invalid_field' || code === 'missing_field') return field === null ? undefined : FIELDS[field];
  return CODES[code];
}

export function errorField(error: unknown): string | null {
  return error instanceof ApiError ? error.field : null;
}

/** What is wrong with the values of a form, before it is sent. The server has the last word. */
export function check(values: Record<string, string>): ApiError | undefined {
  for (const [field, value] of Object.entries(values)) {
    const wrong = RULES[field]?.(value);
    if (wrong) return new ApiError('invalid', wrong, field);
  }
  return undefined;
}

const RULES: Record<string, (value: string) => string | false> = {
  username: value =>
    (isBlank(value) && 'Choose a username.') ||
    tooLong('username', value, 32, 256) ||
    (value.trim().startsWith('@') && 'A username can’t begin with an @.'),
  email: value => (value.trim() === '' && 'Enter your email address.') || (!/.@./.test(value) && FIELDS['email']!),
  password: newPassword,
  new_password: newPassword,
  name: value => (isBlank(value) && 'Type a name first.') || tooLong('name', value, 64, 256),
  title: value => tooLong('name', value, 128, 1024),
};

function newPassword(value: string): string | false {
  const isShort = countCharacters(value) < 8;
  return isShort ? 'A password has at least 8 characters.' : tooLong('password', value, 128, 512);
}

/** The server bounds the bytes as well, because a single character can have any number of them. */
function tooLong(what: string, value: string, limit: number, limitBytes: number): string | false {
  const length = countCharacters(value);
  if (length > limit) return `A ${what} has up to ${limit} characters. This one has ${length}.`;
  const bytes = new TextEncoder().encode(value.normalize('NFC')).length;
  return bytes > limitBytes && `This ${what} is too long: an emoji counts as several letters.`;
}
