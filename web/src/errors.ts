/** Errors in the page's own words. The server's are for programmers: they speak of bytes and of fields. */
import { ApiError } from '@uproar/client';
import { countCharacters, isBlank } from './state/text';
import type { Say, Texts } from './texts/language';

/** What is wrong with the value of a field, before it is sent. */
class InvalidField extends ApiError {
  constructor(
    field: string,
    readonly say: Say,
  ) {
    super('invalid_field', '', field);
  }
}

/** An error as a sentence, to be shown next to what caused it. */
export function errorText(error: unknown, t: Texts): string {
  if (error instanceof InvalidField) return error.say(t);
  const { code, field, message: text } = (error ?? {}) as Partial<ApiError>;
  const known = code === undefined ? undefined : textOf(code, field ?? null, t.errors);
  if (known) return known;
  const message = (text ?? String(error)).trim();
  if (message === '') return t.errors.unknown;
  const sentence = message[0]!.toUpperCase() + message.slice(1);
  return /[.!?…]$/.test(sentence) ? sentence : `${sentence}.`;
}

function textOf(code: string, field: string | null, { codes, fields }: Texts['errors']): string | undefined {
  const isOfField = code === 'invalid_field' || code === 'missing_field';
  const texts: Record<string, string | undefined> = isOfField ? fields : codes;
  return texts[isOfField ? (field ?? '') : code];
}

export function errorField(error: unknown): string | null {
  return error instanceof ApiError ? error.field : null;
}

/** What is wrong with the values of a form, before it is sent. The server has the last word. */
export function check(values: Record<string, string>): ApiError | undefined {
  for (const [field, value] of Object.entries(values)) {
    const wrong = RULES[field]?.(value);
    if (wrong) return new InvalidField(field, wrong);
  }
  return undefined;
}

const RULES: Record<string, (value: string) => Say | false> = {
  username: (value) =>
    (isBlank(value) && ((t) => t.errors.username)) ||
    tooLong('username', value, 32, 256) ||
    (value.trim().startsWith('@') && ((t) => t.errors.usernameAt)),
  email: (value) =>
    (value.trim() === '' && ((t) => t.errors.email)) || (!/.@./.test(value) && ((t) => t.errors.fields.email)),
  password: newPassword,
  new_password: newPassword,
  name: (value) => (isBlank(value) && ((t) => t.errors.name)) || tooLong('name', value, 64, 256),
  title: (value) => tooLong('name', value, 128, 1024),
};

function newPassword(value: string): Say | false {
  const isShort = countCharacters(value) < 8;
  return isShort ? (t) => t.errors.shortPassword : tooLong('password', value, 128, 512);
}

/** The server bounds the bytes as well, because a single character can have any number of them. */
function tooLong(what: keyof Texts['errors']['long'], value: string, limit: number, limitBytes: number): Say | false {
  const length = countCharacters(value);
  if (length > limit) return (t) => t.errors.long[what](limit, length);
  const bytes = new TextEncoder().encode(value.normalize('NFC')).length;
  return bytes > limitBytes && ((t) => t.errors.large[what]);
}
